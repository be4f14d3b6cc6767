"""What an accuracy grid says: means, worst corruption, mean corruption error. Pure functions of the contract's rows.

All of them take the rows of ONE split; `main_rows` picks them, with the re-estimated BatchNorm statistics where a trial
has both; statistics adapted to the test images are never among them unless asked for. Every mean over noise is over
corruption x severity cells, each cell counting the same; folders of real noisy images hold other images and are in none
of these means.
Source: Hendrycks & Dietterich 2019, arXiv 1903.12261, section 4 (mCE, relative mCE); normalised by a baseline of the
same study, and for ImageNet at 224 px by AlexNet's published errors where the study file asks for it.
"""
# pandas ships no stubs, and pyright takes an indexed frame for any of four types:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import pandas as pd

from analysis.labels import flatten
from analysis.records import ADAPTED, REAL, TrialRecord, config_id

Split = Literal["train", "validation", "test"]

ALEXNET_CLEAN_ERROR = 0.435
ALEXNET_ERRORS: dict[str, float] = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""AlexNet's top-1 error on each corruption of ImageNet-C, the mean over severities 1 to 5, and on clean ImageNet.

Source: the normaliser published with ImageNet-C (Hendrycks & Dietterich 2019, arXiv 1903.12261, and its repository
hendrycks/robustness, ImageNet-C/test.py). Measured on the ImageNet-C files, which our suite only resembles.
"""
ALEXNET_IMAGE_SIZE, ALEXNET_CLASSES, ALEXNET_SEVERITIES = 224, 1000, (1, 2, 3, 4, 5)
"""What a study must have for that normaliser to mean something."""

MEASURES = ("ece/clean", "ece/noise", "flips/noise")
"""Calibration error on clean images and its mean over noisy cells, and the mean share of flipped predictions."""


class CorruptionError(NamedTuple):
    """A mean corruption error.

    Attributes:
        value: the mean over corruptions; missing (NaN) where no corruption has a usable denominator.
        by_corruption: the ratio of each corruption; NaN where its denominator is 0 or less.
        notes: which corruptions are missing, and why.
    """

    value: float
    by_corruption: dict[str, float]
    notes: list[str]


def main_rows(frame: pd.DataFrame, *, split: Split, adapted: bool = False) -> pd.DataFrame:
    """Rows of a split, one for each trial and cell: re-estimated BatchNorm statistics win over trained ones.

    Args:
        adapted: the rows with statistics adapted to the test images and no others; else all but those.
    """
    rows = frame[(frame["split"] == split) & (frame["bn"].fillna("").eq(ADAPTED) == adapted)]
    first = rows["bn"].fillna("").ne("reestimated").astype(int)
    order = rows.assign(_order=first).sort_values("_order", kind="stable").index
    kept = rows.loc[order].drop_duplicates(["trial", "corruption", "severity"])
    return rows.loc[rows.index.isin(kept.index)]


def own_images(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows on the study's own images, clean and under noise: those that pair with each other."""
    return rows[rows["group"] != REAL]


def trial_metrics(rows: pd.DataFrame) -> dict[str, float]:
    """Headline metrics of one trial's rows (see `main_rows`).

    Returns:
        `acc/clean`, `acc/noise`, `acc/worst_family`, `error/mean` (unnormalised mean error, 1 - acc/noise),
        `acc/group/<group>`, `acc/family/<family>`, `acc/relation/<seen|similar|unseen>`, `ece/clean`, `ece/noise`,
        `flips/noise`, and `acc/real/<name>` of each folder of real images; what has no cell or no value is left out.
    """
    if rows["trial"].nunique() > 1:
        raise ValueError(f"rows must be those of one trial, but are of {sorted(rows['trial'].unique())}")
    real, rows = rows[rows["group"] == REAL], own_images(rows)
    clean, noisy = rows[rows["corruption"] == "clean"], rows[rows["corruption"] != "clean"]
    found: dict[str, float] = {}
    if len(clean):
        found["acc/clean"] = float(clean["accuracy"].mean())
    if len(noisy):
        found["acc/noise"] = float(noisy["accuracy"].mean())
        found["acc/worst_family"] = worst_family(noisy)[1]
        found["error/mean"] = 1.0 - found["acc/noise"]
    for column in ("group", "family", "relation"):
        means = noisy.groupby(column)["accuracy"].mean() if column in noisy else pd.Series(dtype=float)
        found |= {f"acc/{column}/{name}": float(value) for name, value in means.items()}
    for name, part in zip(MEASURES, (clean, noisy, noisy), strict=True):
        column = name.partition("/")[0]
        value = float(part[column].mean()) if column in part else float("nan")
        found |= {name: value} if value == value else {}
    by_name = real.groupby("corruption")["accuracy"].mean()
    return found | {f"acc/real/{name}": float(value) for name, value in by_name.items()}


