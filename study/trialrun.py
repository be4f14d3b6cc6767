"""The parts of a trial under way, and where its figures go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch.optim import Optimizer

from models.methods.method import Method
from study.config import TrialConfig
from study.data.image_set import DataSplits, ImageSet
from study.ledger import Ledger, TrialSpec
from study.loop import LoopSettings
from study.ranks import Ranks
from study.usage import Usage
from study.verification import PairSet


class Reporter(Protocol):
    """Where a trial's figures go while it runs; every worker reports equally often."""

    def report(self, metrics: dict[str, float], *, epoch: int, final: bool) -> None:
        """Take the metrics after an epoch; `final` on a trial's last report."""
        ...


class NoReporter:
    """Reports to nobody."""

    def report(self, metrics: dict[str, float], *, epoch: int, final: bool) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Run:
    """The parts of a trial under way; `real` holds the folders of real noisy images, empty in a search.

    `pairs` are those that a trial of the task `verification` is tested on.
    """

    spec: TrialSpec
    config: TrialConfig
    ledger: Ledger
    data: DataSplits
    method: Method
    optimizer: Optimizer
    settings: LoopSettings
    ranks: Ranks
    reporter: Reporter
    should_stop: Callable[[], bool]
    real: Mapping[str, ImageSet] = field(default_factory=dict)
    pairs: PairSet | None = None
    usage: Usage = field(default_factory=Usage)
