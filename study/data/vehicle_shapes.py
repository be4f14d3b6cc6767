"""The make and model of a drawn vehicle: every measure that tells one class from another.

Class k is the same vehicle in every data set, whatever its size and seed. Classes share ten body styles; models of
one style differ in proportions (spread evenly by an additive recurrence) and in lamps, wheels, grille and windows.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

MAX_CLASSES = 200
WHEELS = ("disc", "five", "cross", "holes", "many")
LAMPS = ("round", "slim", "square", "tall")
GRILLES = ("wide", "bars", "split", "none")
MAKES = ("Alda", "Brevo", "Corin", "Dareg", "Elvan", "Fosta", "Gelder", "Hulen", "Isar", "Jorvik", "Kestrel", "Lumo")
MAKES_LATER = ("Morane", "Nedra", "Orlo", "Pavis", "Quill", "Rondo", "Solva", "Tarn")


@dataclass(frozen=True)
class Proportions:
    """Measures in metres from the foremost point back and from the ground up, or shares where said.

    Attributes:
        front_overhang: Foremost point to front axle.
        wheelbase: Front axle to rear axle.
        rear_overhang: Rear axle to tail.
        wheel_radius: Of the tyre.
        clearance: Ground to body.
        nose: Height of the nose.
        cowl: Height of the windscreen's foot.
        roof: Height of the roof.
        screen_foot: Windscreen's foot behind the front axle, as a share of the wheelbase.
        screen_run: How far the windscreen leans back.
        roof_end: Where the roof ends, as a share of the length.
        rear_foot: Foot of the rear window, as a share of the length.
        deck: Height of boot, bed or tail below the rear window.
        roof_drop: How much lower the roof ends than it begins.
        pillar: Width of the rearmost pillar.
    """

    front_overhang: float
    wheelbase: float
    rear_overhang: float
    wheel_radius: float
    clearance: float
    nose: float
    cowl: float
    roof: float
    screen_foot: float
    screen_run: float
    roof_end: float
    rear_foot: float
    deck: float
    roof_drop: float
    pillar: float


@dataclass(frozen=True)
class Style:
    """A body style: its middle proportions and how many side windows it may have."""

    middle: Proportions
    windows: tuple[int, ...]
    cargo_box: bool = False


STYLES: dict[str, Style] = {
    "hatchback": Style(
        Proportions(0.78, 2.50, 0.62, 0.32, 0.18, 0.66, 0.96, 1.50, 0.12, 0.75, 0.84, 0.97, 0.98, 0.08, 0.30), (2, 3)
    ),
    "saloon": Style(
        Proportions(0.88, 2.75, 1.05, 0.33, 0.17, 0.66, 0.95, 1.45, 0.22, 0.80, 0.69, 0.86, 1.04, 0.04, 0.22), (2, 3)
    ),
    "pickup": Style(
        Proportions(0.90, 3.20, 1.15, 0.39, 0.30, 0.90, 1.14, 1.82, 0.20, 0.55, 0.58, 0.61, 1.12, 0.00, 0.14), (1, 2)
    ),
    "van": Style(
        Proportions(0.85, 3.05, 0.95, 0.34, 0.21, 0.80, 1.16, 2.10, -0.06, 0.60, 0.97, 0.99, 1.10, 0.02, 0.20), (1, 3)
    ),
    "off-roader": Style(
        Proportions(0.80, 2.70, 0.85, 0.40, 0.30, 0.90, 1.14, 1.84, 0.18, 0.45, 0.93, 0.98, 1.12, 0.03, 0.18), (2, 3)
    ),
    "estate": Style(
        Proportions(0.90, 2.75, 1.05, 0.33, 0.17, 0.67, 0.95, 1.46, 0.20, 0.80, 0.92, 0.98, 0.98, 0.05, 0.14), (3, 2)
    ),
    "coupe": Style(
        Proportions(0.92, 2.60, 0.92, 0.35, 0.14, 0.60, 0.88, 1.30, 0.30, 0.85, 0.62, 0.93, 0.98, 0.03, 0.35), (1, 2)
    ),
    "lorry": Style(
        Proportions(0.85, 3.40, 1.15, 0.42, 0.40, 0.90, 1.35, 2.15, -0.10, 0.35, 0.31, 0.33, 0.95, 0.00, 0.16),
        (1, 1),
        True,
    ),
    "bus": Style(
        Proportions(1.25, 3.60, 1.45, 0.43, 0.30, 0.90, 1.25, 2.60, -0.28, 0.22, 0.985, 0.995, 1.20, 0.00, 0.15), (5, 4)
    ),
    "roadster": Style(
        Proportions(0.85, 2.40, 0.75, 0.34, 0.14, 0.60, 0.86, 1.22, 0.36, 0.55, 0.64, 0.74, 0.92, 0.02, 0.18), (1, 1)
    ),
}

SPREADS = Proportions(0.22, 0.32, 0.26, 0.055, 0.05, 0.10, 0.07, 0.13, 0.07, 0.20, 0.035, 0.02, 0.07, 0.05, 0.10)
"""How far a model may lie from its style's middle, either way."""


