"""Cells of lower resolutions: which they are, accuracy by side, and what their mean is called."""
# pandas ships no stubs, and pyright takes an indexed frame for any of four types:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pandas as pd

from analysis.records import REAL, side_of
from analysis.scores import CLEAN, Arm, Cell, Headline

Word = Literal["noise", "lower sides"]
WORDS: tuple[Word, ...] = ("noise", "lower sides")
LOWER: Word = "lower sides"
SIDE_COLUMNS = ("kind", "side", "accuracy", "accuracy_low", "accuracy_high")


def cell_sides(arm: Arm) -> dict[Cell, int]:
    """Each noisy cell's side in pixels; 0 for noise on images of full size."""
    groups = dict(zip(arm.rows["corruption"], arm.rows["group"], strict=True))
    return {cell: side_of(cell[0], str(groups[cell[0]])) for cell in arm.noisy()}


def lower_sides(arm: Arm) -> list[int]:
    """The sides below full size that an arm was measured at, smallest first."""
    return sorted(set(cell_sides(arm).values()) - {0})


def full_size_noise(arm: Arm) -> list[Cell]:
    """The noisy cells of images at full size."""
    return [cell for cell, side in cell_sides(arm).items() if not side]


def noise_at_sides(arm: Arm) -> bool:
    """Whether some cell is of noise at a lower side."""
    return any(side and name != f"{side}px" for (name, _), side in cell_sides(arm).items())


def side_means(arm: Arm, full_size: int) -> pd.DataFrame:
    """Accuracy with its interval by side, without noise and, where sides were measured with it, with noise.

    Args:
        full_size: side in pixels of the images as they are, where clean accuracy and the mean over noise stand.

    Returns:
        `SIDE_COLUMNS`, `kind` "clean" or "noise" (the mean over the corruptions and severities of that side), sides
        smallest first; empty where the arm has no lower side.
    """
    sides = cell_sides(arm)
    lower = lower_sides(arm)
    clean = {side: [cell for cell in sides if cell[0] == f"{side}px"] for side in lower} | {full_size: arm.of(CLEAN)}
    noise = {side: [cell for cell, own in sides.items() if own == side and cell not in clean[side]] for side in lower}
    kinds = {"clean": clean} if lower else {}
    if any(noise.values()):
        kinds["noise"] = noise | {full_size: full_size_noise(arm)}
    rows = [
        (kind, side, found.estimate, found.low, found.high)
        for kind, cells_by_side in kinds.items() for side, cells in cells_by_side.items()
        if (found := arm.mean(cells)) is not None
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(SIDE_COLUMNS))


def full_side(study: Mapping[str, Any]) -> int | None:
    """Side in pixels of the images as they are, by the study's settings or else its data; None where neither says."""
    config = study.get("config") or {}
    found = (config.get("data") or {}).get("image_size") or (study.get("data") or {}).get("image_size")
    return None if found is None else int(found)


def noise_word(found: Headline) -> Word:
    """What the noisy cells are: `lower sides` where every one is of a lower resolution, else `noise`."""
    return rows_word(*(arm.rows for arm in found.arms))


def rows_word(*parts: pd.DataFrame) -> Word:
    """The same of rows."""
    cells = {pair for rows in parts for pair in zip(rows["corruption"], rows["group"], strict=True)}
    sides = [side_of(str(name), str(group)) for name, group in cells if group not in (CLEAN, REAL)]
    return LOWER if sides and all(sides) else "noise"
