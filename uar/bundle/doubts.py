"""Reasons not to write a report of a film: its header, its form, its likeness.

A doubt is a sentence for whoever supplied the film. If there is any, a report is written only on
demand.
"""

from __future__ import annotations

from collections.abc import Sequence

from uar.bundle.likeness import FilmLikeness
from uar.core.errors import UserError
from uar.data.dicom import CHEST, NO_RADIOGRAPHY, OTHER, RADIOGRAPHY
from uar.data.films import Film

_MOST_COLOUR = 0.05  # share of the pixels; a marker or a caption may be coloured
_LEAST_SIDE = 0.5  # as a share of the side of the model's input


class DoubtfulFilms(UserError):
    """No report was written, because there are doubts about the films.

    Attributes:
        doubts: one sentence each.
    """

    def __init__(self, doubts: Sequence[str]) -> None:
        self.doubts = tuple(doubts)
        super().__init__(" ".join(doubts))


def header_doubts(film: Film, name: str) -> list[str]:
    """A doubt if the DICOM header names something other than a radiograph."""
    kind = NO_RADIOGRAPHY.get(film.modality)
    if kind is None:
        return []
    return [f"{name}: its header says {film.modality} ({kind}), not a radiograph."]


def header_notes(film: Film, name: str) -> list[str]:
    """What else a reader should know from the header; not a doubt by itself."""
    notes = []
    if film.modality == OTHER:
        terms = ", ".join(RADIOGRAPHY[:2])
        notes.append(f"{name}: its header names a modality other than a radiograph's ({terms}).")
    if film.body_part and film.body_part not in CHEST:
        part = "another body part" if film.body_part == OTHER else film.body_part
        notes.append(f"{name}: its header names {part}, not the chest.")
    return notes


def form_doubts(film: Film, name: str, crop: int) -> list[str]:
    """Doubts if a film is in colour, or has under half as many pixels a side as the model's input.

    Args:
        crop: side of that input in pixels.
    """
    found = []
    if film.coloured > _MOST_COLOUR:
        found.append(f"{name}: a colour picture ({film.coloured:.0%} of its pixels), not a film.")
    if film.shorter_side < _LEAST_SIDE * crop:
        found.append(
            f"{name}: {film.shorter_side} pixels along its shorter side; the model reads {crop}."
        )
    return found


def likeness_doubts(likeness: FilmLikeness, name: str, view: str) -> list[str]:
    """A doubt if a film is unlike the films of training.

    Args:
        view: what the film is taken for.
    """
    if not likeness.unlike:
        return []
    if likeness.turned:
        return [f"{name}: it looks {likeness.turned}."]
    return [
        f"{name}: unlike the {view} films that the model was trained on "
        "(stranger than 99.5 % of the training studies)."
    ]


def view_doubts(
    likeness: Sequence[FilmLikeness], names: Sequence[str], views: Sequence[str]
) -> tuple[list[str], list[str]]:
    """A doubt if two films look swapped, else notes on films that look like another view.

    Args:
        names: of the films.
        views: what each is taken for.
    """
    other = [of_film.other_view for of_film in likeness]
    if other == [1, 0]:
        return [f"{names[0]}: taken as {views[0]}, but it and {names[1]} look swapped."], []
    notes = [
        f"{name}: taken as {view}, but it looks like a {views[at]} film."
        for name, view, at in zip(names, views, other, strict=False)
        if at is not None
    ]
    return [], notes
