"""Measurements: `python -m benchmarks.NAME` prints each."""
