"""One searched key: the values it may take, how Optuna draws them, and on what it depends."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from study.keys import canonical
from study.problems import Path, Problem, flow, only_near, shown
from study.readable import value_problems

Kind = Literal["int", "log_int", "float", "uniform", "log_uniform", "choice", "fixed"]
Value = bool | int | float | str | None
KINDS: tuple[str, ...] = get_args(Kind)

_INSIDE = 0.6180339887  # a share of a range that gives no whole number


class Trial(Protocol):
    """What a space asks of an Optuna trial."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

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
        low, high, step: Of a range, both ends included.
        items: Of a choice, or the one value of `fixed`.
        when: All must hold for the key to be drawn.
    """

    key: str
    kind: Kind
    low: float = 0
    high: float = 0
    step: int = 1
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
        if self.kind in ("int", "log_int"):
            return trial.suggest_int(self.key, int(self.low), int(self.high), step=self.step, log=self.log)
        return trial.suggest_float(self.key, float(self.low), float(self.high), log=self.log)

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
        return json.loads(value) if self.is_encoded else value

    def encode(self, value: Any) -> Any:
        """The inverse of `decode`."""
        return json.dumps(value) if self.is_encoded else value

    def size(self) -> int | None:
        """How many values there are; None for a continuous range."""
        if self.items:
            return len(self.items)
        return (int(self.high) - int(self.low)) // self.step + 1 if self.kind in ("int", "log_int") else None

    def can_be(self, value: str) -> bool:
        """Whether it can take a value, given as `frozen` makes it."""
        if self.items:
            return any(frozen(self.key, item) == value for item in self.items)
        number = json.loads(value)
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not self.low <= number <= self.high:
            return False
        return self.kind not in ("int", "log_int") or (number - self.low) % self.step == 0

    def describe(self) -> str:
        """In words, for the plan."""
        if self.kind == "fixed":
            return flow(self.items[0])
        if self.kind == "choice":
            return " | ".join(map(flow, self.items))
        scale = " on a log scale" if self.log else ""
        step = f" in steps of {self.step}" if self.step > 1 else ""
        return f"{self.low:g} to {self.high:g}{step}{scale}"


def frozen(key: str, value: Any) -> str:
    """A value as text that is equal for equal settings."""
    return json.dumps(canonical(key, value), sort_keys=True)


def read_domain(key: str, written: Any, path: Path) -> tuple[Domain | None, list[Problem]]:
    """A key's domain from its entry in `search.space`, and all that is wrong with it.

    Args:
        path: Of the entry, for the problems.
    """
    kinds = [name for name in written if name in KINDS]
    strange = [name for name in written if name not in (*KINDS, "when", "step")]
    problems = [
        Problem((*path, name), f"is no part of a domain, which has one of {', '.join(KINDS)}, and may have when, step"
                f"{only_near(name, [*KINDS, 'when', 'step'])}")
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
    if domain.kind != "int":
        return domain, [Problem(where, f"has an effect with int only, but the domain is {domain.kind}; leave it out")]
    if type(step) is not int or step < 1:
        return domain, [Problem(where, f"must be a whole number of at least 1, but got {shown(step)}")]
    rest = int(domain.high - domain.low) % step
    if rest:
        last = int(domain.high) - rest
        text = f"must reach the end of the range, but steps of {step} from {domain.low} end at {last}; write int: "
        return domain, [Problem(where, f"{text}[{domain.low}, {last}]")]
    return Domain(domain.key, domain.kind, low=domain.low, high=domain.high, step=step), []
