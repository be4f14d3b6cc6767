"""MATLAB files: one variable of a file, or one clear error."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat, whosmat
from scipy.io.matlab import MatReadError

UNREADABLE = (
    MatReadError, NotImplementedError, ValueError, TypeError, EOFError, OSError, LookupError, zlib.error, OverflowError,
    MemoryError, AttributeError, RuntimeError, AssertionError,
)  # fmt: skip
"""What scipy raises on files that are torn, no MATLAB files, or of version 7.3 (which are HDF5)."""


def read_variable(path: Path, variable: str, *, fields: tuple[str, ...] = ()) -> np.ndarray:
    """One variable of a .mat file, its dimensions of size 1 taken away but for the first.

    Args:
        fields: What each element of a struct array must have.

    Raises:
        ValueError: The file cannot be read, or has not that variable or those fields; says which it has.
    """
    try:
        content = loadmat(path, squeeze_me=True, variable_names=[variable])
    except UNREADABLE as error:
        raise ValueError(
            f"data.path must hold a MATLAB file of version 7 or older at {str(path)!r}, but it cannot be read as one "
            f"({type(error).__name__}); fetch it again"
        ) from None
    if variable not in content:
        found = ", ".join(name for name, *_ in whosmat(path)) or "none"
        raise ValueError(
            f"data.path: {str(path)!r} must have the variable {variable!r}, but has {found}; fetch it again"
        )
    value = np.atleast_1d(content[variable])
    lacking = [name for name in fields if name not in (value.dtype.names or ())]
    if lacking:
        found = ", ".join(value.dtype.names or ()) or "none"
        raise ValueError(
            f"data.path: {variable!r} in {str(path)!r} must have the field {lacking[0]!r}, but has {found}"
        )
    return value


def whole_numbers(item: Any, fields: Sequence[str], said: str) -> tuple[int, ...]:
    """Numbers of an element of a struct array, a fraction of theirs cut off.

    Args:
        said: Where the element stands, for the error.

    Raises:
        ValueError: One is empty, no number, or not finite.
    """
    numbers = []
    for name in fields:
        value = item[name]
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(
                f"data.path must hold boxes of whole numbers, but {said} has {name} = {value!s:.40}; correct it there"
            )
        numbers.append(int(number))
    return tuple(numbers)
