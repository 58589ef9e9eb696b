"""Commands other than the stages: presets, checks, scores, exports, invented PhysioNet trees."""
