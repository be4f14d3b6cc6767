"""What a report says in words, of studies that are made up of records alone."""

from typing import Any

import pytest

from analysis import facts
from analysis.load import Snapshot
from analysis.records import TrialRecord
from analysis.scores import Headline

NOTHING = Headline("validation", [], None, ("acc/noise", "maximise"), [])


def trial(key: str, phase: str = "confirm", *, role: str = "confirm", end: str | None = "final") -> TrialRecord:
    info = {"key": key, "study": "s", "phase": phase, "role": role, "number": 0, "seed": 1, "config": {}}
    return TrialRecord(info, [{"event": "start", "time": 1.0}, *([{"event": end, "time": 2.0}] if end else [])])


def snapshot(trials: list[TrialRecord], **study: Any) -> Snapshot:
    return Snapshot("s", study, trials, [])


READ = {"phase": "confirm", "trials": ["a"], "generation": 0, "time": "2026-01-05T12:00:00Z"}


@pytest.mark.parametrize(
    ("trials", "study", "words"),
    [
        ([trial("s", "search", role="search")], {}, "not read"),
        ([trial("a", end=None)], {}, "not read"),
        ([trial("a"), trial("b")], {}, "read once: confirm by 2 trials so far"),
        ([trial("a")], {"test_reads": [READ]}, "read once: confirm 2026-01-05T12:00:00Z"),
        (
            [trial("a"), trial("b", "base", role="train")], {"test_reads": [READ]},
            "read once by each phase: confirm 2026-01-05T12:00:00Z, base by 1 trial so far",
        ),
        (
            [trial("a"), trial("b")], {"test_reads": [READ], "generation": 1},
            "READ 2 TIMES (--again): confirm 2026-01-05T12:00:00Z, confirm by 1 trial so far",
        ),
    ],
)  # fmt: skip
def test_the_test_split_counts_as_read_from_the_first_tested_trial(trials, study, words) -> None:
    assert dict(facts._run(snapshot(trials, **study), NOTHING))["Test split"] == words
