"""Pixels of the demo's studies: a head for MR, a chest for CT, a fan for ultrasound; nobody's anatomy.

Bodies are ellipsoids painted one over the other in millimetres (x to the left, y to the back, z to
the head, as in PS3.3 C.7.6.2), so that any axial, coronal or sagittal plane can be cut from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[Any]
Orientation = Literal["axial", "coronal", "sagittal"]


@dataclass(frozen=True)
class Plane:
    """A slice through the body.

    Attributes:
        orientation: which two axes lie in the picture.
        position: millimetres along the third axis.
        rows: height in pixels.
        columns: width in pixels.
        spacing: millimetres between pixels.
    """

    orientation: Orientation
    position: float
    rows: int
    columns: int
    spacing: float

    def grid(self) -> tuple[Image, Image, Image]:
        """Coordinates x, y, z of all pixels, ready for broadcasting."""
        across = ((np.arange(self.columns) - (self.columns - 1) / 2) * self.spacing)[None, :].astype("f4")
        down = ((np.arange(self.rows) - (self.rows - 1) / 2) * self.spacing)[:, None].astype("f4")
        fixed = np.full((1, 1), self.position, "f4")
        if self.orientation == "axial":
            return across, down, fixed
        if self.orientation == "coronal":
            return across, fixed, -down
        return fixed, across, -down

    def image_orientation(self) -> list[float]:
        """ImageOrientationPatient."""
        return {
            "axial": [1.0, 0, 0, 0, 1, 0],
            "coronal": [1.0, 0, 0, 0, 0, -1],
            "sagittal": [0.0, 1, 0, 0, 0, -1],
        }[self.orientation]

    def image_position(self) -> list[float]:
        """ImagePositionPatient: centre of the first pixel."""
        left = round(-(self.columns - 1) / 2 * self.spacing, 4)
        top = round(-(self.rows - 1) / 2 * self.spacing, 4)
        return {
            "axial": [left, top, self.position],
            "coronal": [left, self.position, -top],
            "sagittal": [self.position, left, -top],
        }[self.orientation]


Ellipsoid = tuple[float, float, float, float, float, float]
"""Centre x, y, z and half axes a, b, c in mm."""


def _inside(grid: tuple[Image, Image, Image], body: Ellipsoid) -> Image:
    return _radius(grid, body) <= 1


def _radius(grid: tuple[Image, Image, Image], body: Ellipsoid) -> Image:
    """Squared distance from the centre, 1 on the surface."""
    total: Any = np.float32(0)
    for axis, centre, half in zip(grid, body[:3], body[3:], strict=True):
        total = total + ((axis - centre) / half) ** 2
    return np.asarray(total)


# Tissues of the head.
AIR, SCALP, BONE, CSF, GREY, WHITE, EYE, NUCLEI, MUSCLE = range(9)

_SKULL: Ellipsoid = (0, 0, 8, 74, 92, 78)
_BRAIN: Ellipsoid = (0, 0, 10, 64, 81, 67)
_HEAD: tuple[tuple[int, Ellipsoid], ...] = (
    (MUSCLE, (0, 32, -95, 52, 56, 90)),
    (BONE, (0, 30, -110, 14, 16, 100)),
    (SCALP, (0, -62, -62, 42, 38, 58)),
    (MUSCLE, (0, -55, -62, 34, 34, 50)),
    (AIR, (0, -58, -50, 12, 30, 26)),
    (SCALP, (0, -98, -38, 13, 20, 22)),
    (SCALP, (0, 0, 8, 80, 98, 84)),
    (BONE, _SKULL),
    (CSF, (0, 0, 9, 68, 86, 71)),
    (SCALP, (0, -84, -26, 46, 18, 17)),
    (EYE, (-31, -82, -26, 12, 12, 12)),
    (EYE, (31, -82, -26, 12, 12, 12)),
)
_INNER: tuple[tuple[int, Ellipsoid], ...] = (
    (NUCLEI, (-17, -6, 8, 9, 17, 12)),
    (NUCLEI, (17, -6, 8, 9, 17, 12)),
    (CSF, (-10, -14, 22, 6, 24, 9)),
    (CSF, (10, -14, 22, 6, 24, 9)),
    (CSF, (-19, 26, 18, 6, 18, 8)),
    (CSF, (19, 26, 18, 6, 18, 8)),
    (CSF, (0, 0, 6, 2.5, 16, 10)),
    (GREY, (0, 52, -42, 46, 30, 24)),
    (WHITE, (0, 50, -41, 36, 20, 15)),
    (WHITE, (0, 22, -46, 13, 14, 34)),
    (CSF, (0, 38, -38, 7, 5, 9)),
)

CONTRASTS: dict[str, tuple[int, ...]] = {
    # air, scalp, bone, CSF, grey, white, eye, nuclei, muscle
    "T1": (4, 820, 110, 130, 430, 640, 180, 500, 330),
    "FLAIR": (4, 460, 90, 70, 620, 440, 150, 560, 300),
    "LOCALIZER": (4, 700, 120, 420, 480, 560, 520, 500, 340),
}


def head(plane: Plane, contrast: str, rng: np.random.Generator) -> Image:
    """A slice of a head as MR shows it, 12 bits in 16.

    Args:
        plane: where to cut.
        contrast: a key of :data:`CONTRASTS`.
        rng: noise.
    """
    grid = plane.grid()
    tissue = np.zeros((plane.rows, plane.columns), np.uint8)
    for label, body in _HEAD:
        tissue[_inside(grid, body)] = label
    x, y, z = grid
    radius = np.sqrt(_radius(grid, _BRAIN))
    folds = 0.035 * np.sin(13 * np.arctan2(y, x + 1e-3) + 0.13 * z) + 0.03 * np.sin(
        0.21 * y + 0.17 * x + 0.24 * z
    )
    tissue[radius <= 0.985 + folds / 2] = GREY
    tissue[radius <= 0.83 + 1.6 * folds] = WHITE
    tissue[(np.abs(x) + 0 * y + 0 * z < 1.3) & (radius < 1) & (radius > 0.62)] = CSF
    skull = _inside(grid, _SKULL) | (np.abs(x) + np.abs(y - 22) + 0 * z < 20)
    for label, body in _INNER:
        tissue[_inside(grid, body) & skull] = label
    signal = np.asarray(CONTRASTS[contrast], np.float32)[tissue]
    if contrast == "FLAIR":  # two lesions, as in a textbook
        for body in ((-24, 4, 34, 5, 4, 5), (21, 30, 30, 4, 6, 5)):
            signal[_inside(grid, body)] = 980
    shading = 1 + 0.12 * np.cos(0.012 * y + 0.4) + 0.05 * x / 100
    signal = _smooth(signal * shading)
    noise = rng.normal(0, 14, (2, *signal.shape)).astype("f4")
    stored: Image = np.clip(np.hypot(signal + noise[0], noise[1]), 0, 4095).astype("<u2")
    return stored


_RIBS_OUTSIDE: Ellipsoid = (0, 0, -10, 142, 98, 210)
_RIBS_INSIDE: Ellipsoid = (0, 0, -10, 133, 89, 201)
_CHEST: tuple[tuple[int, Ellipsoid], ...] = (
    (-95, (0, 0, 0, 172, 118, 900)),
    (52, (0, 2, 0, 160, 108, 900)),
)
_ORGANS: tuple[tuple[int, Ellipsoid], ...] = (
    (58, (70, 0, -150, 66, 70, 70)),
    (50, (-62, 12, -150, 50, 58, 60)),
    (42, (-22, -30, -38, 48, 40, 56)),
    (36, (12, -30, -20, 30, 30, 40)),
    (150, (-14, 44, -40, 12, 12, 190)),
    (150, (-6, -18, 44, 28, 14, 14)),
    (-985, (0, 12, 120, 9, 9, 110)),
    (-985, (-18, 16, 8, 22, 6, 7)),
    (-985, (18, 16, 8, 22, 6, 7)),
    (260, (0, 76, 0, 20, 16, 900)),
    (140, (0, 76, 0, 15, 12, 900)),
    (14, (0, 92, 0, 8, 7, 900)),
    (420, (0, 112, 0, 4, 13, 900)),
    (300, (0, -100, 20, 17, 6, 90)),
    (45, (48, -12, 26, 9, 9, 9)),
)


def chest(plane: Plane, rng: np.random.Generator, *, noise: float = 14.0) -> Image:
    """A slice of a chest in Hounsfield units.

    Args:
        plane: where to cut.
        rng: noise.
        noise: its standard deviation in HU.
    """
    grid = plane.grid()
    x, y, z = grid
    image = np.full((plane.rows, plane.columns), -1000, np.float32)
    for value, body in _CHEST:
        image[_inside(grid, body)] = value
    for side in (-1, 1):
        lung = _inside(grid, (side * 66, 4, -10, 58, 80, 135))
        image[lung] = -850
        for branch in range(7):  # vessels
            body = (side * (30 + 9 * branch), -30 + 13 * branch, 26 * np.sin(branch * 1.7), 3.4, 3.0, 34.0)
            image[lung & _inside(grid, body)] = 30
    ring = _inside(grid, _RIBS_OUTSIDE) & ~_inside(grid, _RIBS_INSIDE)
    ribs = ring & (np.mod(z - 0.45 * y + 0 * x, 27.0) < 11)
    image[ribs] = 480
    for value, body in _ORGANS:
        image[_inside(grid, body)] = value
    table = (np.abs(y - 128 - 0.0006 * x**2 + 0 * z) < 2.5) & (np.abs(x) < 190)
    image[table] = -120
    image = _smooth(image)
    return image + rng.normal(0, noise, image.shape).astype("f4") if noise else image


def scout(rows: int, columns: int, spacing: float, rng: np.random.Generator) -> Image:
    """A projection from the front, as a CT takes it for planning."""
    depth = range(-120, 131, 10)
    total: Image = np.zeros((rows, columns), np.float32)
    for y in depth:
        total += chest(Plane("coronal", y, rows, columns, spacing), rng, noise=0) + 1000
    total = total / len(depth) * 1.6 - 1000
    total += rng.normal(0, 6, total.shape).astype("f4")
    return total


def fan(rows: int, columns: int, rng: np.random.Generator, *, phase: float = 0.0) -> Image:
    """A sector as an ultrasound probe sees it, 8 bits.

    Args:
        rows: height in pixels.
        columns: width in pixels.
        rng: speckle.
        phase: 0 to 1, where in its beat the moving chamber is.
    """
    across, down, middle, depth, angle = _sector(rows, columns)
    beat = 1 + 0.22 * np.sin(2 * np.pi * phase)
    echo = np.full((rows, columns), 62, np.float32) * (1.15 - 0.5 * depth)
    echo[np.abs(depth - 0.16 - 0.02 * np.sin(5 * angle)) < 0.012] = 190
    chamber = ((across - middle) / (0.17 * rows * beat)) ** 2 + (
        (down - 0.5 * rows) / (0.19 * rows * beat)
    ) ** 2
    echo[chamber <= 1.25] = 175
    echo[chamber <= 1] = 7
    behind = (np.abs(across - middle) < 0.13 * rows) & (down > 0.72 * rows)
    echo[behind] *= 1.7
    stone = ((across - middle + 0.24 * rows) / (0.03 * rows)) ** 2 + (
        (down - 0.62 * rows) / (0.02 * rows)
    ) ** 2
    echo[stone <= 1] = 255
    echo[(np.abs(angle + 0.37) < 0.035) & (down > 0.65 * rows)] *= 0.25
    speckle = rng.rayleigh(0.75, (rows, columns)).astype("f4")
    image = _smooth(echo * speckle) * 1.15
    image[(depth > 1) | (depth < 0.04) | (np.abs(angle) > 0.66)] = 0
    return np.clip(image, 0, 255).astype("u1")


def colour_flow(grey: Image, phase: float) -> Image:
    """The same sector in RGB with a Doppler box: flow towards the probe red, away from it blue."""
    rows, columns = grey.shape
    across, down, middle, depth, _ = _sector(rows, columns)
    image = np.repeat(grey[:, :, None], 3, axis=2).astype(np.float32)
    flow = np.sin((across - middle) / rows * 16 + 6 * phase) * np.cos((down / rows - 0.5) * 8)
    box = (((across - middle) / (0.15 * rows)) ** 2 + ((down - 0.5 * rows) / (0.17 * rows)) ** 2 < 1) & (
        depth < 1
    )
    for channel, strength in ((0, np.clip(flow, 0, 1)), (2, np.clip(-flow, 0, 1))):
        image[:, :, channel] = np.where(box, 60 + 195 * strength, image[:, :, channel])
    return np.clip(image, 0, 255).astype("u1")


def _sector(rows: int, columns: int) -> tuple[Image, Image, float, Image, Image]:
    across = np.arange(columns, dtype="f4")[None, :]
    down = np.arange(rows, dtype="f4")[:, None]
    middle = (columns - 1) / 2
    height = down + 0.05 * rows
    depth = np.hypot(across - middle, height) / (0.98 * rows)
    angle = np.arctan2(across - middle, height)
    return across, down, middle, depth, angle


def _smooth(image: Image) -> Image:
    """A 3 x 3 binomial filter: edges look scanned, not drawn."""
    wide = np.pad(image, 1, mode="edge")
    wide = 0.5 * wide[1:-1] + 0.25 * (wide[:-2] + wide[2:])
    return np.asarray(0.5 * wide[:, 1:-1] + 0.25 * (wide[:, :-2] + wide[:, 2:]))
