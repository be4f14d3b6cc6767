"""PED-ANOVA against Optuna's own evaluator, and what it says of keys that matter, that do not, and that are away."""

import json
import warnings
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.importance import PedAnovaImportanceEvaluator

from analysis.explained import explanations, importance_charts
from analysis.importance import IMPORTANCE_COLUMNS, domain_of, importance, importance_table, search_params
from analysis.load import read_study
from analysis.scores import headline
from analysis.trialframe import trial_frame

SPACE = {
    "lr": {"log_uniform": [1e-4, 1e-1]},
    "momentum": {"uniform": [0.5, 0.99]},
    "width": {"int": [1, 6]},
    "batch": {"log_int": [8, 128]},
    "method": {"choice": ["plain", "pmal", "distil"]},
    "stages": {"int": [1, 4], "when": {"method": "pmal"}},
    "fixed": {"fixed": 3},
}
DISTRIBUTIONS = {
    "lr": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
    "momentum": optuna.distributions.FloatDistribution(0.5, 0.99),
    "width": optuna.distributions.IntDistribution(1, 6),
    "batch": optuna.distributions.IntDistribution(8, 128, log=True),
    "method": optuna.distributions.CategoricalDistribution(["plain", "pmal", "distil"]),
    "stages": optuna.distributions.IntDistribution(1, 4),
}
DOMAINS = {key: domain for key, entry in SPACE.items() if (domain := domain_of(entry)) is not None}


def search(count: int, seed: int = 0) -> tuple[list[dict], np.ndarray]:
    """Random trials: the learning rate decides most, stages something where they are, momentum nothing."""
    rng = np.random.default_rng(seed)
    trials, values = [], []
    for _ in range(count):
        drawn = {"lr": float(10 ** rng.uniform(-4, -1)), "momentum": float(rng.uniform(0.5, 0.99)),
                 "width": int(rng.integers(1, 7)), "batch": int(rng.integers(8, 129)),
                 "method": str(rng.choice(["plain", "pmal", "distil"]))}  # fmt: skip
        value = -2 * ((np.log10(drawn["lr"]) + 2) ** 2) + 0.05 * drawn["width"] + rng.normal(0, 0.05)
        if drawn["method"] == "pmal":
            drawn["stages"] = int(rng.integers(1, 5))
            value += 0.1 * drawn["stages"]
        trials.append(drawn)
        values.append(value)
    return trials, np.array(values)


def as_frame(trials: list[dict]) -> pd.DataFrame:
    rows = [{key: json.dumps(value) if key == "method" else value for key, value in trial.items()} for trial in trials]
    return pd.DataFrame(rows, dtype=object)


