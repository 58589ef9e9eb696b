"""The measures of reports that params.yaml asks for, opened before any work."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from uar.core.config import EvaluateParams
from uar.evaluation.baselines import constant_report
from uar.evaluation.clinical.labeller import Labeller
from uar.evaluation.clinical.scores import ReportLabeller
from uar.evaluation.meteor import java_version
from uar.evaluation.predictions import Prediction, with_generated
from uar.evaluation.systems import GraphScorer, Measures


def constant_predictions(
    predictions: Sequence[Prediction],
    train: Sequence[str],
    val: Sequence[str],
    params: EvaluateParams,
) -> list[Prediction]:
    """The same studies, each with the constant report chosen by these references."""
    constant = constant_report(
        train, val, select_by=params.constant_by, candidates=params.constant_candidates
    )
    return with_generated(predictions, [constant] * len(predictions))


def open_measures(params: EvaluateParams, device: torch.device) -> Measures:
    """Open every measure that is asked for.

    Raises:
        UserError: a package, weights or Java is missing or does not work.
    """
    if params.meteor or "coco" in params.protocols:
        java_version()  # refuses here, before any work, if Java does not start
    labellers: dict[str, ReportLabeller] = {"clinical": Labeller()}
    graphs: dict[str, GraphScorer] = {}
    if params.chexbert is not None:
        from uar.evaluation.clinical.chexbert import Chexbert  # takes seconds: transformers

        labellers["chexbert"] = Chexbert(params.chexbert, device)
    if params.radgraph is not None:
        from uar.evaluation.clinical.radgraph import RadGraph

        graphs["radgraph"] = RadGraph(params.radgraph, device)
    return Measures(labellers, graphs, params.protocols, params.meteor, params.uncertain)
