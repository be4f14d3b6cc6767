"""Charts: valid Vega-Lite over fixed columns, rows that say what the tables say, names that stay data."""

import json
import re

import altair as alt
import numpy as np
import pandas as pd
import pytest

from analysis.charts import COSTS, corruption_rows, cost_rows, headline_charts, scopes, severity_rows
from analysis.contrasts import contrast_table
from analysis.decision import decision_table
from analysis.load import read_study
from analysis.looks import COLOUR, PALETTES, looks, names
from analysis.scores import Headline, headline
from analysis.searchcharts import (
    MOST_EPOCHS,
    UNSET,
    _axis,
    _thinned,
    curve_rows,
    importance_chart,
    parallel_rows,
    search_charts,
    slug,
)
from analysis.tables import accuracy_table
from analysis.trialtable import trial_table
from analysis.vegalite import packed, painted, script_json, still
from tests.unit.analysis.conftest import write_study


@pytest.fixture(scope="module")
def study(study_folder):
    snapshot = read_study(study_folder)
    return snapshot, headline(snapshot)


@pytest.fixture(scope="module")
def charts(study):
    snapshot, found = study
    shares = pd.DataFrame({"key": ["method.name", "optim.lr"], "share": [0.25, 0.75], "share_low": [0.1, 0.5],
                           "share_high": [0.4, 0.9]})  # fmt: skip
    bars = importance_chart(shares, phase="search", caption="")
    return [
        *headline_charts(snapshot, found),
        *search_charts(snapshot, trial_table(snapshot)),
        bars,
    ]


@pytest.mark.slow
def test_every_specification_is_valid_and_names_columns_of_its_rows(charts):
    assert [chart.name for chart in charts] == ["severity", "corruptions", "cost", "search-search", "parallel-search",
                                                "curves", "importance-search"]  # fmt: skip
    for chart in charts:
        for choice, spec in chart.specs.items():
            alt.LayerChart.from_dict({**spec, "data": {"name": "rows"}})
            fields = set(re.findall(r'"field": "([^"]*)"', json.dumps(spec)))
            assert fields <= set(chart.rows.columns), (chart.name, fields - set(chart.rows.columns))
            assert all(field.isidentifier() for field in fields)
            if chart.choice:
                assert (chart.rows[chart.choice] == choice).any()
        assert set(chart.columns) <= set(chart.rows.columns)
        assert len(chart.alt) > 20


def test_no_expression_holds_a_name_of_the_records(charts, study):
    _, found = study
    words = {arm.label for arm in found.arms} | set(found.corruptions)
    for chart in charts:
        text = json.dumps(list(chart.specs.values()))
        expressions = re.findall(r'"(?:expr|labelExpr|test|calculate|signal)": ("[^"]*")', text)
        assert not [one for one in expressions for word in words if word in one]


def test_severity_rows_are_the_table_by_severity(study):
    _, found = study
    rows = severity_rows(found)
    table = accuracy_table(found).frame
    mine = rows[(rows["over"] == "all") & (rows["configuration"] == found.arms[1].label)].set_index("severity")
    assert mine.loc[0, "accuracy"] == pytest.approx(table["clean"][1] * 100)
    assert mine.loc[[1, 2, 3, 4, 5], "accuracy"].mean() == pytest.approx(table["noise_mean"][1] * 100)
    assert (rows["low"] < rows["accuracy"]).all()
    assert (rows["accuracy"] < rows["high"]).all()
    blur = rows[(rows["over"] == "group:blur") & (rows["severity"] == 3)]
    arm = found.arms[0]
    assert blur["accuracy"].iloc[0] == pytest.approx(float(arm.scores["gaussian_blur", 3].mean()) * 100)


@pytest.mark.slow
def test_scopes_offer_only_what_there_are_several_of(study, tmp_path, write_ledger, with_sides):
    _, found = study
    assert list(scopes(found)) == ["all", "group:blur", "group:digital", "group:noise", "group:resolution"]
    only = headline(read_study(with_sides(write_ledger(tmp_path, num_images=20), only=True)))
    assert list(scopes(only)) == ["all"]


