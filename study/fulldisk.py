"""A disk that fills up under a study: one clear error, in place of the system's and of whatever followed from it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from study.credentials import redact

_FULL = (errno.ENOSPC, errno.EDQUOT)


class FullDiskError(ValueError):
    """There is no room for a study's records."""


@contextmanager
def full_disk_said(root: str, *, way_out: str) -> Iterator[None]:
    """Name the place and the way out where an error of the block comes from a disk or a quota that is full.

    Args:
        root: The study's folder, named where the system names no file.
        way_out: The command that goes on once there is room.

    Raises:
        FullDiskError: In place of such an error; every other one is raised as it is.
    """
    try:
        yield
    except Exception as error:
        found = full_disk_in(error)
        if found is None:
            raise
        raise FullDiskError(
            f"the disk must have room for what a study writes, but {redact(str(found.filename or root))} could not be "
            f"written ({found.strerror}); what was recorded before stays. Free some space there, then: {way_out}"
        ) from error


def full_disk_in(error: BaseException | None) -> OSError | None:
    """The system's word of a full disk in an error or in what it came from; Tune and others wrap what they meet."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _FULL:
            return error
        error = error.__cause__ or error.__context__
    return None
