"""A search's trials: Optuna's suggestions, fed from the ledger. No Ray here.

Nothing of a search is kept but the ledger: at every launch Optuna is told anew what finished, was pruned or failed, and
what it suggested in vain; each suggestion's random numbers follow from (seed, number), so a search that was cut off
goes on as it would have.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import FixedTrial, FrozenTrial, Trial, TrialState, create_trial

from analysis.constraints import broken, excesses, is_feasible, total_excess
from study.config_search import SearchConfig
from study.ledger import Ledger, Status, TrialSpec
from study.outcomes import Outcome, course, number, outcome_of
from study.samplers import Memory, make_sampler
from study.suggestions import Refused, SuggestionLog, Suggestions
from study.trialsource import PastTrial, Space, SpecOf

MAX_ASKS = 100
"""Suggestions in a row that give nothing new before the space counts as exhausted; a grid has an end of its own."""

MAX_STATIC_ASKS = 10_000
"""New suggestions in a row that break a constraint before training, before the search gives up."""

MAX_MODEL_ASKS = 5
"""Those that a model is asked for before the rest are drawn at random: a model can insist on what was refused."""

WARM = "murk.warm"
"""Optuna's user attribute of a trial of an earlier study: where it is from."""

FactsOf = Callable[[TrialSpec], Mapping[str, float]]
"""A trial's metrics that its configuration alone decides, such as `cost/params`."""


