"""Hashes and orders that are the same on every machine and under every library version.

NumPy may change the streams of its generators between versions, so orders and splits that a study's results rest on
come from a fixed 64-bit mix instead.
"""

from __future__ import annotations

import hashlib

import numpy as np


def digest(*parts: str | bytes) -> str:
    """Hex digest of the parts; each is measured, so ("ab", "c") and ("a", "bc") differ."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()


def hash64(*parts: str | bytes | int) -> int:
    """Unsigned 64-bit hash of the parts."""
    return int(digest(*(str(part) if isinstance(part, int) else part for part in parts))[:16], 16)


def image_id(content: bytes, *, occurrence: int = 0) -> int:
    """Signed 64-bit id of an image's content; the k-th copy of the same content has an id of its own."""
    value = hash64("image", content, occurrence)
    return value - (1 << 64) if value >= 1 << 63 else value


def mix64(values: np.ndarray, *, key: int) -> np.ndarray:
    """Mixes integers with a key into uint64 noise; a bijection for each key.

    Source: the finaliser of splitmix64, https://prng.di.unimi.it/splitmix64.c (public domain).
    """
    with np.errstate(over="ignore"):
        mixed = values.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key & 0xFFFFFFFFFFFFFFFF)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def shuffled(rows: np.ndarray, *, key: int) -> np.ndarray:
    """The rows in an order drawn from the key; whether a row comes before another depends on these two only."""
    return rows[np.argsort(mix64(rows, key=key), kind="stable")]
