"""Street View House Numbers, the cropped digits, as they are published.

Source: Netzer et al. 2011, Reading digits in natural images with unsupervised feature learning, "Format 2". Each file
has X, uint8 (32, 32, 3, n), and y, (n, 1) from 1 to 10, where 10 is the digit 0.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from study.data.matfile import read_variable
from study.data.pixels import PixelFile, PixelSource, checked_labels

FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}
EXTRA = "extra_32x32.mat"
ZERO = 10
"""The label of the digit 0."""


def open_svhn(path: str, *, extra: bool) -> PixelSource:
    """The source of a folder with SVHN's files.

    Args:
        extra: Whether extra_32x32.mat, 531,131 easier images, is trained on too.

    Raises:
        ValueError: A file is not there or does not read as it should.
    """
    root = Path(path).expanduser().resolve()
    wanted = [*FILES.items(), *([("train", EXTRA)] if extra else [])]
    for _, name in wanted:
        if not (root / name).is_file():
            raise ValueError(
                f"data.path must be the folder of SVHN, with {' and '.join(file for _, file in wanted)} in it, but "
                f"{str(root)!r} has no {name}; put it there, or correct the path"
            )
    files = [
        PixelFile(root / name, split, partial(_labels, root / name), partial(_images, root / name), name)
        for split, name in wanted
    ]
    return PixelSource(files, [str(digit) for digit in range(10)])


def _labels(path: Path) -> np.ndarray:
    given = read_variable(path, "y")
    if given.dtype.kind not in "iuf" or not np.isin(given, range(1, ZERO + 1)).all():
        raise ValueError(
            f"data.path must hold labels from 1 to {ZERO} ({ZERO} is the digit 0), but y in {str(path)!r} has others; "
            "fetch it again"
        )
    return checked_labels(given.reshape(-1).astype(np.int64) % ZERO, 10, path.name)


def _images(path: Path) -> np.ndarray:
    """uint8 (n, 32, 32, 3), a view of the file's array."""
    images, count = read_variable(path, "X"), len(_labels(path))
    if images.dtype != np.uint8 or images.shape != (32, 32, 3, count):
        raise ValueError(
            f"data.path must hold X as uint8 of 32 x 32 x 3 x {count}, an image for each label, but {str(path)!r} has "
            f"{images.dtype} of {' x '.join(map(str, images.shape))}; fetch it again"
        )
    return images.transpose(3, 0, 1, 2)
