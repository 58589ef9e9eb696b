"""Commands beside the stages: presets, the labeller's own scores, invented PhysioNet trees."""