@dataclass(frozen=True)
class Shape:
    """One class of vehicle."""

    name: str
    style: str
    size: Proportions
    windows: int
    pillar_shift: float
    wheel: str
    lamp: str
    grille: str
    lamp_size: float
    moulding: float | None
    roof_rails: bool
    spoiler: bool
    cargo_box: bool

    @property
    def length(self) -> float:
        return self.size.front_overhang + self.size.wheelbase + self.size.rear_overhang


def vehicle_shape(class_index: int) -> Shape:
    """The vehicle of a class: styles come in two groups of five, two models of each in turn.

    So the first ten classes are five styles with two models each, and no two of the 200 agree in style, wheels and
    lamps together.
    """
    if not 0 <= class_index < MAX_CLASSES:
        raise ValueError(f"class_index must be from 0 to {MAX_CLASSES - 1}, but got {class_index}")
    group, within = divmod(class_index, 10)
    style_index = within % 5 + 5 * (group % 2)
    model = within // 5 + 2 * (group // 2)
    style_name = list(STYLES)[style_index]
    style = STYLES[style_name]
    shares = _spread(model, style_index, len(fields(Proportions)) + 2)
    return Shape(
        name=f"{(MAKES + MAKES_LATER)[model]} {style_name}",
        style=style_name,
        size=_proportions(style.middle, shares),
        windows=style.windows[model % len(style.windows)],
        pillar_shift=0.24 * (float(shares[-1]) - 0.5),
        wheel=WHEELS[(model + style_index) % len(WHEELS)],
        lamp=LAMPS[(model + style_index) % len(LAMPS)],
        grille=GRILLES[(model // 2 + style_index) % len(GRILLES)],
        lamp_size=0.85 + 0.5 * float(shares[-2]),
        moulding=None if (model + style_index) % 3 == 0 else 0.40 + 0.35 * float(shares[-2]),
        roof_rails=style_name in {"estate", "off-roader", "van"} and model % 2 == 1,
        spoiler=style_name in {"coupe", "saloon", "hatchback"} and model % 4 in {1, 2},
        cargo_box=style.cargo_box,
    )


def _spread(model: int, style_index: int, count: int) -> np.ndarray:
    """Numbers in [0, 1) that lie far apart for neighbouring models: an additive recurrence with irrational steps.

    Source: https://extremelearning.com.au/unreasonable-effectiveness-of-quasirandom-sequences/ (one step for each
    dimension; here the fractional parts of square roots of primes, which need no root of a polynomial).
    """
    primes = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59)
    return (0.5 + np.sqrt(np.array(primes[:count])) * (model + 1 + 7 * style_index)) % 1.0


def _proportions(middle: Proportions, shares: np.ndarray) -> Proportions:
    names = [field.name for field in fields(Proportions)]
    values = {
        name: getattr(middle, name) + getattr(SPREADS, name) * (2 * float(share) - 1)
        for name, share in zip(names, shares, strict=False)
    }
    values["roof_end"] = min(values["roof_end"], 0.985)
    values["rear_foot"] = min(max(values["rear_foot"], values["roof_end"] + 0.01), 0.997)
    values["roof_drop"] = max(values["roof_drop"], 0.0)
    values["pillar"] = max(values["pillar"], 0.08)
    return Proportions(**values)
