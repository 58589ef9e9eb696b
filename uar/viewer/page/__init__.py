"""The page on which a person reads the generated reports."""
