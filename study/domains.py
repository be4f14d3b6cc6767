"""One searched key: the values it may take, how Optuna draws them, and on what it depends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, get_args

from study.keys import canonical
from study.problems import Path, Problem, flow, only_near, shown
from study.readable import value_problems

Kind = Literal["int", "log_int", "float", "uniform", "log_uniform", "choice", "fixed"]
Value = bool | int | float | str | None
KINDS: tuple[str, ...] = get_args(Kind)

_PARTS = ("when", "step", "points")
_INSIDE = 0.6180339887  # a share of a range that gives no whole number
_DIGITS = 12  # significant ones of a value on a grid, so that 0.1 + 2 * 0.1 reads 0.3
_MAX_POINTS = 1000


class Trial(Protocol):
    """What a space asks of an Optuna trial."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...

    def suggest_categorical(self, name: str, choices: Any) -> Any: ...


@dataclass(frozen=True)
class Condition:
    """Holds where `key` has one of `values` (as JSON of their canonical form)."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Domain:
    """The values of a key.

    Attributes:
        low, high: Of a range, both ends included.
        step: Between the values of a range; 0 for none (whole numbers then go by 1).
        items: Of a choice, the one value of `fixed`, or the points on a log scale, of which Optuna keeps the place.
        when: All must hold for the key to be drawn.
    """

    key: str
    kind: Kind
    low: float = 0
    high: float = 0
    step: float = 0
    items: tuple[Any, ...] = ()
    when: tuple[Condition, ...] = ()

    @property
    def log(self) -> bool:
        return self.kind.startswith("log_")

    def draw(self, trial: Trial) -> Any:
        """A value for this trial; what is fixed is not told to Optuna."""
        if self.kind == "fixed":
            return self.items[0]
        if self.kind == "choice":
            return self.decode(trial.suggest_categorical(self.key, self.options()))
        if self.items:
            return self.decode(trial.suggest_int(self.key, 0, len(self.items) - 1))
        if self.is_whole:
            return trial.suggest_int(self.key, int(self.low), int(self.high), step=int(self.step) or 1, log=self.log)
        step = float(self.step) or None
        return self.decode(trial.suggest_float(self.key, float(self.low), float(self.high), step=step, log=self.log))

    @property
    def is_whole(self) -> bool:
        """Whether it is a range of whole numbers."""
        return self.kind in ("int", "log_int")

    def options(self) -> list[Value]:
        """The choices as Optuna keeps them: as they are where all are simple, else all as JSON."""
        return [json.dumps(item) for item in self.items] if self.is_encoded else list(self.items)

    @property
    def is_encoded(self) -> bool:
        """Whether choices go to Optuna as JSON: lists, mappings, and values that Python holds for equal (1, true)."""
        simple = all(item is None or isinstance(item, (bool, int, float, str)) for item in self.items)
        return self.kind == "choice" and not (simple and len(set(self.items)) == len(self.items))

    def decode(self, value: Any) -> Any:
        """A value that Optuna gave, as it stands in the study file."""
        if self.kind == "log_uniform" and self.items:
            return self.items[value]
        if self.step and not self.is_whole:
            return _neat(value)
        return json.loads(value) if self.is_encoded else value

    def encode(self, value: Any) -> Any:
        """The inverse of `decode`."""
        if self.kind == "log_uniform" and self.items:
            return min(range(len(self.items)), key=lambda place: abs(self.items[place] - value))
        if self.step and not self.is_whole:
            return self.low + round((value - self.low) / self.step) * self.step
        return json.dumps(value) if self.is_encoded else value

    def size(self) -> int | None:
        """How many values there are; None for a continuous range."""
        if self.items:
            return len(self.items)
        if self.is_whole:
            return (int(self.high) - int(self.low)) // (int(self.step) or 1) + 1
        return round((self.high - self.low) / self.step) + 1 if self.step else None

    def values(self) -> Sequence[Any]:
        """All values, lowest first.

        Raises:
            ValueError: The range is continuous.
        """
        count = self.size()
        if count is None:
            raise ValueError(f"{self.key} must be finite, but is {self.describe()}")
        if self.items:
            return self.items
        if self.is_whole:
            return range(int(self.low), int(self.high) + 1, int(self.step) or 1)
        return [_neat(self.low + place * self.step) for place in range(count)]

    def can_be(self, value: str) -> bool:
        """Whether it can take a value, given as `frozen` makes it."""
        if self.items:
            return any(frozen(self.key, item) == value for item in self.items)
        number = json.loads(value)
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not self.low <= number <= self.high:
            return False
        if not self.step and not self.is_whole:
            return True
        places = (number - self.low) / (self.step or 1)
        return abs(places - round(places)) < 1e-8

    def describe(self) -> str:
        """In words, for the plan."""
        if self.kind == "fixed":
            return flow(self.items[0])
        if self.kind == "choice":
            return " | ".join(map(flow, self.items))
        if self.items:
            return f"{self.low:g} to {self.high:g} in {len(self.items)} points on a log scale"
        scale = " on a log scale" if self.log else ""
        step = f" in steps of {self.step:g}" if self.step and not (self.is_whole and self.step == 1) else ""
        return f"{self.low:g} to {self.high:g}{step}{scale}"


def _neat(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def frozen(key: str, value: Any) -> str:
    """A value as text that is equal for equal settings."""
    return json.dumps(canonical(key, value), sort_keys=True)


def read_domain(key: str, written: Any, path: Path) -> tuple[Domain | None, list[Problem]]:
    """A key's domain from its entry in `search.space`, and all that is wrong with it.

    Args:
        path: Of the entry, for the problems.
    """
    kinds = [name for name in written if name in KINDS]
    strange = [name for name in written if name not in (*KINDS, *_PARTS)]
    problems = [
        Problem((*path, name), f"is no part of a domain, which has one of {', '.join(KINDS)}, and may have "
                f"{', '.join(_PARTS)}{only_near(name, [*KINDS, *_PARTS])}")
        for name in strange
    ]  # fmt: skip
    if len(kinds) != 1:
        if not strange or kinds:
            got = shown(kinds) if kinds else shown(written)
            problems.append(Problem(path, f"must have exactly one of {', '.join(KINDS)}, but got {got}"))
        return None, problems
    kind: Any = kinds[0]
    domain, more = _values(Domain(key, kind), written, path)
    return domain, [*problems, *more]


def _values(domain: Domain, written: dict[str, Any], path: Path) -> tuple[Domain | None, list[Problem]]:
    kind, given = domain.kind, written[domain.kind]
    where = (*path, kind)
    if kind == "fixed":
        domain = Domain(domain.key, kind, items=(given,))
        problems = value_problems(domain.key, given, where)
    elif kind == "choice":
        if not isinstance(given, list) or not given:
            return None, [Problem(where, f"must be a list of at least one value, but got {shown(given)}")]
        domain = Domain(domain.key, kind, items=tuple(given))
        problems = []
        for index, item in enumerate(given):
            problems += value_problems(domain.key, item, (*where, index))
        problems += _twice(domain, where) if not problems else []
    else:
        found, problems = _range(domain, given, where)
        if found is None:
            return None, problems
        domain = found
    if "step" in written:
        domain, more = _step(domain, written["step"], (*path, "step"))
        problems += more
    if "points" in written:
        domain, more = _points(domain, written["points"], (*path, "points"))
        problems += more
    return (None if problems else domain), problems


def _twice(domain: Domain, where: Path) -> list[Problem]:
    seen: set[str] = set()
    problems = []
    for index, item in enumerate(domain.items):
        value = frozen(domain.key, item)
        if value in seen:
            text = f"must not offer the same value twice, but got {shown(item)} again"
            problems.append(Problem((*where, index), text))
        seen.add(value)
    return problems


def _range(domain: Domain, given: Any, where: Path) -> tuple[Domain | None, list[Problem]]:
    kind = domain.kind
    whole = kind in ("int", "log_int")
    fits = (int,) if whole else (int, float)
    numbers = isinstance(given, list) and len(given) == 2 and all(type(item) in fits for item in given)
    if not numbers:
        what = "two whole numbers" if whole else "two numbers"
        return None, [Problem(where, f"must be [lowest, highest], {what}, but got {shown(given)}")]
    low, high = given
    if low >= high:
        hint = "; for one value write fixed" if low == high else "; swap them"
        return None, [Problem(where, f"must be [lowest, highest], but got {shown(given)}{hint}")]
    if kind.startswith("log_") and low <= 0:
        return None, [Problem((*where, 0), f"must be above 0 on a log scale, but got {shown(low)}; write {kind[4:]}"
                              " for a range from 0")]  # fmt: skip
    problems = [*value_problems(domain.key, low, (*where, 0)), *value_problems(domain.key, high, (*where, 1))]
    if not problems and not whole and value_problems(domain.key, low + (high - low) * _INSIDE, where):
        problems = [Problem(where, f"must be a range of whole numbers for {domain.key}; write int in place of {kind}")]
    if not problems and any(canonical(domain.key, item) is not item and isinstance(canonical(domain.key, item), bool)
                            for item in given):  # fmt: skip
        problems = [Problem(where, f"{domain.key} is true or false; write {{choice: [false, true]}}, but got {kind}")]
    return Domain(domain.key, kind, low=low, high=high), problems


def _step(domain: Domain, step: Any, where: Path) -> tuple[Domain, list[Problem]]:
    """A range in equal steps that reaches its end."""
    kind = domain.kind
    if kind not in ("int", "float", "uniform"):
        way = "write points for values on a log scale" if kind == "log_uniform" else "leave it out"
        text = f"has an effect with int, float and uniform only, but the domain is {kind}"
        return domain, [Problem(where, f"{text}; {way}")]
    if domain.is_whole and (type(step) is not int or step < 1):
        return domain, [Problem(where, f"must be a whole number of at least 1, but got {shown(step)}")]
    if type(step) not in (int, float) or step <= 0:
        return domain, [Problem(where, f"must be a number above 0, but got {shown(step)}")]
    places = (domain.high - domain.low) / step
    if abs(places - round(places)) > 1e-8 or round(places) < 1:
        last = _neat(domain.low + int(places) * step)
        text = f"must reach the end of the range, but steps of {step} from {domain.low:g} end at {last:g}"
        way = f"write {kind}: [{domain.low:g}, {last:g}]" if int(places) else "take a smaller one"
        return domain, [Problem(where, f"{text}; {way}")]
    return replace(domain, step=step), []


def _points(domain: Domain, points: Any, where: Path) -> tuple[Domain, list[Problem]]:
    """A log scale as a number of values, each the same multiple of the one before."""
    if domain.kind != "log_uniform":
        way = "write step" if domain.kind in ("int", "float", "uniform") else "leave it out"
        return domain, [Problem(where, f"has an effect with log_uniform only, but the domain is {domain.kind}; {way}")]
    if type(points) is not int or not 2 <= points <= _MAX_POINTS:
        return domain, [Problem(where, f"must be a whole number of 2 to {_MAX_POINTS}, but got {shown(points)}")]
    ratio = domain.high / domain.low
    middle = [float(f"{domain.low * ratio ** (place / (points - 1)):.4g}") for place in range(1, points - 1)]
    items = (float(domain.low), *middle, float(domain.high))
    if len(set(items)) < points:
        text = f"must leave values apart in four figures, but got {points} from {domain.low:g} to {domain.high:g}"
        return domain, [Problem(where, f"{text}; take fewer")]
    return replace(domain, items=items), []
