"""From films to a draft report, by a bundle: `uar.load("model.uar").report(["frontal.png"])`."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from uar.bundle.bundle import Bundle
from uar.bundle.report import Report, Sentence
from uar.bundle.sources import FilmSource, name_of, read_source
from uar.core.device import autocast, resolve_device
from uar.core.errors import UserError
from uar.core.special_words import BOS, EOS, PAD
from uar.data.films import squash
from uar.data.study import frontal_first
from uar.data.views import resize_view
from uar.inference.decoding import Generated, generate
from uar.inference.word_attention import recorded_attention

_VIEW_NAMES = ("frontal", "lateral")
_SIMILAR = 5  # training studies beside a report


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
        names = names or [name_of(source, i) for i, source in enumerate(study)]
        films = [read_source(source, name) for source, name in zip(study, names, strict=True)]
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
