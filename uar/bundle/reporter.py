"""From films to a draft report, by a bundle: `uar.load("model.uar").report(["frontal.png"])`."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from uar.bundle.bundle import Bundle
from uar.bundle.index import SimilarStudy
from uar.core.device import autocast, resolve_device
from uar.core.errors import UserError
from uar.core.special_words import BOS, EOS, PAD
from uar.data.dicom import refuse_constant, refuse_huge, stretch
from uar.data.films import Film, decode_film, read_film, squash
from uar.data.study import frontal_first
from uar.data.views import resize_view
from uar.evaluation.clinical.labels import FINDINGS, Label
from uar.inference.decoding import Generated, generate
from uar.inference.word_attention import recorded_attention

FilmSource = str | Path | bytes | BinaryIO | np.ndarray | Film

_VIEW_NAMES = ("frontal", "lateral")
_SIMILAR = 5  # training studies beside a report


@dataclass(frozen=True)
class Sentence:
    """A sentence of a report.

    Attributes:
        text: as it is to be read.
        start: its first word's place among the report's words.
        end: one behind its last, the full stop if it has one.
        log_probability: mean over its words, full stop included; nearer 0 is more certain. Always
            the model's own log p(word | films): `decode.guidance` only chooses the words.
    """

    text: str
    start: int
    end: int
    log_probability: float


@dataclass(frozen=True)
class Finding:
    """What is said of one of CheXpert's observations, No Finding excepted.

    Attributes:
        name: the observation.
        said: positive | uncertain | negative, of the written report by the rule-based labeller;
            None where it does not speak of it.
        probability: by the model's findings head, from the films alone; None without one.
        threshold: above which the report is written as of a study with this finding; likewise.
    """

    name: str
    said: str | None
    probability: float | None
    threshold: float | None


@dataclass(frozen=True)
class Report:
    """A draft report of one study. Research use only.

    Attributes:
        words: as decoded, full stops included.
        sentences: of the report, in order.
        log_probability: of the whole report, by beam search.
        attention: `(words, V, side, side)` float32 in multiples of uniform attention: where the
            decoder read while it wrote each word, mean over heads and layers.
        films: `(V, size, size)` uint8, as the model sees them.
        views: what each film is taken for.
        present: `(V,)` bool, the films that were given.
        notes: what a reader has to know of this study, a sentence each.
        probabilities: of `FINDINGS`, by the findings head; None without one.
        thresholds: of those probabilities, chosen on validation: a finding above its own is taken
            for present while the report is written.
        similar: the training studies most like this one, most alike first; empty where the
            bundle carries no index.
    """

    words: tuple[str, ...]
    sentences: tuple[Sentence, ...]
    log_probability: float
    attention: np.ndarray = field(repr=False)
    films: np.ndarray = field(repr=False)
    views: tuple[str, ...]
    present: np.ndarray
    notes: tuple[str, ...]
    probabilities: tuple[float, ...] | None = None
    thresholds: tuple[float, ...] | None = None
    similar: tuple[SimilarStudy, ...] = ()

    @property
    def text(self) -> str:
        """The report as sentences."""
        return " ".join(sentence.text for sentence in self.sentences)

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What the report says of each observation, and how likely the films make it.

        Only those that the report speaks of, or that have a probability.
        """
        with _LABELLING:
            labels = _labeller().label([self.text])[0]
        likely = dict(zip(FINDINGS, self.probabilities or (), strict=False))
        least = dict(zip(FINDINGS, self.thresholds or (), strict=False))
        found = (
            Finding(name, _SAID.get(Label(int(label))), likely.get(name), least.get(name))
            for name, label in zip(FINDINGS, labels, strict=False)  # the last is No Finding
        )
        return tuple(f for f in found if f.said is not None or f.probability is not None)

    def as_json(self) -> dict[str, Any]:
        """Text, sentences, findings, similar studies and notes, for a JSON file."""
        return {
            "text": self.text,
            "log_probability": self.log_probability,
            "sentences": [
                {"text": s.text, "mean_log_probability": s.log_probability} for s in self.sentences
            ],
            "findings": [vars(finding) for finding in self.findings],
            "similar": [vars(study) for study in self.similar],
            "notes": list(self.notes),
        }

    def _repr_html_(self) -> str:
        from uar.bundle.drawing import notebook_html

        return notebook_html(self)


@dataclass(frozen=True)
class Prepared:
    """A study as the model takes it.

    Attributes:
        films: `(V, size, size)` uint8.
        visual: tokens `(V, L/V)` int64, or pixels `(V, crop, crop)` float.
        present: `(V,)` bool.
        notes: as `Report.notes`.
    """

    films: np.ndarray
    visual: Tensor
    present: np.ndarray
    notes: tuple[str, ...]


