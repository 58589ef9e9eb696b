"""The field's two ways of scoring the same reports, for several systems at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from uar.evaluation.meteor import meteor_statistics, ptb_tokenize
from uar.evaluation.metrics import METRICS, Metric, meteor_metric, single_spaced, text_metrics
from uar.evaluation.predictions import Prediction

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
        "tokenizer": "Stanford PTB tokenizer 3.4.1 in lower case, punctuation removed except "
        "brackets",
        "cider_document_frequencies": "counted over the references being scored",
    },
}

Scores = dict[str, dict[str, Metric]]  # protocol, then a name of METRICS


def protocol_metrics(
    systems: Mapping[str, Sequence[Prediction]],
    protocols: Sequence[str] = tuple(PROTOCOLS),
    meteor: bool = True,
) -> dict[str, Scores]:
    """`METRICS` of each system's predictions, as `PROTOCOLS` describes them.

    Java starts twice, once for all tokens and once for METEOR, however many systems there are.

    Args:
        systems: each system's name to its predictions of the same studies.
        protocols: which of `PROTOCOLS`.
        meteor: whether METEOR is among the metrics.

    Returns:
        `{system: {protocol: {metric: Metric}}}`.

    Raises:
        UserError: no predictions, every reference of a system empty, or Java fails.
    """
    texts: _Texts = {}
    if "r2gen" in protocols:
        texts |= {
            (system, "r2gen"): ([p.reference for p in rows], [p.generated for p in rows])
            for system, rows in systems.items()
        }
    if "coco" in protocols:
        texts |= _coco_texts(systems)
    metrics = {key: text_metrics(*pair) for key, pair in texts.items()}
    if meteor:
        for key, metric in _meteor(texts).items():
            metrics[key]["METEOR"] = metric
    return {
        system: {
            protocol: {
                name: metrics[system, protocol][name]
                for name in METRICS
                if name in metrics[system, protocol]
            }
            for protocol in protocols
        }
        for system in systems
    }


_Texts = dict[tuple[str, str], tuple[list[str], list[str]]]  # references and candidates


def _coco_texts(systems: Mapping[str, Sequence[Prediction]]) -> _Texts:
    distinct = list(
        dict.fromkeys(
            text for rows in systems.values() for p in rows for text in (p.report, p.generated)
        )
    )
    tokens = dict(zip(distinct, ptb_tokenize(distinct), strict=True))
    return {
        (system, "coco"): ([tokens[p.report] for p in rows], [tokens[p.generated] for p in rows])
        for system, rows in systems.items()
    }


def _meteor(texts: _Texts) -> dict[tuple[str, str], Metric]:
    references, candidates = (
        [single_spaced(text) for pair in texts.values() for text in pair[side]] for side in (0, 1)
    )
    statistics = meteor_statistics(references, candidates)
    ends = np.cumsum([len(pair[0]) for pair in texts.values()])
    parts = np.split(statistics, ends[:-1])
    return {key: meteor_metric(part) for key, part in zip(texts, parts, strict=True)}
