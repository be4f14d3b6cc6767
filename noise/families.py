"""The dict of corruptions: name -> function, group, parameters at severity 1 to 5, source.

A corruption of your own is a function `op(images_BCHW, parameter, *, keys_B)` and one line here.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from noise import photometric, resolution
from noise.benchmark import BENCHMARK
from noise.entry import FAMILIES, GROUPS, TABLE_SIDES, Corruption, Family, Group, Op, Scale
from noise.surveillance import SURVEILLANCE

__all__ = [
    "CORRUPTIONS", "FAMILIES", "GROUPS", "TABLE_SIDES", "Corruption", "Family", "Group", "Op", "Scale", "find",
    "parameter_for", "table_for",
]  # fmt: skip

_DIVISORS = {"imagenet": (2, 3, 4, 6, 8)}

CORRUPTIONS: dict[str, Corruption] = {
    **BENCHMARK,
    **SURVEILLANCE,
    "resolution": Corruption(resolution.resolution, "resolution", _DIVISORS, family="resolution"),
    "resolution_bilinear": Corruption(resolution.resolution_bilinear, "resolution", _DIVISORS, family="resolution"),
    "resolution_bicubic": Corruption(resolution.resolution_bicubic, "resolution", _DIVISORS, family="resolution"),
    "pmal_gaussian": Corruption(
        photometric.gaussian_noise,
        "noise",
        {"imagenet": (0.01, 0.02, 0.05, 0.1, 0.2)},
        source="Liu 2024 (arXiv 2401.14336)",
        family="pmal",
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