def test_heat_rows_have_means_and_each_severity(study):
    _, found = study
    rows = corruption_rows(found)
    arm = found.arms[2]
    mine = rows[(rows["configuration"] == arm.label) & (rows["corruption"] == "contrast")].set_index("severity")
    assert mine.loc["mean", "accuracy"] == pytest.approx(mine.loc[list("12345"), "accuracy"].mean())
    assert "[" in mine.loc["mean", "read"]
    assert set(rows.loc[rows["corruption"] == "clean", "severity"]) == {"mean"}


def test_costs_are_those_that_the_records_have(study):
    snapshot, found = study
    rows = cost_rows(snapshot, found)
    assert set(rows["cost"]) == {COSTS["cost_passes"], COSTS["cost_seconds"]}
    passes = rows[(rows["cost"] == COSTS["cost_passes"]) & (rows["over"] == "all")]
    assert passes["value"].tolist() == pytest.approx(accuracy_table(found).frame["cost_passes"].tolist())


def test_looks_are_those_of_the_drawn_figures_and_stay_apart(study):
    _, found = study
    own = looks(found)
    assert [look.colour for look in own.values()] == [0, 1, 2]
    many = [type(found.arms[0])(f"c{n}", "same", found.arms[0].rows) for n in range(24)]
    wide = Headline("test", many, None, [])
    assert len(set(looks(wide).values())) == 24
    assert len(set(names(wide).values())) == 24
    assert all(len(set(palette.values())) == len(palette) for palette in PALETTES.values())


def test_parallel_axes_are_parameters_that_differ(study):
    snapshot, _ = study
    trials = trial_table(snapshot).frame
    rows = parallel_rows(snapshot, trials[trials["phase"] == "search"], phase="search", metric="acc/noise")
    lines = rows[rows["kind"] == "line"]
    assert list(lines["axis"].unique()) == ["method.name", "optim.lr", "acc/noise"]
    assert lines["trial"].nunique() == (trials[trials["phase"] == "search"]["status"] == "finished").sum()
    assert lines["place"].between(0, 1).all()


def test_an_axis_has_ends_choices_and_a_place_for_what_was_not_set():
    places, ticks = _axis([0.01, 0.1, 1.0], is_log=True)
    assert places == pytest.approx([0, 0.5, 1])
    assert [text for _, text in ticks] == ["0.01", "1"]
    places, ticks = _axis(["b", None, "a", ["x", "y"]], is_log=False)
    assert places[1] < 0
    assert [text for _, text in ticks] == [UNSET, "a", "b", "x+y"]
    assert _axis([2, 2], is_log=False)[0] == [0.5, 0.5]


def test_importance_is_sorted_and_left_out_where_nothing_mattered():
    shares = pd.DataFrame({"key": ["a", "b"], "share": [0.0, 1.0], "share_low": 0.0, "share_high": 1.0})
    chart = importance_chart(shares, phase="search", caption="")
    assert chart is not None
    assert chart.rows["parameter"].tolist() == ["b", "a"]
    assert chart.alt == "Bars of importance: b 100 [0, 100] %, a 0 [0, 100] %"
    assert importance_chart(shares.assign(share=0.0), phase="search", caption="") is None


def test_curves_are_thinned_and_keep_their_ends(study):
    assert _thinned(list(range(1, 301)))[0] == 1
    assert _thinned(list(range(1, 301)))[-1] == 300
    assert len(_thinned(list(range(1, 301)))) == MOST_EPOCHS
    snapshot, _ = study
    rows = curve_rows(snapshot)
    assert rows["trial"].nunique() == 17
    assert rows.loc[rows["phase"] == "confirm"].index.max() < rows.loc[rows["phase"] == "search"].index.min()


