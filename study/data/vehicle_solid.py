"""A vehicle as coloured polygons in space, from its shape: x backwards, y away from the viewer, z up, in metres."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from study.data.vehicle_shapes import MAX_CLASSES, Shape

Tone = Literal["paint", "shade", "glass", "tyre", "rim", "dark", "head_lamp", "tail_lamp", "trim", "cargo", "shadow"]
TAPER = 0.16
"""How much the cabin narrows for each metre above the windscreen's foot."""

CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 20, False)), np.sin(np.linspace(0, 2 * np.pi, 20, False))], axis=1)


class Face(NamedTuple):
    """A polygon: points float64 (n, 3), the tone of its surface, and its brightness."""

    points: np.ndarray
    tone: Tone
    light: float = 1.0


class Solid(NamedTuple):
    """A body seen from the near side: hull faces (some turned away from the viewer), then what lies upon them.

    Attributes:
        hull: Outer faces around the profile, each with what is drawn on it if it is seen.
        side: Faces of the near side, in the order of drawing.
    """

    hull: list[tuple[Face, list[Face]]]
    side: list[Face]


@lru_cache(maxsize=MAX_CLASSES)
def vehicle_solids(shape: Shape) -> tuple[Solid, ...]:
    """The solids of a vehicle: the body with its wheels, and the box of a lorry. Kept, since every picture asks."""
    body = Body(shape)
    solid = Solid(body.hull(), body.side())
    return (solid, cargo_box(shape, body.half_width)) if shape.cargo_box else (solid,)


def wheel_centres(shape: Shape) -> tuple[float, float]:
    """Where the axles are, along x."""
    return shape.size.front_overhang, shape.size.front_overhang + shape.size.wheelbase


