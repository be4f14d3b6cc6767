"""A stream of uniform numbers that is a pure function of its key."""

from __future__ import annotations

import numpy as np

from study.data.hashing import mix64


class Draws:
    """Numbers drawn one after the other; the same key gives the same numbers under every version of NumPy."""

    def __init__(self, key: int) -> None:
        self._key = key
        self._next = 0

    def uniforms(self, count: int) -> np.ndarray:
        """float64 (count,) in [0, 1)."""
        counters = np.arange(self._next, self._next + count, dtype=np.uint64)
        self._next += count
        return (mix64(counters, key=self._key) >> np.uint64(11)) * 2.0**-53

    def between(self, low: float, high: float) -> float:
        """One number in [low, high)."""
        return low + (high - low) * float(self.uniforms(1)[0])

    def below(self, count: int) -> int:
        """One whole number from 0 to count - 1."""
        return int(self.between(0, count))

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.between(0, 1) < probability
