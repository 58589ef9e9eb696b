"""Films of demo studies: phantoms drawn from ellipses and lines."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from uar.data.demo.findings import Finding

Pixels = NDArray[np.floating]
Box = tuple[float, float, float, float]  # x0, y0, x1, y1, shares of the film


@dataclass(frozen=True)
class Pose:
    """How one film was taken: the patient's build and position, and the exposure."""

    height: float  # of the film, in widths
    size: float
    shift: tuple[float, float]  # film widths
    angle: float  # radians
    build: float  # thorax width over height
    phase: float  # of the ribs
    wander: tuple[float, float]  # in [-1, 1]: where in its place, and how big, a finding is
    gain: float
    gamma: float
    noise: float  # standard deviation, of full scale
    texture: int  # seed of noise and soft-tissue texture

    @classmethod
    def sample(cls, rng: Generator) -> Pose:
        """A pose drawn at random."""
        return cls(
            height=1 + float(rng.choice([0, rng.uniform(0.02, 0.15)])),
            size=float(rng.uniform(0.94, 1.06)),
            shift=(float(rng.uniform(-0.03, 0.03)), float(rng.uniform(-0.03, 0.03))),
            angle=float(rng.normal(0, 0.025)),
            build=float(rng.uniform(0.95, 1.05)),
            phase=float(rng.uniform(0, 1)),
            wander=(float(rng.uniform(-1, 1)), float(rng.uniform(-1, 1))),
            gain=float(rng.uniform(0.9, 1.05)),
            gamma=float(rng.uniform(0.85, 1.15)),
            noise=float(rng.uniform(0.01, 0.025)),
            texture=int(rng.integers(2**32)),
        )


def _cover(distance: Pixels, softness: float) -> Pixels:
    """Opacity in [0, 1] of a shape from the distance to its edge, negative inside."""
    return np.clip(0.5 - distance / softness, 0, 1)


class Canvas:
    """A film being drawn, in patient coordinates: the unit square, (0, 0) at the upper left.

    `pixels` is `(H, W)` float32, bone bright. `x` and `y` are each pixel's patient coordinates.
    """

    def __init__(self, width: int, pose: Pose) -> None:
        height = round(width * pose.height)
        columns = (np.arange(width, dtype=np.float32) + 0.5) / width - 0.5 - pose.shift[0]
        rows = (np.arange(height, dtype=np.float32) + 0.5 - height / 2) / width - pose.shift[1]
        cos = np.float32(np.cos(pose.angle) / pose.size)
        sin = np.float32(np.sin(pose.angle) / pose.size)
        self.x: Pixels = (cos * columns + sin * rows[:, None]) / np.float32(pose.build) + 0.5
        self.y: Pixels = -sin * columns + cos * rows[:, None] + 0.5
        self.pixels: Pixels = np.full((height, width), 0.03, dtype=np.float32)
        self.boxes: dict[Finding, Box] = {}

    def paint(self, cover: Pixels, value: float | Pixels, opacity: float = 1.0) -> None:
        """Replace, where `cover` is 1."""
        self.pixels += opacity * cover * (value - self.pixels)

    def add(self, cover: Pixels, value: float) -> None:
        """Superpose."""
        self.pixels += value * cover

    def mark(self, finding: Finding, cover: Pixels) -> None:
        """Record a finding's box: the pixels that it covers by half or more."""
        height, width = cover.shape
        rows = np.flatnonzero((cover >= 0.5).any(axis=1))
        columns = np.flatnonzero((cover >= 0.5).any(axis=0))
        self.boxes[finding] = (
            float(columns[0] / width),
            float(rows[0] / height),
            float((columns[-1] + 1) / width),
            float((rows[-1] + 1) / height),
        )

    def ellipse(
        self, cx: float, cy: float, rx: float, ry: float, soft: float = 0.015, angle: float = 0.0
    ) -> Pixels:
        """Cover of an ellipse, its long axis turned by `angle` radians."""
        dx, dy = self.x - cx, self.y - cy
        if angle:
            cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
            dx, dy = cos * dx + sin * dy, cos * dy - sin * dx
        radius = np.sqrt((dx / rx) ** 2 + (dy / ry) ** 2)
        return _cover((radius - 1) * min(rx, ry), soft)

    def line(self, *points: tuple[float, float], width: float, soft: float = 0.008) -> Pixels:
        """Cover of a polyline of `width`, with round ends."""
        nearest = np.full_like(self.x, np.inf)
        for (x0, y0), (x1, y1) in pairwise(points):
            ax, ay = x1 - x0, y1 - y0
            along = ((self.x - x0) * ax + (self.y - y0) * ay) / (ax * ax + ay * ay)
            along = np.clip(along, 0, 1)
            square = (self.x - x0 - along * ax) ** 2 + (self.y - y0 - along * ay) ** 2
            nearest = np.minimum(nearest, square)
        return _cover(np.sqrt(nearest) - width / 2, soft)

    def plate(self, cx: float, cy: float, rx: float, ry: float) -> Pixels:
        """Cover of a rectangle with rounded corners."""
        corner = 0.02
        dx = np.clip(np.abs(self.x - cx) - rx + corner, 0, None)
        dy = np.clip(np.abs(self.y - cy) - ry + corner, 0, None)
        return _cover(np.sqrt(dx * dx + dy * dy) - corner, 0.012)

    def cloud(self, rng: Generator, cells: int) -> Pixels:
        """Smooth noise in [0, 1] with about `cells` lumps across."""
        height, width = self.pixels.shape
        coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
        return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).clip(0, 1)

    def develop(self, pose: Pose, rng: Generator) -> Pixels:
        """The exposed film in [0, 1], with noise."""
        exposed = np.clip(pose.gain * self.pixels, 0, 1) ** np.float32(pose.gamma)
        noise = rng.standard_normal(exposed.shape, dtype=np.float32)
        return np.clip(exposed + np.float32(pose.noise) * noise, 0, 1)


