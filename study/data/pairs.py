"""Pairs of images for verification: do both show the same person?

The images are of LFW's own folders or of a parquet file with the columns `key`, `person` and one of encoded images; the
list is LFW's own pairs.txt or a csv, see `study.data.pair_list`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from study.data.cache import FORMAT, Plan, load_cache, locked, memo_in, write_cache
from study.data.hashing import digest
from study.data.lfw import NAME, find_home
from study.data.listed import Entry, ListedSource, Table
from study.data.pair_list import Listed, read_pairs
from study.data.parquet import ParquetSource
from study.data.source import Source

KEY, PERSON = "key", "person"
"""Columns of a parquet file of faces."""


@dataclass(frozen=True)
class Pairs:
    """Pairs, and each image that stands in one of them once.

    Attributes:
        images: uint8 (n, H, W, 3), RGB, a read-only memory map.
        ids: int64 (n,), of the content, as an image set has them; noise is keyed to them.
        first: int64 (p,), index of each pair's one image.
        second: int64 (p,), index of the other.
        same: bool (p,), whether both show one person.
        fold: int64 (p,), the fold that it belongs to.
        fingerprint: Hash of the images, the working size and the pairs; holds no path.
        persons: Name of each image's person, n of them.
    """

    images: np.ndarray
    ids: np.ndarray
    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    fold: np.ndarray
    fingerprint: str
    persons: tuple[str, ...]

    def known(self, class_names: Sequence[str]) -> tuple[str, ...]:
        """Persons of the pairs that are classes too: a network that was trained on them makes the figures too good."""
        classes = {_plain(name) for name in class_names}
        return tuple(sorted({person for person in self.persons if _plain(person) in classes}))


class _Faces(NamedTuple):
    """The images that pairs name: their source, and of each key its row and person."""

    source: Source
    rows: dict[str, int]
    persons: dict[str, str]


def prepare_pairs(path: str, pairs: str | None, *, image_size: int, cache_dir: Path) -> Pairs:
    """The pairs with their decoded images, from the cache where they are in it; as `study.data.prepare.prepare_data`.

    Args:
        path: LFW's folder, or a .parquet file of faces.
        pairs: The list; None: the pairs.txt in LFW's folder or beside it.
        image_size: Side of the square images in pixels.
        cache_dir: Folder for caches; made where it is missing.

    Raises:
        ValueError: A file is not there, a line does not read as it should, a pair names an image that is not there or
            says something else than the persons' names, or an image cannot be read. Messages start with `path` or
            `pairs`.
    """
    cache_dir = Path(cache_dir).expanduser().resolve()
    place = Path(path).expanduser().resolve()
    listed = read_pairs(_list_of(place, pairs))
    faces = _parquet_faces(place, listed) if place.suffix == ".parquet" else _lfw_faces(place, listed)
    _refuse_contradictions(listed, faces)
    said = [f"{item.first}|{item.second}|{item.same:d}|{item.fold}" for item in listed]
    content = faces.source.content_hash(memo_in(cache_dir / "content"))
    name = digest("pairs", str(FORMAT), content, str(image_size), *said)
    folder = cache_dir / name
    keys = sorted({key for item in listed for key in (item.first, item.second)}, key=faces.rows.__getitem__)
    if not (folder / "meta.json").is_file():
        with locked(cache_dir / "locks" / name):
            if not (folder / "meta.json").is_file():
                _write(folder, faces, np.array([faces.rows[key] for key in keys]), image_size)
    found = load_cache(folder).test
    index = {key: number for number, key in enumerate(keys)}
    return Pairs(
        images=found.images,
        ids=found.ids,
        first=np.array([index[item.first] for item in listed], dtype=np.int64),
        second=np.array([index[item.second] for item in listed], dtype=np.int64),
        same=np.array([item.same for item in listed], dtype=bool),
        fold=np.array([item.fold for item in listed], dtype=np.int64),
        fingerprint=name,
        persons=tuple(faces.persons[key] for key in keys),
    )


def _write(folder: Path, faces: _Faces, rows: np.ndarray, image_size: int) -> None:
    """A cache of the images; one that cannot be read is always refused, as without it other pairs are measured."""
    none = np.zeros(0, dtype=np.int64)
    labels, _, names = faces.source.listing()
    plan = Plan({"train": none, "validation": none, "test": rows}, labels, names, image_size)
    try:
        write_cache(folder, source=faces.source, plan=plan, refuse=True)
    except ValueError as error:
        reason = str(error).partition(";")[0]
        raise ValueError(f"path: {reason}; repair it, as without it the pairs are others") from None


def _list_of(place: Path, pairs: str | None) -> Path:
    if pairs is not None:
        return Path(pairs).expanduser().resolve()
    if place.suffix == ".parquet":
        raise ValueError(f"pairs must name the list of pairs beside a parquet file, but is not there ({place.name})")
    near = [folder / "pairs.txt" for folder in (place, place.parent, place.parent.parent)]
    found = next((file for file in near if file.is_file()), None)
    if found is None:
        raise ValueError(
            f"pairs must name the list of pairs, as there is no pairs.txt in {str(place)!r} or beside it; fetch it"
        )
    return found


def _lfw_faces(place: Path, listed: Sequence[Listed]) -> _Faces:
    home = find_home(place, key="path")
    rows: dict[str, int] = {}
    persons: dict[str, str] = {}
    entries: list[Entry] = []
    labels: dict[str, int] = {}
    for key, said in _keys(listed).items():
        match = NAME.fullmatch(key)
        person = match["person"] if match else ""
        file = f"{person}/{key}.jpg"
        if not person or "/" in key or "\\" in key or not (home / file).is_file():
            raise ValueError(
                f"pairs must name images that are there, but {said} names {key!r}, and {str(home)!r} has no "
                f"{file if person else key!r}; fetch the images again, or correct the list"
            )
        rows[key], persons[key] = len(entries), person
        entries.append(Entry(file, labels.setdefault(person, len(labels)), "test", said))
    return _Faces(ListedSource(home, Table(entries, tuple(labels)), refuse=True), rows, persons)


def _parquet_faces(place: Path, listed: Sequence[Listed]) -> _Faces:
    if not place.is_file():
        raise ValueError(f"path must be LFW's folder or a .parquet file, but there is no {str(place)!r}; correct it")
    try:
        lacking = [name for name in (KEY, PERSON) if name not in pq.read_schema(place).names]
        table = pq.read_table(place, columns=[KEY, PERSON]) if not lacking else None
        source = ParquetSource(str(place), label_column=PERSON) if not lacking else None
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise ValueError(f"path: {place.name} cannot be read as a parquet file of faces: {error}") from None
    if table is None or source is None:
        raise ValueError(
            f"path: {place.name} must have the columns {KEY} and {PERSON}, but has no {lacking[0]}; add it"
        )
    keys = [str(key) for key in table[KEY].to_pylist()]
    rows = {key: row for row, key in enumerate(keys)}
    if len(rows) < len(keys):
        twice = next(key for row, key in enumerate(keys) if rows[key] != row)
        raise ValueError(f"path: each image of {place.name} must have a key of its own, but {twice!r} stands twice")
    for key, said in _keys(listed).items():
        if key not in rows:
            raise ValueError(
                f"pairs must name images that are there, but {said} names {key!r}, and {place.name} has none of that "
                "key; correct the list, or take the file that belongs to it"
            )
    persons = table[PERSON].to_pylist()
    return _Faces(source, rows, {key: str(persons[row]) for key, row in rows.items()})


def _keys(listed: Sequence[Listed]) -> dict[str, str]:
    """Each image's key -> where it is named first."""
    found: dict[str, str] = {}
    for item in listed:
        found.setdefault(item.first, item.said)
        found.setdefault(item.second, item.said)
    return found


def _refuse_contradictions(listed: Sequence[Listed], faces: _Faces) -> None:
    for item in listed:
        first, second = faces.persons[item.first], faces.persons[item.second]
        if item.same != (first == second):
            rule = "one person" if item.same else "two persons"
            raise ValueError(
                f"pairs must say the same as the persons' names, but {item.said} is a pair of {rule} and names "
                f"{first!r} and {second!r}; correct the list"
            )


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ")
