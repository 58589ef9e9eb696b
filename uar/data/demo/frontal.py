"""The PA film of a phantom: the chest part by part, then its findings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from uar.data.demo.canvas import Canvas, Pixels, Pose, cover, draw_findings, form_of
from uar.data.demo.findings import Finding
from uar.data.study import Box

_SWELL = {"": 1.0, "mild": 1.28, "marked": 1.55}  # relative heart size, by cardiomegaly's detail


@dataclass(frozen=True)
class Chest:
    """Covers `(H, W)` of what findings lie in: the lungs, by the patient's side, and the heart."""

    lungs: dict[str, Pixels]
    heart: Pixels

    @property
    def both(self) -> Pixels:
        """Both lungs."""
        return self.lungs["left"] + self.lungs["right"]


def draw_frontal(
    findings: tuple[Finding, ...], pose: Pose, film_size: int
) -> tuple[Pixels, dict[Finding, Box]]:
    """The PA film, `(H, film_size)` in [0, 1] with bone bright, and the box of each finding.

    Args:
        findings: the study's findings.
        pose: how the film is taken.
        film_size: width in pixels.
    """
    film = Canvas(film_size, pose, np.random.default_rng(pose.texture))
    chest = _draw_chest(film, findings)
    formed = {"cardiomegaly": chest.heart, "hyperinflation": chest.both}
    return draw_findings(film, chest, findings, formed=formed, drawn=_FINDINGS)


def _draw_chest(film: Canvas, findings: tuple[Finding, ...]) -> Chest:
    """Draw all but the findings; hyperinflation and cardiomegaly are part of the chest's shape."""
    inflated, swell = form_of(findings, _SWELL)
    depth = 0.065 if inflated else 0.0  # of the hemidiaphragms
    body = _draw_body(film)
    lungs = _draw_lungs(film, depth, inflated)
    both = lungs["left"] + lungs["right"]
    _draw_vessels(film, both)
    _draw_ribs(film)
    _draw_mediastinum(film)
    heart = _draw_heart(film, swell, depth)
    _draw_spine_and_airways(film, body)
    _draw_clavicles_and_marker(film)
    return Chest(lungs, heart)


def _draw_body(film: Canvas) -> Pixels:
    """Neck, shoulders and trunk, thicker in the middle."""
    x, y = film.x, film.y
    trunk = np.abs(x - 0.5) - (0.475 - 0.1 * np.clip(0.3 - y, 0, 1))
    shoulders = 0.02 + 0.3 * np.clip(np.abs(x - 0.5) - 0.11, 0, 1) ** 1.5 - y
    body = cover(np.maximum(trunk, shoulders), 0.03)
    film.paint(body, 0.46 + 0.24 * np.clip(1 - 2.2 * np.abs(x - 0.5), 0, 1) + 0.1 * y)
    return body


def _draw_lungs(film: Canvas, depth: float, inflated: bool) -> dict[str, Pixels]:
    """Lungs, the right one on the left of the film, and gastric air."""
    x, y = film.x, film.y
    arch = 0.03 if inflated else 0.085  # of the hemidiaphragms
    lungs: dict[str, Pixels] = {}
    for side, sign in (("right", -1), ("left", 1)):
        middle = 0.5 + sign * 0.188
        outward = (x - middle) * sign
        width = 0.128 + 0.045 * np.clip(y, 0, 1) + (0.012 if inflated else 0)
        radius = np.sqrt((outward / width) ** 2 + (np.clip(0.6 - y, 0, 1) / 0.5) ** 2)
        chest = (radius - 1) * 0.16
        dome = (
            0.715 + depth + (0.02 if side == "left" else 0) + arch * ((outward + 0.02) / 0.16) ** 2
        )
        lungs[side] = cover(np.maximum(chest, y - dome), 0.02)
    both = lungs["left"] + lungs["right"]
    film.paint(both, (0.15 if inflated else 0.22) + 0.1 * film.cloud(6), 0.92)
    film.paint(film.ellipse(0.64, 0.83 + depth, 0.055, 0.03, soft=0.03), 0.42, 0.6)  # gastric air
    return lungs


