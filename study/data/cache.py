"""Decoded images in plain .npy files, written once and memory-mapped ever after.

A cache is a folder named by the data fingerprint. It is written beside its place and renamed when whole, so a folder
of that name is complete whatever was killed when; a lock file keeps two processes from doing the work twice, and
where locks do nothing (some network file systems) the first rename wins and the other's work is thrown away.
Nothing is pickled.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import numpy as np

from study.data.decode import decode_all
from study.data.hashing import image_id
from study.data.image_set import SPLITS, DataSplits, ImageSet, Split
from study.data.source import Source

FORMAT = 1
"""Raised when the same settings give other pixels or files; part of the fingerprint."""

DAMAGED = (OSError, ValueError, EOFError, LookupError, TypeError, AttributeError, OverflowError, MemoryError,
           SyntaxError)  # fmt: skip
"""What reading a cache raises whose files were cut off or changed by hand."""

STALE_S = 24 * 3600.0


@dataclass(frozen=True)
class Plan:
    """What a cache is to hold.

    Attributes:
        rows: Sorted rows of the source for each split.
        labels: int64, one for each row of the source, as its split numbers the classes.
        class_names: Names in label order.
        image_size: Side of the square images.
        own_names: Names of a split whose classes are others, in its label order.
    """

    rows: dict[str, np.ndarray]
    labels: np.ndarray
    class_names: tuple[str, ...]
    image_size: int
    own_names: Mapping[Split, tuple[str, ...]] = field(default_factory=dict)


def memo_in(folder: Path) -> Callable[[str, Callable[[], str]], str]:
    """A memo that keeps each short text in a file of the folder."""

    def memo(key: str, compute: Callable[[], str]) -> str:
        path = folder / key
        if path.is_file():
            return path.read_text()
        value = compute()
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{key}-{uuid4().hex}"
        temporary.write_text(value)
        temporary.replace(path)
        return value

    return memo


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file; the kernel lets go of it when the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_cache(folder: Path, *, source: Source, plan: Plan, refuse: bool) -> None:
    """Decodes the images of all splits in one pass and puts the cache in place.

    Raises:
        ValueError: `refuse` is set and an image cannot be read.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    temporary = folder.parent / f".{folder.name}-{uuid4().hex}"
    temporary.mkdir()
    try:
        _write_files(temporary, source=source, plan=plan, refuse=refuse)
        _publish(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Takes away what killed processes left behind; what is younger than a day may still be at work."""
    for left in folder.parent.glob(f".{folder.name}-*"):
        if time.time() - left.stat().st_mtime > STALE_S:
            shutil.rmtree(left, ignore_errors=True)


def _publish(temporary: Path, folder: Path) -> None:
    try:
        temporary.rename(folder)
    except OSError:
        if not (folder / "meta.json").is_file():  # else another process was first, and wrote the same
            raise


def _write_files(folder: Path, *, source: Source, plan: Plan, refuse: bool) -> None:
    order = np.concatenate([plan.rows[name] for name in SPLITS])
    position = {row: index for index, row in enumerate(order.tolist())}
    shape = (len(order), plan.image_size, plan.image_size, 3)
    images = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
    columns = {
        "ids": np.zeros(len(order), dtype=np.int64),
        "content": np.zeros(len(order), dtype=np.int64),
        "source_sizes": np.zeros((len(order), 2), dtype=np.int32),
        "labels": plan.labels[order],
        "split": np.repeat(np.arange(len(SPLITS)), [len(plan.rows[name]) for name in SPLITS]),
    }
    kept = np.ones(len(order), dtype=bool)
    skipped: list[tuple[str, str]] = []
    copies: Counter[int] = Counter()
    for decoded in decode_all(source.read(np.sort(order), image_size=plan.image_size), image_size=plan.image_size):
        index = position[decoded.row]
        if decoded.pixels is None:
            skipped.append((source.place(decoded.row), decoded.reason))
            kept[index] = False
            if refuse:
                raise ValueError(refusal(skipped))
            continue
        images[index] = decoded.pixels
        content = image_id(decoded.content)
        columns["content"][index] = content
        columns["ids"][index] = image_id(decoded.content, occurrence=copies[content])
        columns["source_sizes"][index] = decoded.source_size
        copies[content] += 1
    images.flush()
    if skipped:
        _drop(folder, images, kept)
    _write_columns(folder, {name: values[kept] for name, values in columns.items()})
    meta = {"class_names": plan.class_names, "own_names": dict(plan.own_names), "skipped": skipped}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))


def _drop(folder: Path, images: np.memmap, kept: np.ndarray) -> None:
    """Rewrites images.npy without the images that could not be read."""
    shape = (int(kept.sum()), *images.shape[1:])
    whole = np.lib.format.open_memmap(folder / "whole.npy", mode="w+", dtype=np.uint8, shape=shape)
    for target, index in enumerate(np.flatnonzero(kept).tolist()):
        whole[target] = images[index]
    whole.flush()
    (folder / "whole.npy").replace(folder / "images.npy")


def _write_columns(folder: Path, columns: dict[str, np.ndarray]) -> None:
    for name, values in columns.items():
        np.save(folder / f"{name}.npy", values, allow_pickle=False)


def load_cache(folder: Path) -> DataSplits:
    """The splits of a cache, with the images memory-mapped.

    Raises:
        ValueError: Its files are not those that were written; they are never unpickled.
    """
    try:
        return _load_cache(folder)
    except DAMAGED as error:
        raise _damaged(folder, error) from error


def _load_cache(folder: Path) -> DataSplits:
    meta = json.loads((folder / "meta.json").read_text())
    images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    names = ("labels", "ids", "content", "split", "source_sizes")
    columns = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in names}
    sets = {}
    for number, name in enumerate(SPLITS):
        start, stop = np.searchsorted(columns["split"], [number, number + 1])
        part = slice(int(start), int(stop))
        class_names = tuple(meta.get("own_names", {}).get(name, meta["class_names"]))
        sets[name] = ImageSet(images[part], columns["labels"][part], columns["ids"][part], class_names)
    is_test = columns["split"] == SPLITS.index("test")
    return DataSplits(
        **sets,
        fingerprint=folder.name,
        skipped=[(place, reason) for place, reason in meta["skipped"]],
        source_sizes=columns["source_sizes"],
        num_leaked=int(np.isin(columns["content"][is_test], columns["content"][~is_test]).sum()),
    )


def contents(folder: Path) -> dict[str, np.ndarray]:
    """int64 hash of each image's bytes, by split, in a cache that is whole; copies have the same."""
    try:
        content, split = (np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("content", "split"))
        return {name: content[split == number] for number, name in enumerate(SPLITS)}
    except DAMAGED as error:
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> ValueError:
    reason = f"{type(error).__name__}: {error}".splitlines()[0][:120]
    return ValueError(
        f"a cache of decoded images must be as it was written, but {str(folder)!r} is not ({reason}); delete that "
        "folder, and it is written anew"
    )


def refusal(skipped: list[tuple[str, str]]) -> str:
    """The message for images that cannot be read; names the first."""
    place, reason = skipped[0]
    return (
        f"each image must be readable, but {place} is not ({reason}); repair or delete it, or set "
        "data.on_corrupt: skip (`murk data inspect` lists all)"
    )
