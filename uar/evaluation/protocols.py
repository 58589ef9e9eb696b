"""The two ways of this field to score the same reports, for several systems at once."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from uar.evaluation.meteor import JavaError, meteor_statistics, ptb_tokenize
from uar.evaluation.metrics import METRICS, Metric, meteor_metric, single_spaced, text_metrics
from uar.evaluation.predictions import Prediction

log = logging.getLogger(__name__)

PROTOCOLS = {
    "r2gen": {
        "reference": "cleaned report, cut at the report length, rare words replaced by <unk>",
        "generated": "words as decoded",
        "tokenizer": "split at blanks; the full stop is a word",
        "cider_document_frequencies": "counted over the references being scored",
    },
    "coco": {
        "reference": "whole raw report: not cleaned, not cut, no <unk>",
        "generated": "words as decoded",
        "tokenizer": "Stanford PTB tokenizer 3.4.1 in lower case, punctuation but brackets removed",
        "cider_document_frequencies": "counted over the references being scored",
    },
}

Scores = dict[str, dict[str, Metric | None]]  # protocol, then a name of METRICS


def protocol_metrics(systems: Mapping[str, Sequence[Prediction]]) -> dict[str, Scores]:
    """`METRICS` of each system's predictions under both protocols, as `PROTOCOLS` describes them.

    Java starts twice, once for all tokens and once for METEOR, however many systems there are.

    Args:
        systems: name to the predictions of the same studies.

    Returns:
        `{system: {protocol: {metric: Metric}}}`. Where Java fails, METEOR and all of `coco`,
        whose tokenizer is a Java program, are None, with a warning that holds Java's own words.

    Raises:
        UserError: no predictions, or every reference of a system empty.
    """
    texts = {
        (system, "r2gen"): ([p.reference for p in rows], [p.generated for p in rows])
        for system, rows in systems.items()
    } | _coco_texts(systems)
    meteor = _meteor(texts)
    scores: dict[str, Scores] = {
        system: {protocol: dict.fromkeys(METRICS) for protocol in PROTOCOLS} for system in systems
    }
    for (system, protocol), pair in texts.items():
        scores[system][protocol] |= text_metrics(*pair)
        scores[system][protocol]["METEOR"] = meteor[system, protocol]
    return scores


_Texts = dict[tuple[str, str], tuple[list[str], list[str]]]  # references and candidates


def _coco_texts(systems: Mapping[str, Sequence[Prediction]]) -> _Texts:
    distinct = {
        text: None for rows in systems.values() for p in rows for text in (p.report, p.generated)
    }
    try:
        tokens = dict(zip(distinct, ptb_tokenize(list(distinct)), strict=True))
    except JavaError as error:
        log.warning(f"no coco scores: the PTB tokenizer failed: {error}")
        return {}
    return {
        (system, "coco"): ([tokens[p.report] for p in rows], [tokens[p.generated] for p in rows])
        for system, rows in systems.items()
    }


def _meteor(texts: _Texts) -> dict[tuple[str, str], Metric | None]:
    references, candidates = (
        [single_spaced(text) for pair in texts.values() for text in pair[side]] for side in (0, 1)
    )
    try:
        statistics = meteor_statistics(references, candidates)
    except JavaError as error:
        log.warning(f"no METEOR: {error}")
        return dict.fromkeys(texts)
    ends = np.cumsum([len(pair[0]) for pair in texts.values()])
    parts = np.split(statistics, ends[:-1])
    return {key: meteor_metric(part) for key, part in zip(texts, parts, strict=True)}
