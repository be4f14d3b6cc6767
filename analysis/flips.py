"""What noise changes: which classes and images flip (right when clean, wrong under noise), and into what.

Everything is counted over the rows of one configuration's trials. An image's cells are not independent, so shares of
classes have intervals over images: the share of each image's chances that flipped is one value.
"""
# pandas ships no stubs:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportReturnType=false

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats as sps

from analysis.rowcodes import CLEAN, Codes, clean_values, codes_of, count, kinds_of
from analysis.tables import Column, Table, interval_text

CLASS_COLUMNS = ("label", "flips", "flips_low", "flips_high", "n_images", "n_flips", "n_chances")
IMAGE_COLUMNS = ("image_id", "label", "flips", "n_flips", "n_chances")
CONFUSION_COLUMNS = ("kind", "label", "predicted", "n", "share")
FLIP_LEGEND = (
    "Flips: of the images that a network had right when clean, the share it has wrong under noise, in per cent, mean "
    "over images [95 % t interval over the class's images]."
)
IMAGE_LEGEND = (
    "Flips: of an image's chances, the cells under noise of networks that had it right when clean, the share in which "
    "it is wrong, in per cent."
)
MOST_IMAGES = 50
"""Images that a table of them has."""
CONFUSION_LEGEND = "Wrong answers under each kind of noise; the share is of all rows of the true class under that kind."


class _Rows(NamedTuple):
    """Rows of noisy cells whose image the same trial had right without noise, as codes."""

    images: Codes
    label_of_image: np.ndarray
    chance: np.ndarray
    flipped: np.ndarray


def _rows(predictions: pd.DataFrame) -> _Rows:
    corruptions = codes_of(predictions["corruption"])
    if CLEAN not in corruptions.names:
        raise ValueError("flips compare with clean images, but there is no row of corruption 'clean'")
    is_clean = corruptions.of_row == corruptions.names.index(CLEAN)
    trials, images = codes_of(predictions["trial"]), codes_of(predictions["image_id"])
    right = predictions["correct"].to_numpy(dtype=bool)
    chance = (clean_values(trials, images, is_clean, right.astype(np.int64)) == 1) & ~is_clean
    label_of_image = np.zeros(len(images.names), dtype=np.int64)
    label_of_image[images.of_row] = predictions["label"].to_numpy()
    return _Rows(images, label_of_image, chance, chance & ~right)


def image_flips(predictions: pd.DataFrame) -> pd.DataFrame:
    """How often each image flips, over trials and noisy cells: those that flip most first.

    Args:
        predictions: Rows with `trial`, `image_id`, `label`, `corruption`, `severity`, `correct`, clean ones among them.
            Rows of images that have no clean one (folders of real images) are left out.

    Returns:
        `IMAGE_COLUMNS`; an image that no trial had right when clean has no chance and is left out.

    Raises:
        ValueError: There is no clean row, or an image stands twice among a trial's clean ones.
    """
    rows = _rows(predictions)
    size = (len(rows.images.names),)
    chances, flips = (count(rows.images.of_row[mask], shape=size) for mask in (rows.chance, rows.flipped))
    kept = np.flatnonzero(chances)
    frame = pd.DataFrame(
        {"image_id": np.asarray(rows.images.names)[kept], "label": rows.label_of_image[kept],
         "flips": flips[kept] / chances[kept], "n_flips": flips[kept], "n_chances": chances[kept]}
    )  # fmt: skip
    return frame.sort_values(["flips", "n_chances", "image_id"], ascending=[False, False, True]).reset_index(drop=True)


