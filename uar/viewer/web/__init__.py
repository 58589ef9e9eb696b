"""The page that writes reports of films that one brings along."""
