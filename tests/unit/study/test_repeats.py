"""A confirm phase that adds seeds: who gets them, that it goes the same way again, that test figures have no say."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.repeats import place_of, trial_number
from study import phases, repeats, studyrun
from study.config_phases import ConfirmPhase
from study.ledger import Ledger, TrialSpec
from study.search import PhaseSummary
from study.studyrecord import record_phase
from tests.unit.study.test_phases import add_trial, loaded, open_study, study_run

ADAPTIVE = (
    "phases.confirm={kind: confirm, name: confirm, of: search, top: 3, seeds: [101, 102], adaptive: {max_seeds: 5}}"
)
GAINS = {0.3: 0.0, 0.2: 0.02, 0.1: -0.6}  # lr -> how much better the made trial is


class Made:
    """Trials that take no time: their validation rows follow from lr and seed, their test figures are poison."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, test: float = 0.5) -> None:
        self.runs: list[tuple[float, int]] = []
        self.test = test
        monkeypatch.setattr(repeats, "run_list", self.run_list)
        monkeypatch.setattr(repeats, "look_at_all", self.look)

    def run_list(self, specs: Sequence[TrialSpec], *, ledger: Ledger, **_: Any) -> PhaseSummary:
        for spec in specs:
            if ledger.status(spec.key) != "finished":
                ledger.create_trial(spec)
                self.runs.append((spec.config["optim"]["lr"], spec.seed))
                poison = {"test/noise": self.test * spec.config["optim"]["lr"], "acc/noise": 0.5}
                ledger.append(spec.key, "final", epoch=2, step=0, metrics=poison, final=True)
                rows = pd.DataFrame({"correct": [True], "split": "test"})
                ledger.write_bytes(spec.key, "predictions.parquet", b"poison")
                ledger.write_bytes(spec.key, "cells.parquet", rows.to_parquet())
        keys = [spec.key for spec in specs]
        return PhaseSummary(keys, keys, [], [])

    def look(self, _look: Any, keys: Sequence[str], *, ledger: Ledger, **_: Any) -> dict[str, str]:
        for key in keys:
            if ledger.read_bytes(key, "validation.parquet") is None:
                record = ledger.trial(key)
                gain = GAINS[record["config"]["optim"]["lr"]]
                rng = np.random.default_rng(record["seed"] * 7 + int(1000 * record["config"]["optim"]["lr"]))
                right = rng.random(200) < 0.7 + gain + rng.normal(0, 0.02)
                table = pd.DataFrame({"image_id": range(200), "corruption": "fog", "severity": 1, "correct": right})
                ledger.write_bytes(key, "validation.parquet", table.to_parquet())
        return {}


def confirm(tmp_path: Path, made: Made) -> tuple[dict[str, Any], PhaseSummary]:
    study = loaded(tmp_path, ADAPTIVE)
    ledger = Ledger(str(tmp_path / "results"), "tiny")
    open_study(ledger, study, tmp_path)
    run = dataclasses.replace(study_run(ledger, study, tmp_path))
    if not ledger.keys("search"):
        keys = [add_trial(run, 0, number=i, accuracy=lr, lr=lr) for i, lr in enumerate(GAINS)]
        record_phase(ledger, study.config.phases[0], status="finished", trials=keys)
    summary = phases._run_phase(run, study.config.phases[1], None)
    record = ledger.read_json("study.json") or {}
    return record, summary


def test_only_those_that_validation_leaves_open_get_more_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(monkeypatch)
    record, summary = confirm(tmp_path, made)
    seeds = {lr: sorted(seed for one, seed in made.runs if one == lr) for lr in GAINS}
    assert seeds[0.3] == seeds[0.2] == [101, 102, 103, 104, 105]
    assert seeds[0.1] != seeds[0.3]
    assert len(summary.keys) == len(made.runs) == len(set(made.runs))
    phase = record["phases"][1]
    assert [look["look"] for look in phase["looks"]] == list(range(len(phase["looks"])))
    assert len(phase["looks"][-1]["open"]) == 1
    assert [(read["phase"], len(read["trials"])) for read in record["test_reads"]] == [("confirm", len(made.runs))]


