"""Images that stand in two splits, as the same bytes or nearly so: `murk data duplicates`.

Each image, as training sees it (the square at the working size), gets a perceptual hash of 256 bits: which of the
lowest 16 x 16 frequencies of its grey picture lie above their median. Two pictures of the same thing differ in few
bits, two unlike ones in about half of them, and all in an even number, since as many bits are set in each. What the
distances mean on real photographs is in docs/duplicates.md. A mirrored copy is not found.

Source: `imagehash.phash`, after Zauner 2010, Implementation and benchmarking of perceptual image hash functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import imagehash
import numpy as np
from PIL import Image

from study.data.cache import contents
from study.data.image_set import SPLITS, DataSplits, Split
from study.data.prepare import prepare_data, split_places

if TYPE_CHECKING:
    from study.config_data import DataConfig

HASH_SIDE = 16
"""16 x 16 bits: the usual 8 x 8 tell photographs of cars from one another too badly, see docs/duplicates.md."""

BITS = HASH_SIDE**2
DEFAULT_DISTANCE = 40
"""Pairs up to so many bits apart are told: nearly all of those looked at were one picture (docs/duplicates.md)."""

BLOCK = 256
MAX_PAIRS = 5000


class Member(NamedTuple):
    """One image of a pair: its split, its position there, where a person finds it and the name of its class."""

    split: Split
    index: int
    place: str
    class_name: str


class Pair(NamedTuple):
    """Two images of different splits.

    Attributes:
        distance: Bits in which their hashes differ, 0 to 256.
        same_bytes: Whether they are one file's content.
    """

    distance: int
    same_bytes: bool
    first: Member
    second: Member

    @property
    def same_class(self) -> bool:
        return self.first.class_name == self.second.class_name


@dataclass(frozen=True)
class Audit:
    """What stands in two splits of a data set.

    Attributes:
        splits: The images that were compared.
        distance: Pairs at most so far apart are in `pairs`.
        pairs: Nearest first, those of the same bytes before others; at most MAX_PAIRS.
        counts: int64 (257,), pairs across splits at each distance.
        same_class: int64 (257,), of these, pairs of one class.
        nearest: Split -> int64 (257,), its images by the distance to the nearest image in the splits before it:
            validation to train, test to train and validation.
    """

    splits: DataSplits
    distance: int
    pairs: tuple[Pair, ...]
    counts: np.ndarray
    same_class: np.ndarray
    nearest: dict[Split, np.ndarray]


def find_duplicates(data: DataConfig, *, cache_dir: Path, distance: int = DEFAULT_DISTANCE) -> Audit:
    """Compares every image with all images of the other splits; unreadable images are left out, not refused.

    All pairs are counted a block at a time, in NumPy: 20,000 images take some seconds once they are decoded (times in
    docs/duplicates.md), and memory is that of the hashes and of one block.

    Args:
        data: The data section of a study.
        cache_dir: Folder for caches; what is decoded here is not decoded again by a study.
        distance: Bits, 0 to 256.

    Raises:
        ValueError: The distance is out of range, or the images cannot be prepared.
    """
    if not 0 <= distance <= BITS:
        raise ValueError(f"--distance must be from 0 to {BITS} bits, but got {distance}")
    data = data.model_copy(update={"on_corrupt": "skip"})
    splits = prepare_data(data, cache_dir=cache_dir)
    hashes = {name: perceptual_hashes(part.images) for name, part in splits.by_name().items()}
    labels = _common_labels(splits)
    found = _Found(distance)
    nearest: dict[Split, np.ndarray] = {}
    for late in SPLITS[1:]:
        closest = np.full(len(hashes[late]), BITS, dtype=np.uint16)
        for early in SPLITS[: SPLITS.index(late)]:
            closest = np.minimum(
                closest, found.compare((early, late), (hashes[early], hashes[late]), (labels[early], labels[late]))
            )
        nearest[late] = np.bincount(closest, minlength=BITS + 1)
    places = split_places(data, splits)
    bytes_of = contents(Path(cache_dir).expanduser().resolve() / splits.fingerprint)
    pairs = tuple(sorted((_pair(item, splits, places, bytes_of) for item in found.nearest()), key=_order))
    return Audit(splits, distance, pairs, found.counts, found.same_class, nearest)


def perceptual_hashes(images: np.ndarray) -> np.ndarray:
    """uint64 (n, 4), 256 bits each, of uint8 (n, height, width, 3) images in RGB."""
    bits = [
        imagehash.phash(Image.fromarray(np.asarray(image)), hash_size=HASH_SIDE, highfreq_factor=4).hash.ravel()
        for image in images
    ]
    return np.packbits(np.array(bits, dtype=bool).reshape(-1, BITS), axis=1).view(np.uint64)


def hamming(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """uint16 (n, m), the bits in which each hash of uint64 (n, 4) differs from each of (m, 4)."""
    distances = np.zeros((len(first), len(second)), dtype=np.uint16)
    for word in range(first.shape[1]):
        distances += np.bitwise_count(first[:, None, word] ^ second[None, :, word])
    return distances


def _common_labels(splits: DataSplits) -> dict[Split, np.ndarray]:
    """Labels that mean the same class in every split, which may each have classes of their own."""
    parts = splits.by_name()
    index = {
        name: number for number, name in enumerate(dict.fromkeys(n for p in parts.values() for n in p.class_names))
    }
    return {
        split: np.array([index[name] for name in part.class_names], dtype=np.int64)[part.labels]
        for split, part in parts.items()
    }


class _Found:
    """Counts over all pairs, and the nearest of them."""

    def __init__(self, distance: int) -> None:
        self.counts = np.zeros(BITS + 1, dtype=np.int64)
        self.same_class = np.zeros(BITS + 1, dtype=np.int64)
        self._limit = distance
        self._kept: list[np.ndarray] = []

    def compare(
        self, names: tuple[Split, Split], hashes: tuple[np.ndarray, np.ndarray], labels: tuple[np.ndarray, np.ndarray]
    ) -> np.ndarray:
        """Adds the pairs of two splits; returns the second's distances to the nearest of the first."""
        codes = SPLITS.index(names[0]), SPLITS.index(names[1])
        closest = np.full(len(hashes[1]), BITS, dtype=np.uint16)
        for start in range(0, len(hashes[0]), BLOCK):
            part = slice(start, start + BLOCK)
            distances = hamming(hashes[0][part], hashes[1])
            closest = np.minimum(closest, distances.min(axis=0, initial=BITS))
            same = labels[0][part, None] == labels[1][None, :]
            counts = np.bincount(distances.ravel(), minlength=BITS + 1)
            self.counts += counts
            self.same_class += np.bincount(distances[same], minlength=BITS + 1)
            # What lies beyond the block's own MAX_PAIRS nearest is not kept in any case.
            enough = int(np.searchsorted(np.cumsum(counts), MAX_PAIRS))
            rows, columns = np.nonzero(distances <= min(self._limit, enough))
            if len(rows):
                both = np.broadcast_to(np.array(codes), (len(rows), 2))
                self._keep(np.column_stack([distances[rows, columns], both, rows + start, columns]))
        return closest

    def _keep(self, rows: np.ndarray) -> None:
        self._kept.append(rows)
        if sum(map(len, self._kept)) > 2 * MAX_PAIRS:
            self._kept = [self.nearest()]
            self._limit = int(self._kept[0][-1, 0])

    def nearest(self) -> np.ndarray:
        """int64 (n, 5): distance, the two splits' numbers, the positions in them."""
        if not self._kept:
            return np.zeros((0, 5), dtype=np.int64)
        rows = np.concatenate(self._kept).astype(np.int64)
        return rows[np.argsort(rows[:, 0], kind="stable")][:MAX_PAIRS]


def _pair(
    row: np.ndarray, splits: DataSplits, places: Mapping[Split, Sequence[str]], bytes_of: dict[str, np.ndarray]
) -> Pair:
    distance, *numbers = row.tolist()
    members = []
    for code, index in zip(numbers[:2], numbers[2:], strict=True):
        name = SPLITS[code]
        part = splits.by_name()[name]
        members.append(Member(name, index, places[name][int(index)], part.class_names[part.labels[index]]))
    first, second = members
    same_bytes = bytes_of[first.split][first.index] == bytes_of[second.split][second.index]
    return Pair(distance, bool(same_bytes), first, second)


def _order(pair: Pair) -> tuple[int, bool]:
    return pair.distance, not pair.same_bytes
