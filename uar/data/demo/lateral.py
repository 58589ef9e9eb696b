"""The lateral film of a phantom: the chest part by part, then its findings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from uar.data.demo.canvas import Canvas, Pixels, Pose, cover, draw_findings, form_of
from uar.data.demo.findings import Finding
from uar.data.study import Box

_SWELL = {"": 1.0, "mild": 1.22, "marked": 1.42}  # relative heart size, by cardiomegaly's detail


@dataclass(frozen=True)
class Chest:
    """Covers `(H, W)` of what findings lie in: the superposed lungs and the heart."""

    lungs: Pixels
    heart: Pixels


def draw_lateral(
    findings: tuple[Finding, ...], pose: Pose, film_size: int
) -> tuple[Pixels, dict[Finding, Box]]:
    """The lateral film, `(H, film_size)` in [0, 1], patient facing left, and the findings' boxes.

    A pneumothorax is not visible.

    Args:
        findings: the study's findings.
        pose: how the film is taken.
        film_size: width in pixels.
    """
    film = Canvas(film_size, pose, np.random.default_rng([pose.texture, 1]))
    chest = _draw_chest(film, findings)
    formed = {"cardiomegaly": chest.heart, "hyperinflation": chest.lungs}
    return draw_findings(film, chest, findings, formed=formed, drawn=_FINDINGS)


def _draw_chest(film: Canvas, findings: tuple[Finding, ...]) -> Chest:
    """Draw all but the findings; hyperinflation and cardiomegaly are part of the chest's shape."""
    inflated, swell = form_of(findings, _SWELL)
    body = _draw_body(film)
    wall, lungs = _draw_lungs(film, inflated)
    _draw_ribs(film, wall)
    _draw_spine_and_sternum(film, body)
    _draw_mediastinum(film)
    return Chest(lungs, _draw_heart(film, swell, lungs))


def _draw_body(film: Canvas) -> Pixels:
    """Body, narrower at the top, with the raised arms' shadow."""
    x, y = film.x, film.y
    front = 0.09 + 0.16 * np.clip(0.35 - y, 0, 1) - x
    back = x - (0.93 - 0.25 * np.clip(0.3 - y, 0, 1) - 0.06 * np.clip(y - 0.6, 0, 1))
    body = cover(np.maximum(front, back), 0.03)
    film.paint(body, 0.5 + 0.1 * y)
    film.paint(film.ellipse(0.5, 0.0, 0.3, 0.13, soft=0.1), 0.68, 0.7)
    return body


def _draw_lungs(film: Canvas, inflated: bool) -> tuple[Pixels, Pixels]:
    """The superposed lungs, the posterior recess reaching lowest.

    Returns:
        The distance to the chest wall, negative inside, and the lungs' cover.
    """
    x, y = film.x, film.y
    depth, arch = (0.07, 0.3) if inflated else (0.0, 1.0)  # of the hemidiaphragms
    middle = 0.5 + 0.05 * np.clip(0.4 - y, 0, 1)
    width = 0.24 + 0.13 * np.clip(y, 0, 0.8) + (0.02 if inflated else 0)
    wall = (np.sqrt(((x - middle) / width) ** 2 + (np.clip(0.55 - y, 0, 1) / 0.45) ** 2) - 1) * 0.3
    dome = (
        0.73 + depth + arch * (0.3 * np.clip(0.34 - x, 0, 1) + 1.1 * np.clip(x - 0.42, 0, 1) ** 2)
    )
    lungs = cover(np.maximum(wall, y - dome), 0.02)
    shade = 0.26 + 0.22 * np.clip(0.36 - y, 0, 1) * (x > 0.35)
    film.paint(lungs, shade - (0.08 if inflated else 0) + 0.08 * film.cloud(6), 0.92)
    second = cover(np.abs(y - dome - 0.03) - 0.006, 0.01) * cover(wall, 0.02)
    film.add(second, 0.08)  # the other hemidiaphragm
    return wall, lungs


def _draw_ribs(film: Canvas, wall: Pixels) -> None:
    """Ribs, sloping down towards the front."""
    x, y = film.x, film.y
    ribs = np.cos(2 * np.pi * ((y + 0.42 * x - 0.3 * (x - 0.5) ** 2) / 0.088 + film.pose.phase))
    film.add(cover(np.maximum(wall, np.abs(y - 0.47) - 0.38), 0.03) * np.clip(ribs, 0, 1), 0.05)


