"""Losses (Eq. 5, 10, 12) and a training stage (§3.5)."""
