"""Probabilities of findings from tokens alone, by which sampled reports are chosen."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from pipeline import paths
from pipeline.console import new_table, number, output
from pipeline.inputs import finding_labels, rows_of
from uar.core.files import write_json
from uar.core.params_file import load_params
from uar.data.study import REPORT_COLUMNS, read_checked
from uar.evaluation.calibration import AS_TRAINED, calibration
from uar.evaluation.clinical.labels import FINDINGS
from uar.evaluation.detection import auc, average_precision, micro_f1
from uar.inference.judge import Judge, fit_judge
from uar.inference.logistic import sampled
from uar.tokens.cache import TokenCacheInfo, open_tokens

log = logging.getLogger(__name__)


def judge() -> None:
    """Fit the probabilities of findings to training studies' tokens; score them on validation."""
    params = load_params(paths.PARAMS)
    reports = read_checked(paths.REPORTS, REPORT_COLUMNS)
    info = TokenCacheInfo.load(paths.TOKENS_INFO)
    tokens = open_tokens(paths.TOKENS, info)
    training, validation = (np.flatnonzero(reports["split"] == s) for s in ("train", "val"))
    training = sampled(training, params.seed)
    labels, true = finding_labels(reports.iloc[training]), finding_labels(reports.iloc[validation])
    fitted, nats = fit_judge(
        tokens[rows_of(training, params), 0],
        labels,
        FINDINGS,
        codebook=info.codebook_size,
        encoder_sha256=info.encoder_sha256,
        seed=params.seed,
    )
    fitted.save(paths.JUDGE)
    logits = fitted.logits(tokens[rows_of(validation, params), 0])
    threshold = params.decode.findings_threshold
    summary = scores(fitted, logits, true, threshold=threshold)
    counts = labels.sum(axis=0).tolist()
    for name, count in zip(FINDINGS, counts, strict=True):
        summary["findings"][name]["training"] = count
    write_json(paths.JUDGE_SUMMARY, {"held_out_nats": nats, **summary})
    show(summary, len(training), len(validation))


def scores(
    fitted: Judge, logits: np.ndarray, true: np.ndarray, *, threshold: float
) -> dict[str, Any]:
    """Score a judge on studies that it was not fitted to.

    Args:
        fitted: the judge.
        logits: `(S, 13)`.
        true: `(S, 13)` bool.
        threshold: probability above which a finding counts as found.
    """
    found = AS_TRAINED.probabilities(logits) > threshold
    findings = {
        name: {
            "validation": int(true[:, i].sum()),
            "AUC": _or_none(auc(logits[:, i], true[:, i])),
            "AP": _or_none(average_precision(logits[:, i], true[:, i])),
        }
        for i, name in enumerate(FINDINGS)
    }
    hits = int((found & true).sum())
    return {
        "features": "places" if fitted.places else "tokens",
        "penalty": fitted.penalty,
        "validation": {
            "studies": len(true),
            **{name: _mean(of[name] for of in findings.values()) for name in ("AUC", "AP")},
            "threshold": threshold,
            "F1": micro_f1(found, true),
            "precision": hits / max(1, int(found.sum())),
            "recall": hits / max(1, int(true.sum())),
            **calibration(logits, true, AS_TRAINED),
        },
        "findings": findings,
    }


def show(summary: dict[str, Any], training: int, validation: int) -> None:
    """Print the scores."""
    table = new_table("findings by the judge (validation)", ["AUC", "AP", "studies"])
    for name, of in summary["findings"].items():
        table.add_row(name, number(of["AUC"]), number(of["AP"]), str(of["validation"]))
    whole = summary["validation"]
    table.add_row("[bold]mean", number(whole["AUC"]), number(whole["AP"]), "")
    output().print(table)
    log.info(
        f"judge: {training} training studies, {summary['features']}, penalty "
        f"{summary['penalty']:g}; {validation} validation studies: F1 {whole['F1']:.3f} at "
        f"{whole['threshold']:g}, Brier {whole['brier']:.4f}, ECE {whole['ece']:.4f}"
    )


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