def _draw_vessels(film: Canvas, lungs: Pixels) -> None:
    """Pulmonary vessels: rays from the hila, fainter outwards."""
    for sign in (-1, 1):
        dx, dy = sign * (film.x - 0.5) - 0.07, film.y - 0.44
        distance = np.sqrt(dx * dx + dy * dy)
        bend = 5 * film.cloud(8) + 14 * distance
        rays = np.cos(13 * np.arctan2(dy, dx) + bend)
        faint = np.clip(1 - distance / 0.27, 0, 1)
        film.add(lungs * np.clip(rays, 0, 1) ** 2 * faint * (dx > -0.05), 0.15)


def _draw_ribs(film: Canvas) -> None:
    """Posterior ribs, sloping gently down from the spine, and anterior ribs, rising towards it."""
    y, phase = film.y, film.pose.phase
    away = np.abs(film.x - 0.5)
    cage = cover(np.maximum(away - 0.385 - 0.05 * y, np.abs(y - 0.46) - 0.36), 0.03)
    fall = y - 0.16 * away + 1.6 * (away - 0.18) ** 2
    posterior = np.cos(2 * np.pi * (fall / 0.083 + phase))
    rise = y + 0.55 * (0.4 - away)
    anterior = np.cos(2 * np.pi * (rise / 0.1 + phase))
    film.add(cage * np.clip(posterior * 1.6 - 0.4, 0, 1), 0.075)
    film.add(cage * np.clip(anterior * 1.6 - 0.7, 0, 1) * (away > 0.14), 0.035)


def _draw_mediastinum(film: Canvas) -> None:
    """Mediastinum, aortic knob and hila."""
    x, y = film.x, film.y
    edge = np.abs(x - 0.505) - (0.048 + 0.03 * np.clip(y - 0.2, 0, 1))
    film.paint(cover(np.maximum(edge, np.maximum(0.1 - y, y - 0.75)), 0.02), 0.66)
    film.paint(film.ellipse(0.56, 0.335, 0.032, 0.042, soft=0.02), 0.66)
    for sign in (-1, 1):
        film.add(
            film.ellipse(0.5 + sign * 0.095, 0.44, 0.035, 0.06, soft=0.05, angle=sign * -0.4), 0.13
        )


def _draw_heart(film: Canvas, swell: float, depth: float) -> Pixels:
    """Draw the heart at `swell` times its normal size; return its cover."""
    heart_x, heart_y = 0.535 + 0.04 * (swell - 1), 0.63 - 0.06 * (swell - 1)
    heart = film.ellipse(heart_x, heart_y, 0.137 * swell, 0.108 * swell, soft=0.02, angle=0.3)
    heart = heart * cover(film.y - 0.8 - depth, 0.05)
    film.paint(heart, 0.7)
    return heart


def _draw_spine_and_airways(film: Canvas, body: Pixels) -> None:
    """Spine, trachea and main bronchi."""
    spine = cover(np.abs(film.x - 0.5) - 0.036, 0.015) * body
    vertebrae = np.cos(2 * np.pi * (film.y / 0.066 + film.pose.phase))
    film.add(spine * (0.6 + 0.4 * vertebrae), 0.075)
    film.add(film.line((0.5, 0.0), (0.498, 0.36), width=0.032, soft=0.012), -0.16)
    bronchi = film.line((0.44, 0.425), (0.498, 0.365), (0.565, 0.42), width=0.018, soft=0.012)
    film.add(bronchi, -0.09)


def _draw_clavicles_and_marker(film: Canvas) -> None:
    """Clavicles, and the side marker, an L."""
    for sign in (-1, 1):
        clavicle = [(0.5 + sign * dx, y0) for dx, y0 in ((0.04, 0.19), (0.17, 0.15), (0.37, 0.085))]
        film.add(film.line(*clavicle, width=0.028, soft=0.012), 0.15)
    film.paint(film.line((0.9, 0.0), (0.9, 0.045), (0.93, 0.045), width=0.01), 0.95)


def _sign(finding: Finding) -> int:
    """The finding's side as a direction along x."""
    return 1 if finding.side == "left" else -1


def _draw_effusion(film: Canvas, chest: Chest, finding: Finding) -> Pixels:
    level = 0.68 if finding.detail == "small" else 0.5
    outward = (film.x - 0.5) * _sign(finding) - 0.188
    surface = level + 0.02 * film.pose.wander[0] - 0.9 * np.clip(outward + 0.06, 0, 1) ** 1.5
    fluid = cover(surface - film.y, 0.025) * chest.lungs[finding.side]
    film.paint(fluid, 0.74, 0.95)
    return fluid


