"""The stages: one file each, calling `uar`. Run with `dvc repro` or `python -m pipeline STAGE`."""
