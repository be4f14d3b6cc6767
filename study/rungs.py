"""When to stop a trial early: asynchronous successive halving, by epochs or by gradient passes. No Ray here.

Source: ASHA, Li et al. 2020 (arXiv 1810.05934), in the stopping form of Ray Tune's `AsyncHyperBandScheduler` with one
bracket, whose decisions it repeats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from study.config_search import Scheduler

_MAX_RUNGS = 64


class Rungs:
    """The figures of trials at each rung; a trial is judged at a rung by those that came there before it.

    By epochs all trials share a ladder. By gradient passes each method has its own: methods spend their passes in ways
    that differ early on, so that a comparison across them would stop the slow starters.

    Args:
        num_images: Training images, by which gradient passes are counted.
    """

    def __init__(self, settings: Scheduler, *, maximise: bool, num_images: int = 1) -> None:
        self._grace = settings.grace_passes_per_image
        self._first = float(settings.grace_epochs if self._grace is None else self._grace)
        self._factor = settings.reduction_factor
        self._sign = 1.0 if maximise else -1.0
        self._num_images = num_images
        self._ladders: dict[str, list[dict[str, float]]] = {}

    def judge(self, key: str, metrics: Mapping[str, Any], value: float | None, *, method: str) -> bool:
        """Take a figure of a trial; whether the trial is to stop.

        A trial is judged once at a rung: the highest that it has reached. A missing figure is not judged.

        Args:
            metrics: Of the report, with `epoch` and `cost/passes`.
        """
        spent = self._spent(metrics)
        if spent is None or value is None or not math.isfinite(value):
            return False
        ladder = self._ladders.setdefault("" if self._grace is None else method, [])
        rung = self._reached(spent)
        if rung < 0:
            return False
        while len(ladder) <= rung:
            ladder.append({})
        for recorded in reversed(ladder[: rung + 1]):
            if key in recorded:
                continue  # decided there before; a lower rung that was passed over is made up for
            others, signed = list(recorded.values()), self._sign * value
            recorded[key] = signed
            return bool(others) and signed < np.percentile(others, (1 - 1 / self._factor) * 100)
        return False

    def _spent(self, metrics: Mapping[str, Any]) -> float | None:
        if self._grace is None:
            return metrics.get("epoch")
        passes = metrics.get("cost/passes")
        return None if passes is None else passes / self._num_images

    def _reached(self, spent: float) -> int:
        """The highest rung's place, -1 before the first."""
        rung = -1
        while rung < _MAX_RUNGS and spent + 1e-9 * self._first >= self._first * self._factor ** (rung + 1):
            rung += 1
        return rung
