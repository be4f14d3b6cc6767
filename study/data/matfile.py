"""MATLAB files: one variable of a file, or one clear error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

UNREADABLE = (MatReadError, NotImplementedError, ValueError, TypeError, EOFError, OSError, KeyError)
"""What scipy raises on files that are torn, no MATLAB files, or of version 7.3 (which are HDF5)."""


def read_variable(path: Path, variable: str, *, fields: tuple[str, ...] = ()) -> np.ndarray:
    """One variable of a .mat file, its dimensions of size 1 taken away but for the first.

    Args:
        fields: What each element of a struct array must have.

    Raises:
        ValueError: The file cannot be read, or has not that variable or those fields; says which it has.
    """
    try:
        content = loadmat(path, squeeze_me=True)
    except UNREADABLE as error:
        raise ValueError(
            f"data.path must hold a MATLAB file of version 7 or older at {str(path)!r}, but it cannot be read as one "
            f"({type(error).__name__}); fetch it again"
        ) from None
    if variable not in content:
        found = ", ".join(name for name in content if not name.startswith("__")) or "none"
        raise ValueError(f"data.path: {str(path)!r} must have the variable {variable!r}, but has {found}")
    value = np.atleast_1d(content[variable])
    lacking = [name for name in fields if name not in (value.dtype.names or ())]
    if lacking:
        found = ", ".join(value.dtype.names or ()) or "none"
        raise ValueError(
            f"data.path: {variable!r} in {str(path)!r} must have the field {lacking[0]!r}, but has {found}"
        )
    return value