def _draw_pneumothorax(film: Canvas, chest: Chest, finding: Finding) -> Pixels:
    y = film.y
    across, up = (0.095, 0.36) if finding.detail == "small" else (0.065, 0.27)
    outward = (film.x - 0.5) * _sign(finding) - 0.09
    collapsed = (np.sqrt((outward / across) ** 2 + ((y - 0.62) / up) ** 2) - 1) * across
    air = chest.lungs[finding.side] * (1 - chest.heart) * cover(-collapsed, 0.012)
    air = air * cover(y - (0.5 if finding.detail == "small" else 0.85), 0.1)
    film.paint(air, 0.05, 0.9)
    film.add(air * cover(np.abs(collapsed) - 0.008, 0.008), 0.45)  # pleural line
    return air


def _draw_consolidation(film: Canvas, chest: Chest, finding: Finding) -> Pixels:
    wander, grow = film.pose.wander
    out, middle_y = (0.205, 0.31) if finding.detail == "upper" else (0.23, 0.58)
    dx, dy = _sign(finding) * (film.x - 0.5) - out, film.y - middle_y - 0.02 * wander
    ragged = 0.05 * film.cloud(9)
    rx, ry = 0.1 + 0.01 * grow, 0.095 + 0.01 * grow
    radius = np.sqrt((dx / rx) ** 2 + (dy / ry) ** 2)
    patch = cover((radius - 1) * 0.1 + ragged - 0.02, 0.045) * chest.lungs[finding.side]
    film.paint(patch, 0.64 + 0.16 * film.cloud(14), 0.9)
    return patch


def _draw_nodule(film: Canvas, chest: Chest, finding: Finding) -> Pixels:
    wander, grow = film.pose.wander
    middle_x = 0.5 + _sign(finding) * (0.215 + 0.015 * wander)
    middle_y = 0.33 if finding.detail == "upper" else 0.58
    return film.nodule(middle_x, middle_y + 0.03 * grow)


def _draw_atelectasis(film: Canvas, chest: Chest, finding: Finding) -> Pixels:
    sign = _sign(finding)
    inner, outer = 0.5 + sign * 0.12, 0.5 + sign * 0.31
    base = 0.61 + 0.02 * film.pose.wander[0]
    upper = film.line((inner, base + 0.03), (outer, base - 0.02), width=0.036, soft=0.02)
    lower = film.line((inner, base + 0.09), (outer, base + 0.05), width=0.03, soft=0.02)
    band = np.maximum(upper, lower) * chest.lungs[finding.side]
    film.paint(band, 0.76, 0.95)
    return band


def _draw_edema(film: Canvas, chest: Chest, finding: Finding) -> Pixels:
    right = film.ellipse(0.345, 0.47, 0.13, 0.23, soft=0.12)
    left = film.ellipse(0.655, 0.47, 0.13, 0.23, soft=0.12)
    haze = np.clip(right + left, 0, 1) * chest.both
    film.add(haze * (0.6 + 0.9 * film.cloud(40)), 0.27)
    return haze


def _draw_pacemaker(film: Canvas, chest: Chest, finding: Finding) -> Pixels:
    """Draw a pacemaker; its box is the generator's, without the lead."""
    sign, (wander, grow) = _sign(finding), film.pose.wander
    gx, gy = 0.5 + sign * (0.275 + 0.01 * wander), 0.21 + 0.01 * grow
    vein = 0.5 + sign * 0.13
    course = ((gx, gy), (vein, 0.17), (0.475, 0.25), (0.465, 0.45), (0.48, 0.6), (0.575, 0.7))
    return film.pacemaker(course, 0.05, 0.05)


def _draw_hernia(film: Canvas, chest: Chest, finding: Finding) -> Pixels:
    cx = 0.535 + 0.015 * film.pose.wander[0]
    return film.hernia(cx, 0.635, sac_width=0.088, air_width=0.07, value=0.86)


_FINDINGS: dict[str, Callable[[Canvas, Chest, Finding], Pixels]] = {
    "pleural effusion": _draw_effusion,
    "pneumothorax": _draw_pneumothorax,
    "consolidation": _draw_consolidation,
    "nodule": _draw_nodule,
    "atelectasis": _draw_atelectasis,
    "edema": _draw_edema,
    "pacemaker": _draw_pacemaker,
    "hiatal hernia": _draw_hernia,
}
