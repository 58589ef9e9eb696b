"""The stages of dvc.yaml: one file each, calling `uar`, and what only they share."""
