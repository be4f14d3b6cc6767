"""The dict of corruptions: name -> function, group, parameters at severity 1 to 5, source.

A corruption of your own is a function `op(images_BCHW, parameter, *, keys_B)` and one line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, Protocol, get_args

from torch import Tensor

from noise import blur, digital, photometric, resolution

Group = Literal["noise", "blur", "weather", "digital", "resolution", "pmal"]
Scale = Literal["nearest", "imagenet", "tiny", "cifar"]
GROUPS: tuple[str, ...] = get_args(Group)
TABLE_SIDES: dict[str, int] = {"imagenet": 224, "tiny": 64, "cifar": 32}
"""Side in pixels of the images that each published table is for."""

_PUBLIC = "Hendrycks & Dietterich 2019 (arXiv 1903.12261), parameters as in the package imagecorruptions"


class Op(Protocol):
    """Corrupts a batch in [0, 1]; the caller clamps the result."""

    def __call__(self, images_BCHW: Tensor, parameter: Any, /, *, keys_B: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Corruption:
    """One corruption.

    Args:
        op: the function.
        group: what kind it is; a corruption of the group of a training noise counts as similar to it.
        severities: table -> five parameters. `imagenet` is always there; lengths are in pixels of its side.
        source: where the parameters are from.
        scaled: (parameter, factor) -> parameter, for those whose lengths follow the image's side; None where nothing
            is a length or where each size has a table of its own.
    """

    op: Op
    group: Group
    severities: Mapping[str, tuple[Any, ...]]
    source: str = "own"
    scaled: Callable[[Any, float], Any] | None = None


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(
        photometric.gaussian_noise,
        "noise",
        {
            "imagenet": (0.08, 0.12, 0.18, 0.26, 0.38),
            "tiny": (0.04, 0.08, 0.12, 0.15, 0.18),
            "cifar": (0.04, 0.06, 0.08, 0.09, 0.10),
        },
        _PUBLIC,
    ),
    "shot_noise": Corruption(
        photometric.shot_noise,
        "noise",
        {"imagenet": (60, 25, 12, 5, 3), "tiny": (250, 100, 50, 30, 15), "cifar": (500, 250, 100, 75, 50)},
        _PUBLIC,
    ),
    "impulse_noise": Corruption(
        photometric.impulse_noise,
        "noise",
        {
            "imagenet": (0.03, 0.06, 0.09, 0.17, 0.27),
            "tiny": (0.01, 0.02, 0.05, 0.08, 0.14),
            "cifar": (0.01, 0.02, 0.03, 0.05, 0.07),
        },
        _PUBLIC,
    ),
    "speckle_noise": Corruption(
        photometric.speckle_noise,
        "noise",
        {
            "imagenet": (0.15, 0.2, 0.35, 0.45, 0.6),
            "tiny": (0.15, 0.2, 0.25, 0.3, 0.35),
            "cifar": (0.06, 0.1, 0.12, 0.16, 0.2),
        },
        _PUBLIC,
    ),
    "gaussian_blur": Corruption(
        blur.gaussian_blur,
        "blur",
        {"imagenet": (1, 2, 3, 4, 6), "tiny": (0.5, 0.75, 1, 1.25, 1.5), "cifar": (0.4, 0.6, 0.7, 0.8, 1)},
        _PUBLIC,
    ),
    "motion_blur": Corruption(
        blur.motion_blur,
        "blur",
        {"imagenet": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))},
        _PUBLIC,
        scaled=blur.scaled_motion,
    ),
    "brightness": Corruption(photometric.brightness, "weather", {"imagenet": (0.1, 0.2, 0.3, 0.4, 0.5)}, _PUBLIC),
    "saturate": Corruption(
        photometric.saturate, "digital", {"imagenet": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))}, _PUBLIC
    ),
    "contrast": Corruption(photometric.contrast, "digital", {"imagenet": (0.4, 0.3, 0.2, 0.1, 0.05)}, _PUBLIC),
    "pixelate": Corruption(
        resolution.pixelate,
        "digital",
        {
            "imagenet": (0.6, 0.5, 0.4, 0.3, 0.25),
            "tiny": (0.9, 0.8, 0.7, 0.6, 0.5),
            "cifar": (0.95, 0.9, 0.85, 0.75, 0.65),
        },
        _PUBLIC,
    ),
    "jpeg_compression": Corruption(
        digital.jpeg_compression,
        "digital",
        {"imagenet": (25, 18, 15, 10, 7), "tiny": (65, 58, 50, 40, 25), "cifar": (80, 65, 58, 50, 40)},
        _PUBLIC,
    ),
    "resolution": Corruption(resolution.resolution, "resolution", {"imagenet": (2, 3, 4, 6, 8)}),
    "resolution_bilinear": Corruption(resolution.resolution_bilinear, "resolution", {"imagenet": (2, 3, 4, 6, 8)}),
    "resolution_bicubic": Corruption(resolution.resolution_bicubic, "resolution", {"imagenet": (2, 3, 4, 6, 8)}),
    "pmal_gaussian": Corruption(
        photometric.gaussian_noise, "pmal", {"imagenet": (0.01, 0.02, 0.05, 0.1, 0.2)}, "Liu 2024 (arXiv 2401.14336)"
    ),
}


def find(name: str) -> Corruption:
    """The corruption of that name.

    Raises:
        ValueError: there is none; the message names near ones and all.
    """
    if name not in CORRUPTIONS:
        near = get_close_matches(name, CORRUPTIONS, n=3, cutoff=0.5)
        hint = f"near: {', '.join(near)}; " if near else ""
        raise ValueError(f"no corruption is called {name!r}; {hint}there are {', '.join(sorted(CORRUPTIONS))}")
    return CORRUPTIONS[name]


def table_for(name: str, side: int, scale: str = "nearest") -> str:
    """Which parameters are in use: a table's name, or `scaled` where pixel lengths follow the side.

    Args:
        side: the shorter side in pixels.
        scale: `nearest`, or a table's name. Corruptions without a table of that name take imagenet's, with lengths
            scaled to the size that the table is for.
    """
    corruption = find(name)
    if scale != "nearest" and scale not in TABLE_SIDES:
        raise ValueError(f"scale must be nearest, {', '.join(TABLE_SIDES)}, but got {scale!r}")
    wanted = scale
    if scale == "nearest":
        wanted = min(TABLE_SIDES, key=lambda table: (abs(TABLE_SIDES[table] - side), TABLE_SIDES[table]))
    if wanted in corruption.severities and (len(corruption.severities) > 1 or corruption.scaled is None):
        return wanted
    if corruption.scaled is None or (scale == "imagenet" or side == TABLE_SIDES["imagenet"]):
        return "imagenet"
    return "scaled"


def parameter_for(name: str, severity: int, side: int, scale: str = "nearest") -> Any:
    """The parameter of a corruption at a severity for images of a side.

    Raises:
        ValueError: an unknown name or scale, or a severity that is not 1 to 5.
    """
    corruption = find(name)
    if severity not in range(1, 6):
        raise ValueError(f"severity must be 1 to 5, but got {severity!r} for {name}")
    table = table_for(name, side, scale)
    if table != "scaled":
        return corruption.severities[table][severity - 1]
    assert corruption.scaled is not None
    target = side if scale == "nearest" else TABLE_SIDES[scale]
    return corruption.scaled(corruption.severities["imagenet"][severity - 1], target / TABLE_SIDES["imagenet"])
