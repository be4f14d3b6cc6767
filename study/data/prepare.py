"""From a data section to its three splits: the one entrance to this room."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from study.data.cache import FORMAT, Plan, load_cache, locked, memo_in, refusal, write_cache
from study.data.hashing import digest
from study.data.image_set import SPLITS, DataSplits, Split
from study.data.source import Listing, Source
from study.data.sources import open_source
from study.data.splits import assign_classes, assign_splits, cut_classes

if TYPE_CHECKING:
    from study.config_data import DataConfig

SPLIT_SETTINGS = ("image_size", "validation_share", "test_share", "split_seed", "max_classes", "max_per_class")


def prepare_data(data: DataConfig, *, cache_dir: Path) -> DataSplits:
    """The decoded splits of a data section, from the cache where they are in it.

    Safe to call from many processes and machines at once. A second call decodes nothing and reads no image file: the
    content hash is remembered by path, size and time of change.

    Args:
        data: The data section of a study.
        cache_dir: Folder for caches; made where it is missing.

    Raises:
        ValueError: Nothing fitting is found, an image cannot be read and `on_corrupt` is "refuse", or a split is empty.
    """
    cache_dir = Path(cache_dir).expanduser().resolve()
    source = open_source(data, cache_dir=cache_dir)
    name = _fingerprint(data, source, cache_dir)
    folder = cache_dir / name
    refuse = data.on_corrupt == "refuse"
    if not (folder / "meta.json").is_file():
        with locked(cache_dir / "locks" / name):
            if not (folder / "meta.json").is_file():
                write_cache(folder, source=source, plan=_plan(data, source), refuse=refuse)
    splits = load_cache(folder)
    if splits.skipped and refuse:
        raise ValueError(refusal(splits.skipped))
    for split, images in splits.by_name().items():
        if len(images) == 0:
            raise ValueError(f"the {split} split must hold images, but none is left; see `murk data inspect`")
    return splits


def data_fingerprint(data: DataConfig, *, cache_dir: Path) -> str:
    """Hash of the content and of every setting that decides the splits, without decoding an image.

    Holds no path and no time, so it is the same on every machine that has the same files. `on_corrupt` is no part of
    it: it decides whether to go on, not what the images are.
    """
    cache_dir = Path(cache_dir).expanduser().resolve()
    return _fingerprint(data, open_source(data, cache_dir=cache_dir), cache_dir)


def _fingerprint(data: DataConfig, source: Source, cache_dir: Path) -> str:
    content = source.content_hash(memo_in(cache_dir / "content"))
    settings = {name: getattr(data, name, None) for name in SPLIT_SETTINGS}
    if data.unseen_classes is not None:  # left out where it is not set: fingerprints are older than it
        settings["unseen_classes"] = data.unseen_classes
    return digest(str(FORMAT), content, json.dumps(settings, sort_keys=True))


def split_places(data: DataConfig, splits: DataSplits) -> dict[Split, list[str]]:
    """Where a person finds each image of the splits, in their order.

    Args:
        data: The data section that the splits were prepared from.
    """
    source = open_source(data)
    skipped = {place for place, _ in splits.skipped}
    rows = _plan(data, source).rows
    found: dict[Split, list[str]] = {}
    for name in SPLITS:
        places = (source.place(row) for row in rows[name].tolist())
        found[name] = [place for place in places if place not in skipped]
        assert len(found[name]) == len(splits.by_name()[name]), name
    return found


class Allotment(NamedTuple):
    """What each split holds, before anything is decoded.

    Attributes:
        rows: Split -> its sorted rows of the source.
        labels: int64, one for each row of the source, as its split numbers the classes.
        class_names: Of train, in label order.
        own_names: Of a split whose classes are others than those of train.
    """

    rows: dict[str, np.ndarray]
    labels: np.ndarray
    class_names: tuple[str, ...]
    own_names: dict[Split, tuple[str, ...]]


def allot(data: DataConfig, listing: Listing) -> Allotment:
    """The splits that a data section makes of a source's listing.

    Raises:
        ValueError: The classes do not suffice for `data.unseen_classes`.
    """
    listing = _first_classes(listing, data.max_classes)
    if data.unseen_classes is not None:
        return _by_classes(data, listing)
    rows = assign_splits(
        listing.labels,
        listing.official,
        validation_share=data.validation_share,
        test_share=getattr(data, "test_share", 0.0),
        seed=data.split_seed,
        max_per_class=data.max_per_class,
    )
    return Allotment(rows, listing.labels, listing.class_names, {})


def _by_classes(data: DataConfig, listing: Listing) -> Allotment:
    """Splits that share no class, each with labels from 0."""
    assert data.unseen_classes is not None
    names, labels = listing.class_names, listing.labels
    cut = cut_classes(len(names), unseen_classes=data.unseen_classes, validation_share=data.validation_share)
    rows = assign_classes(labels, listing.official, cut, seed=data.split_seed, max_per_class=data.max_per_class)
    own_labels, own_names = labels.copy(), {}
    for split, classes in cut.spans().items():
        own_labels[rows[split]] -= classes.start
        own_names[split] = names[classes.start : classes.stop]
    return Allotment(rows, own_labels, own_names.pop("train"), own_names)


def _plan(data: DataConfig, source: Source) -> Plan:
    allotted = allot(data, source.listing())
    names = allotted.class_names
    present = np.bincount(allotted.labels[allotted.rows["train"]], minlength=len(names))
    if present.min() == 0:
        missing = [name for name, count in zip(names, present, strict=True) if count == 0]
        raise ValueError(
            f"each class must have an image in train, but {len(missing)} have none, such as {missing[0]!r}; "
            "check the split column or folders, or lower validation_share"
        )
    return Plan(allotted.rows, allotted.labels, names, data.image_size, allotted.own_names)


def _first_classes(listing: Listing, max_classes: int | None) -> Listing:
    """The listing with all but the first classes out of every split."""
    if max_classes is None or max_classes >= len(listing.class_names):
        return listing
    official = np.where(listing.labels < max_classes, listing.official, "left out")
    return Listing(listing.labels, official, listing.class_names[:max_classes])
