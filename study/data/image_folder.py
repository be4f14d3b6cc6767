"""Images in class folders, with or without split folders above them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from study.data.hashing import digest
from study.data.source import SPLIT_NAMES, Listing, Memo, Raw
from study.data.splits import UNASSIGNED

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}


class ImageFolderSource:
    """`path/<class>/.../image.jpg`, or `path/<train|val|test>/<class>/.../image.jpg`.

    Split folders are taken as such if every folder right below `path` bears the name of a split. Hidden files and
    files without the suffix of an image are passed over. Rows are the files in the order of their relative paths.
    """

    def __init__(self, path: str) -> None:
        if "://" in path:
            raise ValueError(
                f"data.path of an image folder must be a local folder, but got {path!r}; use parquet there"
            )
        self.root = Path(path).expanduser().resolve()
        if not self.root.is_dir():
            raise ValueError(f"data.path must be a folder, but got {str(self.root)!r}, which is none")

    @cached_property
    def _files(self) -> list[Path]:
        named = (path for path in self.root.rglob("*") if path.suffix.lower() in SUFFIXES and not path.is_dir())
        found = (path.relative_to(self.root) for path in named)
        files = sorted((path for path in found if not _is_hidden(path)), key=lambda path: path.as_posix())
        shallow = next((path for path in files if len(path.parts) < 2 + self._has_splits), None)
        if shallow is not None:
            raise ValueError(
                f"each image must stand in a class folder below {str(self.root)!r}, but {shallow.as_posix()!r} stands "
                "in none; move it or delete it"
            )
        for path in files:
            _refuse_what_is_no_file(self.root, path)
        if not files:
            raise ValueError(f"data.path must hold images in class folders, but {str(self.root)!r} holds none")
        return files

    @cached_property
    def _has_splits(self) -> bool:
        names = [path.name.lower() for path in self.root.iterdir() if path.is_dir() and not path.name.startswith(".")]
        return bool(names) and all(name in SPLIT_NAMES for name in names)

    def content_hash(self, memo: Memo) -> str:
        stats = [(self.root / file).stat() for file in self._files]
        state = (f"{f.as_posix()}|{s.st_size}|{s.st_mtime_ns}" for f, s in zip(self._files, stats, strict=True))
        return memo(digest("image-folder", str(self.root), *state), self._hash_files)

    def _hash_files(self) -> str:
        parts = ((file.as_posix(), digest((self.root / file).read_bytes())) for file in self._files)
        return digest("image-folder", *(text for pair in parts for text in pair))

    def listing(self) -> Listing:
        classes = [file.parts[int(self._has_splits)] for file in self._files]
        names, labels = np.unique(np.array(classes), return_inverse=True)
        official = [SPLIT_NAMES[file.parts[0].lower()] if self._has_splits else UNASSIGNED for file in self._files]
        return Listing(labels.astype(np.int64), np.array(official), tuple(str(name) for name in names))

    def read(self, rows: np.ndarray, *, image_size: int) -> Iterator[Raw]:
        del image_size  # files hold what they hold
        for row in rows.tolist():
            yield Raw(row, (self.root / self._files[row]).read_bytes())

    def place(self, row: int) -> str:
        return self._files[row].as_posix()


def _refuse_what_is_no_file(root: Path, path: Path) -> None:
    """A link that leads nowhere, or a pipe, which would be waited for without end; and names that are no text."""
    if not (root / path).is_file():
        raise ValueError(
            f"data.path must hold images as files, but {path.as_posix()!r} is none (a pipe, or a link that leads "
            "nowhere); repair or delete it"
        )
    try:
        path.as_posix().encode()
    except UnicodeEncodeError:
        raise ValueError(f"data.path must hold names in UTF-8, but {path.as_posix()!r} is not; rename it") from None


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
