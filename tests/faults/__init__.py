"""Kills, damage, hostile files and refusals of the system: `python -m tests.faults`."""
