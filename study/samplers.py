"""Optuna's samplers by name, and the part of their state that a study keeps beside its trials.

A sampler is made anew for each suggestion. What NSGA-II, NSGA-III and the quasi-random sequence remember lies in system
attributes of Optuna's trials and study: a trial's generation, a generation's parents, how far a sequence went. `Memory`
writes these down by suggestion, so that a study built anew from the ledger goes on with its population.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)

from study.algorithms import POPULATION, Algorithm

_GENERATION = (NSGAIISampler._get_generation_key(), NSGAIIISampler._get_generation_key())
_PARENTS = (NSGAIISampler._get_parent_cache_key_prefix(), NSGAIIISampler._get_parent_cache_key_prefix())


def make_sampler(
    algorithm: Algorithm, *, seed: int, sequence_seed: int = 0, population: int | None = None
) -> BaseSampler:  # fmt: skip
    """A fresh sampler; TPE models parameters jointly, conditional ones too, and spreads trials that run at once.

    Args:
        algorithm: `grid` gets a sampler that is never asked: its values are handed to Optuna.
        seed: Of this suggestion.
        sequence_seed: Of the whole search, for a quasi-random sequence, of which a suggestion is one point.
        population: Trials of a generation.
    """
    size = population or POPULATION
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of `group` and others
        if algorithm == "tpe":
            return TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)
        if algorithm == "nsga2":
            return NSGAIISampler(population_size=size, seed=seed)
        if algorithm == "nsga3":
            return NSGAIIISampler(population_size=size, seed=seed)
        if algorithm == "gp":
            return GPSampler(seed=seed)
        if algorithm == "qmc":
            first = RandomSampler(seed=seed)
            return QMCSampler(
                scramble=True, seed=sequence_seed, independent_sampler=first, warn_independent_sampling=False
            )
        return RandomSampler(seed=seed)


class Memory:
    """What samplers remember of a study, by suggestion rather than by Optuna's numbers, which a rebuilt study changes.

    Args:
        study: Optuna's.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._names: dict[int, str] = {}
        self._trials: dict[str, int] = {}
        self._written: dict[str, Any] = {}

    def name(self, trial_id: int, suggestion: str) -> None:
        """Say which suggestion an Optuna trial is of."""
        self._names[trial_id] = suggestion
        self._trials[suggestion] = trial_id

    def remember(self, trial_id: int, suggestion: str, attrs: Mapping[str, Any]) -> None:
        """Name a trial that is under way again, and give it what `of_trial` gave before."""
        self.name(trial_id, suggestion)
        for name, value in attrs.items():
            self._study._storage.set_trial_system_attr(trial_id, name, value)

    def of_trial(self, trial_id: int) -> dict[str, Any]:
        """What must be kept of a trial's system attributes."""
        attrs = self._study._storage.get_trial_system_attrs(trial_id)
        return {name: value for name, value in attrs.items() if name in _GENERATION}

    def of_study(self) -> dict[str, Any]:
        """What changed in the study's system attributes since the last call, parents by suggestion."""
        storage, number = self._study._storage, self._study._study_id
        now = {}
        for name, value in storage.get_study_system_attrs(number).items():
            if name.startswith(_PARENTS):
                now[name] = [self._names[trial_id] for trial_id in value if trial_id in self._names]
            elif name.startswith("qmc:"):
                now[name] = value
        changed = {name: value for name, value in now.items() if self._written.get(name) != value}
        self._written |= changed
        return changed

    def restore(self, attrs: Mapping[str, Any]) -> None:
        """Put back what `of_study` gave; of parents those that the rebuilt study has."""
        storage, number = self._study._storage, self._study._study_id
        for name, value in attrs.items():
            self._written[name] = value
            if name.startswith(_PARENTS):
                value = [self._trials[suggestion] for suggestion in value if suggestion in self._trials]
            storage.set_study_system_attr(number, name, value)
