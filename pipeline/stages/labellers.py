"""The clinical labellers and graph scorers that params.yaml and the installed packages allow."""

from __future__ import annotations

from pathlib import Path

import torch

from uar.evaluation.clinical import radgraph
from uar.evaluation.clinical.chexbert import Chexbert
from uar.evaluation.clinical.labeller import Labeller
from uar.evaluation.clinical.scores import ReportLabeller
from uar.evaluation.systems import GraphScorer


def open_labellers(
    chexbert: Path | None, device: torch.device
) -> tuple[dict[str, ReportLabeller], dict[str, str]]:
    """Labellers by their name in metrics.json, and why the others are not there."""
    labellers: dict[str, ReportLabeller] = {"clinical": Labeller()}
    absent: dict[str, str] = {}
    if chexbert is not None:
        labellers["chexbert"] = Chexbert(chexbert, device)
    else:
        absent["chexbert"] = "not computed: evaluate.chexbert names no folder with its weights"
    return labellers, absent


def open_graph_scorers(
    weights: Path | None, device: torch.device
) -> tuple[dict[str, GraphScorer], dict[str, str]]:
    """Graph scorers by their name in metrics.json, and why the others are not there."""
    if weights is None:
        reason = "not computed: evaluate.radgraph names no folder with its weights"
        return {}, {"radgraph": reason}
    if not radgraph.INSTALLED:
        return {}, {"radgraph": f"not computed: {radgraph.HOW_TO_INSTALL}"}
    return {"radgraph": radgraph.RadGraph(weights, device)}, {}
