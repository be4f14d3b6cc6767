"""The dict of corruptions: name -> function, group, parameters at severity 1 to 5, source.

A corruption of your own is a function `op(images_BCHW, parameter, *, keys_B)` and one line here.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch
from torch import Tensor

from noise import photometric, resolution
from noise.benchmark import BENCHMARK, EXTRA
from noise.entry import FAMILIES, GROUPS, TABLE_SIDES, Corruption, Family, Group, Op, Scale
from noise.kornia_ops import KORNIA
from noise.surveillance import SURVEILLANCE

__all__ = [
    "CORRUPTIONS", "FAMILIES", "GROUPS", "SETS", "TABLE_SIDES", "CatalogueRow", "Corruption", "Family", "Group", "Op",
    "Scale", "catalogue", "catalogue_text", "expand", "find", "parameter_for", "parameters_at", "table_for",
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
        neutral=0.0,
    ),
    **KORNIA,
}


SETS: dict[str, tuple[str, ...]] = {
    "common": tuple(name for name in BENCHMARK if name not in EXTRA),
    "extra": EXTRA,
    **{
        family: tuple(name for name, entry in CORRUPTIONS.items() if entry.family == family)
        for family in FAMILIES
        if family not in CORRUPTIONS
    },
}
"""Names that stand for several corruptions: families, and the benchmark's 15 (common) and 4 (extra)."""


def expand(words: Sequence[str]) -> tuple[str, ...]:
    """Corruptions with names of `SETS` spelled out; other words stay as they are."""
    return tuple(name for word in words for name in (SETS.get(word) or (word,)))


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
    if corruption.scaled is None or scale == "imagenet" or (scale == "nearest" and side == TABLE_SIDES["imagenet"]):
        return "imagenet"
    return "scaled"


def parameters_at(name: str, strength_B: Tensor, side: int, scale: str = "nearest") -> Tensor:
    """Parameters of a corruption at strengths in units of severity, linear between the severities.

    Args:
        strength_B: 0 (nothing changes) to 5.
        side: the shorter side in pixels.

    Returns:
        float32 (B, 1, 1, 1).

    Raises:
        ValueError: the corruption has whole severities only.
    """
    neutral = find(name).neutral
    if neutral is None:
        raise ValueError(f"{name} has whole severities only")
    table = torch.tensor([neutral, *(parameter_for(name, severity, side, scale) for severity in range(1, 6))])
    table = table.to(strength_B.device, torch.float32)
    below_B = strength_B.floor().clamp(0, 4).long()
    return torch.lerp(table[below_B], table[below_B + 1], strength_B - below_B)[:, None, None, None]


def parameter_for(name: str, severity: int, side: int, scale: str = "nearest") -> Any:
    """The parameter of a corruption at a severity for images of a side.

    Raises:
        ValueError: an unknown name or scale, or a severity that is not 1 to 5.
    """
    corruption = find(name)
    if isinstance(severity, bool) or not isinstance(severity, int) or not 1 <= severity <= 5:
        raise ValueError(f"severity must be a whole number from 1 to 5, but got {severity!r} for {name}")
    table = table_for(name, side, scale)
    if table != "scaled":
        return corruption.severities[table][severity - 1]
    assert corruption.scaled is not None
    target = side if scale == "nearest" else TABLE_SIDES[scale]
    return corruption.scaled(corruption.severities["imagenet"][severity - 1], target / TABLE_SIDES["imagenet"])


class CatalogueRow(NamedTuple):
    """One table of one corruption.

    Args:
        name: the corruption.
        family: the suite it belongs to.
        group: its kind.
        table: `imagenet`, `tiny` or `cifar`.
        parameters: at severity 1 to 5.
        scaled: whether lengths follow the side of the images where there is no table for it.
        source: where the parameters are from.
    """

    name: str
    family: str
    group: str
    table: str
    parameters: tuple[Any, ...]
    scaled: bool
    source: str


def catalogue(which: Sequence[str] = ()) -> list[CatalogueRow]:
    """Every table of every corruption, by family and group.

    Args:
        which: names, groups or families to take; all when empty.

    Raises:
        ValueError: a word is none of these.
    """
    words = set(which)
    for word in sorted(words - set(GROUPS) - set(FAMILIES)):
        find(word)
    rows = [
        CatalogueRow(name, entry.family, entry.group, table, tuple(parameters), entry.scaled is not None, entry.source)
        for name, entry in CORRUPTIONS.items()
        for table, parameters in entry.severities.items()
        if not words or words & {name, entry.group, entry.family}
    ]
    return sorted(rows, key=lambda row: (FAMILIES.index(row.family), GROUPS.index(row.group)))


def catalogue_text(rows: Sequence[CatalogueRow]) -> str:
    """The rows as a table to read, the corruptions of a family under its name, and their sources."""
    width = max((len(row.name) for row in rows), default=0)
    lines: list[str] = []
    before: CatalogueRow | None = None
    for row in rows:
        if before is None or row.family != before.family:
            lines += ["", row.family] if lines else [row.family]
        name, group = ("", "") if before is not None and row.name == before.name else (row.name, row.group)
        strengths = "  ".join(_strength(parameter) for parameter in row.parameters)
        note = "  (lengths follow the side)" if row.scaled else ""
        lines.append(f"  {name:<{width}}  {group:<10}  {row.table:<8}  {strengths}{note}")
        before = row
    return "\n".join([*lines, "", "sources", *_sources(rows)])


def _sources(rows: Sequence[CatalogueRow]) -> list[str]:
    """A line for each source, with the corruptions that have it, or their family where all of it has the same."""
    lines = []
    for family in dict.fromkeys(row.family for row in rows):
        names: dict[str, list[str]] = {}
        for row in rows:
            if row.family == family and row.name not in names.setdefault(row.source, []):
                names[row.source].append(row.name)
        lines += [f"  {family if len(names) == 1 else ', '.join(found)}: {source}" for source, found in names.items()]
    return lines


def _strength(parameter: Any) -> str:
    if isinstance(parameter, tuple | list):
        return f"({', '.join(_strength(part) for part in parameter)})"
    return f"{parameter:g}" if isinstance(parameter, int | float) else str(parameter)
