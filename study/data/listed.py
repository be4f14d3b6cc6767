"""Images that a set's own files list: paths, labels, splits and boxes, checked before anything is decoded."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import NamedTuple

import numpy as np

from study.data.hashing import digest
from study.data.source import Box, Listing, Memo, Raw


class Entry(NamedTuple):
    """One image as its set lists it.

    Attributes:
        file: Path below the set's folder, with "/".
        label: Index into the class names.
        split: "train", "validation", "test", or "" where the set has none.
        said: Where it is listed, for error messages, such as "train.txt line 7".
        box: The part of the image to keep; None: all of it.
    """

    file: str
    label: int
    split: str
    said: str
    box: Box | None = None


class Table(NamedTuple):
    """All that a set lists, with the names of its classes in label order."""

    entries: list[Entry]
    class_names: tuple[str, ...]


class ListedSource:
    """The images of a table; rows are its entries, those that say the same as one before left out.

    Args:
        root: The folder that the entries' paths count from.
        refuse: Whether a listed image that is not there is an error; else it is read as an image without bytes.

    Raises:
        ValueError: The table is empty, a box holds nothing, a path leads out of the folder, an image stands in two
            splits or with two labels, or images are missing (always where all are).
    """

    def __init__(self, root: Path, table: Table, *, refuse: bool) -> None:
        self.root = root
        self._entries, self._class_names = _once(table.entries), table.class_names
        if not self._entries:
            raise ValueError(f"data.path must hold a set with images, but the lists below {str(root)!r} name none")
        self._stats = {file: _state(root / file) for file in dict.fromkeys(entry.file for entry in self._entries)}
        self._refuse_missing(refuse)
        for entry in self._entries:
            _refuse_empty(entry)

    def _refuse_missing(self, refuse: bool) -> None:
        missing = [entry for entry in self._entries if not self._stats[entry.file]]
        if not missing or (not refuse and len(missing) < len(self._entries)):
            return
        first = missing[0]
        way = "unpack the images there" if len(missing) == len(self._entries) else (
            "fetch them again, or set data.on_corrupt: skip to go without them"
        )  # fmt: skip
        raise ValueError(
            f"data.path must hold every image that its lists name, but {len(missing)} of {len(self._entries)} are "
            f"missing, the first {str(self.root / first.file)!r} ({first.said}); {way}"
        )

    def content_hash(self, memo: Memo) -> str:
        state = (f"{file}|{stat}" for file, stat in self._stats.items())
        content = memo(digest("listed", str(self.root), *state), self._hash_files)
        listed = (f"{entry.file}|{entry.label}|{entry.split}|{entry.box}" for entry in self._entries)
        return digest("listed", content, *self._class_names, *listed)

    def _hash_files(self) -> str:
        contents = (digest(self._bytes(file)) for file in self._stats)
        return digest("listed", *contents)

    def _bytes(self, file: str) -> bytes:
        return (self.root / file).read_bytes() if self._stats[file] else b""

    def listing(self) -> Listing:
        labels = np.array([entry.label for entry in self._entries], dtype=np.int64)
        return Listing(labels, np.array([entry.split for entry in self._entries]), self._class_names)

    def read(self, rows: np.ndarray, *, image_size: int) -> Iterator[Raw]:
        del image_size  # files hold what they hold
        for row in rows.tolist():
            entry = self._entries[row]
            yield Raw(row, self._bytes(entry.file), box=entry.box)

    def place(self, row: int) -> str:
        entry = self._entries[row]
        return entry.file if entry.box is None else f"{entry.file} box {','.join(map(str, entry.box))}"


def _state(path: Path) -> str:
    """Size and time of change; "" where there is no such file, or can be none of that name."""
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a zero byte in the name
        return ""
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return ""
    return f"{stat.st_size}|{stat.st_mtime_ns}" if S_ISREG(stat.st_mode) else ""


def _once(entries: Sequence[Entry]) -> list[Entry]:
    """Each image, or box of one, once: one that stood twice could fall into train and validation both."""
    first: dict[tuple[str, Box | None], Entry] = {}
    for entry in entries:
        _refuse_outside(entry)
        known = first.setdefault((entry.file, entry.box), entry)
        if (known.label, known.split) != (entry.label, entry.split):
            raise ValueError(
                f"data.path must hold lists that name an image in one split with one label, but {entry.file} stands "
                f"at {known.said} and, in another split or with another label, at {entry.said}; take one out"
            )
    return list(first.values())


def _refuse_outside(entry: Entry) -> None:
    path = PurePosixPath(entry.file)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"images must have paths below data.path, but {entry.said} has {entry.file!r}; correct it")


def _refuse_empty(entry: Entry) -> None:
    if entry.box is not None and (entry.box[2] <= entry.box[0] or entry.box[3] <= entry.box[1]):
        raise ValueError(
            f"data.path must hold boxes with a width and a height, but that of {entry.file} ({entry.said}) goes from "
            f"x {entry.box[0]} to {entry.box[2]} and y {entry.box[1]} to {entry.box[3]}; correct it there"
        )


def classes_of(labels: Sequence[str]) -> tuple[list[int], list[str]]:
    """Each label's class, and the classes' labels in order: numbers by value, before words."""
    order = sorted(set(labels), key=_by_number)
    index = {label: number for number, label in enumerate(order)}
    return [index[label] for label in labels], order


def _by_number(label: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in label.split("/")]


def distinct(names: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
    """The names, those that are empty or stand twice with their label behind them."""
    return tuple(
        name if name and names.count(name) == 1 else f"{name} ({label})".strip()
        for name, label in zip(names, labels, strict=True)
    )
