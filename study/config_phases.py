"""The phases and report sections of a study file: what is run one after the other, what the report compares."""

from __future__ import annotations

import difflib
import re
from itertools import count, islice
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from noise.families import CORRUPTIONS
from study.config_data import Name, Section
from study.config_search import SearchConfig


class SearchPhase(Section):
    """A search over trials, scored on validation images under validation noise."""

    kind: Literal["search"]
    name: Name
    set: dict[str, Any] = Field(default_factory=dict, description="Dotted keys that hold in this phase only.")
    search: SearchConfig | None = Field(default=None, description="In place of the study's `search`.")


class TrainPhase(Section):
    """One trial as the file stands, for each seed; reads the test split at the end."""

    kind: Literal["train"]
    name: Name
    set: dict[str, Any] = Field(default_factory=dict, description="Dotted keys that hold in this phase only.")
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1, description="A trial for each, in place of train.seed.")


class AdaptiveSeeds(Section):
    """More seeds for configurations that validation does not tell from the best one yet."""

    max_seeds: int = Field(default=8, ge=2, le=100, description="Of one configuration, the phase's own included.")
    step: int = Field(default=1, ge=1, le=50, description="Seeds that a round adds.")
    error: float = Field(
        default=0.05, gt=0, lt=0.5, description="Chance, over all rounds and pairs, to part two that are alike."
    )


class ConfirmPhase(Section):
    """The best configurations of an earlier phase, trained anew with new seeds, and only then tested.

    Only trials that keep the search's constraints are taken; of a search of several objectives those on its Pareto
    front, best first by the first objective.
    """

    kind: Literal["confirm"]
    name: Name
    of: str = Field(description="Name of the search phase to choose from.")
    top: int = Field(default=1, ge=1, le=100, description="How many configurations (of each value of `per`).")
    per: str | None = Field(
        default=None, description="Dotted key; choose the top of each of its values, such as method.name."
    )
    seeds: tuple[int, ...] = Field(default=(101, 102, 103), min_length=1, description="Never the search's seed.")
    set: dict[str, Any] = Field(default_factory=dict, description="Dotted keys that hold in this phase only.")
    adaptive: AdaptiveSeeds | None = Field(
        default=None, description="Further seeds where validation leaves open which is best; left out: none."
    )

    def all_seeds(self, search_seed: int) -> tuple[int, ...]:
        """The phase's seeds and, with `adaptive`, those that may follow: the next numbers but the search's own."""
        if self.adaptive is None:
            return self.seeds
        free = (seed for seed in count(max(self.seeds) + 1) if seed != search_seed)
        return (*self.seeds, *islice(free, max(0, self.adaptive.max_seeds - len(self.seeds))))


Phase = Annotated[SearchPhase | TrainPhase | ConfirmPhase, Field(discriminator="kind")]


class ContrastConfig(Section):
    """A difference that the report is to judge, stated before anything is measured."""

    arm: Name = Field(description="A train phase, or a confirm phase of one configuration.")
    against: Name = Field(description="Another one.")
    margin_points: float | None = Field(
        default=None, gt=0, le=100, description="Points that the arm may lose and still be said to keep the accuracy."
    )


DEFAULT_ENDPOINTS = ("clean", "noise")


_ENDPOINTS = "clean, noise, group:NAME, outside:NAME+NAME or corruption:NAME"


def _known_endpoint(text: str) -> str:
    kind, colon, names = text.partition(":")
    if not (text in {"clean", "noise"} or (kind in {"group", "outside", "corruption"} and colon)):
        raise ValueError(f"must be {_ENDPOINTS}, but got {text!r}")
    groups = [*dict.fromkeys(corruption.group for corruption in CORRUPTIONS.values())]
    groups += [f"resolution-{group}" for group in groups]
    what, known = ("corruption", [*CORRUPTIONS]) if kind == "corruption" else ("group of corruptions", groups)
    for name in names.split("+") if kind == "outside" else [names] if colon else []:
        if name not in known and not (kind == "corruption" and re.fullmatch(r"(\w+_)?\d+px", name)):
            side = [f"{name}px"] if kind == "corruption" and name.isdecimal() else []
            near = side or difflib.get_close_matches(name, known, n=3, cutoff=0.6)
            raise ValueError(
                f"must name a {what}, but got {name!r}; "
                + (f"near: {', '.join(near)}" if near else f"there are {', '.join(known)}")
            )
    return text


class ReportConfig(Section):
    """What the report compares with."""

    contrasts: tuple[ContrastConfig, ...] = Field(
        default=(),
        description="Differences between phases, stated beforehand; left out: all against the baseline.",
    )
    endpoints: tuple[Annotated[str, AfterValidator(_known_endpoint)], ...] = Field(
        default=DEFAULT_ENDPOINTS,
        min_length=1,
        description="What contrasts are judged by, each a family of its own: clean, noise, group:NAME, outside:A+B, "
        "corruption:NAME (corruption:16px for a lower resolution).",
    )

    baseline: dict[str, Any] = Field(
        default_factory=lambda: {"method.name": "plain"},
        description="Dotted keys and values of the configuration that mCE is normalised by.",
    )
    normaliser: Literal["baseline", "alexnet"] = Field(
        default="baseline",
        description="alexnet: also mCE by AlexNet's published errors, for ImageNet at 224 px with 1,000 classes only.",
    )