def test_a_still_picture_is_the_same_every_time_and_has_only_the_first_choice(charts):
    curves = next(chart for chart in charts if chart.name == "curves")
    first, second = still(curves), still(curves)
    assert first == second
    assert first.startswith(b"<svg")
    assert b"murk-colour" not in first
    assert b"acc/noise on validation" in first
    assert b"loss on training" not in first


def test_rows_are_packed_without_loss():
    frame = pd.DataFrame(
        {"name": ["b", "a", None, "b"], "value": [1.0, np.nan, np.inf, 0.123456789], "n": [1, 2, 3, 4]}
    )
    found = packed(frame)
    assert found["name"] == {"codes": [0, 1, -1, 0], "values": ["b", "a"]}
    assert found["value"] == [1, None, None, 0.123457]
    assert found["n"] == [1, 2, 3, 4]


@pytest.mark.parametrize("name", ["</script><script>alert(1)</script>", "<!--", "a & b", "\\u003c", "狗"])
def test_json_in_a_script_cannot_end_it(name):
    text = script_json({name: [name]})
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == {name: [name]}


def test_names_that_hide_or_turn_are_shown_alike_in_data_and_in_scales():
    assert json.loads(script_json({"\u202ea": ["\u202ea", "\x1b[0m"]})) == {"\\u202ea": ["\\u202ea", "\\x1b[0m"]}


def test_a_name_that_looks_like_a_colour_stays_a_name():
    spec = {"scale": {"domain": [f"{COLOUR}c1"], "range": [f"{COLOUR}c1"]}, "sort": [f"{COLOUR}c2"]}
    found = painted(spec, PALETTES["light"])
    assert found == {"scale": {"domain": [f"{COLOUR}c1"], "range": ["#0072B2"]}, "sort": [f"{COLOUR}c2"]}


def test_a_phase_of_any_name_is_an_id():
    found = [slug(name) for name in ("search", "a.b", "a b", "a-b", "é", '"><')]
    assert len(set(found)) == len(found)
    assert all(re.fullmatch(r"[A-Za-z0-9-]+", name) for name in found)


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    """A study whose confirmed trials have a latency, of one configuration a different one by seed."""
    folder = write_study(tmp_path_factory.mktemp("timed"), num_images=20)
    for number, path in enumerate(sorted(folder.glob("trials/00000000000c*/events.jsonl"))):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines[-1]["metrics"] |= {"cost/macs": 4.1e6, "cost/latency_ms": [3.0, 3.25, 5.0][number] if number < 3 else 2.5}
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    snapshot = read_study(folder)
    return snapshot, headline(snapshot)


def test_a_cost_that_differs_by_seed_shows_its_range(timed):
    snapshot, found = timed
    rows = cost_rows(snapshot, found).query("over == 'all'")
    latency = rows[rows["cost"] == COSTS["cost/latency_ms"]].sort_values("most", ascending=False)
    assert latency["priced"].tolist() == ["3.75 (3 to 5 over 3 seeds)", "2.5", "2.5"]
    assert latency.iloc[0][["value", "least", "most"]].tolist() == [3.75, 3.0, 5.0]
    chart = next(one for one in headline_charts(snapshot, found) if one.name == "cost")
    assert "beside other trials" in chart.caption
    drawn = [layer["encoding"]["x"]["field"] for layer in chart.specs[COSTS["cost/latency_ms"]]["layer"]]
    assert "least" in drawn


def test_the_decision_has_the_range_of_latencies_and_says_how_they_were_measured(timed):
    snapshot, found = timed
    table = decision_table(snapshot, found, contrast_table(found, snapshot.study))
    place = [column.title for column in table.columns].index("latency (ms)")
    assert sorted(row[place] for row in table.texts()) == ["2.5", "2.5", "3.75 [3, 5]"]
    assert [row[place - 1] for row in table.texts()] == ["4.1M"] * 3
    assert "measured where it was trained and beside other trials; below it its range over seeds" in table.notes[0]