class Body:
    """Geometry of one body; holds the points that several parts are built from."""

    def __init__(self, shape: Shape) -> None:
        self.shape, self.size, self.length = shape, shape.size, shape.length
        size = self.size
        self.half_width = 0.85 + 0.04 * (size.roof - 1.4)
        self.screen_foot = np.array([size.front_overhang + size.screen_foot * size.wheelbase, size.cowl])
        self.screen_top = np.array([self.screen_foot[0] + size.screen_run, size.roof])
        self.roof_end = np.array([size.roof_end * self.length, size.roof - size.roof_drop])
        self.rear_foot = np.array([size.rear_foot * self.length, size.deck])

    def at(self, profile: np.ndarray, *, lift: float = 0.0) -> np.ndarray:
        """Points (n, 2) of the side view, laid onto the near side; `lift` metres in front of it."""
        inset = TAPER * np.maximum(profile[:, 1] - self.size.cowl, 0.0)
        return np.column_stack([profile[:, 0], inset - self.half_width - lift, profile[:, 1]])

    def profile(self) -> np.ndarray:
        """The outline of the side view, from the nose over the roof to the tail and below."""
        size, low = self.size, self.size.clearance
        tail_top = [self.length - 0.03, min(size.deck - 0.02, self.rear_foot[1])]
        middle_roof = (self.screen_top + self.roof_end) / 2 + np.array([0.0, 0.03])
        points = [
            [0.06, low + 0.02],
            [0.0, low + 0.25],
            [0.03, size.nose],
            [0.22, size.nose + 0.10],
            self.screen_foot,
            self.screen_top,
            middle_roof,
            self.roof_end,
            self.rear_foot,
            tail_top,
            [self.length, size.deck * 0.62],
            [self.length - 0.06, low + 0.04],
        ]
        return np.array(points, dtype=np.float64)

    def hull(self) -> list[tuple[Face, list[Face]]]:
        """The faces around the profile, with lamps, grille and windows upon them."""
        profile = self.profile()
        near = self.at(profile)
        far = near * np.array([1.0, -1.0, 1.0])
        upon = {1: self._front(), 4: [_inset(near, far, 4, 0.10, "glass")], 7: [_inset(near, far, 7, 0.12, "glass")]}
        upon[9] = self._rear()
        faces = []
        for index in range(len(profile)):
            other = (index + 1) % len(profile)
            rise = profile[other] - profile[index]
            light = 0.80 + 0.32 * rise[0] / (np.hypot(*rise) + 1e-9)
            quad = np.stack([near[index], near[other], far[other], far[index]])
            faces.append((Face(quad, "paint", float(light)), upon.get(index, [])))
        return faces

    def _front(self) -> list[Face]:
        """Grille, lamps and bumper on the nose."""
        size = self.size
        low, high = size.clearance + 0.28, size.nose
        depth, side = -0.01, self.half_width
        faces = [_across(depth, -side, side, size.clearance + 0.05, low - 0.04, "trim")]
        middle = (low + high) / 2
        if self.shape.grille == "wide":
            faces.append(_across(depth, -0.55 * side, 0.55 * side, low, high - 0.06, "dark"))
        elif self.shape.grille == "bars":
            step = (high - low) / 5
            faces += [
                _across(depth, -0.6 * side, 0.6 * side, low + k * 2 * step, low + (2 * k + 1) * step, "dark")
                for k in range(2)
            ]
        elif self.shape.grille == "split":
            faces += [_across(depth, s * 0.06, s * 0.42, low - 0.05, high, "dark") for s in (-1.0, 1.0)]
        for sign in (-1.0, 1.0):
            outline = self._lamp(0.19, x=sign * 0.76 * side, z=middle + 0.06, low=low - 0.2, high=high)
            faces.append(Face(np.column_stack([np.full(len(outline), depth), outline]), "head_lamp"))
        return faces

    def _rear(self) -> list[Face]:
        size, side, depth = self.size, self.half_width, self.length + 0.01
        low, high = 0.62 * size.deck, size.deck - 0.05
        faces = [_across(depth, -0.35 * side, 0.35 * side, low, low + 0.14, "trim")]
        for sign in (-1.0, 1.0):
            outline = self._lamp(0.20, x=sign * 0.78 * side, z=(low + high) / 2, low=0.4 * size.deck, high=high)
            faces.append(Face(np.column_stack([np.full(len(outline), depth), outline]), "tail_lamp"))
        return faces

    def _lamp(self, radius: float, *, x: float, z: float, low: float, high: float) -> np.ndarray:
        """Outline (n, 2) of a lamp in the plane it lies in, cut off at the panel's edges."""
        wide, tall = {"round": (1.0, 1.0), "slim": (1.5, 0.5), "square": (0.95, 0.85), "tall": (0.6, 1.7)}[
            self.shape.lamp
        ]
        unit = CIRCLE if self.shape.lamp == "round" else _box(-1.0, 1.0, -1.0, 1.0)
        outline = unit * [wide, tall] * radius * self.shape.lamp_size + [x, z]
        outline[:, 1] = np.clip(outline[:, 1], low, high)
        return outline

    def side(self) -> list[Face]:
        """The near side: panel, windows, mouldings, lamps' flanks, wheels."""
        size = self.size
        sill = np.array(
            [
                [0.1, size.clearance],
                [self.length - 0.08, size.clearance + 0.02],
                [self.length - 0.08, size.clearance + 0.14],
                [0.1, size.clearance + 0.14],
            ]
        )
        faces = [Face(self.at(self.profile()), "paint", 0.92), Face(self.at(sill), "dark")]
        faces += self._windows() + self._details() + self._flank_lamps()
        for centre in wheel_centres(self.shape):
            arch = np.array([centre, size.wheel_radius]) + CIRCLE * size.wheel_radius * 1.17
            arch[:, 1] = np.maximum(arch[:, 1], size.clearance * 0.9)
            faces.append(Face(self.at(arch), "dark"))
            faces += self._wheel(centre)
        return faces

    def _pillar_lines(self, height: float) -> tuple[float, float]:
        """Where windscreen and rear window stand at a height."""
        front, rear = (self.screen_foot, self.screen_top), (self.rear_foot, self.roof_end)
        x_front, x_rear = (
            float(foot[0] + (top[0] - foot[0]) * np.clip((height - foot[1]) / (top[1] - foot[1]), 0, 1))
            for foot, top in (front, rear)
        )
        return x_front, x_rear

    def _windows(self) -> list[Face]:
        low = max(self.size.cowl, min(self.size.deck, self.size.cowl + 0.1)) + 0.03
        high = min(self.screen_top[1], self.roof_end[1]) - 0.08
        glazed_end = self._glazed_share()
        (front_low, rear_low), (front_high, rear_high) = self._pillar_lines(low), self._pillar_lines(high)
        front_low, front_high = front_low + 0.16, front_high + 0.10
        rear_low = front_low + (rear_low - self.size.pillar - front_low) * glazed_end
        rear_high = front_high + (rear_high - self.size.pillar - front_high) * glazed_end
        count = self.shape.windows
        cuts = np.linspace(0, 1, count + 1)
        cuts[1:-1] += self.shape.pillar_shift / max(count - 1, 1)
        faces = []
        for start, stop in pairwise(cuts):
            left, right = start + 0.025 * (start > 0), stop - 0.025 * (stop < 1)
            pane = np.array(
                [
                    [front_low + (rear_low - front_low) * left, low],
                    [front_high + (rear_high - front_high) * left, high],
                    [front_high + (rear_high - front_high) * right, high],
                    [front_low + (rear_low - front_low) * right, low],
                ]
            )
            faces.append(Face(self.at(pane, lift=0.005), "glass"))
        return faces

    def _glazed_share(self) -> float:
        """How much of the side behind the windscreen is glass: panel vans have a window in the front door only."""
        return 0.34 if self.shape.style == "van" and self.shape.windows == 1 else 1.0

    def _details(self) -> list[Face]:
        size, faces = self.size, []
        for share in np.linspace(0, 1, min(self.shape.windows, 3) + 1)[1:]:
            start = self.screen_foot[0] + 0.2
            x = start + (min(self.rear_foot[0], size.front_overhang + size.wheelbase) - start) * share * 0.9
            faces.append(Face(self.at(_box(x, x + 0.025, size.clearance + 0.15, size.cowl)), "shade", 0.6))
            faces.append(Face(self.at(_box(x - 0.25, x - 0.08, size.cowl - 0.14, size.cowl - 0.09)), "trim"))
        if self.shape.moulding is not None:
            height = size.clearance + self.shape.moulding * (size.cowl - size.clearance)
            faces.append(Face(self.at(_box(0.25, self.length - 0.2, height, height + 0.05)), "shade", 0.62))
        if self.shape.roof_rails:
            faces.append(
                Face(
                    self.at(_box(self.screen_top[0] + 0.1, self.roof_end[0] - 0.1, size.roof + 0.05, size.roof + 0.10)),
                    "dark",
                )
            )
        if self.shape.spoiler:
            back = self.roof_end if self.shape.style == "hatchback" else np.array([self.length - 0.12, size.deck])
            faces.append(
                Face(
                    self.at(back + np.array([[-0.25, 0.02], [0.12, 0.13], [0.14, 0.08], [0.0, 0.0]])),
                    "shade",
                    0.8,
                )
            )
        faces.append(Face(self.at(self.screen_foot + _box(0.12, 0.32, 0.02, 0.17), lift=0.12), "shade", 0.75))
        return faces

    def _flank_lamps(self) -> list[Face]:
        size = self.size
        low, high = size.clearance + 0.08, size.nose
        front = self._lamp(0.17, x=0.22, z=(low + 0.2 + high) / 2 + 0.06, low=low, high=high)
        rear = self._lamp(
            0.17, x=self.length - 0.2, z=0.81 * size.deck - 0.025, low=0.4 * size.deck, high=size.deck - 0.05
        )
        front[:, 0] = np.maximum(front[:, 0], 0.03)
        rear[:, 0] = np.minimum(rear[:, 0], self.length - 0.03)
        return [Face(self.at(front), "head_lamp"), Face(self.at(rear), "tail_lamp")]

    def _wheel(self, centre: float) -> list[Face]:
        radius = self.size.wheel_radius
        middle = np.array([centre, radius])
        tyre, rim = middle + CIRCLE * radius, middle + CIRCLE * radius * 0.68
        faces = [Face(self.at(tyre), "tyre"), Face(self.at(rim, lift=0.01), "rim")]
        cuts = {"disc": 0, "five": 5, "cross": 4, "holes": 7, "many": 10}[self.shape.wheel]
        for turn in np.arange(cuts) * 2 * np.pi / max(cuts, 1):
            if self.shape.wheel == "holes":
                hole = middle + 0.44 * radius * np.array([np.cos(turn), np.sin(turn)]) + CIRCLE[::3] * radius * 0.12
            else:
                width = 0.55 * np.pi / cuts
                edge = np.array([[np.cos(turn + w), np.sin(turn + w)] for w in (-width, width)])
                hole = middle + radius * np.concatenate([edge * 0.62, edge[::-1] * 0.2])
            faces.append(Face(self.at(hole, lift=0.01), "dark"))
        if self.shape.wheel == "disc":
            faces.append(Face(self.at(middle + CIRCLE * radius * 0.2, lift=0.01), "dark"))
        return faces


