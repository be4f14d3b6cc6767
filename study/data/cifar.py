"""CIFAR-10 and CIFAR-100 as they are published, the binary or the Python version, or an .npz file of their arrays.

Source: Krizhevsky 2009, Learning multiple layers of features from tiny images, https://www.cs.toronto.edu/~kriz/cifar.html.
A binary file is records of one label byte (CIFAR-100: the coarse, then the fine label) and 3,072 bytes of pixels: the
red plane, the green and the blue, each of 32 rows. A row of the Python version's array is such planes too.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from study.data.cifar_pickle import read_batch
from study.data.pixels import PixelFile, PixelSource, checked_labels

SIDE = 32
PLANES = 3 * SIDE * SIDE
BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))

Labels = Literal["fine", "coarse"]


class _Form(NamedTuple):
    """How one version of a set lies on disk.

    Attributes:
        folder: What its archive unpacks to.
        train, test: Files of each split.
        classes: Which labels there are: "" is CIFAR-10, which has one kind.
        pickled: Whether it is the Python version.
    """

    folder: str
    train: tuple[str, ...]
    test: str
    classes: Literal[10, 100]
    pickled: bool


FORMS = (
    _Form("cifar-10-batches-bin", tuple(f"{name}.bin" for name in BATCHES), "test_batch.bin", 10, pickled=False),
    _Form("cifar-10-batches-py", BATCHES, "test_batch", 10, pickled=True),
    _Form("cifar-100-binary", ("train.bin",), "test.bin", 100, pickled=False),
    _Form("cifar-100-python", ("train",), "test", 100, pickled=True),
)
"""The binary version of a set stands before its Python version, and is taken where both are there."""


def open_cifar(path: str, *, labels: Labels | None) -> PixelSource:
    """The source of a folder with one of CIFAR's four archives unpacked, of such a folder's parent, or of an .npz file.

    Args:
        labels: Of CIFAR-100: its 100 fine classes (also where it is None) or its 20 coarse ones.

    Raises:
        ValueError: There is no such set, there are two, or a file of it does not read as it should.
    """
    place = Path(path).expanduser().resolve()
    if place.suffix == ".npz":
        _refuse_labels(labels, "an .npz file")
        return _open_npz(place)
    form, folder = _find(place)
    if form.classes == 10:
        _refuse_labels(labels, "CIFAR-10")
    kind: Labels = labels or "fine"
    for file in (*form.train, form.test):
        if not (folder / file).is_file():
            raise ValueError(f"data.path must hold all files of the set, but {str(folder)!r} has no {file}; add it")
    names = _class_names(form, folder, kind)
    read = partial(_read_pickled if form.pickled else _read_binary, kind=kind, classes=form.classes)
    files = [_file(folder / file, "train", read, len(names)) for file in form.train]
    return PixelSource([*files, _file(folder / form.test, "test", read, len(names))], names)


def _refuse_labels(labels: Labels | None, what: str) -> None:
    if labels is not None:
        raise ValueError(f"data.labels has no effect on {what}, which has one kind, but got {labels}; take it out")


def _find(place: Path) -> tuple[_Form, Path]:
    found: dict[int, tuple[_Form, Path]] = {}
    for form in FORMS:
        for folder in (place, place / form.folder):
            if (folder / form.train[0]).is_file():
                found.setdefault(form.classes, (form, folder))
    if not found:
        raise ValueError(
            f"data.path must be a folder with one of {', '.join(form.folder for form in FORMS)} in it, or an .npz "
            f"file, but {str(place)!r} is neither; unpack the set there, or correct the path"
        )
    if len(found) > 1:
        here = " and ".join(repr(str(folder)) for _, folder in found.values())
        raise ValueError(f"data.path must hold one set, but there are {here}; name one of these folders")
    return next(iter(found.values()))


def _file(path: Path, split: str, read: Callable[[Path], tuple[np.ndarray, np.ndarray]], num: int) -> PixelFile:
    def labels() -> np.ndarray:
        return checked_labels(read(path)[0], num, path.name)

    return PixelFile(path, split, labels, lambda: read(path)[1], path.name)


def _read_binary(path: Path, *, kind: Labels, classes: int) -> tuple[np.ndarray, np.ndarray]:
    num_labels = 1 if classes == 10 else 2
    content = np.fromfile(path, dtype=np.uint8)
    length = num_labels + PLANES
    if not len(content) or len(content) % length:
        raise ValueError(
            f"data.path must hold whole files, of {length} bytes for each image, but {str(path)!r} has {len(content)} "
            "bytes; fetch it again"
        )
    records = content.reshape(-1, length)
    return records[:, num_labels - 1 if kind == "fine" else 0].astype(np.int64), _images(records[:, num_labels:])


def _read_pickled(path: Path, *, kind: Labels, classes: int) -> tuple[np.ndarray, np.ndarray]:
    batch = read_batch(path)
    key = "labels" if classes == 10 else f"{kind}_labels"
    data, labels = batch.get("data"), batch.get(key)
    fits = isinstance(data, np.ndarray) and data.ndim == 2 and data.shape[1] == PLANES and len(data)
    if not fits or not isinstance(labels, list) or len(labels) != len(data):  # pyright: ignore[reportArgumentType]
        raise ValueError(
            f"data.path must hold batches with 'data' of {PLANES} bytes an image and a label in {key!r} for each, but "
            f"{str(path)!r} has not; fetch it again"
        )
    if not all(isinstance(label, int) for label in labels):
        raise ValueError(f"data.path must hold whole numbers as labels, but {str(path)!r} has others; fetch it again")
    assert isinstance(data, np.ndarray)
    return np.array([min(max(label, -1), classes) for label in labels]), _images(data)


def _images(planes: np.ndarray) -> np.ndarray:
    """uint8 (n, 32, 32, 3), a view, of the colour planes (n, 3072)."""
    return planes.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)


def _class_names(form: _Form, folder: Path, kind: Labels) -> tuple[str, ...]:
    count = 10 if form.classes == 10 else 100 if kind == "fine" else 20
    if form.pickled:
        file, key = ("batches.meta", "label_names") if form.classes == 10 else ("meta", f"{kind}_label_names")
    else:
        file, key = ("batches.meta.txt" if form.classes == 10 else f"{kind}_label_names.txt"), ""
    path = folder / file
    if not path.is_file():
        raise ValueError(f"data.path must hold the names of the classes, but there is no {str(path)!r}; put it there")
    if form.pickled:
        given = read_batch(path).get(key)
        names = [_text(name) for name in given] if isinstance(given, list) else []
    else:
        names = [line.strip() for line in path.read_text(encoding="latin1").splitlines() if line.strip()]
    if len(names) != count or len(set(names)) != count:
        raise ValueError(
            f"data.path must hold {count} names of classes in {str(path)!r}, each once, but it has {len(set(names))}; "
            "fetch it again"
        )
    return tuple(names)


def _text(name: Any) -> str:
    return name.decode("latin1") if isinstance(name, bytes) else str(name)


# ----------------------------------------------------------------------------------------------------------------- npz
def _open_npz(path: Path) -> PixelSource:
    arrays = _read_npz(path, ("y_train", "y_test", "classes"), required=("y_train", "y_test", "x_train", "x_test"))
    given = [np.asarray(arrays[f"y_{split}"]) for split in ("train", "test")]
    if "classes" in arrays:
        names = tuple(str(name) for name in np.asarray(arrays["classes"]).reshape(-1))
    else:
        numbers = [int(label.max()) for label in given if label.size and label.dtype.kind in "iu"]
        names = tuple(str(number) for number in range(max(numbers, default=-1) + 1))
    files = []
    for split, found in zip(("train", "test"), given, strict=True):
        labels = checked_labels(found, len(names), f"y_{split} of {path.name}")
        images = partial(_npz_images, path, split, len(labels))
        files.append(PixelFile(path, split, lambda labels=labels: labels, images, f"{path.name} x_{split}"))
    return PixelSource(files, names)


def _npz_images(path: Path, split: str, count: int) -> np.ndarray:
    images = _read_npz(path, (f"x_{split}",), required=())[f"x_{split}"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or len(images) != count:
        raise ValueError(
            f"data.path must hold x_{split} as uint8 of {count} x height x width x 3, an image for each label, but "
            f"{path.name} has {images.dtype} of {' x '.join(map(str, images.shape))}; write it anew"
        )
    return images


def _read_npz(path: Path, names: tuple[str, ...], *, required: tuple[str, ...]) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ValueError(f"data.path must be an .npz file or a folder, but there is no {str(path)!r}; correct the path")
    try:
        with np.load(path, allow_pickle=False) as file:
            lacking = [name for name in required if name not in file.files]
            if not lacking:
                return {name: file[name] for name in names if name in file.files}
            found = ", ".join(file.files) or "none"
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, KeyError, OverflowError, MemoryError,
            RuntimeError, SyntaxError) as error:  # fmt: skip
        raise ValueError(
            f"data.path must be an .npz file of plain arrays, but {str(path)!r} cannot be read as one "
            f"({type(error).__name__}); write it anew with numpy.savez"
        ) from None
    raise ValueError(f"data.path: {path.name} must have the array {lacking[0]!r}, but has {found}; write it anew")
