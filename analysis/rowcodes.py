"""Per-image rows as whole-number codes, so that ten million of them are counted by array and never one by one."""
# pandas ships no stubs:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

CLEAN = "clean"


class Codes(NamedTuple):
    """A code for each row, and what the codes stand for in sorted order; -1 is a row that stands for nothing."""

    of_row: np.ndarray
    names: list


def codes_of(column: pd.Series) -> Codes:
    """Codes of a column's values; a categorical's own where it is one."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.cat.remove_unused_categories()
        order = np.argsort(np.asarray(column.cat.categories), kind="stable")
        ranks = np.empty(len(order) + 1, dtype=np.int64)
        ranks[order], ranks[-1] = np.arange(len(order)), -1
        return Codes(ranks[column.cat.codes.to_numpy()], [column.cat.categories[place] for place in order])
    found, names = pd.factorize(column, sort=True)
    return Codes(found.astype(np.int64), list(names))


def kinds_of(corruptions: Codes, kinds: Mapping[str, str], *, with_clean: bool = False) -> Codes:
    """Codes of the kinds (groups, families) of rows by their corruptions; -1 for clean and for what has no kind.

    Args:
        kinds: Corruption -> kind, such as `analysis.scores.Headline.groups()` gives.
        with_clean: Clean rows are a kind of their own, the first.
    """
    names = sorted({kinds[name] for name in corruptions.names if name in kinds and name != CLEAN})
    names = [CLEAN, *names] if with_clean and CLEAN in corruptions.names else names
    place = {name: index for index, name in enumerate(names)}
    own = [CLEAN if name == CLEAN else kinds.get(name, "") for name in corruptions.names]
    by_corruption = [place.get(name, -1) for name in own]
    return Codes(np.append(by_corruption, -1).astype(np.int64)[corruptions.of_row], names)


def count(*codes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """How many rows have each combination of codes; rows with a -1 are left out."""
    return sums(*codes, shape=shape, weights=[None])[0]


def sums(*codes: np.ndarray, shape: tuple[int, ...], weights: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """The sum of each of several weights over the rows of each combination of codes; None counts rows."""
    kept, flat_N = codes[0] >= 0, codes[0] * 1
    for code_N, size in zip(codes[1:], shape[1:], strict=True):
        kept &= code_N >= 0
        flat_N *= size
        flat_N += code_N
    is_whole = bool(kept.all())
    flat_N = flat_N if is_whole else flat_N[kept]
    parts = [weight if weight is None or is_whole else weight[kept] for weight in weights]
    return [np.bincount(flat_N, part, minlength=int(np.prod(shape))).reshape(shape) for part in parts]


def clean_values(
    trials: Codes, images: Codes, is_clean: np.ndarray, values: np.ndarray, *, missing: int = -1
) -> np.ndarray:
    """For each row the value that the same trial had on the same image without noise.

    Raises:
        ValueError: A trial has an image twice without noise.
    """
    table = np.full((len(trials.names), len(images.names)), missing, dtype=np.int64)
    seen = count(trials.of_row[is_clean], images.of_row[is_clean], shape=table.shape)
    if seen.max(initial=0) > 1:
        raise ValueError("an image must stand once without noise for each trial, but one stands twice")
    table[trials.of_row[is_clean], images.of_row[is_clean]] = values[is_clean]
    return table[trials.of_row, images.of_row]
