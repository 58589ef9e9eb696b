"""How a score was made, in one line, in the manner of sacreBLEU (Post 2018).

    BLEU-4|r2gen|words:blank|refs:cleaned,cut:60,unk:yes|text:beam:3,lp:1|n:590|data:0f3a9c1e|v:...

Two scores are comparable if their signatures agree except for `text`, which says how the reports
were produced.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import uar
from uar.evaluation.predictions import Prediction
from uar.evaluation.systems import NATS, Measures

_WORDS = {"r2gen": "blank", "coco": "ptb3.4.1"}
_VERSIONS = {"METEOR": "meteor1.5"}


@dataclass(frozen=True)
class Setup:
    """What scores were made from, besides the texts.

    Attributes:
        references: the `r2gen` protocol's, such as `cleaned,cut:60,unk:yes`.
        text: how the reports were produced, such as `beam:3,lp:1`.
        radgraph: the name of RadGraph's model, if there is one.
    """

    references: str
    text: str
    radgraph: str | None = None


def signatures(
    scores: Mapping[str, Mapping[str, Any]],
    predictions: Sequence[Prediction],
    *,
    measures: Measures,
    setup: Setup,
) -> dict[str, dict[str, str]]:
    """A signature for each score of `SystemScores.values`; for a labeller, one for each average.

    Args:
        scores: one system's.
        predictions: the same system's.
        measures: what was computed.
        setup: what the texts were made from.
    """
    count = f"n:{len(predictions)}"
    raw = f"data:{_digest([p.report for p in predictions])}"
    cleaned = f"data:{_digest([p.reference for p in predictions])}"
    made = f"text:{setup.text}"
    coco = f"v:pycocoevalcap{version('pycocoevalcap')}"
    result: dict[str, dict[str, str]] = {}
    for group, of in scores.items():
        if group in _WORDS:
            references = setup.references if group == "r2gen" else "raw,cut:no,unk:no"
            data = cleaned if group == "r2gen" else raw
            common = f"{group}|words:{_WORDS[group]}|refs:{references}|{made}|{count}|{data}"
            result[group] = {
                name: f"{name}|{common}|" + (f"v:{_VERSIONS[name]}" if name in _VERSIONS else coco)
                for name in of
            }
        elif group == NATS:
            common = f"refs:{setup.references}|{count}|{cleaned}|v:uar{uar.__version__}"
            result[group] = {name: f"{name},nats|{common}" for name in of}
        elif group in measures.labellers:
            rules = "rules" if group == "clinical" else group
            common = f"{rules}|uncertain:{measures.uncertain}|refs:raw|{made}|{count}|{raw}"
            result[group] = {
                name: f"findings,{name}|{common}|v:uar{uar.__version__}" for name in of
            }
        else:
            own = f"v:radgraph{version('radgraph')}"
            common = f"refs:raw,lower|{made}|{count}|{raw}|{own}"
            result[group] = {name: f"{group},{name}|model:{setup.radgraph}|{common}" for name in of}
    return result


def radeval_signatures(
    scores: Mapping[str, float], predictions: Sequence[Prediction], *, setup: Setup, radeval: str
) -> dict[str, str]:
    """A signature for each of RadEval's scores, of whole raw references and reports as prose.

    Args:
        scores: one system's.
        predictions: the same system's.
        setup: what the texts were made from.
        radeval: RadEval's version.
    """
    made = f"refs:raw|text:{setup.text},prose|n:{len(predictions)}"
    data = f"data:{_digest([p.report for p in predictions])}"
    return {name: f"radeval,{name}|{made}|{data}|v:radeval{radeval}" for name in scores}


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]
