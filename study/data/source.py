"""What an image source is, and the names that splits go by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

Memo = Callable[[str, Callable[[], str]], str]
"""memo(key, compute): the remembered value of `compute` under `key`, computed on the first call only."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels from 0; right and bottom are the first column and row that are not in it."""

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


class Raw(NamedTuple):
    """One image as the source holds it.

    Attributes:
        row: Its row in the source.
        content: The encoded bytes, empty where there are none; of a drawn image, its name; else the pixels' bytes.
        pixels: uint8 (height, width, 3), RGB, where the source has no encoded images, else None: `content` is to be
            decoded.
        box: The part of the decoded image to keep, before it is turned as its EXIF data say; None: all of it.
    """

    row: int
    content: bytes
    pixels: np.ndarray | None = None
    box: Box | None = None

    def identity(self) -> bytes:
        """What its id is hashed from: two parts of one photograph are two images."""
        return self.content if self.box is None else self.content + repr(self.box).encode()


class Listing(NamedTuple):
    """Everything about a source's images that needs no decoding, one entry for each row.

    Attributes:
        labels: int64 (n,), the index into class_names.
        official: Split of each row as the source has it: "train", "validation", "test", or "" where it names none.
        class_names: Names in label order.
    """

    labels: np.ndarray
    official: np.ndarray
    class_names: tuple[str, ...]


class Source(Protocol):
    """A place that images come from."""

    def content_hash(self, memo: Memo) -> str:
        """Hash of everything that the images are made from; holds no path of the machine."""
        ...

    def listing(self) -> Listing:
        """Labels, splits and class names."""
        ...

    def read(self, rows: np.ndarray, *, image_size: int) -> Iterator[Raw]:
        """The images of the sorted rows, in order."""
        ...

    def place(self, row: int) -> str:
        """How a person finds the row: a path, or a file and a row number."""
        ...