def cargo_box(shape: Shape, half_width: float) -> Solid:
    """The box of a lorry, behind its cab."""
    size = shape.size
    low, high = size.wheel_radius * 2 + 0.08, size.roof + 4 * size.roof_drop + 0.3
    outline = _box(size.rear_foot * shape.length + 0.1, shape.length, low, high)[::-1]
    near = np.column_stack([outline[:, 0], np.full(4, -half_width - 0.05), outline[:, 1]])
    far = near * np.array([1.0, -1.0, 1.0])
    hull = [
        (Face(np.stack([near[i], near[(i + 1) % 4], far[(i + 1) % 4], far[i]]), "cargo", light), [])
        for i, light in enumerate((1.1, 0.75, 0.4, 0.75))
    ]
    ribs = [
        np.column_stack([rib[:, 0], np.full(4, -half_width - 0.06), rib[:, 1]])
        for x in np.linspace(outline[:, 0].min(), shape.length, 4 + 2 * (shape.wheel in {"five", "many"}))[1:-1]
        for rib in (_box(float(x), float(x) + 0.05, low, high),)
    ]
    return Solid(hull, [Face(near, "cargo", 0.95), *(Face(rib, "cargo", 0.7) for rib in ribs)])


def _box(left: float, right: float, low: float, high: float) -> np.ndarray:
    return np.array([[left, low], [right, low], [right, high], [left, high]])


def _across(x: float, left: float, right: float, low: float, high: float, tone: Tone) -> Face:
    outline = _box(left, right, low, high)
    return Face(np.column_stack([np.full(4, x), outline[:, 0], outline[:, 1]]), tone)


def _inset(near: np.ndarray, far: np.ndarray, index: int, margin: float, tone: Tone) -> Face:
    """The hull quad behind a profile edge, drawn in from all sides."""
    quad = np.stack([near[index], near[index + 1], far[index + 1], far[index]])
    return Face(quad + (quad.mean(axis=0) - quad) * 2 * margin, tone)
