"""Studies with little in them, or with something odd: the report is written all the same, and says so."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import page
from analysis.load import read_study
from analysis.report import report_tables, write_report
from analysis.scores import headline
from analysis.tablefiles import latex
from analysis.trialtable import trial_table

Event = dict[str, Any]


def _events(folder: Path, change: Callable[[list[Event]], list[Event]]) -> None:
    """Change what the trials of a study recorded."""
    for path in folder.glob("trials/*/events.jsonl"):
        found = change([json.loads(line) for line in path.read_text().splitlines()])
        path.write_text("".join(json.dumps(event) + "\n" for event in found))


def _running(events: list[Event]) -> list[Event]:
    return [event for event in events if event["event"] in ("start", "epoch")]


def _failed(events: list[Event]) -> list[Event]:
    return [events[0], {"event": "failed", "time": 2.0}]


def _without_figure(events: list[Event]) -> list[Event]:
    events[-1].get("metrics", {})["acc/noise"] = None
    return events


@pytest.mark.slow
@pytest.mark.parametrize("change", [_running, _failed, _without_figure])
def test_a_search_without_any_figure_has_a_report(tmp_path, write_ledger, change):
    folder = write_ledger(tmp_path, confirm=False)
    _events(folder, change)
    paths = write_report(folder, out=tmp_path / "out", formats=("html",))
    html = Path(paths.html or "").read_text()
    assert "figure-search-search" in html
    assert "figure-parallel-search" not in html
    if change is _without_figure:
        assert paths.summary == "5 trials finished, but none has a figure for acc/noise"
        assert paths.facts["reading"] == [f"{paths.summary}, so there is nothing to read."]
    else:
        assert paths.summary == "no finished trial yet"
        assert paths.facts["reading"] == ["No trial has finished yet, so there is nothing to read."]


@pytest.mark.slow
def test_a_test_split_of_one_image_has_a_report_without_intervals(tmp_path, write_ledger):
    folder = write_ledger(tmp_path, num_images=1)
    paths = write_report(folder, out=tmp_path / "out")
    assert "(no interval)" in paths.facts["reading"][0]
    accuracy = (tmp_path / "out" / "tables" / "accuracy.md").read_text()
    assert "[no interval]" in accuracy
    assert "nan" not in accuracy
    html = Path(paths.html or "").read_text()
    assert "Not drawn: differences on one image, which tells nothing of others." in html


@pytest.mark.slow
def test_a_folder_of_one_real_image_has_a_figure_and_no_interval(tmp_path, write_ledger, with_measures):
    folder = with_measures(write_ledger(tmp_path, num_images=20), real={"night": 1})
    snapshot = read_study(folder)
    tables = report_tables(snapshot, headline(snapshot))
    (column,) = (column for column in tables["accuracy"].columns if column.title == "real: night")
    assert column.text(tables["accuracy"].frame.iloc[0]) == "100.0 [no interval] n=1"
    assert tables["real"].texts()[0][4] == "100.0 [no interval]"
    assert len(tables["contrasts"].frame)


@pytest.mark.slow
def test_own_noises_may_be_called_as_other_columns(tmp_path, write_ledger):
    folder = write_ledger(tmp_path, num_images=20)
    own = {"shot_noise": "fog", "impulse_noise": "fog_low", "contrast": "worst", "resolution": "flips"}
    for name in ("cells", "predictions"):
        for path in folder.glob(f"trials/*/{name}.parquet"):
            rows = pd.read_parquet(path)
            rows.assign(corruption=rows["corruption"].replace(own)).to_parquet(path, index=False)
    snapshot = read_study(folder)
    found = headline(snapshot)
    table = report_tables(snapshot, found)["accuracy"]
    texts = {column.title: column.text(table.frame.iloc[0]) for column in table.columns}
    assert len(texts) == len(table.columns)
    arm = found.arms[0]
    for title, name in (("fog", "fog"), ("fog_low", "fog_low"), ("noise: worst", "worst"), ("noise: flips", "flips")):
        mean = arm.mean(arm.of(name))
        assert mean is not None
        shown = f"{mean.estimate * 100:.1f} [{mean.low * 100:.1f}, {mean.high * 100:.1f}]"
        assert texts[title].removesuffix(" ◐") == shown
        assert table.frame[f"noise/{name}/accuracy_low"].iloc[0] == mean.low
    assert texts["worst"].split()[-1] in found.corruptions
    assert "noise: worst" in latex(table)


def test_what_trials_lack_is_an_empty_cell_and_half_a_character_is_written_out(tmp_path, write_ledger):
    folder = write_ledger(tmp_path, confirm=False, error="cannot read Citro\udceb/1.png")
    for path in folder.glob("trials/*/trial.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": None}))
    paths = write_report(folder, out=tmp_path / "out", formats=("csv", "parquet", "md", "latex"))
    assert "trials.csv" in {Path(place).name for place in paths.tables}
    assert "cannot read Citro\\udceb/1.png" in (tmp_path / "out" / "tables" / "trials.csv").read_text()
    _events(folder, lambda events: _failed(events) if events[-1]["event"] == "failed" else events)
    snapshot = read_study(folder)
    table = trial_table(snapshot)
    (row,) = (row for row in table.texts() if row[5] == "failed")
    assert (row[4], row[-1]) == ("", "")
    assert [one["error"] for one in page._unfinished(table.frame)] == ["", "", ""]