def headline(cells: pd.DataFrame | Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What a trial reports of its cells: `acc/clean`, `acc/noise`, `acc/worst_family`, `ece/clean`, `ece/noise`,
    `flips/noise`, and `acc/real/<name>` where there are real images.
    """
    rows = pd.DataFrame(cells)
    rows = rows.assign(trial="", relation="", **({} if "group" in rows else {"group": ""}))
    wanted = ("acc/clean", "acc/noise", "acc/worst_family", *MEASURES)
    return {k: v for k, v in trial_metrics(rows).items() if k in wanted or k.startswith("acc/real/")}


def as_test(metrics: Mapping[str, float]) -> dict[str, float]:
    """Headline metrics of the test split under names of their own: `test/noise`, `test/ece/noise`, `test/real/<name>`.

    So nothing that chooses by `acc/noise` can ever read a test figure.
    """
    return {f"test/{name.removeprefix('acc/')}": value for name, value in metrics.items()}


def worst_family(rows: pd.DataFrame) -> tuple[str, float]:
    """The corruption with the lowest accuracy, averaged over its severities (and over trials); ties by name.

    "Family" is the name of a corruption with its severities in the metric's first records (`acc/worst_family`) and is
    kept in names; the column `family` is another thing, the suite that a corruption is of.

    Raises:
        ValueError: there is no noisy row.
    """
    means = by_corruption(own_images(rows))
    means = means[means.index != "clean"]
    if means.empty:
        raise ValueError("worst_family needs rows of at least one corruption, but got clean rows only")
    low = float(means.min())
    return str(sorted(means.index[means == low])[0]), low


def by_corruption(rows: pd.DataFrame) -> pd.Series:
    """Accuracy of each corruption (clean and folders of real images among them), over severities and trials."""
    return rows.groupby("corruption")["accuracy"].mean()


def mean_corruption_error(
    rows: pd.DataFrame, baseline_rows: pd.DataFrame, *, relative: bool = False
) -> CorruptionError:
    r"""Mean corruption error of a configuration against a baseline of the same study.

    .. math:: mCE = mean_c \frac{\sum_s E_{c,s}}{\sum_s E^{base}_{c,s}}, \qquad
        relative: mean_c \frac{\sum_s (E_{c,s} - E_{clean})}{\sum_s (E^{base}_{c,s} - E^{base}_{clean})}

    Args:
        rows: rows of one configuration (all its seeds) on one split.
        baseline_rows: rows of the baseline, same split, same cells.
        relative: measure the loss against clean instead of the error.

    Returns:
        1 is as the baseline, below 1 is better.

    Raises:
        ValueError: the two do not have the same cells.
    """
    own, base = _cell_errors(rows), _cell_errors(baseline_rows)
    if set(own.index) != set(base.index):
        differ = sorted(set(own.index) ^ set(base.index))
        raise ValueError(
            f"mCE needs the same corruption x severity cells on both sides, but these differ: {differ[:5]}"
        )
    own_clean, base_clean = own.get(("clean", 0), float("nan")), base.get(("clean", 0), float("nan"))
    ratios: dict[str, float] = {}
    notes: list[str] = []
    for corruption in sorted({name for name, _ in own.index if name != "clean"}):
        top, bottom = own.loc[corruption], base.loc[corruption]
        if relative:
            top, bottom = top - own_clean, bottom - base_clean
        total = float(bottom.sum())
        ratios[corruption] = float(top.sum()) / total if total > 0 else float("nan")
        if not total > 0:
            what = "loss against clean" if relative else "error"
            notes.append(f"{corruption}: the baseline's {what} is {total:.3g}, so its ratio is missing")
    return CorruptionError(_mean(ratios), ratios, notes)


def alexnet_corruption_error(rows: pd.DataFrame, *, relative: bool = False) -> CorruptionError:
    """Mean corruption error as `mean_corruption_error`, with AlexNet's published errors below the line.

    It is not the official ImageNet-C figure: the errors above the line are on this study's images under the suite
    `imagecorruptions`, those below it on the ImageNet-C files. Corruptions without a published error are left out.

    Args:
        rows: rows of one configuration on one split, ImageNet's 1,000 classes at 224 px, severities 1 to 5.
        relative: measure the loss against clean instead of the error.

    Raises:
        ValueError: a corruption with a published error has other severities than 1 to 5.
    """
    own = _cell_errors(rows)
    own_clean = float(own.get(("clean", 0), float("nan")))
    ratios: dict[str, float] = {}
    for corruption in sorted(set(own.index.get_level_values("corruption")) & set(ALEXNET_ERRORS)):
        levels = tuple(int(level) for level in own.loc[corruption].index)
        if levels != ALEXNET_SEVERITIES:
            raise ValueError(
                f"AlexNet's errors are means over severities 1 to 5, but {corruption} has {list(levels)}; "
                "test all five severities, or set report.normaliser: baseline"
            )
        top, bottom = float(own.loc[corruption].mean()), ALEXNET_ERRORS[corruption]
        ratios[corruption] = (top - own_clean) / (bottom - ALEXNET_CLEAN_ERROR) if relative else top / bottom
    others = sorted({name for name, _ in own.index if name != "clean"} - set(ratios))
    notes = [f"not in the mean, without a published error: {', '.join(others)}"] if others else []
    return CorruptionError(_mean(ratios), ratios, notes)


def _mean(ratios: Mapping[str, float]) -> float:
    usable = [value for value in ratios.values() if value == value]
    return sum(usable) / len(usable) if usable else float("nan")


def _cell_errors(rows: pd.DataFrame) -> pd.Series:
    return 1.0 - own_images(rows).groupby(["corruption", "severity"])["accuracy"].mean()


def find_baseline(records: list[TrialRecord], baseline: Mapping[str, Any] | str, *, phase: str | None = None) -> str:
    """The config id of the named baseline among the trials (of a phase); the lowest-numbered match.

    Args:
        records: trials of the study.
        baseline: a trial's key, or dotted keys and values, such as {"method.name": "plain"}.
        phase: look in this phase only.

    Raises:
        LookupError: no trial matches.
    """
    pool = [r for r in records if phase is None or r.info["phase"] == phase]
    for record in sorted(pool, key=lambda r: (r.info.get("number", 0), r.key)):
        flat = flatten(record.info["config"])
        if record.key == baseline:
            return config_id(record.info["config"])
        if isinstance(baseline, Mapping) and all(flat.get(key) == value for key, value in baseline.items()):
            return config_id(record.info["config"])
    where = f" in phase {phase!r}" if phase else ""
    raise LookupError(f"no trial{where} matches the baseline {baseline!r}; set report.baseline to keys of one that ran")
