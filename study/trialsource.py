"""What a phase's trials come from, seen by Tune's side: a source that gives them one by one; the fixed list is one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from study.ledger import Ledger, Status, TrialSpec

SpecOf = Callable[[dict[str, Any], int], TrialSpec]
"""(sampled dotted keys, number) -> the trial; raises ValueError where the keys do not go together."""


class PastTrial(NamedTuple):
    """A trial of an earlier study that the sampler is told of; none of this study's own.

    Attributes:
        origin: `STUDY/KEY`.
        course: Objective after each epoch.
    """

    origin: str
    params: dict[str, Any]
    status: Status
    metrics: dict[str, float]
    course: dict[int, float]


class Source(Protocol):
    """Gives trials one by one and is told how they do."""

    metric: str
    maximise: bool

    def next_spec(self) -> TrialSpec | None:
        """The next trial to run, its `trial.json` written; None when there is none."""
        ...

    def on_epoch(self, key: str, epoch: int, metrics: Mapping[str, Any]) -> None:
        """A trial's figures after an epoch."""
        ...

    def on_end(self, key: str, status: Status, metrics: Mapping[str, Any]) -> None:
        """A trial ended; `running` means that it was interrupted."""
        ...

    def figure(self, metrics: Mapping[str, Any]) -> float | None:
        """What may be shown as the best so far; None for a trial that could not be chosen."""
        ...


class ListSource:
    """Gives the trials of a list."""

    metric = "acc/noise"
    maximise = True

    def __init__(self, specs: Sequence[TrialSpec], ledger: Ledger) -> None:
        self._specs = deque(specs)
        self._ledger = ledger

    def next_spec(self) -> TrialSpec | None:
        """The next trial of the list."""
        if not self._specs:
            return None
        spec = self._specs.popleft()
        self._ledger.create_trial(spec)
        return spec

    def on_epoch(self, key: str, epoch: int, metrics: Mapping[str, Any]) -> None:
        """Nothing depends on it."""

    def on_end(self, key: str, status: Status, metrics: Mapping[str, Any]) -> None:
        """Nothing depends on it."""

    def figure(self, metrics: Mapping[str, Any]) -> float | None:
        """The headline figure."""
        return metrics.get(self.metric)


class Space(Protocol):
    """A search space, defined by running it; see `study.space`."""

    def suggest(self, trial: Any) -> dict[str, Any]:
        """Draw the dotted keys by the trial's `suggest_*` functions."""
        ...

    def encode(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The values that Optuna keeps for drawn keys."""
        ...

    def configurations(self) -> list[dict[str, Any]] | None:
        """Every configuration, for a grid; None where they cannot be counted."""
        ...
