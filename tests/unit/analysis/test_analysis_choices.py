"""Rules of choosing by name: which they choose, and that they see validation rows alone."""

import pandas as pd
import pytest

from analysis.choices import CHOICE_COLUMNS, RULES, choose, figures
from analysis.load import load
from analysis.metrics import trial_metrics

ACCURACY = {  # configuration -> accuracy under fog and under snow, cost
    "a": (0.80, 0.40, 300.0),
    "b": (0.58, 0.56, 200.0),
    "c": (0.50, 0.50, 100.0),
    "d": (0.49, 0.49, 150.0),
}


def rows(split: str = "validation") -> pd.DataFrame:
    found = []
    for number, (name, (fog, snow, cost)) in enumerate(ACCURACY.items()):
        for seed in (0, 1):
            fixed = {"config_id": name, "label": f"arm {name}", "trial": f"{name}{seed}", "number": number,
                     "split": split, "bn": "trained", "cost_passes": cost, "n": 100}  # fmt: skip
            shift = 0.01 * (2 * seed - 1)
            found += [fixed | {"corruption": "clean", "group": "clean", "severity": 0, "accuracy": 0.9 + shift},
                      fixed | {"corruption": "fog", "group": "weather", "severity": 1, "accuracy": fog + shift},
                      fixed | {"corruption": "snow", "group": "weather", "severity": 1, "accuracy": snow + shift},
                      fixed | {"corruption": "street", "group": "real", "severity": 0, "accuracy": 0.99}]  # fmt: skip
    return pd.DataFrame(found)


@pytest.mark.parametrize(
    ("rule", "bound", "expected"),
    [
        ("best_validation_mean", None, ["a"]),
        ("best_worst_family", None, ["b"]),
        ("pareto_under_cost", 1000.0, ["a", "b", "c"]),
        ("pareto_under_cost", 250.0, ["b", "c"]),
        ("pareto_under_cost", 50.0, []),
    ],
)
def test_each_rule_chooses_what_it_says(rule, bound, expected) -> None:
    chosen = choose(rows(), rule, bound=bound)
    assert chosen["config_id"].tolist() == expected
    assert list(chosen.columns) == list(CHOICE_COLUMNS)


def test_figures_are_means_over_seeds_without_real_images() -> None:
    row = figures(rows()).set_index("config_id").loc["a"]
    assert row["noise_mean"] == pytest.approx(0.6)
    assert (row["worst"], row["worst_corruption"]) == (pytest.approx(0.4), "snow")
    assert (row["n_seeds"], row["clean"], row["cost"]) == (2, pytest.approx(0.9), 300.0)


def test_the_worst_is_a_single_corruption_as_in_what_trials_report() -> None:
    frame = rows()
    suites = frame["corruption"].map({"fog": "one", "snow": "one", "clean": "clean", "street": "real"})
    frame = frame.assign(family=suites, relation="")
    row = choose(frame, "best_worst_family").iloc[0]
    assert (row["config_id"], row["worst_corruption"]) == ("b", "snow"), "by the mean of its one suite it were a"
    trial = trial_metrics(frame[frame["trial"] == "b0"])
    assert trial["acc/worst_family"] == pytest.approx(0.55)
    assert trial["acc/family/one"] == pytest.approx(0.56)


def test_ties_go_to_the_lower_number_and_count_cuts() -> None:
    frame = rows()
    frame["accuracy"] = 0.5
    shuffled = frame.sample(frac=1, random_state=0)
    assert choose(shuffled, "best_validation_mean", count=3)["config_id"].tolist() == ["a", "b", "c"]


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("split", ["test", "train", None])
def test_rows_that_are_not_of_validation_are_refused(rule, split) -> None:
    bound = 1.0 if rule == "pareto_under_cost" else None
    mixed = pd.concat([rows(), rows(split).assign(trial="x")])
    with pytest.raises(ValueError, match="must see validation rows alone, but got rows of"):
        choose(mixed, rule, bound=bound)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"rule": "best"}, "rule must be one of best_validation_mean, best_worst_family, pareto_under_cost"),
        ({"rule": "best_worst_family", "bound": 3.0}, "bound belongs to pareto_under_cost"),
        ({"rule": "pareto_under_cost"}, "bound belongs to pareto_under_cost"),
        ({"rule": "pareto_under_cost", "bound": -1.0}, "bound must be a cost above 0"),
        ({"rule": "best_worst_family", "cost": "cost_money"}, "cost must be a column of the rows"),
        ({"rule": "best_worst_family", "count": 0}, "count must be at least 1"),
    ],
)
def test_what_cannot_be_asked_is_refused(asked, message) -> None:
    with pytest.raises(ValueError, match=message):
        choose(rows(), **asked)


def test_means_over_different_cells_are_not_compared() -> None:
    frame = rows()
    with pytest.raises(ValueError, match="must have the same cells, but snow at severity 1 is of 7 of 8 trials"):
        choose(frame[(frame["trial"] != "a0") | (frame["corruption"] != "snow")], "best_validation_mean")


def test_a_study_on_disk_is_chosen_from(study_folder) -> None:
    frame = load(study_folder)
    mine = frame[(frame["split"] == "validation") & (frame["role"] == "search")]
    chosen = choose(mine, "best_validation_mean")
    assert chosen["noise_mean"].iloc[0] == pytest.approx(figures(mine)["noise_mean"].max())
