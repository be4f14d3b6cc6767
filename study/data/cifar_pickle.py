"""The Python version of CIFAR, which is pickled, read without running anything that a pickle may name.

A pickle is a program: it may call whatever it names. Here the few names that these files need stand for small classes
of our own that only keep what they are given; every other name is refused. So not even NumPy's own unpickling, which
trusts what it is told of types and sizes, sees the file.

Source: Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html, "Dataset layout".
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

UNREADABLE = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError,
    ImportError, MemoryError, OSError,
)  # fmt: skip
"""What unpickling raises on files that are torn or made to harm."""

MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")


class _Array:
    """What a pickle says of an array of bytes."""

    def __init__(self, *_: Any) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def pixels(self) -> np.ndarray:
        """uint8 of the shape that is said."""
        _, shape, dtype, column_major, content = self.state
        if not isinstance(dtype, _Dtype) or dtype.name not in ("u1", b"u1"):
            raise ValueError("it holds no bytes")
        content = content.encode("latin1") if isinstance(content, str) else content
        return np.frombuffer(content, dtype=np.uint8).reshape(shape, order="F" if column_major else "C")


class _Dtype:
    """What a pickle says of a type."""

    def __init__(self, name: Any = None, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        del state  # the order of bytes, which one byte has not


def _encoded(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes into an old pickle."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes are written as {encoding!r}")
    return text.encode("latin1")


class _ForbiddenError(Exception):
    """A pickle names what no CIFAR file needs."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name in MODULES:
            known = {"_reconstruct": _Array, "ndarray": _Array, "dtype": _Dtype}
            if global_name in known:
                return known[global_name]
        if (module_name, global_name) == ("_codecs", "encode"):
            return _encoded
        raise _ForbiddenError(f"{module_name}.{global_name}")


def read_batch(path: Path) -> dict[str, Any]:
    """A file of the Python version: its dict, with text keys and uint8 arrays.

    Raises:
        ValueError: It cannot be read as such a file, or names anything that these files do not need.
    """
    way = "fetch it again, or take the binary version of the set, which is plain bytes"
    try:
        with path.open("rb") as file:
            found = _Unpickler(file, encoding="bytes").load()
        if not isinstance(found, dict):
            raise ValueError("it holds no dict")
        items = {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in found.items()}
        return {key: value.pixels() if isinstance(value, _Array) else value for key, value in items.items()}
    except _ForbiddenError as error:
        raise ValueError(
            f"data.path must hold CIFAR's own files, but {str(path)!r} names {error} for Python to call, which none of "
            "them does: it is not opened; take the binary version of the set from its authors"
        ) from None
    except UNREADABLE as error:
        raise ValueError(
            f"data.path must hold CIFAR's own files, but {str(path)!r} cannot be read as one ({type(error).__name__}); "
            f"{way}"
        ) from None