def _draw_spine_and_sternum(film: Canvas, body: Pixels) -> None:
    """Spine, darker towards the diaphragm, and sternum."""
    x, y = film.x, film.y
    column = 0.77 + 0.06 * np.cos(3.2 * (y - 0.5))
    spine = cover(np.abs(x - column) - 0.05, 0.015) * body
    discs = np.clip(np.cos(2 * np.pi * (y / 0.085 + film.pose.phase)) + 0.55, 0, 1)
    film.add(spine * (0.4 + 0.6 * discs) * np.clip(1.15 - 0.9 * y, 0, 1), 0.26)
    film.add(film.line((0.235, 0.2), (0.165, 0.34), (0.135, 0.62), width=0.03, soft=0.012), 0.16)


def _draw_mediastinum(film: Canvas) -> None:
    """Aortic arch, trachea and hila."""
    film.add(film.ellipse(0.5, 0.31, 0.075, 0.07, soft=0.05), 0.11)
    film.add(film.line((0.57, 0.02), (0.52, 0.4), width=0.034, soft=0.014), -0.14)
    film.add(film.ellipse(0.5, 0.45, 0.055, 0.06, soft=0.05), 0.17)


def _draw_heart(film: Canvas, swell: float, lungs: Pixels) -> Pixels:
    """Draw the heart at `swell` times its normal size; return its cover."""
    heart_x, heart_y = 0.345 + 0.08 * (swell - 1), 0.65 - 0.06 * (swell - 1)
    heart = film.ellipse(heart_x, heart_y, 0.165 * swell, 0.115 * swell, soft=0.025, angle=0.75)
    heart = heart * lungs
    film.paint(heart, 0.64, 0.9)
    return heart


def _draw_effusion(film: Canvas, chest: Chest, finding: Finding) -> Pixels:
    level = 0.74 if finding.detail == "small" else 0.55
    surface = level + 0.02 * film.pose.wander[0] - 0.7 * np.clip(film.x - 0.62, 0, 1) ** 1.5
    if finding.detail == "small":
        surface = surface + np.clip(0.6 - film.x, 0, 1)
    fluid = cover(surface - film.y, 0.025) * chest.lungs
    film.paint(fluid, 0.7, 0.9)
    return fluid


def _draw_consolidation(film: Canvas, chest: Chest, finding: Finding) -> Pixels:
    cx, cy = (0.43, 0.3) if finding.detail == "upper" else (0.62, 0.63)
    ragged = 0.05 * film.cloud(9)
    dy = film.y - cy - 0.02 * film.pose.wander[0]
    radius = np.sqrt(((film.x - cx) / 0.115) ** 2 + (dy / 0.095) ** 2)
    patch = cover((radius - 1) * 0.1 + ragged - 0.02, 0.045) * chest.lungs
    film.paint(patch, 0.64 + 0.16 * film.cloud(14), 0.85)
    return patch


def _draw_nodule(film: Canvas, chest: Chest, finding: Finding) -> Pixels:
    wander, grow = film.pose.wander
    cx, cy = (0.4, 0.3) if finding.detail == "upper" else (0.62, 0.58)
    return film.nodule(cx + 0.03 * wander, cy + 0.03 * grow)


def _draw_atelectasis(film: Canvas, chest: Chest, finding: Finding) -> Pixels:
    base = 0.62 + 0.02 * film.pose.wander[0]
    upper = film.line((0.44, base + 0.06), (0.72, base - 0.02), width=0.036, soft=0.022)
    lower = film.line((0.48, base + 0.11), (0.74, base + 0.05), width=0.03, soft=0.022)
    band = np.maximum(upper, lower) * chest.lungs
    film.paint(band, 0.76, 0.9)
    return band


def _draw_edema(film: Canvas, chest: Chest, finding: Finding) -> Pixels:
    haze = film.ellipse(0.5, 0.46, 0.23, 0.22, soft=0.14) * chest.lungs
    film.add(haze * (0.6 + 0.9 * film.cloud(40)), 0.23)
    return haze


def _draw_pacemaker(film: Canvas, chest: Chest, finding: Finding) -> Pixels:
    """Draw a pacemaker; its box is the generator's, without the lead."""
    gx, gy = 0.25, 0.22 + 0.01 * film.pose.wander[1]
    course = ((gx, gy), (0.42, 0.2), (0.47, 0.4), (0.42, 0.56), (0.27, 0.68))
    return film.pacemaker(course, 0.04, 0.052)


def _draw_hernia(film: Canvas, chest: Chest, finding: Finding) -> Pixels:
    return film.hernia(0.575, 0.645, sac_width=0.085, air_width=0.067, value=0.82)


_FINDINGS: dict[str, Callable[[Canvas, Chest, Finding], Pixels]] = {
    "pleural effusion": _draw_effusion,
    "consolidation": _draw_consolidation,
    "nodule": _draw_nodule,
    "atelectasis": _draw_atelectasis,
    "edema": _draw_edema,
    "pacemaker": _draw_pacemaker,
    "hiatal hernia": _draw_hernia,
}
