"""Folders of real noisy images: test images whose noise is the camera's, with no clean image beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from study.data.cache import FORMAT, Plan, contents, load_cache, locked, memo_in, refusal, write_cache
from study.data.hashing import digest
from study.data.image_folder import ImageFolderSource
from study.data.image_set import DataSplits, ImageSet
from study.data.parquet import ParquetSource
from study.data.source import Listing, Source
from study.data.staging import staged


@dataclass(frozen=True)
class RealImages:
    """One folder of real noisy images, at the study's working size and with its labels.

    Attributes:
        images: Those that stand, byte for byte, in neither train nor validation.
        fingerprint: Hash of the content, the working size and the study's classes; holds no path.
        num_known: Images left out because they stand in train or validation.
        skipped: (place, reason) of each image that could not be read.
    """

    images: ImageSet
    fingerprint: str
    num_known: int
    skipped: list[tuple[str, str]]


def open_real(path: str, *, cache_dir: Path | None = None) -> Source:
    """The source of a class folder or a parquet file; columns are found by their usual names.

    Images at a URL are copied to this machine first, into `cache_dir` or Murk's own cache.

    Raises:
        ValueError: There is neither at the path.
    """
    path = staged(path, cache_dir)
    is_parquet = path.endswith(".parquet")
    if not is_parquet and not Path(path).expanduser().is_dir():
        raise ValueError(f"must be a class folder or a .parquet file, but got {path!r}, which is neither")
    try:
        return ParquetSource(path) if is_parquet else ImageFolderSource(path)
    except (ValueError, OSError) as error:
        raise ValueError(_own_words(error, path)) from error


def list_real(source: Source, path: str, class_names: Sequence[str]) -> Listing:
    """Labels of all images, whatever split the source puts them in, as positions in the study's classes.

    Raises:
        ValueError: It holds no images, or a class that the study lacks.
    """
    try:
        listing = source.listing()
    except (ValueError, OSError) as error:
        raise ValueError(_own_words(error, path)) from error
    known = {name: label for label, name in enumerate(class_names)}
    strange = [name for name in listing.class_names if name not in known]
    if strange:
        some = ", ".join(map(repr, strange[:4])) + (", ..." if len(strange) > 4 else "")
        raise ValueError(
            f"must hold classes of the study only, but {path!r} has {len(strange)} others ({some}); rename or remove "
            f"them (the study's {len(class_names)} classes are {', '.join(map(repr, class_names[:4]))}"
            f"{', ...' if len(class_names) > 4 else ''})"
        )
    labels = np.array([known[name] for name in listing.class_names], dtype=np.int64)[listing.labels]
    return Listing(labels, listing.official, tuple(class_names))


def prepare_real(path: str, *, data: DataSplits, image_size: int, refuse: bool, cache_dir: Path) -> RealImages:
    """The decoded images of a folder, from the cache where they are in it; as `study.data.prepare.prepare_data`.

    Args:
        path: A class folder (split folders above the classes are passed through) or a parquet file.
        data: The study's images, prepared in the same `cache_dir`; images that stand in train or validation are left
            out, since the networks were trained on them or chosen by them.
        refuse: Whether an image that cannot be read is an error; else it is skipped.

    Raises:
        ValueError: Nothing fitting is there, an image cannot be read, or no image is left.
    """
    cache_dir = Path(cache_dir).expanduser().resolve()
    source = open_real(path, cache_dir=cache_dir)
    listing = list_real(source, path, data.class_names)
    settings = json.dumps([image_size, list(data.class_names)])
    name = digest("real", str(FORMAT), source.content_hash(memo_in(cache_dir / "content")), settings)
    folder = cache_dir / name
    if not (folder / "meta.json").is_file():
        with locked(cache_dir / "locks" / name):
            if not (folder / "meta.json").is_file():
                none = np.zeros(0, dtype=np.int64)
                rows = {"train": none, "validation": none, "test": np.arange(len(listing.labels))}
                plan = Plan(rows, listing.labels, tuple(data.class_names), image_size)
                write_cache(folder, source=source, plan=plan, refuse=refuse)
    found = load_cache(folder)
    if found.skipped and refuse:
        raise ValueError(refusal(found.skipped))
    if not len(found.test):
        raise ValueError(f"none of the {len(found.skipped)} images at {path!r} can be read; see `murk data inspect`")
    own = contents(cache_dir / data.fingerprint)
    known = np.isin(contents(folder)["test"], np.concatenate([own["train"], own["validation"]]))
    if known.all():
        raise ValueError(
            f"must hold images that the study does not train on or choose by, but all {len(known)} readable images "
            f"at {path!r} stand in its train or validation split; give other images, or take the folder out"
        )
    images = found.test
    if known.any():
        images = ImageSet(images.images[~known], images.labels[~known], images.ids[~known], images.class_names)
    return RealImages(images, name, int(known.sum()), found.skipped)


def prepare_all_real(
    folders: Mapping[str, str], *, data: DataSplits, image_size: int, refuse: bool, cache_dir: Path
) -> dict[str, RealImages]:
    """Name -> its images, see `prepare_real`; an error names the folder's key."""
    prepared = {}
    for name, path in folders.items():
        try:
            prepared[name] = prepare_real(path, data=data, image_size=image_size, refuse=refuse, cache_dir=cache_dir)
        except (ValueError, OSError) as error:
            raise ValueError(f"noise.real.{name}: {error}") from error
    return prepared


def _own_words(error: Exception, path: str) -> str:
    """The error of a source in the words of this key: a source speaks of `data.path` and its columns."""
    text = str(error)
    if text.startswith("data.path "):
        return text.removeprefix("data.path ")
    return f"{path!r} cannot be read as images of the study: {text.removeprefix('data.')}"