@pytest.mark.parametrize(("count", "quantile"), [(60, 0.1), (200, 0.1), (200, 0.3)])
def test_it_is_what_optuna_says(count: int, quantile: float) -> None:
    trials, values = search(count, seed=count)
    study = optuna.create_study(direction="maximize")
    for drawn, value in zip(trials, values, strict=True):
        own = {key: DISTRIBUTIONS[key] for key in drawn}
        study.add_trial(optuna.trial.create_trial(params=drawn, distributions=own, value=float(value)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = PedAnovaImportanceEvaluator(target_quantile=quantile).evaluate(study)
    found = importance(as_frame(trials), values, DOMAINS, quantile=quantile, resamples=0).set_index("key")
    assert set(found.index) == set(expected)
    for key, value in expected.items():
        assert found.loc[key, "importance"] == pytest.approx(value, rel=1e-6, abs=1e-12), key


def test_what_matters_comes_first_and_its_interval_holds_it() -> None:
    trials, values = search(200)
    found = importance(as_frame(trials), values, DOMAINS, resamples=60)
    assert list(found.columns) == list(IMPORTANCE_COLUMNS)
    assert found["key"].iloc[0] == "lr"
    assert found["share"].sum() == pytest.approx(1.0)
    by_key = found.set_index("key")
    assert by_key.loc["momentum", "share"] < 0.1
    assert by_key.loc["lr", "share_low"] > by_key.loc["momentum", "share_high"]
    assert found.equals(importance(as_frame(trials), values, DOMAINS, resamples=60))


def test_a_conditional_key_counts_where_it_is_active() -> None:
    trials, values = search(300, seed=3)
    found = importance(as_frame(trials), values, DOMAINS, resamples=0).set_index("key")
    stages = found.loc["stages"]
    active = [place for place, drawn in enumerate(trials) if "stages" in drawn]
    assert stages["is_conditional"]
    assert stages["n_active"] == len(active)
    alone = importance(as_frame([trials[place] for place in active]), values[active], DOMAINS, resamples=0)
    assert stages["when_active"] == pytest.approx(alone.set_index("key").loc["stages", "importance"])
    assert not found.loc["lr", "is_conditional"]
    assert found.loc["lr", "when_active"] == pytest.approx(found.loc["lr", "importance"])


def test_the_goal_turns_and_few_trials_say_nothing() -> None:
    trials, values = search(80)
    up, down = importance(as_frame(trials), values, DOMAINS, resamples=0), importance(
        as_frame(trials), -values, DOMAINS, goal="minimise", resamples=0
    )  # fmt: skip
    assert up.equals(down)
    values[70:] = np.nan
    assert importance(as_frame(trials), values, DOMAINS, resamples=0)["n_trials"].unique().tolist() == [70]
    assert importance(as_frame(trials[:9]), values[:9], DOMAINS).empty
    with pytest.raises(ValueError, match="each of 80 trials must have a value"):
        importance(as_frame(trials), values[:3], DOMAINS)


def test_values_that_the_space_no_longer_holds_are_left_out_and_not_clipped() -> None:
    trials, values = search(120, seed=5)
    now = {
        **DOMAINS,
        "method": domain_of({"choice": ["plain", "pmal"]}),
        "lr": domain_of({"log_uniform": [1e-3, 5e-2]}),
    }
    inside = [place for place, drawn in enumerate(trials)
              if drawn["method"] != "distil" and 1e-3 <= drawn["lr"] <= 5e-2]  # fmt: skip
    found = importance(as_frame(trials), values, now, resamples=5)
    assert 10 <= len(inside) < 120
    assert found["n_trials"].unique().tolist() == [len(inside)]
    assert found.equals(importance(as_frame([trials[n] for n in inside]), values[inside], now, resamples=5))


def test_a_range_holds_its_ends_up_to_rounding_and_no_text() -> None:
    rate, width = DOMAINS["lr"], DOMAINS["width"]
    assert [rate.holds(value) for value in (1e-4, 1e-1, 0.1 + 1e-15, 0.11, 0.9e-4, 0.0, -1.0)] == [True] * 3 + [
        False
    ] * 4
    assert [width.holds(value) for value in (1, 6, 0, 7, "3", True, None)] == [True] * 2 + [False] * 5
    assert rate.places([1e-4, 1e-1]).tolist() == [0, rate.size - 1]


def long_search(folder: Path, *, num_stopped: int = 0, finalists: dict[int, float] | None = None) -> Path:
    """Have a study's search be of 24 trials, the later the better; some stopped early, some measured as finalists."""
    study = json.loads((folder / "study.json").read_text())
    study["config"]["search"]["space"] = {
        "optim.lr": {"log_uniform": [0.001, 1.0]}, "method.name": {"choice": ["plain", "pmal"]}
    }  # fmt: skip
    trials = []
    for number in range(24):
        source = folder / "trials" / f"{1 + number % 2:016x}"
        place = folder / "trials" / f"{0xE0000 + number:016x}"
        place.mkdir()
        info = json.loads((source / "trial.json").read_text()) | {"key": place.name, "number": number}
        info["params"]["optim.lr"] = 0.001 * 1.3**number
        (place / "trial.json").write_text(json.dumps(info))
        end = {"event": "pruned" if number < num_stopped else "final", "time": 1.0, "epoch": 1, "step": 0}
        events = [end | {"metrics": {"acc/noise": 0.02 * number}}]
        if number in (finalists or {}):
            events.append(end | {"event": "full", "metrics": {"full/acc/noise": (finalists or {})[number]}})
        (place / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
        trials.append(place.name)
    study["phases"][0]["trials"] = trials
    (folder / "study.json").write_text(json.dumps(study))
    return folder


def test_the_table_of_a_search(tmp_path, write_ledger) -> None:
    folder = long_search(write_ledger(tmp_path, num_images=20))
    table = importance_table(read_study(folder), "search")
    assert table.frame["key"].tolist() == ["optim.lr", "method.name"]
    assert table.frame["n_trials"].unique().tolist() == [24]
    assert "optim.lr" in table.markdown()
    assert table.notes[1:] == []


def test_the_table_says_which_trials_are_not_in_it(tmp_path, write_ledger) -> None:
    """After `--again` with a choice taken out: the earlier trials that had it are still the study's."""
    folder = long_search(write_ledger(tmp_path, num_images=20, confirm=False), num_stopped=3)
    study = json.loads((folder / "study.json").read_text())
    study["config"]["search"]["space"] = {
        "optim.lr": {"log_uniform": [0.001, 0.3]}, "method.name": {"choice": ["plain", "distil"]}
    }  # fmt: skip
    (folder / "study.json").write_text(json.dumps(study))
    for number in (5, 6):
        path = folder / "trials" / f"{0xE0000 + number:016x}" / "trial.json"
        info = json.loads(path.read_text())
        path.write_text(json.dumps(info | {"params": info["params"] | {"method.name": "gone"}}))
    for path in folder.glob("trials/*/trial.json"):
        path.write_text(path.read_text().replace('"method.name": "pmal"', '"method.name": "distil"'))
    snapshot = read_study(folder)
    table = importance_table(snapshot, "search")
    num_above = sum(0.001 * 1.3**number > 0.3 for number in range(24))
    assert num_above == 2
    assert table.frame["n_trials"].unique().tolist() == [24 - 3 - 2 - num_above]
    assert "all finished trials" in table.notes[0]
    assert table.notes[1] == "Stopped early, so not in it: 3 of 24 trials."
    assert table.notes[2].startswith("Left out, as they have values that the space does not hold now: 4 of 24 trials")
    chart = importance_charts(explanations(snapshot, headline(snapshot)))[0]
    assert "3 of 24 trials" in chart.caption


def test_a_finalist_counts_by_the_grid_that_all_trials_have(tmp_path, write_ledger) -> None:
    """The whole grid is harder: finalists by it, and the others by the small one, would turn the search round."""
    folder = long_search(write_ledger(tmp_path, num_images=20, confirm=False), finalists={23: 0.01, 22: 0.02})
    snapshot = read_study(folder)
    _, values, _ = search_params(snapshot, "search")
    assert values == pytest.approx([0.02 * number for number in range(24)])
    frame = trial_frame(snapshot, phase="search").set_index("number")
    assert frame["acc/noise"].sort_index().tolist() == pytest.approx(values)