class Reporter:
    """Writes reports of films; threads may share it, one of them writes at a time.

    Args:
        bundle: the trained model.
        device: auto | cpu | cuda | mps.
    """

    def __init__(self, bundle: Bundle, device: str = "auto") -> None:
        self.bundle = bundle
        self._device = resolve_device(device)
        self._model = bundle.checkpoint.build().to(self._device).eval()
        self._tables = self._model.tables()
        self._writing = threading.Lock()  # recorded_attention hooks into the model itself
        self._tokenizer = bundle.tokenizer
        if self._tokenizer is not None:
            self._tokenizer.to(self._device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def report(self, films: FilmSource | Sequence[FilmSource]) -> Report:
        """Write the report of one study.

        Args:
            films: one film or two, frontal first. Each is a path, the bytes of a file, an open
                binary file (PNG, JPEG or DICOM), gray pixels `(H, W)`, bone bright, or a `Film`.

        Raises:
            UserError: a film cannot be read, or there are more than the model takes.
        """
        several = isinstance(films, Sequence) and not isinstance(films, str | bytes)
        study: Sequence[FilmSource] = films if several else [films]  # type: ignore[assignment,list-item]
        prepared = self.prepare(study)
        for note in prepared.notes:
            warnings.warn(note, stacklevel=2)
        return self.write([prepared])[0]

    def reports(
        self, studies: Iterable[Sequence[FilmSource]], batch_size: int = 16
    ) -> Iterator[Report]:
        """Write the reports of many studies, a batch at a time, in their order.

        Args:
            studies: the films of each, as `report` takes them.
            batch_size: studies.

        Raises:
            UserError: as `report`.
        """
        waiting = iter(studies)
        while batch := list(islice(waiting, batch_size)):
            yield from self.write([self.prepare(study) for study in batch])

    @torch.inference_mode()
    def prepare(self, study: Sequence[FilmSource], names: Sequence[str] | None = None) -> Prepared:
        """Read a study's films as ingest and tokenize do: the same film gives the same tokens.

        Args:
            study: its films, as `report` takes them.
            names: of the films, for messages; else their paths or their places.

        Raises:
            UserError: as `report`.
        """
        settings = self.bundle.preprocessing
        if not 1 <= len(study) <= settings.views:
            most = "one film" if settings.views == 1 else f"one to {settings.views} films"
            raise UserError(f"{len(study)} films of a study, this model takes {most}")
        names = names or [_name(source, i) for i, source in enumerate(study)]
        films = [_read(source, name) for source, name in zip(study, names, strict=True)]
        notes: list[str] = []
        order = frontal_first([film.view for film in films])
        if order != sorted(order):
            films = [films[i] for i in order]
            notes.append("The films' headers name the lateral film first; it was put second.")
        if settings.views == 1 and films[0].view == "lateral":
            notes.append("The film's header says lateral; this model was trained on frontal films.")
        packed = [squash(film.pixels, settings.image_size) for film in films]
        missing = settings.views - len(packed)
        present = np.arange(settings.views) < len(packed)
        if missing:
            masked = settings.missing_view == "mask"
            packed += [np.zeros_like(packed[-1]) if masked else packed[-1]] * missing
            if settings.missing_view == "error":
                notes.append(
                    "One film where the model was trained on two: it stands for both, "
                    "and the report is less reliable."
                )
        stacked = np.stack(packed)
        pixels = resize_view(torch.from_numpy(stacked), settings.crop).to(self._device)
        visual = pixels
        if self._tokenizer is not None:
            with autocast(self._device, settings.precision):
                visual = self._tokenizer.tokenize(pixels)
        return Prepared(stacked, visual.cpu(), present, tuple(notes))

    def write(self, studies: Sequence[Prepared]) -> list[Report]:
        """Write the reports of a batch of prepared studies."""
        with self._writing:
            return self._write(studies)

    @torch.inference_mode()
    def _write(self, studies: Sequence[Prepared]) -> list[Report]:
        model, decode = self._model, self.bundle.decode
        visual = torch.stack([study.visual for study in studies]).to(self._device)
        present = None
        if self.bundle.preprocessing.missing_view == "mask":
            there = np.stack([study.present for study in studies])
            present = torch.from_numpy(there).to(self._device)
        written = generate(
            model,
            visual,
            decode.beam_size,
            decode.length_penalty,
            self._tables,
            present,
            decode.guidance,
        )
        rows = torch.full((len(studies), model.sizes.max_length + 1), PAD)
        for row, beam in zip(rows, written, strict=True):
            ids = torch.tensor([BOS, *beam.ids, EOS][: len(row)])
            row[: len(ids)] = ids
        rows = rows.to(self._device)
        with recorded_attention(model) as layers:
            output = model(visual, rows, present)
        attention = torch.stack(layers).mean(dim=0).float().cpu()  # (B, T, L)
        chosen = output.logits.float().log_softmax(-1).gather(2, rows[:, 1:, None]).squeeze(2).cpu()
        reports = [
            self._report(study, beam, attention[i], chosen[i])
            for i, (study, beam) in enumerate(zip(studies, written, strict=True))
        ]
        if model.findings is not None and output.findings is not None:
            least = tuple(model.findings.thresholds.tolist())
            reports = [
                replace(report, probabilities=tuple(likely), thresholds=least)
                for report, likely in zip(reports, output.findings.sigmoid().tolist(), strict=True)
            ]
        if self.bundle.index is not None:
            similar = self.bundle.index.nearest(output.image_global.cpu(), _SIMILAR)
            reports = [
                replace(report, similar=tuple(nearest))
                for report, nearest in zip(reports, similar, strict=True)
            ]
        return reports

    def _report(
        self,
        study: Prepared,
        written: Generated,
        attention: Tensor,
        log_probabilities: Tensor,
    ) -> Report:
        words = tuple(self.bundle.vocabulary.decode(written.ids).split())
        views = self.bundle.preprocessing.views
        side = round((attention.shape[1] / views) ** 0.5)
        of_words = attention[: len(words)] * attention.shape[1]
        return Report(
            words=words,
            sentences=tuple(_sentences(words, log_probabilities.tolist())),
            log_probability=written.log_probability,
            attention=of_words.reshape(len(words), views, side, side).numpy(),
            films=study.films,
            views=_VIEW_NAMES[:views],
            present=study.present,
            notes=study.notes,
        )


def load(path: str | Path, device: str = "auto") -> Reporter:
    """Open a bundle, ready to write reports.

    Args:
        path: a file that `python -m pipeline export` wrote.
        device: auto | cpu | cuda | mps.

    Raises:
        UserError: as `Bundle.load`.
    """
    return Reporter(Bundle.load(Path(path)), device)


def _sentences(words: Sequence[str], log_probabilities: Sequence[float]) -> Iterator[Sentence]:
    """Words up to each full stop; a report cut at its greatest length ends without one."""
    start = 0
    for i, word in enumerate(words):
        if word == "." or i + 1 == len(words):
            said = " ".join(words[start : i + 1]).replace(" .", ".")
            if said != ".":
                mean = sum(log_probabilities[start : i + 1]) / (i + 1 - start)
                yield Sentence(said[0].upper() + said[1:], start, i + 1, mean)
            start = i + 1


def _name(source: FilmSource, position: int) -> str:
    return str(source) if isinstance(source, str | Path) else f"film {position + 1}"


def _read(source: FilmSource, name: str) -> Film:
    if isinstance(source, Film):
        return source
    if isinstance(source, str | Path):
        return read_film(Path(source))
    if isinstance(source, bytes):
        return decode_film(io.BytesIO(source), name)
    if isinstance(source, np.ndarray):
        return Film(_gray(source, name), "unknown")
    return decode_film(io.BytesIO(source.read()), name)


def _gray(pixels: np.ndarray, name: str) -> np.ndarray:
    """8-bit gray as it is, other numbers over their range."""
    if pixels.ndim != 2 or not pixels.size or pixels.dtype.kind not in "uif":
        raise UserError(f"{name}: an array {pixels.shape} of {pixels.dtype}, expected (H, W) gray")
    try:
        refuse_huge(pixels.shape[1], pixels.shape[0])
        if not np.isfinite(pixels).all():
            raise UserError("holds values that are not finite")
        refuse_constant(pixels)
    except UserError as reason:
        raise UserError(f"{name}: {reason}") from None
    return pixels if pixels.dtype == np.uint8 else stretch(pixels.astype(np.float32))


_SAID = {
    Label.POSITIVE: "positive",
    Label.UNCERTAIN: "uncertain",
    Label.NEGATIVE: "negative",
}
_LABELLING = threading.Lock()  # spaCy's pipeline is one for all threads


@cache
def _labeller() -> Any:
    from uar.evaluation.clinical.labeller import Labeller  # a second that a text need not wait

    return Labeller()
