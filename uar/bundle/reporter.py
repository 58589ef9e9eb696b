"""Draft reports of films, written by a bundle: `uar.load("model.uar").report(["frontal.png"])`."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uar.bundle.bundle import Bundle
from uar.bundle.doubts import (
    DoubtfulFilms,
    form_doubts,
    header_doubts,
    header_notes,
    likeness_doubts,
    view_doubts,
)
from uar.bundle.evidence import LogitScaling
from uar.bundle.likeness import FilmLikeness
from uar.bundle.report import RESEARCH, Report, Sentence, StudyFilms
from uar.bundle.sources import FilmSource, name_of, read_source
from uar.core.device import autocast, resolve_device
from uar.core.errors import UserError
from uar.core.special_words import BOS, EOS, PAD
from uar.data.films import Film, squash
from uar.data.isolation import FilmDecoder
from uar.data.study import View, frontal_first
from uar.data.views import resize_view
from uar.evaluation.calibration import AS_TRAINED
from uar.inference.decoding import Generated
from uar.inference.word_attention import recorded_attention
from uar.inference.writing import ReportWriter, needs_findings
from uar.model.ensemble import together

_VIEW_NAMES = ("frontal", "lateral")
_SIMILAR = 5  # training studies named with a report


@dataclass(frozen=True, kw_only=True)
class Prepared(StudyFilms):
    """A study as the model takes it.

    Attributes:
        visual: tokens `(V, L/V)` int64, or pixels `(V, crop, crop)` float.
    """

    visual: Tensor

    def refusal_json(self) -> dict[str, Any]:
        """Why there is no report, for a JSON file."""
        return {
            "text": None,
            "research_use_only": RESEARCH,
            **self.films_json(),
            "notes": list(self.notes),
        }


class Reporter:
    """Writes reports of films; threads may share it, but only one writes at a time.

    Args:
        bundle: the trained model.
        device: auto | cpu | cuda | mps.
    """

    def __init__(self, bundle: Bundle, device: str = "auto") -> None:
        self.bundle = bundle
        self._device = resolve_device(device)
        models = [of.build().to(self._device).eval() for of in (bundle.checkpoint, *bundle.members)]
        self._model = together(models)
        self._writer = ReportWriter(self._model, bundle.vocabulary, bundle.decode, bundle.seed)
        self._writing = threading.Lock()  # recorded_attention hooks into the model itself
        self._decoder: FilmDecoder | None = None  # started for the first film's file
        self._starting = threading.Lock()
        self._tokenizer = bundle.tokenizer
        if self._tokenizer is not None:
            self._tokenizer.to(self._device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def report(self, films: FilmSource | Sequence[FilmSource], *, force: bool = False) -> Report:
        """Write the report of one study.

        Args:
            films: one film or two, frontal first. Each is a path, the bytes of a file, an open
                binary file (PNG, JPEG or DICOM), gray pixels `(H, W)`, bone bright, or a `Film`.
            force: write it even for films unlike those that the model was trained on.

        Raises:
            DoubtfulFilms: they are unlike those, or not chest films at all.
            UserError: a film cannot be read, or there is none, or more than the model takes.
        """
        several = isinstance(films, Sequence) and not isinstance(films, str | bytes)
        study: Sequence[FilmSource] = films if several else [films]  # type: ignore[assignment,list-item]
        prepared = self.prepare(study)
        _refuse_doubtful(prepared, force)
        for note in prepared.notes:
            warnings.warn(note, stacklevel=2)
        return self.write([prepared])[0]

    def reports(
        self,
        studies: Iterable[Sequence[FilmSource]],
        batch_size: int = 16,
        *,
        force: bool = False,
    ) -> Iterator[Report]:
        """Write the reports of many studies, a batch at a time, in order.

        Args:
            studies: the films of each, as `report` takes them.
            batch_size: studies per batch.
            force: as in `report`.

        Raises:
            DoubtfulFilms, UserError: as in `report`.
        """
        waiting = iter(studies)
        while batch := list(islice(waiting, batch_size)):
            prepared = [self.prepare(study) for study in batch]
            for study in prepared:
                _refuse_doubtful(study, force)
            yield from self.write(prepared)

    @torch.inference_mode()
    def prepare(
        self,
        study: Sequence[FilmSource],
        names: Sequence[str] | None = None,
        views: Sequence[View] | None = None,
    ) -> Prepared:
        """Read a study's films as ingest and tokenize do: the same film gives the same tokens.

        Args:
            study: its films, as `report` takes them.
            names: of the films, for messages; by default their paths or places.
            views: what they show, for those whose headers do not say.

        Raises:
            UserError: as in `report`.
        """
        settings = self.bundle.preprocessing
        films, names, notes = self._read(study, names, views)
        doubts: list[str] = []
        for film, name in zip(films, names, strict=True):
            doubts += header_doubts(film, name) + form_doubts(film, name, settings.crop)
            notes += header_notes(film, name)
        packed = [squash(film.pixels, settings.image_size) for film in films]
        missing = settings.views - len(packed)
        if missing:
            masked = settings.missing_view == "mask"
            packed += [np.zeros_like(packed[-1]) if masked else packed[-1]] * missing
            if settings.missing_view == "error":
                notes.append(
                    "Only one film was given, but the model was trained on two: it stands for "
                    "both, and the report is less reliable."
                )
        stacked = np.stack(packed)
        visual = self._visual(stacked)
        likeness = self._likeness(stacked, visual, len(films))
        for found, name, view in zip(likeness, names, _VIEW_NAMES, strict=False):
            doubts += likeness_doubts(found, name, view)
        swapped, others = view_doubts(likeness, names, _VIEW_NAMES)
        stated = [film.view == view for film, view in zip(films, _VIEW_NAMES, strict=False)]
        return Prepared(
            films=stacked,
            views=_VIEW_NAMES[: settings.views],
            present=np.arange(settings.views) < len(films),
            stated=np.array([*stated, *[True] * missing]),
            notes=(*notes, *others),
            doubts=(*doubts, *swapped),
            likeness=likeness,
            visual=visual,
        )

    def _read(
        self, study: Sequence[FilmSource], names: Sequence[str] | None, views: Sequence[View] | None
    ) -> tuple[list[Film], list[str], list[str]]:
        """A study's films and their names, the frontal one first, and notes on their views."""
        most = self.bundle.preprocessing.views
        if not 1 <= len(study) <= most:
            allowed = "one film" if most == 1 else f"one to {most} films"
            raise UserError(f"{len(study)} films for one study, but this model takes {allowed}")
        names = names or [name_of(source, i) for i, source in enumerate(study)]
        films = [read_source(s, name, self._decode) for s, name in zip(study, names, strict=True)]
        if views is not None:
            films = [
                replace(film, view=view) if film.view == "unknown" else film
                for film, view in zip(films, views, strict=True)
            ]
        order = frontal_first([film.view for film in films])
        films, names = [films[i] for i in order], [names[i] for i in order]
        return films, names, _view_notes([film.view for film in films], most, order)

    def _visual(self, films: np.ndarray) -> Tensor:
        """Visual input for packed films `(V, size, size)`, as in `Prepared`."""
        settings = self.bundle.preprocessing
        pixels = resize_view(torch.from_numpy(films), settings.crop).to(self._device)
        if self._tokenizer is None:
            return pixels.cpu()
        with autocast(self._device, settings.precision):
            return self._tokenizer.tokenize(pixels).cpu()

    def _decode(self, data: bytes, name: str) -> Film:
        """Decode a film's file within `uar.data.films.LIMITS`, in another process."""
        with self._starting:
            if self._decoder is None:
                self._decoder = FilmDecoder(self.bundle.preprocessing.image_size)
        return self._decoder.decode(data, name)

    def _likeness(self, films: np.ndarray, visual: Tensor, given: int) -> tuple[FilmLikeness, ...]:
        """How similar the films that were given are to those of training."""
        likeness = self.bundle.likeness
        if likeness is None:
            return ()
        tokens = [None if self._tokenizer is None else visual[v].numpy() for v in range(given)]
        return tuple(likeness.measure(films[v], tokens[v], v) for v in range(given))

    def write(self, studies: Sequence[Prepared]) -> list[Report]:
        """Write the reports of a batch of prepared studies, whatever the doubts about them."""
        with self._writing:
            return self._write(studies)

    @torch.inference_mode()
    def _write(self, studies: Sequence[Prepared]) -> list[Report]:
        model, judge = self._model, self.bundle.judge
        visual = torch.stack([study.visual for study in studies])
        judged = None if judge is None else judge.logits(visual.numpy())
        probabilities = None
        if judged is not None and needs_findings(self.bundle.decode):
            probabilities = AS_TRAINED.probabilities(judged)
        visual = visual.to(self._device)
        present = None
        if self.bundle.preprocessing.missing_view == "mask":
            there = np.stack([study.present for study in studies])
            present = torch.from_numpy(there).to(self._device)
        written = self._writer.write(visual, present, probabilities)
        rows = torch.full((len(studies), model.sizes.max_length + 1), PAD)
        for row, beam in zip(rows, written, strict=True):
            ids = torch.tensor([BOS, *beam.ids, EOS][: len(row)])
            row[: len(ids)] = ids
        rows = rows.to(self._device)
        with recorded_attention(model) as layers:
            output = model(visual, rows, present)
        attention = torch.stack(layers).mean(dim=0).float().cpu()  # (B, T, L)
        reports = [
            self._report(study, beam, attention[i], None if judged is None else judged[i])
            for i, (study, beam) in enumerate(zip(studies, written, strict=True))
        ]
        if (limits := model.finding_thresholds) is not None and output.finding_logits is not None:
            scaling = self._scaling
            of_head = _scaled(output.finding_logits, scaling).tolist()
            thresholds = tuple(_scaled_thresholds(limits, scaling).tolist())
            reports = [
                replace(report, probabilities=tuple(of_study), thresholds=thresholds)
                for report, of_study in zip(reports, of_head, strict=True)
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
        judged: np.ndarray | None,
    ) -> Report:
        words = tuple(self.bundle.vocabulary.decode(written.ids).split())
        views = len(study.views)
        side = round((attention.shape[1] / views) ** 0.5)
        of_words = attention[: len(words)] * attention.shape[1]
        return Report(
            words=words,
            sentences=tuple(_sentences(words)),
            log_probability=written.log_probability,
            attention=of_words.reshape(len(words), views, side, side).numpy(),
            origin=_origin(self.bundle.provenance),
            evidence=self.bundle.evidence,
            judged=judged,
            **{name: getattr(study, name) for name in StudyFilms.__dataclass_fields__},
        )

    @property
    def _scaling(self) -> LogitScaling:
        """Scaling of the findings head's logits by validation; as trained where that is unknown."""
        evidence, as_trained = self.bundle.evidence, LogitScaling(slope=1, shift=0)
        return as_trained if evidence is None else evidence.scaling or as_trained


