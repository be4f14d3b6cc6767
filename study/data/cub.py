"""Caltech-UCSD Birds 200-2011 in its official layout: lists, boxes and split.

Source: Wah et al. 2011, The Caltech-UCSD Birds-200-2011 dataset, CNS-TR-2011-001; the archive's README. Every list
starts its lines with the number of an image. A box is `x y width height` in pixels; that x and y count from 0 is taken
from public loaders, which cut at them as they stand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from study.data.listed import Entry, ListedSource, Table, distinct
from study.data.source import Box

HOME = "CUB_200_2011"


def open_cub(path: str, *, crop_to_box: bool, refuse: bool) -> ListedSource:
    """The source of CUB_200_2011 or of a folder that holds it.

    Args:
        crop_to_box: Cut each image to its annotated box.
        refuse: Whether a listed image that is not there is an error.

    Raises:
        ValueError: A file of the layout is not there or does not read as it should, or images are missing.
    """
    root = Path(path).expanduser().resolve()
    home = root / HOME if (root / HOME).is_dir() else root
    return ListedSource(home, read_lists(home, boxes=crop_to_box), refuse=refuse)


def read_lists(home: Path, *, boxes: bool) -> Table:
    """What the lists say, without a look at the images; labels count from 1 in the files and from 0 here.

    Raises:
        ValueError: A file of the layout is not there or does not read as it should.
    """
    classes = {number: name for number, (name,) in _columns(home, "classes.txt", 1).items()}
    order = {number: label for label, number in enumerate(sorted(classes))}
    labels, splits = (_columns(home, file, 1) for file in ("image_class_labels.txt", "train_test_split.txt"))
    corners = _columns(home, "bounding_boxes.txt", 4) if boxes else {}
    entries = []
    for number, (file,) in _columns(home, "images.txt", 1).items():
        said = f"image {number} of images.txt"
        label = _of(labels, number, "image_class_labels.txt", said)[0]
        if not label.isdecimal() or int(label) not in order:
            raise ValueError(
                f"data.path must hold labels that classes.txt names, but image_class_labels.txt gives {said} the label "
                f"{label!r}; fetch the lists again"
            )
        train = _of(splits, number, "train_test_split.txt", said)[0]
        if train not in ("0", "1"):
            raise ValueError(
                f"data.path must hold a train_test_split.txt of 0 and 1, but {said} has {train!r} there; fetch it again"
            )
        box = _box(_of(corners, number, "bounding_boxes.txt", said), said) if boxes else None
        entries.append(Entry(f"images/{file}", order[int(label)], "train" if train == "1" else "test", said, box))
    return Table(entries, distinct([_plain(classes[n]) for n in sorted(classes)], [str(n) for n in sorted(classes)]))


def _plain(name: str) -> str:
    """`001.Black_footed_Albatross` as people write it."""
    return name.partition(".")[2].replace("_", " ") or name


def _columns(home: Path, name: str, count: int) -> dict[int, list[str]]:
    """Number at the start of each line -> the columns behind it."""
    found: dict[int, list[str]] = {}
    for line, fields in _fields(home, name):
        if len(fields) != 1 + count or not fields[0].isdecimal():
            raise ValueError(
                f"data.path must hold a {name} whose lines are a whole number and {count} more, but line {line} is "
                f"{' '.join(fields)!r}; fetch it again"
            )
        if int(fields[0]) in found:
            raise ValueError(
                f"data.path must hold a {name} with each number once, but line {line} has {fields[0]} again; fetch it"
            )
        found[int(fields[0])] = fields[1:]
    return found


def _fields(home: Path, name: str) -> Iterator[tuple[int, list[str]]]:
    path = home / name
    if not path.is_file():
        raise ValueError(
            f"data.path must be the folder of CUB-200-2011, with {HOME} or its lists and images in it, but there is no "
            f"{str(path)!r}; put it there, or correct the path"
        )
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"data.path must hold text in UTF-8, but {str(path)!r} is not (byte {error.start})") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, line.split()


def _of(table: dict[int, list[str]], number: int, name: str, said: str) -> list[str]:
    if number not in table:
        raise ValueError(
            f"data.path must hold a {name} with a line for each image, but {said} has none; fetch it again"
        )
    return table[number]


def _box(corners: list[str], said: str) -> Box:
    try:
        x, y, width, height = (float(corner) for corner in corners)
    except ValueError:
        x = y = width = height = math.nan
    if not all(map(math.isfinite, (x, y, width, height))):
        raise ValueError(
            f"data.crop_to_box needs four numbers in bounding_boxes.txt, but {said} has {' '.join(corners)!r}; correct "
            "it there, or leave crop_to_box out"
        )
    return math.floor(x), math.floor(y), math.ceil(x + width), math.ceil(y + height)
