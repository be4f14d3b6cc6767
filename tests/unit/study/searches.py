"""Small search spaces, and a source of trials with its ledger, for the tests of searches."""

import hashlib
import json

from study.config_search import SearchConfig
from study.ledger import Ledger, TrialSpec
from study.searcher import OptunaSource

EPOCHS = 4


class FloatSpace:
    """One float and, on one of its sides, an int."""

    def encode(self, params):
        return params

    def suggest(self, trial):
        params = {"optim.lr": trial.suggest_float("optim.lr", 0.0, 1.0)}
        if params["optim.lr"] > 0.5:
            params["train.batch_size"] = trial.suggest_int("train.batch_size", 2, 64)
        return params


class SmallSpace:
    """Three configurations."""

    def encode(self, params):
        return params

    def suggest(self, trial):
        return {"optim.name": trial.suggest_categorical("optim.name", ["a", "b", "c"])}


def spec_of(params: dict, number: int, *, phase: str = "search") -> TrialSpec:
    key = hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()[:16]
    config = {"train": {"epochs": EPOCHS}}
    return TrialSpec(key, "study", phase, "search", number, 0, config, "f", "unused", "unused", params)


def source_of(ledger: Ledger, space=None, *, spec_of=spec_of, **search) -> OptunaSource:
    source = OptunaSource(space or FloatSpace(), SearchConfig(**search), spec_of=spec_of, ledger=ledger, phase="search")
    source.feed()
    return source


def epoch(ledger: Ledger, key: str, number: int, value: float) -> None:
    ledger.append(key, "epoch", epoch=number, step=0, metrics={"acc/noise": value}, final=False)


def finish(ledger: Ledger, source: OptunaSource, key: str, **metrics: float) -> None:
    """A trial that runs to its end, as the ledger and the source see it."""
    ledger.append(key, "final", epoch=EPOCHS, step=0, metrics=metrics, final=True)
    source.on_end(key, "finished", ledger.metrics(key))


def told(source: OptunaSource) -> list:
    return source._study.get_trials(deepcopy=False)
