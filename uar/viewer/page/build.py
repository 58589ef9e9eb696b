"""One HTML file that needs no network: each study's films, both reports, findings and attention."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from uar.analysis.heatmap import color_levels, color_scale, heatmap_ceiling
from uar.evaluation.clinical.labeller import Mention
from uar.evaluation.clinical.labels import NO_FINDING, OBSERVATIONS, Label
from uar.evaluation.predictions import Prediction

BOTH, MISSING, ADDED = "both", "missing", "added"  # where a finding is asserted
_SAID = (Label.POSITIVE, Label.UNCERTAIN)
_QUALITY = 88  # of a film's JPEG


@dataclass(frozen=True)
class Findings:
    """What a labeller finds in a study's two reports.

    Attributes:
        confusion: `(14, 3)`, this study's row of `uar.evaluation.clinical.scores.confusion`.
        reference: mentions in the whole raw report.
        generated: mentions in the generated report.
    """

    confusion: np.ndarray
    reference: Sequence[Mention]
    generated: Sequence[Mention]

    def found(self) -> dict[str, str]:
        """Map each observation that a report asserts to `both`, `missing` or `added`."""
        where = (BOTH, ADDED, MISSING)  # true positive, false positive, false negative
        return {OBSERVATIONS[row]: where[column] for row, column in np.argwhere(self.confusion)}


@dataclass(frozen=True)
class StudyShown:
    """A study as the page shows it.

    Attributes:
        prediction: its reports.
        films: `(V, H, W)` uint8.
        views: what each film shows, V names.
        present: `(V,)` bool, the views that the study has.
        attention: `(T, V * side * side)`, of each generated word, as
            `uar.inference.word_attention.word_attention` gives it; rows after the report's words
            are not used.
        scores: the study's own scores by name; None for one that is missing.
        findings: None if there is no labeller.
        boxes: known places of findings: `view`, the film's index from 0; `finding`, its name; `x0`,
            `y0`, `x1`, `y1`, its left, top, right and bottom as shares of the film's width and
            height.
    """

    prediction: Prediction
    films: np.ndarray
    views: Sequence[str]
    present: np.ndarray
    attention: np.ndarray
    scores: Mapping[str, float | None]
    findings: Findings | None
    boxes: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class PageHead:
    """What stands above the studies.

    Attributes:
        title: names the data set and its split.
        rows: scores of the whole split by the system's name, as text for display.
        notes: what a reader has to know, one sentence each.
    """

    title: str
    rows: Mapping[str, Mapping[str, str]]
    notes: Sequence[str]


def render_page(head: PageHead, studies: Sequence[StudyShown]) -> str:
    """The page as HTML."""
    return (
        environment()
        .get_template("page.html")
        .render(
            head=head,
            data={
                "colors": colors(),
                "observations": OBSERVATIONS,
                "no_finding": NO_FINDING,
                "labelled": any(study.findings is not None for study in studies),
                "scores": [name.replace("_", " ") for name in studies[0].scores],
                "studies": [_entry(study) for study in studies],
            },
        )
    )


def environment() -> Environment:
    """The environment of this folder's templates, whose components other pages include."""
    made = Environment(
        loader=PackageLoader("uar.viewer.page", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"sort_keys": False}  # keep the observations' order
    return made


def colors() -> str:
    """The colour scale of attention, 256 triples of red, green and blue, as base64."""
    return as_base64(color_scale().tobytes())


def attention_entry(times_uniform: np.ndarray) -> dict[str, Any]:
    """Attention `(T, L)` in multiples of uniform, as films.js reads it."""
    ceiling = heatmap_ceiling(times_uniform)
    peaks = times_uniform.max(axis=1).astype(np.float64) if len(times_uniform) else np.empty(0)
    return {
        "attention": as_base64(color_levels(times_uniform, ceiling).tobytes()),
        "ceiling": round(ceiling, 1),
        "peaks": peaks.round(1).tolist(),
    }


def _entry(study: StudyShown) -> dict[str, Any]:
    """One study as page.js reads it."""
    findings = study.findings
    found = {} if findings is None else findings.found()
    generated = study.prediction.generated
    times_uniform = study.attention[: len(generated.split())] * study.attention.shape[1]
    return {
        "id": study.prediction.study_id,
        "films": [
            _jpeg(film) if held else None
            for film, held in zip(study.films, study.present, strict=True)
        ],
        "side": round((study.attention.shape[1] / len(study.films)) ** 0.5),
        **attention_entry(times_uniform),
        "views": list(study.views),
        "boxes": list(study.boxes),
        "scores": [None if score is None else round(score, 4) for score in study.scores.values()],
        "found": found,
        "reference": marked_words(
            study.prediction.report,
            findings.reference if findings else (),
            [name for name, where in found.items() if where != ADDED],
        ),
        "generated": marked_words(
            generated,
            findings.generated if findings else (),
            [name for name, where in found.items() if where != MISSING],
        ),
    }


def marked_words(
    text: str, mentions: Sequence[Mention], asserted: Collection[str]
) -> list[list[Any]]:
    """Words of a text, each by itself or with the `asserted` observations that it mentions."""
    marks = [m for m in mentions if m.label in _SAID and m.observation in asserted]
    words: list[list[Any]] = []
    for word in re.finditer(r"\S+", text):
        names = [m.observation for m in marks if m.start < word.end() and word.start() < m.end]
        words.append([word[0], sorted(set(names))] if names else [word[0]])
    return words


def _jpeg(film: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(film).save(file, "JPEG", quality=_QUALITY, optimize=True)
    return as_base64(file.getvalue())


def as_base64(data: bytes) -> str:
    """Encode bytes as base64 text, for JSON."""
    return base64.b64encode(data).decode("ascii")
