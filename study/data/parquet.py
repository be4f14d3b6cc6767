"""One image in a row of a parquet file, local or at any address that fsspec knows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from study.data.hashing import digest
from study.data.source import SPLIT_NAMES, Listing, Memo, Raw
from study.data.splits import UNASSIGNED

IMAGE_COLUMNS = ("jpeg", "image", "png", "img", "bytes")
LABEL_COLUMNS = ("label", "class_id", "labels", "class", "target", "fine_label")
NAME_COLUMNS = ("class_name", "label_name", "person")
SPLIT_COLUMNS = ("split",)
READ_ROWS = 512


class ParquetSource:
    """Encoded bytes (or the struct with a field `bytes` that Hugging Face writes), a label, and optionally a split.

    Labels may be integers from any start or strings; sorted, they become 0, 1, ... A column left out is looked for
    under its usual names.
    """

    def __init__(
        self,
        path: str,
        *,
        image_column: str | None = None,
        label_column: str | None = None,
        name_column: str | None = None,
        split_column: str | None = None,
    ) -> None:
        location = path if "://" in path else str(Path(path).expanduser().resolve())
        self._files, self._path = fsspec.core.url_to_fs(location)
        if not self._files.isfile(self._path):
            raise ValueError(f"data.path must be a parquet file, but got {location!r}, which is none")
        with self._readable(), self._open() as file:
            self._schema = pq.read_schema(file)
        for name in self._schema.names:
            if self._schema.names.count(name) > 1:
                raise ValueError(f"data.path must be a file whose columns have names of their own, but {name!r} stands "
                                 f"twice in {location!r}; rename one")  # fmt: skip
        self._image = self._column("image_column", image_column, IMAGE_COLUMNS, required=True)
        self._label = self._column("label_column", label_column, LABEL_COLUMNS, required=True)
        named = self._column("name_column", name_column, NAME_COLUMNS, required=False)
        names_itself = name_column is None and label_column is not None and self._is_text(self._label)
        self._name = None if named == self._label or names_itself else named
        self._split = self._column("split_column", split_column, SPLIT_COLUMNS, required=False)

    def _open(self):
        return self._files.open(self._path, "rb")

    def _is_text(self, column: str | None) -> bool:
        """Whether a column holds words, which need no other column to name them."""
        kind = self._schema.field(column).type
        return pa.types.is_string(kind) or pa.types.is_large_string(kind)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Says which file it is that cannot be read, and why."""
        try:
            yield
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError, NotImplementedError, MemoryError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"data.path must be a parquet file that can be read whole, but {self._path!r} cannot ({reason}); fetch "
                "or write it again"
            ) from error

    def _column(self, setting: str, given: str | None, usual: tuple[str, ...], *, required: bool) -> str | None:
        names = self._schema.names
        found = given if given is not None else next((name for name in usual if name in names), None)
        if (found is None and required) or (found is not None and found not in names):
            raise ValueError(f"data.{setting} must name a column, but got {given!r}; the file has {', '.join(names)}")
        return found

    def content_hash(self, memo: Memo) -> str:
        key = digest("parquet", self._path, str(self._files.ukey(self._path)))
        columns = (str(name) for name in (self._image, self._label, self._name, self._split))
        return digest("parquet", memo(key, self._hash_file), *columns)

    def _hash_file(self) -> str:
        with self._open() as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()

    @cached_property
    def _table(self) -> pa.Table:
        columns = [name for name in (self._label, self._name, self._split) if name is not None]
        for name in columns:
            if not _is_plain(self._schema.field(name).type):
                raise ValueError(
                    f"column {name!r} must hold text or numbers, but holds {self._schema.field(name).type}; name "
                    "another, or write it anew"
                )
        with self._readable(), self._open() as file:
            return pq.read_table(file, columns=columns)

    def listing(self) -> Listing:
        label_column = self._table[self._label]
        if not self._table.num_rows:
            raise ValueError(f"data.path must hold images, but {self._path!r} has no rows")
        self._refuse_nulls(label_column, self._label)
        values, labels = np.unique(label_column.to_numpy(zero_copy_only=False), return_inverse=True)
        labels = labels.astype(np.int64)
        return Listing(labels, self._official(), self._class_names(values, labels))

    def _refuse_nulls(self, column: pa.ChunkedArray, name: str | None) -> None:
        if column.null_count:
            row = column.is_null().index(True).as_py()
            raise ValueError(f"column {name!r} must have a value in each row, but has none in {self.place(row)}")

    def _class_names(self, values: np.ndarray, labels: np.ndarray) -> tuple[str, ...]:
        if self._name is None:
            return tuple(str(value) for value in values)
        self._refuse_nulls(self._table[self._name], self._name)
        names = self._table[self._name].to_numpy(zero_copy_only=False)
        first = names[np.unique(labels, return_index=True)[1]]
        strays = np.flatnonzero(names != first[labels])
        if len(strays):
            raise ValueError(
                f"column {self._name!r} must give each label one name, but {self.place(int(strays[0]))} has "
                f"{names[strays[0]]!r} for the label of {first[labels[strays[0]]]!r}; set data.name_column"
            )
        return tuple(str(name) for name in first)

    def _official(self) -> np.ndarray:
        if self._split is None:
            return np.full(self._table.num_rows, UNASSIGNED)
        given = [str(value).strip().lower() for value in self._table[self._split].to_pylist()]
        unknown = sorted(set(given) - set(SPLIT_NAMES))
        if unknown:
            raise ValueError(
                f"column {self._split!r} must say one of {', '.join(SPLIT_NAMES)}, but says {unknown[0]!r}; "
                "set data.split_column to another column"
            )
        return np.array([SPLIT_NAMES[value] for value in given])

    def read(self, rows: np.ndarray, *, image_size: int) -> Iterator[Raw]:
        del image_size  # the file holds what it holds
        wanted = np.zeros(self._table.num_rows, dtype=bool)
        wanted[rows] = True
        start = 0
        with self._readable(), self._open() as file:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=READ_ROWS, columns=[self._image]):
                inside = np.flatnonzero(wanted[start : start + batch.num_rows])
                for offset, value in zip(
                    inside.tolist(), batch.column(0).take(pa.array(inside)).to_pylist(), strict=True
                ):
                    yield Raw(start + offset, _encoded(value))
                start += batch.num_rows

    def place(self, row: int) -> str:
        return f"{Path(self._path).name} row {row}"


def _is_plain(kind: pa.DataType) -> bool:
    """Whether values of an Arrow type are text, bytes or numbers, which have an order."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return not pa.types.is_nested(kind) and not isinstance(kind, pa.BaseExtensionType)


def _encoded(value: object) -> bytes:
    """The bytes of a cell; none where it is empty or holds something else."""
    content = value.get("bytes") if isinstance(value, dict) else value
    return content if isinstance(content, bytes) else b""
