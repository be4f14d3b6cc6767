"""Where a phase's trials come from: a fixed list, or Optuna fed from the ledger. No Ray here.

Nothing of a search is kept but the ledger: at every launch Optuna is told anew what finished, was pruned or failed, and
each suggestion's random numbers follow from (seed, number), so a search that was cut off goes on as it would have.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FixedTrial, FrozenTrial, Trial, TrialState, create_trial

from study.config_search import SearchConfig
from study.ledger import Ledger, Status, TrialSpec

MAX_ASKS = 100
"""Suggestions in a row that give no new trial before the space counts as exhausted."""

_STATES = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}

SpecOf = Callable[[dict[str, Any], int], TrialSpec]
"""(sampled dotted keys, number) -> the trial; raises ValueError where the keys do not go together."""


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


class Space(Protocol):
    """A search space, defined by running it; see `study.space`."""

    def suggest(self, trial: Any) -> dict[str, Any]:
        """Draw the dotted keys by the trial's `suggest_*` functions."""
        ...

    def encode(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The values that Optuna keeps for drawn keys."""
        ...


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


class OptunaSource:
    """Gives Optuna's suggestions, each trial once.

    Args:
        spec_of: Makes the trial of sampled keys; its key says whether it is known already.
        phase: The search phase, whose trials the ledger is asked for.
        past: Trials of earlier studies to tell Optuna of first; they are never among `known`.

    Attributes:
        exhausted: Whether suggestions gave nothing new any more.
        refusals: Messages of suggestions whose keys did not go together.
    """

    def __init__(
        self, space: Space, search: SearchConfig, *, spec_of: SpecOf, ledger: Ledger, phase: str,
        past: Sequence[PastTrial] = (),
    ) -> None:  # fmt: skip
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.metric = search.objectives[0].metric
        self.maximise = search.objectives[0].goal == "maximise"
        self.exhausted = False
        self.refusals: list[str] = []
        self._space = space
        self._search = search
        self._spec_of = spec_of
        self._ledger = ledger
        self._phase = phase
        self._past = past
        self._known: dict[str, Status] = {}
        self._asked: dict[str, Trial] = {}
        self._again: deque[TrialSpec] = deque()
        self._epochs: dict[str, int] = {}
        self._next_number = 0
        self._study = optuna.create_study(
            study_name=f"{ledger.study}/{phase}",
            directions=["maximize" if item.goal == "maximise" else "minimize" for item in search.objectives],
        )

    @property
    def known(self) -> dict[str, Status]:
        """Trials of this search by key, in the order of their numbers."""
        return dict(self._known)

    def feed(self) -> None:
        """Tell Optuna what the ledger knows; trials without an end are to be run again first.

        Trials of this phase that its present settings would not give are left aside.
        """
        for trial in self._past:
            self._tell_warm(trial)
        for key in self._ledger.keys(self._phase):
            record = self._ledger.trial(key)
            self._next_number = max(self._next_number, record["number"] + 1)
            spec = self._respecified(record)
            if spec is None or spec.key != key:
                continue
            self._known[key] = self._ledger.status(key)
            if self._known[key] == "running":
                self._again.append(spec)
            else:
                self._tell_past(spec, self._known[key])

    def next_spec(self) -> TrialSpec | None:
        """An interrupted trial, or a new suggestion; None when the space gives nothing new."""
        if self._again:
            spec = self._again.popleft()
            self._ask_again(spec)
            return spec
        for attempt in range(MAX_ASKS):
            trial = self._ask(attempt)
            spec = self._specified(trial)
            if spec is not None and spec.key not in self._known:
                self._hand_out(spec, trial)
                return spec
            self._answer(trial, spec)
        self.exhausted = True
        if not self._known and self.refusals:
            raise ValueError(f"search.space: no suggestion gives a valid trial; the last one: {self.refusals[-1]}")
        return None

    def on_epoch(self, key: str, epoch: int, metrics: Mapping[str, Any]) -> None:
        """Report an epoch's objective; Optuna takes none for several objectives."""
        trial, value = self._asked.get(key), _number(metrics.get(self.metric))
        if trial is None or value is None or len(self._search.objectives) > 1 or epoch <= self._epochs.get(key, 0):
            return
        self._epochs[key] = epoch
        trial.report(value, epoch)

    def on_end(self, key: str, status: Status, metrics: Mapping[str, Any]) -> None:
        """Tell Optuna how a trial ended; an interrupted one stays open."""
        self._known[key] = status
        trial = self._asked.get(key)
        if trial is not None and status != "running":
            del self._asked[key]
            state, values = self._outcome(status, metrics)
            self._study.tell(trial, values=values, state=state)

    def _ask(self, attempt: int) -> Trial:
        self._study.sampler = make_sampler(
            self._search.algorithm, seed=derived_seed(self._search.seed, self._next_number, attempt)
        )
        return self._study.ask()

    def _specified(self, trial: Trial) -> TrialSpec | None:
        params = self._space.suggest(trial)
        try:
            return self._spec_of(params, self._next_number)
        except ValueError as error:
            self.refusals.append(str(error))
            return None

    def _respecified(self, record: Mapping[str, Any]) -> TrialSpec | None:
        try:
            return self._spec_of(record["params"], record["number"])
        except ValueError:
            return None

    def _hand_out(self, spec: TrialSpec, trial: Trial) -> None:
        self._ledger.create_trial(spec)
        self._known[spec.key] = "running"
        self._asked[spec.key] = trial
        self._next_number += 1

    def _answer(self, trial: Trial, spec: TrialSpec | None) -> None:
        """Tell Optuna of a suggestion that is not run, since it is known, under way or no valid trial."""
        status: Status = "failed" if spec is None else self._known[spec.key]
        metrics = {} if spec is None else self._ledger.metrics(spec.key)
        if spec is not None and status == "pruned":
            for epoch, value in self._course(spec.key).items():
                trial.report(value, epoch)
        state, values = self._outcome("failed" if status == "running" else status, metrics)
        self._study.tell(trial, values=values, state=state)

    def _outcome(self, status: Status, metrics: Mapping[str, Any]) -> tuple[TrialState, list[float] | None]:
        return outcome(self._search, status, metrics)

    def _course(self, key: str) -> dict[int, float]:
        """A trial's objective after each epoch; none where there are several objectives."""
        return {} if len(self._search.objectives) > 1 else course(self._ledger, key, self.metric)

    def _tell_past(self, spec: TrialSpec, status: Status) -> None:
        drawn = self._drawn_again(spec.params)
        if drawn is not None:
            state, values = self._outcome(status, self._ledger.metrics(spec.key))
            self._study.add_trial(past_trial(drawn, state, values, self._course(spec.key)))

    def _tell_warm(self, trial: PastTrial) -> None:
        drawn = self._drawn_again(trial.params)
        if drawn is not None:
            state, values = self._outcome(trial.status, trial.metrics)
            course = {} if len(self._search.objectives) > 1 else trial.course
            self._study.add_trial(past_trial(drawn, state, values, course, attributes={"murk.warm": trial.origin}))

    def _ask_again(self, spec: TrialSpec) -> None:
        drawn = self._drawn_again(spec.params)
        if drawn is None:
            return
        self._study.enqueue_trial(drawn.params)
        self._asked[spec.key] = self._study.ask(fixed_distributions=drawn.distributions)
        for epoch, value in self._course(spec.key).items():
            self.on_epoch(spec.key, epoch, {self.metric: value})

    def _drawn_again(self, params: dict[str, Any]) -> FixedTrial | None:
        return drawn_again(self._space, params)


def outcome(search: SearchConfig, status: Status, metrics: Mapping[str, Any]) -> tuple[TrialState, list[float] | None]:
    """How Optuna is told that a trial ended: its state, and a finished one's objectives."""
    if status != "finished":
        return _STATES[status], None
    values = [_number(metrics.get(objective.metric)) for objective in search.objectives]
    known = [value for value in values if value is not None]
    return (TrialState.COMPLETE, known) if len(known) == len(values) else (TrialState.FAIL, None)


def drawn_again(space: Space, params: Mapping[str, Any]) -> FixedTrial | None:
    """An earlier draw repeated, for its distributions; None where the space of today would not give it."""
    fixed = FixedTrial(space.encode(params))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # FixedTrial's way to say "out of range"
            drawn = space.suggest(fixed)
    except (ValueError, UserWarning):
        return None
    return fixed if drawn == params else None


def course(ledger: Ledger, key: str, metric: str) -> dict[int, float]:
    """A trial's figure after each epoch, from the ledger."""
    rows = {
        event["epoch"]: _number(event["metrics"].get(metric))
        for event in ledger.events(key)
        if event["event"] == "epoch"
    }
    return {epoch: value for epoch, value in sorted(rows.items()) if value is not None}


def past_trial(
    drawn: FixedTrial, state: TrialState, values: list[float] | None, epochs: dict[int, float],
    attributes: Mapping[str, Any] | None = None,
) -> FrozenTrial:  # fmt: skip
    """A trial of an earlier launch, or of an earlier study, as Optuna takes it."""
    return create_trial(
        state=state, values=values, params=drawn.params, distributions=drawn.distributions, intermediate_values=epochs,
        user_attrs=dict(attributes or {}),
    )  # fmt: skip


def make_sampler(algorithm: str, *, seed: int) -> BaseSampler:
    """A fresh sampler; TPE models parameters jointly, conditional ones too, and spreads trials that run at once."""
    if algorithm == "random":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of `group`
        return TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)


def derived_seed(seed: int, number: int, attempt: int) -> int:
    """The sampler's seed for one suggestion."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}/{attempt}".encode()).digest()[:4], "big")


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
