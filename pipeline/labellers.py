"""The clinical labellers that params.yaml and the installed packages allow."""

from __future__ import annotations

from pathlib import Path

import torch

from uar.clinical.chexbert import Chexbert
from uar.clinical.labeller import HOW_TO_INSTALL, INSTALLED, Labeller
from uar.evaluation import ReportLabeller


def open_labellers(
    chexbert: Path | None, device: torch.device
) -> tuple[dict[str, ReportLabeller], dict[str, str]]:
    """Labellers by their name in metrics.json, and why the others are not there."""
    labellers: dict[str, ReportLabeller] = {}
    absent: dict[str, str] = {}
    if INSTALLED:
        labellers["clinical"] = Labeller()
    else:
        absent["clinical"] = f"not computed: {HOW_TO_INSTALL}"
    if chexbert is not None:
        labellers["chexbert"] = Chexbert(chexbert, device)
    else:
        absent["chexbert"] = "not computed: evaluate.chexbert names no folder with its weights"
    return labellers, absent
