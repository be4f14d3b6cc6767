"""The chart of effects: a line for many numbers, points for few or for words, each with what the table says."""

import json
import re

import altair as alt
import numpy as np
import pandas as pd
import pytest

from analysis.effectchart import effect_chart, effect_rows
from analysis.effects import category_means, effect_table, effects, linear_settings, search_settings
from analysis.page import cells_of
from analysis.vegalite import still

HOSTILE = ("</script>", "murk-colour:c1", "datum.x'\"`")


def made_trials(count: int = 60) -> pd.DataFrame:
    """rho is off in every sixth trial; the others' accuracies rise with its logarithm."""
    rng = np.random.default_rng(3)
    rho = np.where(np.arange(count) % 6 == 0, 0.0, 10 ** rng.uniform(-2, -0.3, count))
    names = [HOSTILE[place] for place in rng.integers(0, 3, count)]
    value = 0.6 + 0.1 * np.log10(np.maximum(rho, 0.005)) / 2 + rng.normal(0, 0.01, count)
    return pd.DataFrame({
        "trial": [str(n) for n in range(count)], "method": "pmal", "stages": rng.integers(1, 4, count).astype(float),
        "rho": rho, "noise_strength": 0.0, "acc/noise": value, "param/optim.sam.rho": rho, "param/method.name": "pmal",
        "param/data.crop": rng.uniform(0.001, 1, count), "param/optim.name": names, "param/is_on": rho > 0.1,
    })  # fmt: skip


@pytest.fixture(scope="module")
def found() -> pd.DataFrame:
    trials = made_trials()
    return effects(trials, "acc/noise", settings=search_settings(trials), linear={"data.crop"})


@pytest.fixture(scope="module")
def chart(found):
    made = effect_chart(found, phase="search", metric="acc/noise", caption="")
    assert made is not None
    return made


def test_settings_are_those_drawn_each_once(found):
    assert list(found["setting"].unique()) == ["rho", "stages", "data.crop", "optim.name", "is_on"]
    kinds = found.groupby("setting")["kind"].agg(set).to_dict()
    assert kinds == {"rho": {"curve", "mean"}, "stages": {"mean"}, "data.crop": {"curve"}, "optim.name": {"category"},
                     "is_on": {"category"}}  # fmt: skip


def test_what_is_drawn_evenly_has_no_log_scale(found):
    space = {"data.crop": {"uniform": [0, 1]}, "optim.lr": {"log_uniform": [1e-4, 1]}, "model.x": {"choice": [1, 100]},
             "optim.sam.rho": {"uniform": [0, 1]}}  # fmt: skip
    assert linear_settings(space) == {"data.crop", "rho"}
    crop = found[found["setting"] == "data.crop"]["x"].to_numpy()
    assert np.diff(crop) == pytest.approx(np.diff(crop)[0])
    trials = made_trials()
    logged = effects(trials, "acc/noise", settings=["param/data.crop"])
    assert logged["is_log"].all()
    assert np.diff(np.log(logged["x"])).max() < 1


def test_means_of_choices_are_means_and_choices_of_one_name_stay_apart():
    found = category_means(["b", "a", "b"], [0.2, 0.5, 0.4])
    assert found[["category", "value", "n_trials"]].to_numpy().tolist() == [["a", 0.5, 1], ["b", pytest.approx(0.3), 2]]
    assert pd.isna(found["value_low"][0])
    weak, strong = [{"name": "fog", "severities": [1]}], [{"name": "fog", "severities": [5]}]
    assert category_means([weak, strong, weak], [0.1, 0.2, 0.3])["n_trials"].tolist() == [2, 1]


def test_rows_say_what_the_table_says(found, chart):
    table = effect_table(made_trials(), "acc/noise", settings=search_settings(made_trials()), linear={"data.crop"})
    assert [text[2] for text in table.texts()] == chart.rows["read"].tolist()
    assert set(chart.specs) == set(found["setting"])
    names = chart.rows.loc[chart.rows["setting"] == "optim.name", "text"]
    assert set(names) == set(HOSTILE)


def test_zero_stands_left_of_a_log_range(chart):
    rho = chart.rows[chart.rows["setting"] == "rho"]
    zero, curve = rho[rho["kind"] == "mean"], rho[rho["kind"] == "curve"]
    assert zero["text"].tolist() == ["0"]
    assert 0 < zero["place"].iloc[0] < curve["place"].min()
    axis = chart.specs["rho"]["layer"][0]["encoding"]["x"]["axis"]
    assert axis["values"][0] == zero["place"].iloc[0]
    assert {0.02, 0.1} <= set(axis["values"])


def test_specifications_are_valid_name_fixed_columns_and_hold_no_name_in_an_expression(chart):
    for setting, spec in chart.specs.items():
        alt.LayerChart.from_dict({**spec, "data": {"name": "rows"}})
        assert set(re.findall(r'"field": "([^"]*)"', json.dumps(spec))) <= set(chart.rows.columns)
        expressions = re.findall(r'"(?:expr|labelExpr|test)": "([^"]*)"', json.dumps(spec))
        assert not [one for one in expressions for name in HOSTILE if name in one]
        assert still(chart, choice=setting).startswith(b"<svg")


def test_bands_are_drawn_no_further_than_accuracies_go_and_one_trial_has_none():
    rows = pd.DataFrame({"setting": "s", "kind": "mean", "x": [1.0, 2.0], "value": [0.9, 0.5],
                         "value_low": [0.7, np.nan], "value_high": [1.3, np.nan], "n_trials": [2, 1], "category": "",
                         "is_log": False})  # fmt: skip
    drawn = effect_rows(rows, metric="acc/noise", phase="search")
    assert drawn["high"][0] == 100
    assert drawn["read"].tolist() == ["90.0 [70.0, 130.0]", "50.0"]
    assert pd.isna(drawn["low"][1])
    costly = effect_rows(rows, metric="cost/macs", phase="search")
    assert costly["high"][0] == 1.3


def test_it_says_in_words_what_can_be_seen_and_is_absent_without_rows(chart, found):
    assert "95 % intervals. rho: from " in chart.alt
    assert "stages: from " in chart.alt
    assert effect_chart(found.head(0), phase="search", metric="acc/noise", caption="") is None


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([1000, 1024, 65536], ["1,000", "1,024", "65,536"]),
        ([0.1, 0.10004, 2], ["0.1", "0.10004", "2"]),
        ([1024.2, 1024.4], ["1,024.2", "1,024.4"]),
        ([1e-5, 0.25], ["1e-05", "0.25"]),
    ],
)
def test_numbers_are_written_out_and_apart_alike_in_table_and_chart(values, texts):
    trials = pd.DataFrame({"param/x": [float(value) for value in values for _ in range(2)]})
    trials["acc/noise"] = np.linspace(0.4, 0.6, len(trials))
    table = effect_table(trials, "acc/noise", settings=["param/x"])
    assert [text[1] for text in table.texts()] == texts
    assert effect_rows(table.frame, metric="acc/noise", phase="search")["text"].tolist() == texts


def test_a_choice_with_a_bracket_is_no_interval():
    trials = pd.DataFrame({"param/noise.train": [["fog [5]"], ["fog [1]"]], "acc/noise": [0.4, 0.5]})
    table = effect_table(trials, "acc/noise", settings=["param/noise.train"])
    assert [row[1]["value"] for row in cells_of(table)["rows"]] == ["fog [1]", "fog [5]"]