def _named(findings: tuple[Finding, ...], name: str) -> Finding | None:
    return next((finding for finding in findings if finding.name == name), None)


def draw_frontal(
    findings: tuple[Finding, ...], pose: Pose, film_size: int
) -> tuple[Pixels, dict[Finding, Box]]:
    """The PA film, `(H, film_size)` in [0, 1] with bone bright, and the box of each finding."""
    rng = np.random.default_rng(pose.texture)
    film = Canvas(film_size, pose)
    x, y = film.x, film.y
    hyperinflation = _named(findings, "hyperinflation")
    cardiomegaly = _named(findings, "cardiomegaly")
    depth, arch = (0.065, 0.03) if hyperinflation else (0.0, 0.085)  # of the hemidiaphragms

    # Body: neck, shoulders and trunk; thicker in the middle.
    trunk = np.abs(x - 0.5) - (0.475 - 0.1 * np.clip(0.3 - y, 0, 1))
    shoulders = 0.02 + 0.3 * np.clip(np.abs(x - 0.5) - 0.11, 0, 1) ** 1.5 - y
    body = _cover(np.maximum(trunk, shoulders), 0.03)
    film.paint(body, 0.46 + 0.24 * np.clip(1 - 2.2 * np.abs(x - 0.5), 0, 1) + 0.1 * y)

    # Lungs. Right is on the left of the film.
    lungs: dict[str, Pixels] = {}
    for side, sign in (("right", -1), ("left", 1)):
        middle = 0.5 + sign * 0.188
        outward = (x - middle) * sign
        width = 0.128 + 0.045 * np.clip(y, 0, 1) + (0.012 if hyperinflation else 0)
        radius = np.sqrt((outward / width) ** 2 + (np.clip(0.6 - y, 0, 1) / 0.5) ** 2)
        chest = (radius - 1) * 0.16
        dome = (
            0.715 + depth + (0.02 if side == "left" else 0) + arch * ((outward + 0.02) / 0.16) ** 2
        )
        lungs[side] = _cover(np.maximum(chest, y - dome), 0.02)
    both = lungs["left"] + lungs["right"]
    film.paint(both, (0.15 if hyperinflation else 0.22) + 0.1 * film.cloud(rng, 6), 0.92)
    film.paint(film.ellipse(0.64, 0.83 + depth, 0.055, 0.03, 0.03), 0.42, 0.6)  # gastric air

    # Pulmonary vessels: rays from the hila, fainter outwards.
    for sign in (-1, 1):
        dx, dy = sign * (x - 0.5) - 0.07, y - 0.44
        distance = np.sqrt(dx * dx + dy * dy)
        bend = 5 * film.cloud(rng, 8) + 14 * distance
        rays = np.cos(13 * np.arctan2(dy, dx) + bend)
        faint = np.clip(1 - distance / 0.27, 0, 1)
        film.add(both * np.clip(rays, 0, 1) ** 2 * faint * (dx > -0.05), 0.15)

    # Ribs: posterior ones fall slowly away from the spine, anterior ones rise to it.
    away = np.abs(x - 0.5)
    cage = _cover(np.maximum(away - 0.385 - 0.05 * y, np.abs(y - 0.46) - 0.36), 0.03)
    fall = y - 0.16 * away + 1.6 * (away - 0.18) ** 2
    posterior = np.cos(2 * np.pi * (fall / 0.083 + pose.phase))
    rise = y + 0.55 * (0.4 - away)
    anterior = np.cos(2 * np.pi * (rise / 0.1 + pose.phase))
    film.add(cage * np.clip(posterior * 1.6 - 0.4, 0, 1), 0.075)
    film.add(cage * np.clip(anterior * 1.6 - 0.7, 0, 1) * (away > 0.14), 0.035)

    # Mediastinum, aortic knob, hila, heart.
    edge = np.abs(x - 0.505) - (0.048 + 0.03 * np.clip(y - 0.2, 0, 1))
    film.paint(_cover(np.maximum(edge, np.maximum(0.1 - y, y - 0.75)), 0.02), 0.66)
    film.paint(film.ellipse(0.56, 0.335, 0.032, 0.042, 0.02), 0.66)
    for sign in (-1, 1):
        film.add(film.ellipse(0.5 + sign * 0.095, 0.44, 0.035, 0.06, 0.05, sign * -0.4), 0.13)
    swell = {None: 1.0, "mild": 1.28, "marked": 1.55}[cardiomegaly.detail if cardiomegaly else None]
    swell *= 0.8 if hyperinflation else 1.0
    heart_x, heart_y = 0.535 + 0.04 * (swell - 1), 0.63 - 0.06 * (swell - 1)
    heart = film.ellipse(heart_x, heart_y, 0.137 * swell, 0.108 * swell, 0.02, angle=0.3)
    heart = heart * _cover(y - 0.8 - depth, 0.05)
    film.paint(heart, 0.7)

    # Spine, trachea and main bronchi, clavicles, side marker.
    spine = _cover(np.abs(x - 0.5) - 0.036, 0.015) * body
    film.add(spine * (0.6 + 0.4 * np.cos(2 * np.pi * (y / 0.066 + pose.phase))), 0.075)
    film.add(film.line((0.5, 0.0), (0.498, 0.36), width=0.032, soft=0.012), -0.16)
    bronchi = film.line((0.44, 0.425), (0.498, 0.365), (0.565, 0.42), width=0.018, soft=0.012)
    film.add(bronchi, -0.09)
    for sign in (-1, 1):
        clavicle = [(0.5 + sign * dx, y0) for dx, y0 in ((0.04, 0.19), (0.17, 0.15), (0.37, 0.085))]
        film.add(film.line(*clavicle, width=0.028, soft=0.012), 0.15)
    film.paint(film.line((0.9, 0.0), (0.9, 0.045), (0.93, 0.045), width=0.01), 0.95)  # L

    if cardiomegaly:
        film.mark(cardiomegaly, heart)
    if hyperinflation:
        film.mark(hyperinflation, both)
    for finding in findings:
        sign = 1 if finding.side == "left" else -1
        wander, grow = pose.wander
        match finding.name:
            case "pleural effusion":
                level = 0.68 if finding.detail == "small" else 0.5
                outward = (x - 0.5) * sign - 0.188
                surface = level + 0.02 * wander - 0.9 * np.clip(outward + 0.06, 0, 1) ** 1.5
                fluid = _cover(surface - y, 0.025) * lungs[finding.side]
                film.paint(fluid, 0.74, 0.95)
                film.mark(finding, fluid)
            case "pneumothorax":
                across, up = (0.095, 0.36) if finding.detail == "small" else (0.065, 0.27)
                outward = (x - 0.5) * sign - 0.09
                collapsed = (np.sqrt((outward / across) ** 2 + ((y - 0.62) / up) ** 2) - 1) * across
                air = lungs[finding.side] * (1 - heart) * _cover(-collapsed, 0.012)
                air = air * _cover(y - (0.5 if finding.detail == "small" else 0.85), 0.1)
                film.paint(air, 0.05, 0.9)
                film.add(air * _cover(np.abs(collapsed) - 0.008, 0.008), 0.45)  # pleural line
                film.mark(finding, air)
            case "consolidation":
                out, middle_y = (0.205, 0.31) if finding.detail == "upper" else (0.23, 0.58)
                dx, dy = sign * (x - 0.5) - out, y - middle_y - 0.02 * wander
                ragged = 0.05 * film.cloud(rng, 9)
                rx, ry = 0.1 + 0.01 * grow, 0.095 + 0.01 * grow
                radius = np.sqrt((dx / rx) ** 2 + (dy / ry) ** 2)
                patch = _cover((radius - 1) * 0.1 + ragged - 0.02, 0.045) * lungs[finding.side]
                film.paint(patch, 0.64 + 0.16 * film.cloud(rng, 14), 0.9)
                film.mark(finding, patch)
            case "nodule":
                middle_y = 0.33 if finding.detail == "upper" else 0.58
                size = 0.053 + 0.006 * grow
                nodule = film.ellipse(
                    0.5 + sign * (0.215 + 0.015 * wander), middle_y + 0.03 * grow, size, size
                )
                film.paint(nodule, 0.84, 0.95)
                film.mark(finding, nodule)
            case "atelectasis":
                inner, outer = 0.5 + sign * 0.12, 0.5 + sign * 0.31
                base = 0.61 + 0.02 * wander
                upper = film.line(
                    (inner, base + 0.03), (outer, base - 0.02), width=0.036, soft=0.02
                )
                lower = film.line((inner, base + 0.09), (outer, base + 0.05), width=0.03, soft=0.02)
                band = np.maximum(upper, lower) * lungs[finding.side]
                film.paint(band, 0.76, 0.95)
                film.mark(finding, band)
            case "edema":
                haze = film.ellipse(0.345, 0.47, 0.13, 0.23, 0.12) + film.ellipse(
                    0.655, 0.47, 0.13, 0.23, 0.12
                )
                haze = np.clip(haze, 0, 1) * both
                mesh = film.cloud(rng, 40)
                film.add(haze * (0.6 + 0.9 * mesh), 0.27)
                film.mark(finding, haze)
            case "pacemaker":
                gx, gy = 0.5 + sign * (0.275 + 0.01 * wander), 0.21 + 0.01 * grow
                lead = film.line(
                    (gx, gy),
                    (0.5 + sign * 0.13, 0.17),
                    (0.475, 0.25),
                    (0.465, 0.45),
                    (0.48, 0.6),
                    (0.575, 0.7),
                    width=0.014,
                )
                film.paint(lead, 0.97)
                generator = film.plate(gx, gy, 0.05, 0.05)
                film.paint(generator, 1.0)
                film.mark(finding, generator)
            case "hiatal hernia":
                cx, cy = 0.535 + 0.015 * wander, 0.635
                sac = film.ellipse(cx, cy, 0.088 + 0.006 * grow, 0.085 + 0.006 * grow)
                film.paint(sac, 0.86)
                content = film.ellipse(cx, cy, 0.07, 0.067)
                film.paint(content * _cover(y - cy - 0.005, 0.008), 0.12)  # air above the fluid
                film.mark(finding, sac)
    return film.develop(pose, rng), film.boxes