def _scaled(logits: Tensor, scaling: LogitScaling) -> Tensor:
    return (scaling.slope * logits + scaling.shift).sigmoid()


def _scaled_thresholds(thresholds: Tensor, scaling: LogitScaling) -> Tensor:
    """Thresholds for calibrated probabilities; one of 1 or more, which none exceeds, stays."""
    below = _scaled(thresholds.logit(eps=1e-6), scaling)
    return torch.where(thresholds < 1, below, thresholds)


def _refuse_doubtful(study: Prepared, force: bool) -> None:
    if study.doubts and not force:
        raise DoubtfulFilms(study.doubts)


def _view_notes(views: Sequence[View], wanted: int, order: Sequence[int]) -> list[str]:
    """What to say about the views that headers or a table state.

    Args:
        views: of the films, in the order in which the model gets them.
        wanted: how many films it takes.
        order: the place at which each was given.
    """
    if wanted == 1:
        if views[0] == "lateral":
            return ["The film is a lateral one; this model was trained on frontal films."]
        return []
    if list(order) != sorted(order):
        return ["The lateral film came first; it was put second."]
    if len(views) == 1 and views[0] == "lateral":
        return ["Only a lateral film was given; it stands in for the frontal one expected."]
    if len(views) == 2 and views[0] == views[1] != "unknown":
        return [f"Both films are {views[0]} ones; the model expects a frontal and a lateral one."]
    return []


def _origin(provenance: Mapping[str, Any]) -> str:
    """What wrote a report, in a sentence."""

    def known(key: str) -> str:
        return str(provenance.get(key) or "unknown")

    commit = known("commit")[:12]
    if provenance.get("code_date"):
        commit += f" of {provenance['code_date']}"
    return (
        f"Model: {known('program')}, trained on the data set {known('dataset')} "
        f"({known('films')}), commit {commit}."
    )


def load(path: str | Path, device: str = "auto") -> Reporter:
    """Open a bundle, ready to write reports.

    Args:
        path: a file that `python -m pipeline export` wrote.
        device: auto | cpu | cuda | mps.

    Raises:
        UserError: as in `Bundle.load`.
    """
    return Reporter(Bundle.load(Path(path)), device)


def _sentences(words: Sequence[str]) -> Iterator[Sentence]:
    """Words up to each full stop; a report cut at its maximum length ends without one."""
    start = 0
    for i, word in enumerate(words):
        if word == "." or i + 1 == len(words):
            said = " ".join(words[start : i + 1]).replace(" .", ".")
            if said != ".":
                yield Sentence(said[0].upper() + said[1:], start, i + 1)
            start = i + 1
