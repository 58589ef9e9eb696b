"""Pages and pictures of reports: for a test split, and for one study's films in a browser."""
