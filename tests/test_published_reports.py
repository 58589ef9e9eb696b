"""results/demo_test_reports.json: the demo's generated test reports, for others to compare with."""

from __future__ import annotations

import json

import pytest

from tests.conftest import committed
from uar.evaluation.clinical.labeller import Labeller
from uar.evaluation.clinical.scores import findings_scores


def test_the_published_reports_are_those_of_the_recorded_run() -> None:
    """Both as committed: reports published after another run would have other scores."""
    published = json.loads(committed("results/demo_test_reports.json"))
    recorded = json.loads(committed("evaluation/metrics.json"))
    references, generated = published["references"], published["hypotheses"]
    assert len(references) == len(generated) == len(set(published["study_ids"]))
    assert len(set(generated)) == recorded["distinct"]
    scores = findings_scores(references, generated, Labeller())
    found = {
        "F1": scores["micro"]["F1"],
        "F1_macro": scores["macro"]["F1"],
        "F1_five": scores["micro_5"]["F1"],
        "no_finding": scores["no_finding"]["F1"],
    }
    assert found == pytest.approx({name: recorded[name] for name in found}, abs=5.1e-5)
