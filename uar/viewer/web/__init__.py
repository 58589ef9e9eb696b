"""The page that writes reports on a visitor's own films."""
