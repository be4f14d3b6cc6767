"""Studies with little in them, or with something odd: the report is written all the same, and says so."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.report import write_report

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


@pytest.mark.parametrize("change", [_running, _failed, _without_figure])
def test_a_search_without_any_figure_has_a_report(tmp_path, write_ledger, change):
    folder = write_ledger(tmp_path, confirm=False)
    _events(folder, change)
    paths = write_report(folder, out=tmp_path / "out", formats=("html",))
    html = Path(paths.html or "").read_text()
    assert "figure-search-search" in html
    assert "figure-parallel-search" not in html
