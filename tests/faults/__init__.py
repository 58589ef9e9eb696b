"""Kills, damage, hostile files and a system that refuses: `python -m tests.faults`."""
