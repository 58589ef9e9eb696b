"""A draft report of one study: its text, what it says, where the model looked, how sure it is."""

from __future__ import annotations

import base64
import html
import io
import threading
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
from PIL import Image

from uar.bundle.evidence import Evidence
from uar.bundle.index import SimilarStudy
from uar.bundle.likeness import FilmLikeness
from uar.evaluation.calibration import wilson
from uar.evaluation.clinical.labels import FINDINGS, Label

RESEARCH = "Draft by a research model: research use only, never for a decision about a patient."


@dataclass(frozen=True)
class Sentence:
    """A sentence of a report.

    Attributes:
        text: as shown to a reader.
        start: its first word's place among the report's words.
        end: one past its last word, which is the full stop if it has one.
    """

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Finding:
    """What is said about one of CheXpert's observations other than No Finding.

    Attributes:
        name: the observation.
        said: positive | uncertain | negative in the written report, by the rule-based labeller;
            None where the report does not mention it.
        probability: by the model's findings head, from the films alone, calibrated on validation;
            None without one.
        threshold: probability above which the report is written as for a study with this finding;
            likewise None.
        right: how many of the model's validation reports that assert the finding have it in the
            reference too; None where `said` is not positive or nothing was counted.
        written: how many assert it in all; likewise None.
    """

    name: str
    said: str | None
    probability: float | None
    threshold: float | None
    right: int | None = None
    written: int | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the share that is right; None where nothing was counted."""
        if self.right is None or self.written is None:
            return None
        return wilson(self.right, self.written)


@dataclass(frozen=True, kw_only=True)
class StudyFilms:
    """A study's films as the model sees them, and what a reader has to know about them.

    Attributes:
        films: `(V, size, size)` uint8.
        views: what each film is taken for.
        present: `(V,)` bool, the films that were given.
        stated: `(V,)` bool, films whose view a header or the supplier of the films has named.
        notes: what a reader has to know about this study, one sentence each.
        doubts: why no report should be written, one sentence each; empty for films like those that
            the model was trained on.
        likeness: of each given film to those; empty where the bundle cannot tell.
    """

    films: np.ndarray = field(repr=False)
    views: tuple[str, ...]
    present: np.ndarray
    stated: np.ndarray
    notes: tuple[str, ...]
    doubts: tuple[str, ...]
    likeness: tuple[FilmLikeness, ...]

    @property
    def captions(self) -> tuple[str, ...]:
        """What each film is: as stated, else what it is taken for."""
        return tuple(
            view if known else f"film {i + 1}, taken as {view}"
            for i, (view, known) in enumerate(zip(self.views, self.stated, strict=True))
        )

    def films_json(self) -> dict[str, Any]:
        """What the films are, and whether they are like those of training, for a JSON file."""
        return {
            "doubts": list(self.doubts),
            "likeness": [vars(of_film) for of_film in self.likeness],
            "films": list(self.captions),
        }


@dataclass(frozen=True, kw_only=True)
class Report(StudyFilms):
    """A draft report of one study. Research use only.

    Attributes:
        words: as decoded, full stops included.
        sentences: of the report, in order.
        log_probability: of the whole report, by the model.
        attention: `(words, V, side, side)` float32 in multiples of uniform attention: where the
            decoder read while it wrote each word, mean over heads and layers.
        origin: what wrote it.
        probabilities: of `FINDINGS`, by the findings head; None without one.
        thresholds: for those probabilities, chosen on validation: a finding above its own is taken
            as present while the report is written.
        similar: the training studies most like this one, most similar first; empty where the
            bundle carries no index.
        evidence: what validation says about the model's reports.
        judged: `(13,)`, logits of `FINDINGS` by the judge, from the films alone; None without one.
    """

    words: tuple[str, ...]
    sentences: tuple[Sentence, ...]
    log_probability: float
    attention: np.ndarray = field(repr=False)
    origin: str
    probabilities: tuple[float, ...] | None = None
    thresholds: tuple[float, ...] | None = None
    similar: tuple[SimilarStudy, ...] = ()
    evidence: Evidence | None = None
    judged: np.ndarray | None = field(default=None, repr=False)

    @property
    def text(self) -> str:
        """The report as sentences."""
        return " ".join(sentence.text for sentence in self.sentences)

    @property
    def caveats(self) -> tuple[str, ...]:
        """What must accompany the text, one sentence each."""
        return (RESEARCH, self.origin, self._verdict, *self.notes)

    @property
    def _verdict(self) -> str:
        """Whether the films are like those of training, in a sentence or more."""
        if self.doubts:
            return "Written despite doubts about the images: " + " ".join(self.doubts)
        if not self.likeness:
            return "It was not checked whether the images are like those of training."
        return "The images are within the limits of those that the model was trained on."

    @property
    def text_with_caveats(self) -> str:
        """The report, and below it its caveats."""
        return "\n\n".join((self.text, "\n".join(self.caveats)))

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What the report says about each observation, and how likely the films make it.

        Only those that the report mentions, or that have a probability.
        """
        with _LABELLING:
            labels = _labeller().label([self.text])[0]
        probabilities = dict(zip(FINDINGS, self.probabilities or (), strict=False))
        thresholds = dict(zip(FINDINGS, self.thresholds or (), strict=False))
        # counted on films like those of validation; say nothing about others
        counts = self.evidence.written if self.evidence and not self.doubts else {}
        found = (
            Finding(
                name,
                _SAID.get(Label(int(label))),
                probabilities.get(name),
                thresholds.get(name),
                *(counts.get(name, (None, None)) if label == Label.POSITIVE else (None, None)),
            )
            for name, label in zip(FINDINGS, labels, strict=False)  # the last is No Finding
        )
        return tuple(f for f in found if f.said is not None or f.probability is not None)

    @cached_property
    def certainties(self) -> tuple[float | None, ...]:
        """The probability that each sentence is right in what it says about findings.

        None where it says nothing about them, and where validation tells nothing: for doubtful
        films, and in a bundle without a judge.
        """
        certainty = self.evidence.certainty if self.evidence and not self.doubts else None
        if certainty is None or self.judged is None or not self.sentences:
            return (None,) * len(self.sentences)
        with _LABELLING:
            labels = _labeller().label([sentence.text for sentence in self.sentences])
        labels = labels[:, : len(FINDINGS)]
        judged = np.broadcast_to(self.judged, labels.shape)
        sure = certainty.of_sentences(labels, judged).tolist()
        return tuple(None if np.isnan(each) else each for each in sure)

    def as_json(self) -> dict[str, Any]:
        """Text, caveats, sentences, findings and similar studies, for a JSON file."""
        return {
            "text": self.text,
            "research_use_only": RESEARCH,
            "origin": self.origin,
            **self.films_json(),
            "log_probability": self.log_probability,
            "sentences": [
                {"text": sentence.text, "certainty": certainty}
                for sentence, certainty in zip(self.sentences, self.certainties, strict=True)
            ],
            "findings": [vars(f) | {"interval": f.interval} for f in self.findings],
            "similar": [vars(study) for study in self.similar],
            "notes": list(self.notes),
        }

    def _repr_html_(self) -> str:
        return _notebook_html(self)


