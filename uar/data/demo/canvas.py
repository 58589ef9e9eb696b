"""Drawing of demo films: a pose, a canvas, and what both views have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from uar.data.demo.findings import Finding
from uar.data.study import Box

Pixels = NDArray[np.floating]
C = TypeVar("C")  # a chest of one view


@dataclass(frozen=True)
class Pose:
    """How one film was taken: the patient's build and position, and the exposure."""

    height: float  # of the film, in film widths
    size: float
    shift: tuple[float, float]  # in film widths
    angle: float  # radians
    build: float  # thorax width over height
    phase: float  # of the ribs
    wander: tuple[float, float]  # in [-1, 1]: a finding's shift within its place, and its size
    gain: float  # of the exposure
    gamma: float  # exponent of the exposed film
    noise: float  # standard deviation, as a share of full scale
    texture: int  # seed for noise and soft-tissue texture

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


def cover(distance: Pixels, softness: float) -> Pixels:
    """Opacity in [0, 1] of a shape, given the distance to its edge (negative inside)."""
    return np.clip(0.5 - distance / softness, 0, 1)


class Canvas:
    """A film being drawn, in patient coordinates: the unit square, (0, 0) at the upper left.

    Args:
        width: of the film, in pixels.
        pose: how the film is taken.
        rng: draws noise and texture.

    Attributes:
        pixels: `(H, W)` float32, bone bright.
        x, y: each pixel's patient coordinates, `(H, W)`.
        boxes: the box of each finding marked so far.
    """

    def __init__(self, width: int, pose: Pose, rng: Generator) -> None:
        self.pose = pose
        self.rng = rng
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
        """Blend in `value` by `opacity * cover`, where 1 replaces the pixel."""
        self.pixels += opacity * cover * (value - self.pixels)

    def add(self, cover: Pixels, value: float) -> None:
        """Superpose `value`, weighted by `cover`."""
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
        self, cx: float, cy: float, rx: float, ry: float, *, soft: float = 0.015, angle: float = 0.0
    ) -> Pixels:
        """Cover of an ellipse, its axes turned by `angle` radians."""
        dx, dy = self.x - cx, self.y - cy
        if angle:
            cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
            dx, dy = cos * dx + sin * dy, cos * dy - sin * dx
        radius = np.sqrt((dx / rx) ** 2 + (dy / ry) ** 2)
        return cover((radius - 1) * min(rx, ry), soft)

    def line(self, *points: tuple[float, float], width: float, soft: float = 0.008) -> Pixels:
        """Cover of a polyline of `width`, with round ends."""
        nearest = np.full_like(self.x, np.inf)
        for (x0, y0), (x1, y1) in pairwise(points):
            ax, ay = x1 - x0, y1 - y0
            along = ((self.x - x0) * ax + (self.y - y0) * ay) / (ax * ax + ay * ay)
            along = np.clip(along, 0, 1)
            square = (self.x - x0 - along * ax) ** 2 + (self.y - y0 - along * ay) ** 2
            nearest = np.minimum(nearest, square)
        return cover(np.sqrt(nearest) - width / 2, soft)

    def plate(self, cx: float, cy: float, rx: float, ry: float) -> Pixels:
        """Cover of a rectangle with rounded corners."""
        corner = 0.02
        dx = np.clip(np.abs(self.x - cx) - rx + corner, 0, None)
        dy = np.clip(np.abs(self.y - cy) - ry + corner, 0, None)
        return cover(np.sqrt(dx * dx + dy * dy) - corner, 0.012)

    def cloud(self, cells: int) -> Pixels:
        """Smooth noise in [0, 1] with about `cells` lumps across."""
        height, width = self.pixels.shape
        coarse = Image.fromarray(self.rng.random((cells, cells), dtype=np.float32))
        return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).clip(0, 1)

    def nodule(self, cx: float, cy: float) -> Pixels:
        """Draw a nodule and return its cover."""
        size = 0.053 + 0.006 * self.pose.wander[1]
        nodule = self.ellipse(cx, cy, size, size)
        self.paint(nodule, 0.84, 0.95)
        return nodule

    def pacemaker(self, course: Sequence[tuple[float, float]], rx: float, ry: float) -> Pixels:
        """Draw a pacemaker, its lead on `course` from the generator; return the latter's cover."""
        self.paint(self.line(*course, width=0.014), 0.97)
        generator = self.plate(*course[0], rx, ry)
        self.paint(generator, 1.0)
        return generator

    def hernia(
        self, cx: float, cy: float, *, sac_width: float, air_width: float, value: float
    ) -> Pixels:
        """Draw a hiatal hernia with air above fluid, from half-widths; return the sac's cover."""
        grow = self.pose.wander[1]
        sac = self.ellipse(cx, cy, sac_width + 0.006 * grow, 0.085 + 0.006 * grow)
        self.paint(sac, value)
        content = self.ellipse(cx, cy, air_width, 0.067)
        self.paint(content * cover(self.y - cy - 0.005, 0.008), 0.12)
        return sac

    def develop(self) -> Pixels:
        """The exposed film in [0, 1], with noise."""
        pose = self.pose
        exposed = np.clip(pose.gain * self.pixels, 0, 1) ** np.float32(pose.gamma)
        noise = self.rng.standard_normal(exposed.shape, dtype=np.float32)
        return np.clip(exposed + np.float32(pose.noise) * noise, 0, 1)


def draw_findings(
    film: Canvas,
    chest: C,
    findings: tuple[Finding, ...],
    *,
    formed: Mapping[str, Pixels],
    drawn: Mapping[str, Callable[[Canvas, C, Finding], Pixels]],
) -> tuple[Pixels, dict[Finding, Box]]:
    """The finished film, `(H, W)` in [0, 1], and the box of each finding that it shows.

    Args:
        film: the canvas, with the chest on it.
        chest: the parts that findings lie in.
        findings: the study's findings.
        formed: covers of the findings that the chest's own shape shows, by name.
        drawn: functions that draw the others and return the cover that the box encloses, by name.
    """
    by_name = {finding.name: finding for finding in findings}
    for name, form in formed.items():
        if name in by_name:
            film.mark(by_name[name], form)
    for finding in findings:
        if draw := drawn.get(finding.name):
            film.mark(finding, draw(film, chest, finding))
    return film.develop(), film.boxes


def form_of(findings: tuple[Finding, ...], swell: Mapping[str, float]) -> tuple[bool, float]:
    """Whether the lungs are hyperinflated, and the heart's size relative to a normal one.

    Args:
        findings: the study's findings.
        swell: the heart's relative size by the detail of cardiomegaly, "" without it.
    """
    details = {finding.name: finding.detail for finding in findings}
    inflated = "hyperinflation" in details
    return inflated, swell[details.get("cardiomegaly", "")] * (0.8 if inflated else 1.0)
