"""Predictions to scores: metrics, protocols, intervals, baselines, clinical agreement."""