class OptunaSource:
    """Gives Optuna's suggestions, each trial once.

    Args:
        spec_of: Makes the trial of sampled keys; its key says whether it is known already.
        phase: The search phase, whose trials the ledger is asked for.
        facts_of: For constraints that can be judged before training; a suggestion that breaks one is not trained.
        past: Trials of earlier studies to tell Optuna of first; they are never among `known`.

    Attributes:
        exhausted: Whether suggestions gave nothing new any more.
        gave_up: Whether too many suggestions in a row broke a constraint before training.
        refusals: Messages of suggestions whose keys did not go together.
        skipped: How many suggestions broke a constraint before training, in this launch.
    """

    def __init__(
        self,
        space: Space,
        search: SearchConfig,
        *,
        spec_of: SpecOf,
        ledger: Ledger,
        phase: str,
        facts_of: FactsOf | None = None,
        past: Sequence[PastTrial] = (),
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.metric = search.objectives[0].metric
        self.maximise = search.objectives[0].goal == "maximise"
        self.exhausted = False
        self.gave_up = False
        self.refusals: list[str] = []
        self.skipped = 0
        self._space = space
        self._search = search
        self._limits = search.limits
        self._static = [limit for limit in self._limits if limit.is_static]
        self._spec_of = spec_of
        self._facts_of = facts_of if self._static else None
        self._nearest = (math.inf, "")
        self._ledger = ledger
        self._phase = phase
        self._log = SuggestionLog(ledger, phase)
        self._past = past
        self._known: dict[str, Status] = {}
        self._asked: dict[str, Trial] = {}
        self._again: deque[tuple[TrialSpec, Suggestions]] = deque()
        self._epochs: dict[str, int] = {}
        self._grid: deque[dict[str, Any]] | None = None
        self._next_number = 0
        self._study = optuna.create_study(
            study_name=f"{ledger.study}/{phase}",
            directions=["maximize" if item.goal == "maximise" else "minimize" for item in search.objectives],
        )
        self._memory = Memory(self._study)

    @property
    def known(self) -> dict[str, Status]:
        """Trials of this search by key, in the order of their numbers."""
        return dict(self._known)

    def feed(self) -> None:
        """Tell Optuna what the ledger knows; trials without an end are to be run again first.

        Trials of this phase that its present settings would not give are left aside.
        """
        suggestions = self._log.read()
        for trial in self._past:
            self._tell_warm(trial)
        for key in self._ledger.keys(self._phase):
            record = self._ledger.trial(key)
            self._next_number = max(self._next_number, record["number"] + 1)
            spec = self._respecified(record)
            if spec is None or spec.key != key:
                continue
            self._known[key] = self._ledger.status(key)
            logged = suggestions.get(record["number"], Suggestions(record["number"]))
            for place, refused in enumerate(logged.refused):
                self._tell_refused(refused, f"{spec.number}/{place}")
            if self._known[key] == "running":
                self._again.append((spec, logged))
            else:
                self._tell_past(spec, self._known[key], logged)
            self._memory.restore(logged.study)

    def next_spec(self) -> TrialSpec | None:
        """An interrupted trial, or a new suggestion; None when the space gives nothing new."""
        if self._again:
            spec, logged = self._again.popleft()
            self._ask_again(spec, logged)
            return spec
        refused: list[Refused] = []
        too_large: set[str] = set()
        num_stale = 0  # suggestions since the last that was new
        while self._may_ask(num_stale, len(too_large)) and (trial := self._ask(len(refused))) is not None:
            params, spec = self._specified(trial)
            is_new = spec is not None and spec.key not in self._known
            if spec is not None and is_new and self._is_worth_training(spec):
                self._hand_out(spec, trial, refused)
                return spec
            num_stale += 1
            if spec is not None and is_new and spec.key not in too_large:
                too_large.add(spec.key)
                num_stale = 0
            refused.append(self._answer(trial, params, spec, place=len(refused)))
        self.exhausted = True
        self.gave_up = self._search.algorithm != "grid" and len(too_large) >= MAX_STATIC_ASKS
        self._refuse_an_empty_search()
        return None

    def on_epoch(self, key: str, epoch: int, metrics: Mapping[str, Any]) -> None:
        """Report an epoch's objective; Optuna takes none for several objectives."""
        trial, value = self._asked.get(key), number(metrics.get(self.metric))
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
            self._tell(trial, outcome_of(self._search, status, {**self._facts(key), **metrics}))

    def figure(self, metrics: Mapping[str, Any]) -> float | None:
        """The first objective of a trial that keeps the constraints; None of another one, which cannot be best."""
        return metrics.get(self.metric) if is_feasible(self._limits, metrics) else None

    def _may_ask(self, num_stale: int, num_too_large: int) -> bool:
        """Whether one more suggestion is worth the time; a grid is gone through to its end."""
        return self._search.algorithm == "grid" or (num_stale < MAX_ASKS and num_too_large < MAX_STATIC_ASKS)

    def _ask(self, attempt: int) -> Trial | None:
        search, seed = self._search, derived_seed(self._search.seed, self._next_number, attempt)
        if search.algorithm == "grid" and not self._enqueue_next_of_grid():
            return None
        is_stuck = attempt >= MAX_MODEL_ASKS
        self._study.sampler = make_sampler(
            "random" if is_stuck else search.algorithm,
            seed=seed,
            sequence_seed=search.seed,
            population=search.population,
        )
        return self._study.ask()

    def _enqueue_next_of_grid(self) -> bool:
        """Have Optuna's next trial be the first of the grid that it has not met; whether there is one."""
        if self._grid is None:
            told = self._study.get_trials(deepcopy=False)
            met = {_text(trial.params) for trial in told if WARM not in trial.user_attrs}
            stored = [self._space.encode(params) for params in self._space.configurations() or ()]
            self._grid = deque(params for params in stored if _text(params) not in met)
        if not self._grid:
            return False
        self._study.enqueue_trial(self._grid.popleft())
        return True

    def _specified(self, trial: Trial) -> tuple[dict[str, Any], TrialSpec | None]:
        params = self._space.suggest(trial)
        try:
            return params, self._spec_of(params, self._next_number)
        except ValueError as error:
            self.refusals.append(str(error))
            return params, None

    def _respecified(self, record: Mapping[str, Any]) -> TrialSpec | None:
        try:
            return self._spec_of(record["params"], record["number"])
        except ValueError:
            return None

    def _is_worth_training(self, spec: TrialSpec) -> bool:
        """Whether a configuration keeps the constraints that it alone decides."""
        if self._facts_of is None:
            return True
        facts = self._facts_of(spec)
        excess = total_excess(self._static, facts)
        if excess:
            self.skipped += 1
            self._nearest = min(self._nearest, (excess, broken(self._static, facts)))
        return not excess

    def _facts(self, key: str) -> Mapping[str, float]:
        """What a trial's configuration decides, for records in which it does not stand."""
        return {} if self._facts_of is None else self._facts_here(self._ledger.trial(key)["params"])

    def _facts_here(self, params: Mapping[str, Any]) -> Mapping[str, float]:
        """What keys decide in this study, before training."""
        if self._facts_of is None:
            return {}
        spec = self._respecified({"params": dict(params), "number": 0})
        return {} if spec is None else self._facts_of(spec)

    def _refuse_an_empty_search(self) -> None:
        if self._known:
            return
        if self.skipped:
            tried = f"none of {MAX_STATIC_ASKS:,} new suggestions in a row" if self.gave_up else "no suggestion"
            raise ValueError(
                f"search.constraints: {tried} keeps them, so none was trained; the nearest breaks "
                f"{self._nearest[1]}; loosen that, or widen search.space"
            )
        if self.refusals:
            raise ValueError(f"search.space: no suggestion gives a valid trial; the last one: {self.refusals[-1]}")

    def _hand_out(self, spec: TrialSpec, trial: Trial, refused: list[Refused]) -> None:
        self._memory.name(trial._trial_id, f"{spec.number}")
        attrs = self._memory.of_trial(trial._trial_id)
        self._log.write(Suggestions(spec.number, tuple(refused), attrs, self._memory.of_study()))
        self._ledger.create_trial(spec)
        self._known[spec.key] = "running"
        self._asked[spec.key] = trial
        self._next_number += 1

    def _answer(self, trial: Trial, params: dict[str, Any], spec: TrialSpec | None, *, place: int) -> Refused:
        """Tell Optuna of a suggestion that is not run: known, under way, no valid trial, or against a constraint."""
        epochs: dict[int, float] = {}
        if spec is None:
            outcome = Outcome("FAIL")
        elif spec.key not in self._known:
            # No figure was measured, so it is not complete; of a pruned one the samplers read the constraints.
            outcome = Outcome("PRUNED", None, self._before_training(spec))
        else:
            status = self._known[spec.key]
            epochs = self._course(spec.key) if status == "pruned" else {}
            metrics = {**self._facts(spec.key), **self._ledger.metrics(spec.key)}
            outcome = Outcome("FAIL") if status == "running" else outcome_of(self._search, status, metrics)
        for epoch, value in epochs.items():
            trial.report(value, epoch)
        self._memory.name(trial._trial_id, f"{self._next_number}/{place}")
        attrs = self._memory.of_trial(trial._trial_id)
        self._tell(trial, outcome)
        return Refused(params, outcome.state, outcome.values, dict(outcome.constraints), epochs, attrs)

    def _before_training(self, spec: TrialSpec) -> dict[str, float]:
        return excesses(self._static, self._facts_of(spec)) if self._facts_of else {}

    def _tell(self, trial: Trial, outcome: Outcome) -> None:
        for text, excess in outcome.constraints.items():
            trial.set_constraint(text, excess)
        self._study.tell(trial, values=outcome.values, state=TrialState[outcome.state])

    def _course(self, key: str) -> dict[int, float]:
        """A trial's objective after each epoch; none where there are several objectives."""
        return {} if len(self._search.objectives) > 1 else course(self._ledger, key, self.metric)

    def _tell_past(self, spec: TrialSpec, status: Status, logged: Suggestions) -> None:
        drawn = self._drawn_again(spec.params)
        if drawn is not None:
            outcome = outcome_of(self._search, status, {**self._facts(spec.key), **self._ledger.metrics(spec.key)})
            self._add(past_trial(drawn, outcome, self._course(spec.key), logged.attrs), f"{spec.number}")

    def _tell_refused(self, refused: Refused, suggestion: str) -> None:
        drawn = self._drawn_again(refused.params)
        if drawn is not None:
            outcome = Outcome(refused.state, refused.values, refused.constraints)
            self._add(past_trial(drawn, outcome, refused.epochs, refused.attrs), suggestion)

    def _tell_warm(self, trial: PastTrial) -> None:
        drawn = self._drawn_again(trial.params)
        if drawn is not None:
            epochs = {} if len(self._search.objectives) > 1 else trial.course
            outcome = outcome_of(self._search, trial.status, {**trial.metrics, **self._facts_here(trial.params)})
            self._study.add_trial(past_trial(drawn, outcome, epochs, names={WARM: trial.origin}))

    def _add(self, trial: FrozenTrial, suggestion: str) -> None:
        self._study.add_trial(trial)
        self._memory.name(self._study.get_trials(deepcopy=False)[-1]._trial_id, suggestion)

    def _ask_again(self, spec: TrialSpec, logged: Suggestions) -> None:
        drawn = self._drawn_again(spec.params)
        if drawn is None:
            return
        self._study.sampler = RandomSampler(seed=0)  # which draws nothing: all values are given
        self._study.enqueue_trial(drawn.params)
        trial = self._study.ask(fixed_distributions=drawn.distributions)
        self._memory.remember(trial._trial_id, f"{spec.number}", logged.attrs)
        self._asked[spec.key] = trial
        for epoch, value in self._course(spec.key).items():
            self.on_epoch(spec.key, epoch, {self.metric: value})

    def _drawn_again(self, params: dict[str, Any]) -> FixedTrial | None:
        return drawn_again(self._space, params)


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


def past_trial(
    drawn: FixedTrial, outcome: Outcome, epochs: Mapping[int, float], attrs: Mapping[str, Any] | None = None,
    *, names: Mapping[str, Any] | None = None,
) -> FrozenTrial:  # fmt: skip
    """A trial of an earlier launch, or of an earlier study, as Optuna takes it.

    Args:
        attrs: Its system attributes, such as its generation.
        names: What people are told of it.
    """
    return create_trial(
        state=TrialState[outcome.state], values=outcome.values, params=drawn.params, distributions=drawn.distributions,
        intermediate_values=dict(epochs), system_attrs=dict(attrs or {}), user_attrs=dict(names or {}),
        constraints=dict(outcome.constraints),
    )  # fmt: skip


def derived_seed(seed: int, number: int, attempt: int) -> int:
    """The sampler's seed for one suggestion."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}/{attempt}".encode()).digest()[:4], "big")


def _text(params: Mapping[str, Any]) -> str:
    return json.dumps(params, sort_keys=True)
