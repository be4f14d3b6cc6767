"""The search space of a study: dotted keys, their domains and conditions, as one picklable define-by-run object."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from study.config import StudyConfig, TrialConfig
from study.domains import Domain, Trial, frozen
from study.keys import places
from study.override import apply, override, written
from study.problems import Problem, ProblemsError, shown
from study.spaceread import in_order, read_domains

SAMPLES = 64
FORCED_SAMPLES = 4
MAX_KEYS_SHOWN = 6

_ABSENT = object()


@dataclass(frozen=True)
class Space:
    """Domains in the order in which they are drawn, over a study's other settings.

    Attributes:
        base: The settings that were written, which conditions on keys that are not searched read.
    """

    domains: tuple[Domain, ...]
    base: dict[str, Any]

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Draw one configuration: dotted keys with values as in a study file; keys whose `when` fails are left out.

        What Optuna stores are simple values; `encode` and `decode` go between the two.
        """
        params: dict[str, Any] = {}
        for domain in self.domains:
            if self._holds(domain, params):
                params[domain.key] = domain.draw(trial)
        return params

    def encode(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """What Optuna stores for params of this space; what is `fixed` is not among it.

        `optuna.trial.FixedTrial(space.encode(params))` run through `suggest` has the distributions as well.
        """
        return {
            domain.key: domain.encode(params[domain.key])
            for domain in self.domains
            if domain.key in params and domain.kind != "fixed"
        }

    def decode(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """The inverse of `encode`, with what is `fixed`."""
        params: dict[str, Any] = {}
        for domain in self.domains:
            if domain.kind == "fixed" and self._holds(domain, params):
                params[domain.key] = domain.items[0]
            elif domain.key in stored:
                params[domain.key] = domain.decode(stored[domain.key])
        return params

    def count(self, limit: int = 10_000) -> int | None:
        """How many configurations there are; None where a range is continuous or they are more than `limit`."""
        found = self.configurations(limit)
        return None if found is None else len(found)

    def configurations(self, limit: int = 10_000) -> list[dict[str, Any]] | None:
        """Every configuration, the last key changing fastest; None where a range is continuous or they are too many."""
        states: list[dict[str, Any]] = [{}]
        for domain in self.domains:
            size = domain.size()
            if size is None or len(states) * size > limit * 10:
                return None
            states = [
                {**state, **extra}
                for state in states
                for extra in ([{domain.key: item} for item in domain.values()] if self._holds(domain, state) else [{}])
            ]
        return states if len(states) <= limit else None

    def draws(self, count: int) -> list[dict[str, Any]]:
        """Random configurations, the same at every call."""
        return [self.suggest(_Dice(random.Random(seed))) for seed in range(count)]

    def samples(self) -> Iterator[dict[str, Any]]:
        """Configurations to try a space by: its corners, random ones, and some in which each condition holds."""
        for corner in (0.0, 1.0):
            yield self.suggest(_Dice(random.Random(0), corner=corner))
        yield from self.draws(SAMPLES)
        for domain in self.domains:
            for seed in range(FORCED_SAMPLES if domain.when else 0):
                dice = random.Random(seed)
                yield self.suggest(_Dice(dice, forced=self._forced(domain, dice)))

    def validate(self, base: TrialConfig) -> None:
        """Try the whole config for many draws of this space.

        Raises:
            ProblemsError: A combination is refused, or a condition never holds; paths start at the space.
        """
        drawn: set[str] = set()
        for params in self.samples():
            drawn |= params.keys()
            text = _refusal(base, params)
            if text:
                raise ProblemsError([_combination(base, params, text)])
        never = [domain for domain in self.domains if domain.key not in drawn]
        text = "never holds, so the key would never be searched; change the condition or take the key out"
        if never:
            raise ProblemsError(Problem((domain.key, "when"), text) for domain in never)

    def _holds(self, domain: Domain, params: dict[str, Any]) -> bool:
        if not domain.when:
            return True
        tree = override(self.base, params)
        values = [(_setting(item.key, tree), item) for item in domain.when]
        return all(value is not _ABSENT and frozen(item.key, value) in item.values for value, item in values)

    def _forced(self, domain: Domain, dice: random.Random) -> dict[str, Any]:
        """Values, as Optuna would give them, under which a domain's conditions and theirs hold."""
        domains = {item.key: item for item in self.domains}
        forced: dict[str, Any] = {}
        waiting = list(domain.when)
        while waiting:
            condition = waiting.pop()
            other = domains.get(condition.key)
            if other is None or other.key in forced:
                continue
            value = dice.choice(condition.values)
            items = [item for item in other.items if frozen(other.key, item) == value]
            forced[other.key] = other.encode(items[0]) if items else json.loads(value)
            waiting += other.when
        return forced


def parse(space: Mapping[str, Mapping[str, Any]], base: TrialConfig) -> Space:
    """Read a search space and try it on the settings that it is drawn over.

    Raises:
        ProblemsError: With a problem for each mistake; their paths start at the space.
    """
    domains, problems = read_domains(space)
    if problems:
        raise ProblemsError(problems)
    tree = {name: value for name, value in written(base).items() if name in TrialConfig.model_fields}
    parsed = Space(in_order(domains), tree)
    problems = [problem for domain in parsed.domains for problem in _against_base(domain, parsed)]
    if problems:
        raise ProblemsError(problems)
    parsed.validate(base)
    return parsed


def for_phase(study: StudyConfig, phase: Any) -> StudyConfig:
    """The study as one of its phases sees it: the phase's `set` applied, its own search in place of the study's."""
    config = apply(study, phase.set) if phase.set else study
    search = getattr(phase, "search", None)
    return config.model_copy(update={"search": search}) if search is not None else config


def _setting(key: str, tree: dict[str, Any]) -> Any:
    """The value that a tree of settings gives a key, by default where it does not name it."""
    for place in places()[key]:
        if all(_setting(discriminator, tree) == tag for discriminator, tag in place.branch if discriminator != key):
            value: Any = tree
            for part in key.split("."):
                if not isinstance(value, dict) or part not in value:
                    return place.field.get_default(call_default_factory=True, validated_data={})
                value = value[part]
            return value
    return _ABSENT


def _against_base(domain: Domain, space: Space) -> Iterator[Problem]:
    """Conditions and branches that the rest of the study makes impossible."""
    domains = {item.key: item for item in space.domains}
    for condition in domain.when:
        path = (domain.key, "when", condition.key)
        other = domains.get(condition.key)
        searched_whole = any(condition.key.startswith(f"{key}.") for key in domains)
        for value in condition.values:
            if other is not None and not other.can_be(value):
                text = f"must be a value that the search can give it ({other.describe()}), but got {value}"
                yield Problem(path, text)
        if other is None and not searched_whole:
            held = _setting(condition.key, space.base)
            if held is not _ABSENT and frozen(condition.key, held) not in condition.values:
                text = f"never holds: {condition.key} is {shown(held)} in this study and is not searched"
                yield Problem(path, f"{text}; search it too, or take the condition out")
                return
    yield from _branch_problems(domain, space, domains)


def _branch_problems(domain: Domain, space: Space, domains: Mapping[str, Domain]) -> Iterator[Problem]:
    """A key that only some methods have must be searched for those only."""
    branches = [dict(place.branch) for place in places()[domain.key]]
    for discriminator in branches[0]:
        has = {branch[discriminator] for branch in branches}
        if discriminator == domain.key:
            continue
        can = _possible_tags(discriminator, space, domains)
        for condition in domain.when:
            if condition.key == discriminator:
                can &= {json.loads(value) for value in condition.values}
            else:
                tags = {dict(place.branch).get(discriminator) for place in places()[condition.key]}
                can = can if None in tags else can & tags
        if can <= has:
            continue
        names = " or ".join(sorted(has))
        if discriminator in domains:
            when = f"when: {{{discriminator}: {sorted(has)[0] if len(has) == 1 else sorted(has)}}}"
            yield Problem((domain.key,), f"is a setting of {discriminator}: {names} only; add {when}")
        else:
            yield Problem(
                (domain.key,),
                f"has no effect: {discriminator} is {' or '.join(sorted(map(str, can)))}, and only {names} has it; "
                f"search {discriminator} too, or take it out",
            )


def _possible_tags(discriminator: str, space: Space, domains: Mapping[str, Domain]) -> set[Any]:
    if discriminator in domains:
        return set(domains[discriminator].items)
    section, _, name = discriminator.rpartition(".")
    if section in domains:
        return {item.get(name) for item in domains[section].items if isinstance(item, dict)}
    return {_setting(discriminator, space.base)}


def _refusal(base: TrialConfig, params: Mapping[str, Any]) -> str:
    try:
        apply(base, params)
    except ProblemsError as error:
        return "; ".join(str(problem) for problem in error.problems)
    return ""


def _combination(base: TrialConfig, params: dict[str, Any], text: str) -> Problem:
    """A refused combination, without the keys that have no part in it."""
    for key in reversed(list(params)):  # what depends on a key comes after it
        rest = {other: value for other, value in params.items() if other != key}
        if rest and _refusal(base, rest) == text:
            params = rest
    some = ", ".join(f"{key}: {shown(value)}" for key, value in list(params.items())[:MAX_KEYS_SHOWN])
    return Problem((), f"can draw {{{some}}}, which is refused: {text}; narrow a range or add a `when`")


class _Dice:
    """A trial without Optuna: random, at a corner of the space, or with some values forced."""

    def __init__(
        self, dice: random.Random, *, corner: float | None = None, forced: Mapping[str, Any] | None = None
    ) -> None:
        self._dice, self._corner, self._forced = dice, corner, forced or {}

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        del log
        return self._forced.get(name, self._one_of(range(low, high + 1, step)))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        share = self._dice.random() if self._corner is None else self._corner
        value = low * (high / low) ** share if log else low + (high - low) * share
        if step:
            value = low + round((value - low) / step) * step
        return self._forced.get(name, min(max(value, low), high))

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self._forced[name] if name in self._forced else self._one_of(choices)

    def _one_of(self, items: Any) -> Any:
        if self._corner is None:
            return items[self._dice.randrange(len(items))]
        return items[-1 if self._corner else 0]
