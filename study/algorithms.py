"""What each search algorithm takes: which spaces, how many objectives, constraints; said before anything starts.

Optuna itself falls back to random draws where a sampler cannot take a space, at most with a warning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from study.config_search import SearchConfig
    from study.domains import Domain

Algorithm = Literal["tpe", "random", "grid", "nsga2", "nsga3", "gp", "qmc"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
POPULATION = 20
"""Trials of a generation of nsga2 and nsga3, where the study does not say."""
MAX_GRID = 10_000
WARM_ALGORITHMS: tuple[Algorithm, ...] = ("tpe", "gp")
"""Those that learn from trials of other studies; a population takes only trials of its own generations."""


@dataclass(frozen=True)
class Abilities:
    """Of an algorithm.

    Attributes:
        conditions: Takes keys with `when`.
        needs_finite: Every key must have countable values.
        random_trials: Trials at random before it learns; None where it learns nothing.
        uses_constraints: Steers towards trials that keep the constraints; all skip trials that break static ones.
        uses_pruned: Learns from trials that were stopped early.
        population: Works in generations.
    """

    conditions: bool = True
    needs_finite: bool = False
    random_trials: int | None = None
    uses_constraints: bool = False
    uses_pruned: bool = False
    population: bool = False


ABILITIES: dict[Algorithm, Abilities] = {
    "tpe": Abilities(random_trials=10, uses_constraints=True, uses_pruned=True),
    "random": Abilities(),
    "grid": Abilities(needs_finite=True),
    "nsga2": Abilities(uses_constraints=True, population=True),
    "nsga3": Abilities(uses_constraints=True, population=True),
    "gp": Abilities(conditions=False, random_trials=10, uses_constraints=True),
    "qmc": Abilities(conditions=False),
}


def random_trials(search: SearchConfig) -> int:
    """Trials that are drawn at random before the algorithm learns from any."""
    abilities = ABILITIES[search.algorithm]
    if abilities.population:
        return search.population or POPULATION
    return abilities.random_trials or 0


def refusals(search: SearchConfig, domains: Sequence[Domain], count: int | None) -> Iterator[str]:
    """Why an algorithm cannot search a space, with the way out.

    Args:
        count: Configurations of the space, None where they are not to be counted.
    """
    name, abilities = search.algorithm, ABILITIES[search.algorithm]
    conditional = [domain.key for domain in domains if domain.when]
    if conditional and not abilities.conditions:
        # What `fixed` adds under a condition is told to no sampler.
        drawn = [domain.key for domain in domains if domain.when and domain.kind != "fixed"]
        if drawn:
            yield (
                f"{name} takes no conditions and would draw all at random, but {_some(drawn)} "
                f"{'has' if len(drawn) == 1 else 'have'} `when`; take tpe, or a search of its own for each condition"
            )
    if abilities.needs_finite:
        yield from _finite(search, domains, count)


def _finite(search: SearchConfig, domains: Sequence[Domain], count: int | None) -> Iterator[str]:
    endless = [domain.key for domain in domains if domain.size() is None]
    if endless:
        yield (
            f"grid needs values that can be counted, but {_some(endless)} {'is' if len(endless) == 1 else 'are'} "
            "continuous; add step (float, uniform) or points (log_uniform), write choice, or take tpe or random"
        )
    elif count is None:
        yield f"grid is for {MAX_GRID:,} configurations at most, but the space has more; narrow it or take random"
    elif count > search.trials:
        yield (
            f"grid tries every configuration, of which there are {count}, but search.trials is {search.trials}; "
            "set that to as many, narrow the space, or take random"
        )


def remarks(search: SearchConfig, domains: Sequence[Domain]) -> Iterator[str]:
    """What a person should know of an algorithm on a space before starting."""
    name, abilities = search.algorithm, ABILITIES[search.algorithm]
    conditional = [domain.key for domain in domains if domain.when and domain.kind != "fixed"]
    first = random_trials(search)
    if search.trials <= first and domains:
        yield f"{name} draws its first {first} trials at random, so this is a random search"
    if abilities.population and conditional:
        yield f"{name} inherits only keys that every trial has; it draws {_some(conditional)} at random"
    if search.scheduler is not None and not abilities.uses_pruned and (first or abilities.population):
        yield f"{name} learns nothing from trials that asha stops; tpe does"
    soft = [text for text, constraint in zip(search.constraints, search.limits, strict=True)
            if not constraint.is_static]  # fmt: skip
    if soft and not abilities.uses_constraints:
        yield f"{name} does not steer by {' and '.join(soft)}; trials that break them are run and never chosen"


def _some(keys: Sequence[str]) -> str:
    if len(keys) > 3:
        return f"{', '.join(keys[:3])} and {len(keys) - 3} more"
    return " and ".join(", ".join(keys).rsplit(", ", 1))
