"""Files on any fsspec place, written whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import posixpath
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from study.credentials import redact
from study.events import Stamp
from study.lease import Held, Lease, LeaseFile, lease


class StudyLockedError(ValueError):
    """Another driver runs this study."""


class StudyLostError(StudyLockedError):
    """Another driver has taken over a study that this process held; nothing more is written."""


class Storage:
    """A folder on a local disk, a network mount or an object store.

    Args:
        root: Absolute path or fsspec URL (`s3://bucket/murk`, `gs://...`).
    """

    def __init__(self, root: str) -> None:
        self._fs, path = fsspec.core.url_to_fs(root)
        self._is_local = isinstance(self._fs, LocalFileSystem)
        self._path = path.rstrip("/")
        self.root = root.rstrip("/")
        self._lease: Lease | None = None

    @property
    def is_lost(self) -> bool:
        """Whether another process has taken over what this one held by `lock`."""
        return self._lease is not None and self._lease.lost_to is not None

    def refuse_if_lost(self) -> None:
        """Called before each write of whoever holds the lock.

        Raises:
            StudyLostError: Another process has taken it over.
        """
        other = None if self._lease is None else self._lease.look()
        if other is not None:
            raise StudyLostError(
                f"{redact(self.root)} was taken over by {other}, as this process did not renew its lease in time (it "
                "was frozen, or the storage was away); this one writes nothing more. Let the other one go on, or stop "
                "it, then `murk resume`"
            )

    def path(self, *names: str) -> str:
        """The place of a file, as the file system writes it; names cannot leave the root."""
        if any(part in {"", ".", ".."} or "\0" in part for name in names for part in name.split("/")):
            raise ValueError(f"a record must stay inside {redact(self.root)}, but got {'/'.join(names)!r}")
        return posixpath.join(self._path, *names)

    def exists(self, *names: str) -> bool:
        """Whether the file or folder is there."""
        return self._fs.exists(self.path(*names))

    def folders(self, *names: str) -> list[str]:
        """Names of the folders inside a folder, sorted; none when it is missing."""
        place = self.path(*names)
        if self._is_local:
            return _local_folders(place)
        if not self._fs.isdir(place):
            return []
        rows = self._fs.ls(place, detail=True, refresh=True)
        return sorted(posixpath.basename(row["name"].rstrip("/")) for row in rows if row["type"] == "directory")

    def read_bytes(self, *names: str) -> bytes | None:
        """The file's bytes, or None when it is not there."""
        place = self.path(*names)
        try:
            return Path(place).read_bytes() if self._is_local else self._fs.cat_file(place)
        except FileNotFoundError:
            return None

    def read_changed(self, known: Stamp | None, *names: str) -> tuple[Stamp | None, bytes | None]:
        """The file's stamp, and its bytes unless it has the known stamp still; (None, bytes or None) in object stores.

        The file is opened before it is asked: on a network mount only that shows what another machine has appended.
        """
        if not self._is_local:
            return None, self.read_bytes(*names)
        try:
            with Path(self.path(*names)).open("rb", buffering=0) as handle:
                state = os.fstat(handle.fileno())
                stamp = Stamp(state.st_ino, state.st_size, state.st_mtime_ns)
                return stamp, None if stamp == known else handle.readall()
        except FileNotFoundError:
            return None, None

    def write_bytes(self, data: bytes, *names: str) -> None:
        """Write a whole file; a reader sees the old one or the new one, also after a crash."""
        self.refuse_if_lost()
        self._write(data, *names)

    def _write(self, data: bytes, *names: str) -> None:
        place = self.path(*names)
        self._fs.makedirs(posixpath.dirname(place), exist_ok=True)
        if not self._is_local:
            self._fs.pipe_file(place, data)
            return
        with atomic_file(Path(place)) as temporary:
            temporary.write_bytes(data)

    def remove(self, *names: str) -> None:
        """Remove a file where it is there."""
        self.refuse_if_lost()
        self._remove(*names)

    def _remove(self, *names: str) -> None:
        with suppress(FileNotFoundError):
            self._fs.rm_file(self.path(*names))

    def append_line(self, line: str, *names: str) -> None:
        """Append one line and force it to disk; object stores, which cannot append, rewrite the file."""
        self.refuse_if_lost()
        place = self.path(*names)
        data = line.rstrip("\n").encode() + b"\n"
        if not self._is_local:
            self._write((self.read_bytes(*names) or b"") + data, *names)
            return
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(place, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":
                data = b"\n" + data  # a line torn by a crash stays alone
            written = os.write(handle, data)
            if written != len(data):  # the torn line is passed over by readers, as one torn by a crash
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(handle)
        except OSError as error:
            raise OSError(error.errno, error.strerror, place) from None  # the system names no file here
        finally:
            os.close(handle)

    @contextmanager
    def lock(self, *names: str) -> Iterator[None]:
        """Hold a lock that the operating system frees when this process dies; on an object store a lease.

        A lease can be lost to another process: from then on this object writes nothing (`StudyLostError`).

        Raises:
            StudyLockedError: Another process holds it.
        """
        if not self._is_local:
            file = LeaseFile(
                lambda: self.read_bytes(*names), lambda data: self._write(data, *names), lambda: self._remove(*names)
            )
            with ExitStack() as held:
                try:
                    self._lease = held.enter_context(lease(file))
                except Held as other:
                    msg = f"{self.root} is being run by {other}; wait for it or stop it, then `murk resume`"
                    raise StudyLockedError(msg) from None
                try:
                    yield
                finally:
                    if not self.is_lost:
                        self._lease = None
            return
        place = Path(self.path(*names))
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                msg = f"{place.parent} is being run by another process; wait for it or stop it, then `murk resume`"
                raise StudyLockedError(msg) from None
            yield


def _local_folders(place: str) -> list[str]:
    """As `Storage.folders`; a listing of thousands is read many times, and this asks nothing of each entry."""
    try:
        with os.scandir(place) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


@contextmanager
def atomic_file(place: Path) -> Iterator[Path]:
    """Give a temporary path beside `place` and move it there, forced to disk, when the block ends without an error."""
    place.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(place)
    finally:
        temporary.unlink(missing_ok=True)