@pytest.mark.slow
def test_a_second_launch_runs_nothing_and_one_that_was_cut_off_goes_the_same_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(monkeypatch)
    record, _ = confirm(tmp_path, made)
    again = Made(monkeypatch)
    later, _ = confirm(tmp_path, again)
    assert again.runs == []
    assert later["phases"][1] == record["phases"][1]
    assert later["test_reads"] == record["test_reads"]
    other = tmp_path / "other"
    other.mkdir()
    real = Made(monkeypatch)

    def cut_off(*args: Any, **settings: Any) -> PhaseSummary:
        if len(real.runs) >= 6:
            raise KeyboardInterrupt
        return real.run_list(*args, **settings)

    monkeypatch.setattr(repeats, "run_list", cut_off)
    with pytest.raises(KeyboardInterrupt):
        confirm(other, real)
    done = Made(monkeypatch)
    ended, _ = confirm(other, done)
    assert not set(done.runs) & set(real.runs)
    assert ended["phases"][1]["looks"] == record["phases"][1]["looks"]


def test_a_failed_trial_is_tried_once_in_a_launch_and_one_without_seeds_has_fallen_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, tries = Made(monkeypatch), []

    def fail_some(specs: Sequence[TrialSpec], *, ledger: Ledger, **more: Any) -> PhaseSummary:
        bad = [spec for spec in specs if spec.config["optim"]["lr"] == 0.1 or (spec.seed == 102)]
        bad = [spec for spec in bad if spec.config["optim"]["lr"] != 0.3]
        for spec in bad:
            tries.append((spec.config["optim"]["lr"], spec.seed))
            ledger.create_trial(spec)
            ledger.append(spec.key, "failed", epoch=0, final=True, error="made so")
        return made.run_list([spec for spec in specs if spec not in bad], ledger=ledger, **more)

    monkeypatch.setattr(repeats, "run_list", fail_some)
    record, summary = confirm(tmp_path, made)
    assert sorted(tries) == [(0.1, 101), (0.1, 102), (0.2, 102)]
    assert len(summary.failed) == 3
    looks = record["phases"][1]["looks"]
    assert len(looks) > 1
    assert all(len(look["open"]) <= 1 for look in looks)
    tries.clear()
    confirm(tmp_path, made)
    assert sorted(tries) == [(0.1, 101), (0.1, 102), (0.2, 102)]


@pytest.mark.slow
def test_other_test_figures_lead_to_the_same_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [tmp_path / name for name in ("one", "two")]
    found = []
    for place, test in zip(places, (0.5, -9.0), strict=True):
        place.mkdir()
        made = Made(monkeypatch, test=test)
        found.append((confirm(place, made)[0]["phases"][1]["looks"], made.runs))
    assert found[0] == found[1]


def test_further_seeds_are_the_next_numbers_but_the_searchs_own() -> None:
    phase = ConfirmPhase.model_validate(
        {"kind": "confirm", "name": "c", "of": "s", "seeds": [3, 1], "adaptive": {"max_seeds": 5}}
    )
    assert phase.all_seeds(4) == (3, 1, 5, 6, 7)
    assert phase.model_copy(update={"adaptive": None}).all_seeds(4) == (3, 1)


def test_who_led_in_the_end_teaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record, _ = confirm(tmp_path, Made(monkeypatch))
    study, ledger = loaded(tmp_path, ADAPTIVE), Ledger(str(tmp_path / "results"), "tiny")
    run, phase = study_run(ledger, study, tmp_path), record["phases"][1]
    rates = {key: ledger.trial(key)["config"]["optim"]["lr"] for key in phase["selected"]}
    for leader in phase["selected"]:
        looks = [*phase["looks"][:-1], {**phase["looks"][-1], "leader": leader}]
        record_phase(ledger, study.config.phases[1], status="finished", looks=looks)
        for reference, seed in (("confirm", 101), ("confirm@102", 102)):
            chosen = ledger.trial(studyrun._best_of(run, reference))
            assert (chosen["config"]["optim"]["lr"], chosen["seed"]) == (rates[leader], seed)


@pytest.mark.parametrize(("first", "contenders"), [(1, 1), (1, 3), (2, 3), (3, 2)])
def test_a_trials_number_tells_whose_it_is(first: int, contenders: int) -> None:
    numbers = {(place, turn): trial_number(place, turn, first=first, contenders=contenders)
               for place in range(contenders) for turn in range(first + 4)}  # fmt: skip
    assert sorted(numbers.values()) == list(range(len(numbers)))
    for (place, _), number in numbers.items():
        assert place_of(number, first=first, contenders=contenders) == place
