"""Pages and pictures of reports: of a test split, of one study's films in a browser."""