def draw_lateral(
    findings: tuple[Finding, ...], pose: Pose, film_size: int
) -> tuple[Pixels, dict[Finding, Box]]:
    """The lateral film, patient facing left; as `draw_frontal`. A pneumothorax is not visible."""
    rng = np.random.default_rng([pose.texture, 1])
    film = Canvas(film_size, pose)
    x, y = film.x, film.y
    hyperinflation = _named(findings, "hyperinflation")
    cardiomegaly = _named(findings, "cardiomegaly")
    depth, arch = (0.07, 0.3) if hyperinflation else (0.0, 1.0)

    # Body, narrower at the top, with the raised arms' shadow.
    front = 0.09 + 0.16 * np.clip(0.35 - y, 0, 1) - x
    back = x - (0.93 - 0.25 * np.clip(0.3 - y, 0, 1) - 0.06 * np.clip(y - 0.6, 0, 1))
    body = _cover(np.maximum(front, back), 0.03)
    film.paint(body, 0.5 + 0.1 * y)
    film.paint(film.ellipse(0.5, 0.0, 0.3, 0.13, 0.1), 0.68, 0.7)

    # Lungs, superposed; the posterior recess reaches lowest.
    middle = 0.5 + 0.05 * np.clip(0.4 - y, 0, 1)
    width = 0.24 + 0.13 * np.clip(y, 0, 0.8) + (0.02 if hyperinflation else 0)
    chest = (np.sqrt(((x - middle) / width) ** 2 + (np.clip(0.55 - y, 0, 1) / 0.45) ** 2) - 1) * 0.3
    dome = (
        0.73 + depth + arch * (0.3 * np.clip(0.34 - x, 0, 1) + 1.1 * np.clip(x - 0.42, 0, 1) ** 2)
    )
    lungs = _cover(np.maximum(chest, y - dome), 0.02)
    shade = 0.26 + 0.22 * np.clip(0.36 - y, 0, 1) * (x > 0.35)
    film.paint(lungs, shade - (0.08 if hyperinflation else 0) + 0.08 * film.cloud(rng, 6), 0.92)
    second = _cover(np.abs(y - dome - 0.03) - 0.006, 0.01) * _cover(chest, 0.02)
    film.add(second, 0.08)  # the other hemidiaphragm

    # Ribs fall forwards; spine, darker towards the diaphragm; sternum.
    ribs = np.cos(2 * np.pi * ((y + 0.42 * x - 0.3 * (x - 0.5) ** 2) / 0.088 + pose.phase))
    film.add(_cover(np.maximum(chest, np.abs(y - 0.47) - 0.38), 0.03) * np.clip(ribs, 0, 1), 0.05)
    column = 0.77 + 0.06 * np.cos(3.2 * (y - 0.5))
    spine = _cover(np.abs(x - column) - 0.05, 0.015) * body
    discs = np.clip(np.cos(2 * np.pi * (y / 0.085 + pose.phase)) + 0.55, 0, 1)
    film.add(spine * (0.4 + 0.6 * discs) * np.clip(1.15 - 0.9 * y, 0, 1), 0.26)
    film.add(film.line((0.235, 0.2), (0.165, 0.34), (0.135, 0.62), width=0.03, soft=0.012), 0.16)

    # Aortic arch, trachea, hila, heart.
    film.add(film.ellipse(0.5, 0.31, 0.075, 0.07, 0.05), 0.11)
    film.add(film.line((0.57, 0.02), (0.52, 0.4), width=0.034, soft=0.014), -0.14)
    film.add(film.ellipse(0.5, 0.45, 0.055, 0.06, 0.05), 0.17)
    swell = {None: 1.0, "mild": 1.22, "marked": 1.42}[cardiomegaly.detail if cardiomegaly else None]
    swell *= 0.8 if hyperinflation else 1.0
    heart_x, heart_y = 0.345 + 0.08 * (swell - 1), 0.65 - 0.06 * (swell - 1)
    heart = film.ellipse(heart_x, heart_y, 0.165 * swell, 0.115 * swell, 0.025, angle=0.75)
    heart = heart * lungs
    film.paint(heart, 0.64, 0.9)

    if cardiomegaly:
        film.mark(cardiomegaly, heart)
    if hyperinflation:
        film.mark(hyperinflation, lungs)
    for finding in findings:
        wander, grow = pose.wander
        match finding.name:
            case "pleural effusion":
                level = 0.74 if finding.detail == "small" else 0.55
                surface = level + 0.02 * wander - 0.7 * np.clip(x - 0.62, 0, 1) ** 1.5
                if finding.detail == "small":
                    surface = surface + np.clip(0.6 - x, 0, 1)
                fluid = _cover(surface - y, 0.025) * lungs
                film.paint(fluid, 0.7, 0.9)
                film.mark(finding, fluid)
            case "consolidation":
                cx, cy = (0.43, 0.3) if finding.detail == "upper" else (0.62, 0.63)
                ragged = 0.05 * film.cloud(rng, 9)
                radius = np.sqrt(((x - cx) / 0.115) ** 2 + ((y - cy - 0.02 * wander) / 0.095) ** 2)
                patch = _cover((radius - 1) * 0.1 + ragged - 0.02, 0.045) * lungs
                film.paint(patch, 0.64 + 0.16 * film.cloud(rng, 14), 0.85)
                film.mark(finding, patch)
            case "nodule":
                cx, cy = (0.4, 0.3) if finding.detail == "upper" else (0.62, 0.58)
                size = 0.053 + 0.006 * grow
                nodule = film.ellipse(cx + 0.03 * wander, cy + 0.03 * grow, size, size)
                film.paint(nodule, 0.84, 0.95)
                film.mark(finding, nodule)
            case "atelectasis":
                base = 0.62 + 0.02 * wander
                upper = film.line((0.44, base + 0.06), (0.72, base - 0.02), width=0.036, soft=0.022)
                lower = film.line((0.48, base + 0.11), (0.74, base + 0.05), width=0.03, soft=0.022)
                band = np.maximum(upper, lower) * lungs
                film.paint(band, 0.76, 0.9)
                film.mark(finding, band)
            case "edema":
                haze = film.ellipse(0.5, 0.46, 0.23, 0.22, 0.14) * lungs
                film.add(haze * (0.6 + 0.9 * film.cloud(rng, 40)), 0.23)
                film.mark(finding, haze)
            case "pacemaker":
                gx, gy = 0.25, 0.22 + 0.01 * grow
                lead = film.line(
                    (gx, gy), (0.42, 0.2), (0.47, 0.4), (0.42, 0.56), (0.27, 0.68), width=0.014
                )
                film.paint(lead, 0.97)
                generator = film.plate(gx, gy, 0.04, 0.052)
                film.paint(generator, 1.0)
                film.mark(finding, generator)
            case "hiatal hernia":
                cx, cy = 0.575, 0.645
                sac = film.ellipse(cx, cy, 0.085 + 0.006 * grow, 0.085 + 0.006 * grow)
                film.paint(sac, 0.82)
                inner = film.ellipse(cx, cy, 0.067, 0.067)
                film.paint(inner * _cover(y - cy - 0.005, 0.008), 0.12)
                film.mark(finding, sac)
    return film.develop(pose, rng), film.boxes
