"""Constraints and the Pareto front, against definitions written out by hand."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.constraints import NAMES, broken, excesses, is_feasible, read_constraint, read_constraints, total_excess
from analysis.fronts import front_figure, front_lines, front_table
from analysis.load import read_study
from analysis.pareto import front_of, pareto_front
from analysis.records import final_metrics
from analysis.report import write_report
from analysis.selection import Candidate

VALUE = st.one_of(st.integers(-3, 3).map(float), st.sampled_from([math.nan, math.inf, -math.inf]))
GOAL = st.sampled_from(["maximise", "minimise"])


def beats(one: list[float], other: list[float], goals: list[str]) -> bool:
    """One is as good in all and better in some."""
    better = [a > b if goal == "maximise" else a < b for a, b, goal in zip(one, other, goals, strict=True)]
    worse = [a < b if goal == "maximise" else a > b for a, b, goal in zip(one, other, goals, strict=True)]
    return any(better) and not any(worse)


@given(st.data(), st.lists(GOAL, min_size=1, max_size=3))
def test_the_front_is_what_nothing_beats(data, goals):
    rows = data.draw(st.lists(st.lists(VALUE, min_size=len(goals), max_size=len(goals)), max_size=12))
    names = [f"m{place}" for place in range(len(goals))]
    frame = pd.DataFrame(rows, columns=names, dtype=float).assign(trial=range(len(rows)))
    known = [row for row in rows if all(map(math.isfinite, row))]
    expected = {place for place, row in enumerate(rows)
                if row in known and not any(beats(other, row, goals) for other in known)}  # fmt: skip
    found = pareto_front(frame, dict(zip(names, goals, strict=True)))
    assert set(found["trial"]) == expected
    assert list(found.columns) == list(frame.columns)
    first = found["m0"].tolist()
    assert first == sorted(first, reverse=goals[0] == "maximise")


def test_equal_trials_stand_together():
    frame = pd.DataFrame({"a": [1.0, 1.0, 0.5], "b": [2.0, 2.0, 3.0]})
    assert list(pareto_front(frame, {"a": "maximise", "b": "minimise"}).index) == [0, 1]


@pytest.mark.parametrize(
    ("goals", "words"),
    [({}, "at least one"), ({"z": "maximise"}, "must name columns"), ({"a": "highest"}, "must be 'maximise' or")],
)
def test_what_cannot_be_a_front_is_refused(goals, words):
    with pytest.raises(ValueError, match=words):
        pareto_front(pd.DataFrame({"a": [1.0]}), goals)


def test_each_method_has_a_front_where_asked():
    pool = [
        Candidate(key, value, number, {"method": {"name": method}}, (cost,))
        for number, (key, value, cost, method) in enumerate(
            [("a", 0.9, 5.0, "plain"), ("b", 0.8, 9.0, "plain"), ("c", 0.7, 9.0, "pmal"), ("d", math.nan, 1.0, "pmal")]
        )
    ]
    assert [item.key for item in front_of(pool, ["maximise", "minimise"])] == ["a"]
    assert [item.key for item in front_of(pool, ["maximise", "minimise"], per="method.name")] == ["a", "c"]


@pytest.mark.parametrize("costs", [("cost/params",), ("cost/params", "cost/passes")])
def test_the_front_is_drawn(costs):
    goals = {"acc/noise": "maximise"} | dict.fromkeys(costs, "minimise")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"number": range(12), "acc/noise": rng.random(12), "cost/params": 10 ** rng.uniform(4, 7, 12),
                          "cost/passes": rng.random(12), "keeps": [True] * 10 + [False] * 2})  # fmt: skip
    frame["front"] = frame.index.isin(pareto_front(frame[frame["keeps"]], goals).index)
    figure = front_figure(frame, goals)
    assert len(figure.axes) == len(goals) - 1


# ------------------------------------------------------------------------------------------------------- constraints
def test_constraints_are_read_by_both_names():
    for name, metric in NAMES.items():
        bound = "0.5"
        assert read_constraint(f"{name} >= {bound}").metric == metric == read_constraint(f"{metric}>={bound}").metric
    assert str(read_constraint(" params<=25e6 ")) == "params <= 2.5e+07"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fast", "must be of the form 'clean_accuracy >= 0.9', but got 'fast'"),
        ("clean_accuracy > 0.9", "must compare by <= or >=, but got >"),
        ("accuracy >= 0.9", "must name one of clean_accuracy"),
        ("params <= 25M", "must end in a number such as 0.9 or 25e6, but got '25M'"),
        ("clean_accuracy >= 90", "must have a share from 0 to 1"),
        ("params <= 0", "must have a bound above 0"),
        ("passes <= nan", "must end in a number"),
    ],
)
def test_a_constraint_that_cannot_be_read_says_why(text, words):
    with pytest.raises(ValueError, match=words):
        read_constraint(text)


def test_constraints_that_contradict_each_other():
    with pytest.raises(ValueError, match="once from each side"):
        read_constraints(["params <= 5", "cost/params <= 7"])
    with pytest.raises(ValueError, match="must leave something between them"):
        read_constraints(["params <= 5", "params >= 7"])
    assert len(read_constraints(["params <= 7", "params >= 5"])) == 2


def test_how_far_figures_lie_outside():
    limits = read_constraints(["clean_accuracy >= 0.8", "passes <= 100"])
    near = {"acc/clean": 0.9, "cost/passes": 110.0}
    assert list(excesses(limits, near).values()) == [pytest.approx(-0.125), pytest.approx(0.1)]
    assert total_excess(limits, near) == pytest.approx(0.1)
    assert not is_feasible(limits, near)
    assert broken(limits, near) == "passes <= 100 (it has 110)"
    assert is_feasible(limits, {"acc/clean": 0.8, "cost/passes": 100})
    assert broken(limits, {"acc/clean": math.nan, "cost/passes": 1}) == "clean_accuracy >= 0.8 (no figure)"


# ------------------------------------------------------------------------------------------------------------ report
@pytest.mark.slow
def test_the_report_shows_the_front_and_what_broke_a_constraint(write_ledger, tmp_path):
    folder = write_ledger(tmp_path)
    record = json.loads((folder / "study.json").read_text())
    search = record["config"]["search"]
    search["objectives"] = [{"metric": "acc/noise", "goal": "maximise"}, {"metric": "cost/passes", "goal": "minimise"}]
    frame = _finished(folder)
    limit = frame["cost/passes"].median()
    search["constraints"] = [f"passes <= {limit}"]
    (folder / "study.json").write_text(json.dumps(record))
    paths = write_report(folder, out=tmp_path / "report")
    kept = frame[frame["cost/passes"] <= limit]
    expected = pareto_front(kept, {"acc/noise": "maximise", "cost/passes": "minimise"})["trial"].tolist()
    table = pd.read_csv(tmp_path / "report" / "tables" / "pareto.csv", dtype={"trial": str})
    assert table["trial"].tolist() == expected
    assert len(kept) < len(frame)
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("the Pareto front") >= 1
    assert "Pareto front, validation images:" in paths.summary
    trials = (tmp_path / "report" / "tables" / "trials.md").read_text()
    assert trials.count("broke a constraint") == len(frame) - len(kept)


def test_a_search_of_one_objective_has_no_front(study_folder):
    table = front_table(read_study(study_folder))
    assert table.frame.empty
    assert front_lines(table) == []


def _finished(folder) -> pd.DataFrame:
    rows = []
    for record in read_study(folder).trials:
        if record.info["role"] == "search" and record.status == "finished":
            rows.append(final_metrics(record.events) | {"trial": record.key})
    return pd.DataFrame(rows)
