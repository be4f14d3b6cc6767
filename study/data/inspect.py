"""What is in a data set: `murk data inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from study.data.image_set import DataSplits, ImageSet
from study.data.prepare import prepare_data

if TYPE_CHECKING:
    from study.config_data import DataConfig

FEW = 5
"""A class with fewer train images is pointed out."""

MAX_LINES = 40
MAX_PLACES = 20
NAME_WIDTH = 28
CAPTION_WIDTH = 150


def inspect_data(data: DataConfig, *, cache_dir: Path, sheet: Path | None = None) -> str:
    """Summary of a data section as text; unreadable images are listed, not refused.

    Args:
        data: The data section of a study.
        cache_dir: Folder for caches; what is decoded here is not decoded again by a study.
        sheet: PNG file to write a contact sheet of train images to.
    """
    splits = prepare_data(data.model_copy(update={"on_corrupt": "skip"}), cache_dir=cache_dir)
    text = summarise(splits)
    if sheet is None:
        return text
    contact_sheet(splits.train).save(sheet)
    return f"{text}\ncontact sheet: {sheet}"


def summarise(splits: DataSplits) -> str:
    """Counts by split and class, sizes before scaling, and everything that looks wrong."""
    return "\n".join([*_heading(splits), "", *_table(splits), *_findings(splits)])


def _heading(splits: DataSplits) -> list[str]:
    side = splits.train.images.shape[1]
    sizes = splits.source_sizes
    shorter = sizes.min(axis=1)
    low, middle, high = (sizes[np.argsort(shorter, kind="stable")[index]] for index in (0, len(sizes) // 2, -1))
    names, _ = _counts(splits)
    return [
        f"fingerprint   {splits.fingerprint}",
        f"images        {len(sizes)} in {len(names)} classes, working size {side} x {side}",
        *([_of_classes(splits)] if splits.unseen_classes else []),
        f"before        smallest {low[0]} x {low[1]}, median {middle[0]} x {middle[1]}, largest {high[0]} x {high[1]}; "
        f"{np.mean(shorter < side):.0%} were scaled up",
    ]


def _of_classes(splits: DataSplits) -> str:
    train, validation, test = (len(part.class_names) for part in splits.by_name().values())
    return f"classes       {train} in train, {validation} others in validation, {test} others in test"


def _counts(splits: DataSplits) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of all classes, and int64 (n, 3), the images of each in train, validation and test."""
    parts = splits.by_name().values()
    columns = [np.bincount(part.labels, minlength=len(part.class_names)) for part in parts]
    if not splits.unseen_classes:
        return splits.class_names, np.stack(columns, axis=1)
    counts = [np.outer(column, np.eye(3, dtype=np.int64)[number]) for number, column in enumerate(columns)]
    return tuple(name for part in parts for name in part.class_names), np.concatenate(counts)


def _table(splits: DataSplits) -> list[str]:
    names, counts = _counts(splits)
    lines = [f"{'class':<{NAME_WIDTH}} {'train':>8} {'validation':>10} {'test':>8}"]
    lines += [_line(name, row) for name, row in zip(names[:MAX_LINES], counts, strict=False)]
    if len(names) > MAX_LINES:
        lines.append(f"... and {len(names) - MAX_LINES} more classes")
    return [*lines, _line("all", counts.sum(axis=0))]


def _line(name: str, counts: np.ndarray) -> str:
    short = name if len(name) <= NAME_WIDTH else name[: NAME_WIDTH - 3] + "..."
    return f"{short:<{NAME_WIDTH}} {counts[0]:>8} {counts[1]:>10} {counts[2]:>8}"


def _findings(splits: DataSplits) -> list[str]:
    names, lines = splits.class_names, []
    counts = np.bincount(splits.train.labels, minlength=len(names))
    few = [f"{name} ({count})" for name, count in zip(names, counts, strict=True) if count < FEW]
    if few:
        lines.append(f"{len(few)} classes with fewer than {FEW} train images: {_some(few)}")
    names = splits.test.class_names
    untested = np.bincount(splits.test.labels, minlength=len(names)) == 0
    if untested.any():
        lines.append(
            f"{untested.sum()} classes without test images: {_some([names[i] for i in np.flatnonzero(untested)])}"
        )
    if splits.num_leaked:
        lines.append(f"{splits.num_leaked} test images stand, byte for byte, in train or validation too")
    if splits.skipped:
        lines.append(f"{len(splits.skipped)} images cannot be read:")
        lines += [f"  {place}: {reason}" for place, reason in splits.skipped[:MAX_PLACES]]
        if len(splits.skipped) > MAX_PLACES:
            lines.append(f"  ... and {len(splits.skipped) - MAX_PLACES} more")
    return ["", *(lines or ["nothing looks wrong"])]


def _some(items: list[str]) -> str:
    return ", ".join(items[:8]) + (f" and {len(items) - 8} more" if len(items) > 8 else "")


def contact_sheet(image_set: ImageSet, *, per_class: int = 10, max_classes: int = 24) -> Image.Image:
    """The first images of each class, one class in a row, with its name."""
    classes = np.unique(image_set.labels)[:max_classes].tolist()
    side = image_set.images.shape[1]
    sheet = Image.new("RGB", (CAPTION_WIDTH + per_class * side, len(classes) * side), "white")
    pen = ImageDraw.Draw(sheet)
    for row, label in enumerate(classes):
        pen.text((4, row * side + side // 2 - 6), image_set.class_names[label][:24], fill="black")
        for column, index in enumerate(np.flatnonzero(image_set.labels == label)[:per_class].tolist()):
            picture = Image.fromarray(np.asarray(image_set.images[index]))
            sheet.paste(picture, (CAPTION_WIDTH + column * side, row * side))
    return sheet