def class_flips(predictions: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """How often the images of each class flip, in `CLASS_COLUMNS`: those that flip most first.

    The mean over images of their shares, with a t interval over images (for these trials); none for one image.
    """
    groups = image_flips(predictions).groupby("label")
    found = groups.agg(flips=("flips", "mean"), spread=("flips", "std"), n_images=("flips", "size"),
                       n_flips=("n_flips", "sum"), n_chances=("n_chances", "sum")).reset_index()  # fmt: skip
    number = found["n_images"].to_numpy(dtype=float)
    border = sps.t.ppf(0.5 + level / 2, np.maximum(number - 1, 1))
    half = np.where(number > 1, border * found["spread"].to_numpy() / np.sqrt(number), math.nan)
    found = found.assign(
        flips_low=np.maximum(found["flips"] - half, 0), flips_high=np.minimum(found["flips"] + half, 1)
    )
    order = found.sort_values(["flips", "label"], ascending=[False, True])
    return order[list(CLASS_COLUMNS)].reset_index(drop=True)


def confusions(predictions: pd.DataFrame, kinds: Mapping[str, str], *, top: int | None = None) -> pd.DataFrame:
    """What each class is taken for under each kind of noise, in `CONFUSION_COLUMNS`: the most frequent first.

    Args:
        predictions: Rows with `label`, `predicted`, `corruption`.
        kinds: Corruption -> group or family; `clean` rows are a kind of their own.
        top: At most so many for each kind.
    """
    corruptions = codes_of(predictions["corruption"])
    of_row, names = kinds_of(corruptions, kinds, with_clean=True)
    labels, answers = predictions["label"].to_numpy(dtype=np.int64), predictions["predicted"].to_numpy(dtype=np.int64)
    size = int(max(labels.max(initial=-1), answers.max(initial=-1))) + 1
    total = count(of_row, labels, answers, shape=(len(names), size, size)) if size else np.zeros((0, 0, 0), dtype=int)
    of_label = total.sum(axis=2)
    total[:, np.arange(size), np.arange(size)] = 0
    place, label, answer = np.nonzero(total)
    n = total[place, label, answer]
    frame = pd.DataFrame(
        {"kind": np.array(names, dtype=object)[place], "label": label, "predicted": answer, "n": n,
         "share": n / of_label[place, label], "_place": place}
    )  # fmt: skip
    frame = frame.sort_values(["_place", "n", "label", "predicted"], ascending=[True, False, True, True])
    frame = frame if top is None else frame.groupby("_place", sort=False).head(top)
    return frame[list(CONFUSION_COLUMNS)].reset_index(drop=True)


def _named(classes: Sequence[str] | None, label: int) -> str:
    return str(label) if classes is None or label >= len(classes) else classes[label]


def image_flip_table(
    predictions: pd.DataFrame, *, classes: Sequence[str] | None = None, top: int = MOST_IMAGES
) -> Table:
    """The images that flip most, at most `top`; those that never flip are left out."""
    every = image_flips(predictions)
    flipped = every[every["n_flips"] > 0].astype({"image_id": object})  # a row of numbers would make it a float
    columns = [
        Column("image", lambda row: str(row["image_id"]), is_number=False),
        Column("class", lambda row: _named(classes, int(row["label"])), is_number=False),
        Column("flips", interval_text("flips")),
        Column("times", lambda row: f"{row['n_flips']:.0f}"),
        Column("chances", lambda row: f"{row['n_chances']:.0f}"),
    ]
    more = f" The first {top} of {len(flipped):,} that flip." if len(flipped) > top else ""
    note = f"{IMAGE_LEGEND} Of {len(every):,} images with a chance {len(flipped):,} flip at least once.{more}"
    return Table("image_flips", flipped.head(top), columns, [note] if len(flipped) else [])


def flip_table(predictions: pd.DataFrame, *, classes: Sequence[str] | None = None, unit: str = "images") -> Table:
    """Classes by how often they flip.

    Args:
        predictions: As of `class_flips`.
        classes: Their names by number.
        unit: What a class has: "pairs" of images for a verification.
    """
    frame = class_flips(predictions)
    columns = [
        Column("class", lambda row: _named(classes, int(row["label"])), is_number=False),
        Column("flips", interval_text("flips")),
        Column(unit, lambda row: f"{row['n_images']:.0f}"),
        Column("chances", lambda row: f"{row['n_chances']:.0f}"),
    ]
    return Table("flips", frame, columns, [FLIP_LEGEND.replace("images", unit)] if len(frame) else [])


def confusion_table(
    predictions: pd.DataFrame, kinds: Mapping[str, str], *, classes: Sequence[str] | None = None, top: int | None = 10
) -> Table:
    """The most frequent wrong answers under each kind of noise; all of them with `top` None."""
    frame = confusions(predictions, kinds, top=top)
    columns = [
        Column("noise", lambda row: row["kind"], is_number=False),
        Column("class", lambda row: _named(classes, int(row["label"])), is_number=False),
        Column("taken for", lambda row: _named(classes, int(row["predicted"])), is_number=False),
        Column("times", lambda row: f"{row['n']:,}"),
        Column("of the class", lambda row: f"{row['share']:.1%}"),
    ]
    return Table("confusions", frame, columns, [CONFUSION_LEGEND] if len(frame) else [])
