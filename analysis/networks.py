"""One trained network against another on the same images: Wilson's intervals, McNemar's test, the paired difference.

All of it speaks of these two networks, never of the methods that trained them: a second seed of one method may well
differ as much. Cells of several noises hold the same images, so a mean over cells is paired by image (clustered), and
McNemar is for one cell alone.
"""
# pandas ships no stubs, and pyright takes an indexed frame for any of four types:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy import stats as sps

from analysis.scores import CLEAN, NOISE
from analysis.stats import Interval, crossed_difference, holm, mcnemar, p_value, wilson
from analysis.tables import Column, Table, bounds, interval_text
from analysis.wording import wording

CELL = ["corruption", "severity"]
_UNSURE = "not distinguishable among so many cells (these networks only)"
NETWORK_LEGEND = (
    "Two trained networks on the same images, in per cent [95 % interval by Wilson]. Only first: images that the first "
    "alone got right. Intervals are for each cell by itself: of many cells some leave out what is true. p: McNemar's "
    "test, by Holm over the cells; the mean is over the noise made on the clean images and paired by image. It says "
    "nothing of the methods: another seed of the same method may differ as much."
)


def network_rows(first: pd.DataFrame, second: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """Two networks, cell by cell, then their means over all noisy cells.

    Args:
        first: Rows of one trial's predictions: `image_id`, `corruption`, `severity`, `correct`.
        second: The other trial's.

    Returns:
        One row for each cell, in the order of the first, and a last one `noise_mean` over the noisy cells of images
        that have a clean row (none without such): `corruption`, `severity`, `n`,
        `first` and `second` with `_low` and `_high` (Wilson; of the mean none), `only_first`, `only_second`, `p`
        (McNemar; of the mean the paired t test over images), `p_holm` over the cells, and `difference` with its bounds.

    Raises:
        ValueError: An image stands twice in a cell, or the two do not have the same images in every cell.
    """
    both = _paired(first, second)
    keys = both.groupby(CELL, sort=False, observed=True)
    both["first_alone"] = both["correct"] & ~both["other"]
    both["second_alone"] = both["other"] & ~both["correct"]
    counts = keys[["correct", "other", "first_alone", "second_alone"]].sum()
    counts["n"] = keys.size()
    rows = [_cell_row(name, row, level) for name, row in counts.iterrows()]
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = adjusted
        if adjusted >= 1 - level and not row["reading"].startswith("not distinguishable"):
            row["reading"] = _UNSURE
    noisy = _noise_of_the_study(both)
    return pd.DataFrame(rows + ([_mean_row(noisy, level)] if len(noisy) else []))


def _noise_of_the_study(both: pd.DataFrame) -> pd.DataFrame:
    """Rows of images that have a clean row, with a severity: without the folders of real images, each its own."""
    clean = both.loc[both["corruption"] == CLEAN, "image_id"]
    wanted = (both["corruption"] != CLEAN) & (both["severity"] > 0) & both["image_id"].isin(clean)
    return pd.DataFrame(both.loc[wanted])


def network_table(first: pd.DataFrame, second: pd.DataFrame, *, names: tuple[str, str] = ("first", "second")) -> Table:
    """The same as a table for people."""
    frame = network_rows(first, second)
    columns = [
        Column("noise", lambda row: str(row["corruption"]).replace(NOISE, "mean noise"), is_number=False),
        Column("severity", lambda row: "–" if math.isnan(row["severity"]) else f"{row['severity']:.0f}"),
        Column("images", lambda row: f"{row['n']:.0f}"),
        Column(names[0], interval_text("first")),
        Column(names[1], interval_text("second")),
        Column(f"only {names[0]}", lambda row: _whole(row["only_first"])),
        Column(f"only {names[1]}", lambda row: _whole(row["only_second"])),
        Column("difference in points", interval_text("difference")),
        Column("p (Holm)", lambda row: "< 0.001" if float(row["p_holm"]) < 0.001 else f"{row['p_holm']:.3f}"),
        Column("reading", lambda row: row["reading"], is_number=False),
    ]
    return Table("networks", frame, columns, [NETWORK_LEGEND])


def _whole(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0f}"


def _paired(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    keys = [*CELL, "image_id"]
    for name, rows in (("first", first), ("second", second)):
        if rows.duplicated(keys).any():
            raise ValueError(f"an image must stand once in a cell, but one of the {name} network's stands twice; give "
                             "the rows of one trial")  # fmt: skip
    other = second[[*keys, "correct"]].rename(columns={"correct": "other"})
    both = first[[*keys, "correct"]].merge(other, on=keys, how="inner", validate="one_to_one")
    if len(both) != len(first) or len(both) != len(second):
        raise ValueError(
            f"both networks must have the same images in every cell, but of {len(first)} and {len(second)} rows "
            f"{len(both)} are common; compare trials of one study"
        )
    return both.astype({"correct": bool, "other": bool})


def _cell_row(name: tuple[str, int], row: pd.Series, level: float) -> dict:
    total, alone = int(row["n"]), (int(row["first_alone"]), int(row["second_alone"]))
    p = mcnemar(*alone)
    gap = difference_of_counts(*alone, total, level=level)
    found: dict = {"corruption": name[0], "severity": int(name[1]), "n": total}
    found |= bounds("first", wilson(int(row["correct"]), total, level=level))
    found |= bounds("second", wilson(int(row["other"]), total, level=level))
    found |= {"only_first": alone[0], "only_second": alone[1], "p": p, "p_holm": math.nan}
    return found | bounds("difference", gap) | {"reading": wording(gap).text}


def _mean_row(noisy: pd.DataFrame, level: float) -> dict:
    means = noisy.groupby("image_id")[["correct", "other"]].mean()
    first_I, other_I = means["correct"].to_numpy(), means["other"].to_numpy()
    gap = crossed_difference(first_I[None], other_I[None], level=level)
    p = p_value(gap)
    found: dict = {"corruption": NOISE, "severity": math.nan, "n": len(means)}
    found |= {"first": float(np.mean(first_I)), "second": float(np.mean(other_I))}
    found |= {"only_first": math.nan, "only_second": math.nan, "p": p, "p_holm": p}
    return found | bounds("difference", gap) | {"reading": wording(gap).text}


def difference_of_counts(only_first: int, only_second: int, n: int, *, level: float = 0.95) -> Interval:
    r"""The difference of two paired shares from the discordant pairs, with a score-like interval that is never empty.

    .. math:: \hat d = \frac{b - c}{n + 2} \pm z \sqrt{\frac{(b + c + 1) - (b - c)^2 / (n + 2)}{(n + 2)^2}}

    with half a pair added to each of the four kinds; the estimate shown is (b - c) / n.
    Source: Agresti & Min 2005, Statistics in Medicine 24, 729-740 (adjusted Wald interval of matched pairs).

    Args:
        only_first: b, images that only the first got right.
        only_second: c.
        n: All images, 1 or more.
    """
    if min(only_first, only_second) < 0 or only_first + only_second > n or n < 1:
        raise ValueError(
            f"discordant pairs must be 0 or more and at most n >= 1, but got {only_first}, {only_second} of {n}"
        )
    total, gap = n + 2, only_first - only_second
    centre = gap / total
    se = math.sqrt((only_first + only_second + 1) - gap**2 / total) / total
    half = float(sps.norm.ppf(0.5 + level / 2)) * se
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    return Interval(gap / n, low, high, se, float("inf"), n, 1, "networks")
