"""One picture of a vehicle: everything that differs between two pictures of the same class.

Viewpoint, side, scale, place, paint, glass, light, background and what stands in front are drawn from the key; none of
them says anything about the class.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from itertools import islice

import numpy as np
from PIL import Image, ImageDraw

from study.data.draws import Draws
from study.data.vehicle_shapes import Shape
from study.data.vehicle_solid import Face, Solid, Tone, vehicle_solids, wheel_centres

Colour = np.ndarray
"""float64 (3,), RGB from 0 to 255."""

CAMERA_DISTANCE = 3.2
"""In vehicle lengths."""


@dataclass(frozen=True)
class View:
    """From where a vehicle is seen; angles in radians.

    Attributes:
        turn: Around the vertical; positive turns the front towards the viewer.
        height: How far the viewer looks down.
        roll: Of the camera.
        mirrored: The vehicle faces right.
        fill: Share of the picture's side that the longer side of the vehicle takes.
        shift: Of the middle, as shares of the picture's side.
    """

    turn: float
    height: float
    roll: float
    mirrored: bool
    fill: float
    shift: tuple[float, float]


def draw_scene(shape: Shape, *, image_size: int, key: int) -> np.ndarray:
    """One picture, uint8 (image_size, image_size, 3).

    Shapes are drawn larger and averaged down; the scene is the same at every size, but for that averaging.
    """
    draws = Draws(key)
    over = 4 if image_size <= 64 else 3 if image_size <= 128 else 2
    side = image_size * over
    view = _draw_view(draws)
    canvas = _background(draws, side)
    pen = ImageDraw.Draw(canvas)
    _draw_vehicle(pen, shape, view, side, draws)
    _draw_obstacle(pen, side, draws)
    small = np.asarray(canvas.reduce(over), dtype=np.float64)
    return _light(small, draws)


def _draw_view(draws: Draws) -> View:
    return View(
        turn=draws.between(-0.5, 0.5),
        height=draws.between(0.04, 0.2),
        roll=draws.between(-0.06, 0.06),
        mirrored=draws.chance(0.5),
        fill=draws.between(0.80, 1.0),
        shift=(draws.between(-0.05, 0.05), draws.between(-0.08, 0.08)),
    )


# ---------------------------------------------------------------------------------------------------------- projection
def _project(points: np.ndarray, view: View, length: float) -> np.ndarray:
    """Screen x, screen y (down) and depth of points (n, 3), before fitting into the picture."""
    x, y, z = (points - [length / 2, 0.0, 0.7]).T
    across = x * math.cos(view.turn) - y * math.sin(view.turn)
    away = y * math.cos(view.turn) + x * math.sin(view.turn)
    up = z * math.cos(view.height) + away * math.sin(view.height)
    depth = away * math.cos(view.height) - z * math.sin(view.height)
    nearness = CAMERA_DISTANCE * length / (CAMERA_DISTANCE * length + depth)
    across, down = across * nearness, -up * nearness
    turned = np.array([[math.cos(view.roll), -math.sin(view.roll)], [math.sin(view.roll), math.cos(view.roll)]])
    flat = np.column_stack([across, down]) @ turned.T
    if view.mirrored:
        flat[:, 0] *= -1
    return np.column_stack([flat, depth])


def _project_faces(faces: list[Face], view: View, length: float) -> list[Face]:
    """The faces with their points on the screen; projected in one go."""
    flat = _project(np.concatenate([face.points for face in faces]), view, length)
    ends = np.cumsum([len(face.points) for face in faces])[:-1]
    return [face._replace(points=points) for face, points in zip(faces, np.split(flat, ends), strict=True)]


def _faces_in_order(solid: Solid, view: View, length: float) -> list[Face]:
    """What is seen of a solid, from back to front, projected."""
    every = [face for face, _ in solid.hull] + [part for _, parts in solid.hull for part in parts] + solid.side
    projected = iter(_project_faces(every, view, length))
    hull = list(islice(projected, len(solid.hull)))
    upon = [list(islice(projected, len(parts))) for _, parts in solid.hull]
    turned_here = -1 if view.mirrored else 1
    seen = [pair for pair in zip(hull, upon, strict=True) if _area(pair[0].points) * turned_here < 0]
    seen.sort(key=lambda pair: -float(pair[0].points[:, 2].mean()))
    return [face for outer, parts in seen for face in (outer, *parts)] + list(projected)


def _area(flat: np.ndarray) -> float:
    """Signed area of a polygon; its sign tells which way the face is turned."""
    x, y = flat[:, 0], flat[:, 1]
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


# ------------------------------------------------------------------------------------------------------------- vehicle
def _draw_vehicle(pen: ImageDraw.ImageDraw, shape: Shape, view: View, side: int, draws: Draws) -> None:
    palette = _palette(draws)
    solids = sorted(vehicle_solids(shape), key=lambda solid: -_mean_depth(solid, view, shape.length))
    faces = _ground_faces(shape, view)
    for solid in solids:
        faces += _faces_in_order(solid, view, shape.length)
    flat = np.concatenate([face.points[:, :2] for face in faces])
    low, high = flat.min(axis=0), flat.max(axis=0)
    scale = view.fill * side / float((high - low).max())
    offset = side * (0.5 + np.array(view.shift)) - scale * (low + high) / 2
    for face in faces:
        points = face.points[:, :2] * scale + offset
        pen.polygon(points.ravel().tolist(), fill=_fill(palette[face.tone] * face.light))


def _mean_depth(solid: Solid, view: View, length: float) -> float:
    return float(_project(solid.side[0].points, view, length)[:, 2].mean())


def _ground_faces(shape: Shape, view: View) -> list[Face]:
    """The shadow and the wheels of the far side."""
    half_width, length = 0.85, shape.length
    ground = [
        [0.05, -half_width - 0.1],
        [length - 0.05, -half_width - 0.1],
        [length - 0.05, half_width],
        [0.05, half_width],
    ]
    shadow = np.column_stack([np.array(ground), np.zeros(4)])
    turns = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    faces = [Face(shadow, "shadow")]
    for centre in wheel_centres(shape):
        radius = shape.size.wheel_radius
        for depth in (half_width, half_width - 0.2):
            rim = np.column_stack(
                [centre + radius * np.cos(turns), np.full(16, depth), radius + radius * np.sin(turns)]
            )
            faces.append(Face(rim, "tyre", 0.7))
    return _project_faces(faces, view, length)


def _palette(draws: Draws) -> dict[Tone, Colour]:
    paint = _hue(draws.between(0, 1), draws.between(0.45, 0.95), draws.between(0.35, 0.95))
    if draws.chance(0.4):
        paint = np.full(3, 255 * draws.between(0.12, 0.95))
    glass = _glass_tone(float(paint.mean()), draws) * np.array([0.92, 0.98, 1.05])
    trim = np.full(3, 255 * draws.between(0.15, 0.8))
    return {
        "paint": paint,
        "shade": paint,
        "glass": glass,
        "tyre": np.full(3, 255 * draws.between(0.06, 0.2)),
        "rim": np.full(3, 255 * draws.between(0.5, 0.9)),
        "dark": np.full(3, 255 * draws.between(0.05, 0.2)),
        "head_lamp": np.array([255.0, 250, 225]) * draws.between(0.75, 1.0),
        "tail_lamp": np.array([215.0, 30, 25]) * draws.between(0.7, 1.1),
        "trim": trim,
        "cargo": _hue(draws.between(0, 1), draws.between(0, 0.5), draws.between(0.5, 0.95)),
        "shadow": np.full(3, 255 * draws.between(0.08, 0.3)),
    }


def _glass_tone(paint: float, draws: Draws) -> float:
    """Grey of the windows, dark or full of sky, and in any case unlike the paint."""
    dark, bright = draws.between(15, 70), draws.between(150, 225)
    if paint < 100:
        return bright
    return bright if paint < 130 and draws.chance(0.5) else dark


def _hue(hue: float, saturation: float, value: float) -> Colour:
    return 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value))


def _fill(colour: Colour) -> tuple[int, int, int]:
    red, green, blue = np.clip(colour, 0, 255).astype(int).tolist()
    return red, green, blue


# ----------------------------------------------------------------------------------------------------------- the scene
def _background(draws: Draws, side: int) -> Image.Image:
    """Sky or wall above ground, each shading off, with blocks and bushes before it."""
    horizon = draws.between(0.30, 0.75)
    corners = [_hue(draws.between(0, 1), draws.between(0, 0.35), draws.between(0.25, 0.95)) for _ in range(4)]
    heights = (np.arange(16) + 0.5) / 16
    above = corners[0] + (corners[1] - corners[0]) * heights[:, None]
    below = corners[2] + (corners[3] - corners[2]) * heights[:, None]
    column = np.where((heights < horizon)[:, None], above, below)
    canvas = Image.fromarray(np.clip(column, 0, 255).astype(np.uint8)[:, None]).resize(
        (side, side), Image.Resampling.BILINEAR
    )
    pen = ImageDraw.Draw(canvas)
    for _ in range(draws.below(5)):
        x, width = draws.between(-0.2, 1.0), draws.between(0.06, 0.45)
        foot, height = horizon + draws.between(-0.05, 0.15), draws.between(0.05, 0.5)
        colour = _fill(_hue(draws.between(0, 1), draws.between(0, 0.4), draws.between(0.2, 0.95)))
        box = [side * x, side * (foot - height), side * (x + width), side * foot]
        if draws.chance(0.5):
            pen.ellipse(box, fill=colour)
        else:
            pen.rectangle(box, fill=colour)
    return canvas


def _draw_obstacle(pen: ImageDraw.ImageDraw, side: int, draws: Draws) -> None:
    """Posts and bushes in front of the vehicle."""
    for _ in range(max(draws.below(4) - 1, 0)):
        x, width = side * draws.between(0.0, 1.0), side * draws.between(0.015, 0.06)
        colour = _fill(_hue(draws.between(0, 1), draws.between(0, 0.6), draws.between(0.05, 0.95)))
        if draws.chance(0.5):
            pen.rectangle([x, 0, x + width, side], fill=colour)
        else:
            top = side * draws.between(0.62, 0.9)
            pen.ellipse([x - 2.5 * width, top, x + 2.5 * width, top + 5 * width], fill=colour)


def _light(image: np.ndarray, draws: Draws) -> np.ndarray:
    """Exposure, contrast and a slope of light over the picture."""
    side = image.shape[0]
    ramp = (np.arange(side) + 0.5) / side - 0.5
    slope = 1 + draws.between(-0.5, 0.5) * ramp[:, None] + draws.between(-0.5, 0.5) * ramp[None, :]
    tint = np.array([draws.between(0.88, 1.12), 1.0, draws.between(0.88, 1.12)])
    contrast = draws.between(0.75, 1.15)
    lit = 127.5 + (image * slope[:, :, None] * tint * draws.between(0.8, 1.2) - 127.5) * contrast
    return np.clip(np.rint(lit), 0, 255).astype(np.uint8)