def png(film: np.ndarray) -> str:
    """A film as PNG in base64."""
    file = io.BytesIO()
    Image.fromarray(film).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def _notebook_html(report: Report) -> str:
    """Films and sentences for a notebook; pointing at a sentence shows how certain it is."""
    films = "".join(
        f'<img alt="{view} film as the model sees it" width="192" '
        f'style="image-rendering:pixelated;margin-right:4px" src="data:image/png;base64,'
        f'{png(film)}">'
        for film, view, there in zip(report.films, report.views, report.present, strict=True)
        if there
    )
    sentences = " ".join(
        f'<span title="{_in_words(certainty)}">{html.escape(sentence.text)}</span>'
        for sentence, certainty in zip(report.sentences, report.certainties, strict=True)
    )
    caveats = "".join(f"<br>{html.escape(said)}" for said in report.caveats[1:])
    return (
        f'<div style="max-width:45em"><div>{films}</div><p>{sentences}</p>'
        f"<p><small>{RESEARCH}{caveats}</small></p></div>"
    )


def _in_words(certainty: float | None) -> str:
    if certainty is None:
        return "it is not known how certain this is"
    share = "more than 99" if certainty > 0.995 else f"{100 * certainty:.0f}"
    return f"judging by validation, {share} of 100 such sentences are right"


_SAID = {
    Label.POSITIVE: "positive",
    Label.UNCERTAIN: "uncertain",
    Label.NEGATIVE: "negative",
}
_LABELLING = threading.Lock()  # all threads share one spaCy pipeline


@cache
def _labeller() -> Any:
    from uar.evaluation.clinical.labeller import Labeller  # takes a second; the text needs none

    return Labeller()
