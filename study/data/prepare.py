"""From a data section to its three splits: the one entrance to this room."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from study.data.cache import FORMAT, Plan, load_cache, locked, memo_in, refusal, write_cache
from study.data.hashing import digest
from study.data.image_set import SPLITS, DataSplits, Split
from study.data.source import Listing, Source
from study.data.sources import open_source
from study.data.splits import assign_splits

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
    source = open_source(data)
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
    return _fingerprint(data, open_source(data), Path(cache_dir).expanduser().resolve())


def _fingerprint(data: DataConfig, source: Source, cache_dir: Path) -> str:
    content = source.content_hash(memo_in(cache_dir / "content"))
    settings = {name: getattr(data, name, None) for name in SPLIT_SETTINGS}
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


def _plan(data: DataConfig, source: Source) -> Plan:
    listing = _first_classes(source.listing(), data.max_classes)
    rows = assign_splits(
        listing.labels,
        listing.official,
        validation_share=data.validation_share,
        test_share=getattr(data, "test_share", 0.0),
        seed=data.split_seed,
        max_per_class=data.max_per_class,
    )
    present = np.bincount(listing.labels[rows["train"]], minlength=len(listing.class_names))
    if present.min() == 0:
        missing = [name for name, count in zip(listing.class_names, present, strict=True) if count == 0]
        raise ValueError(
            f"each class must have an image in train, but {len(missing)} have none, such as {missing[0]!r}; "
            "check the split column or folders, or lower validation_share"
        )
    return Plan(rows, listing.labels, listing.class_names, data.image_size)


def _first_classes(listing: Listing, max_classes: int | None) -> Listing:
    """The listing with all but the first classes out of every split."""
    if max_classes is None or max_classes >= len(listing.class_names):
        return listing
    official = np.where(listing.labels < max_classes, listing.official, "left out")
    return Listing(listing.labels, official, listing.class_names[:max_classes])
