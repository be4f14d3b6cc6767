"""What a report says in words: of what was found, of what has not ended, of when the test split was read."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import facts, provenance
from analysis.contrasts import contrast_table
from analysis.decision import decision_table
from analysis.load import Snapshot, read_study
from analysis.records import TrialRecord
from analysis.report import write_report
from analysis.scores import Headline, headline
from analysis.unfinished import has_open_tests, unfinished

NOTHING = Headline("validation", [], None, [])


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
    assert dict(provenance.what_ran(snapshot(trials, **study), NOTHING))["Test split"] == words


def running(**phase: Any) -> dict[str, Any]:
    """A study whose confirm phase has begun, two configurations of two seeds."""
    settings = [
        {"name": "search", "kind": "search"}, {"name": "confirm", "kind": "confirm", "seeds": [1, 2]},
        {"name": "base", "kind": "train", "seeds": [1]},
    ]  # fmt: skip
    record = {"name": "confirm", "kind": "confirm", "status": "running", "trials": [], "selected": ["s", "t"]} | phase
    search = {"name": "search", "kind": "search", "status": "finished", "trials": ["s", "t"]}
    return {"config": {"phases": settings, "search": {"trials": 8}}, "phases": [search, record]}


def test_phases_that_have_not_ended_are_named_with_their_trials():
    found = snapshot([trial("a"), trial("b", end="failed"), trial("c", end=None)], **running())
    assert unfinished(found) == "Phase confirm has not finished: 2 of 4 trials; phase base has not begun."
    assert has_open_tests(found.study)
    begun = snapshot([trial("s", "search", role="search")], config=running()["config"],
                     phases=[{"name": "search", "status": "running", "trials": []}])  # fmt: skip
    assert unfinished(begun).startswith("Phase search has not finished: 1 of 8 trials; phase confirm has not begun;")


def test_nothing_is_unfinished_in_a_study_whose_phases_all_ended():
    ended = running(status="finished")
    ended["phases"].append({"name": "base", "status": "finished", "trials": []})
    assert unfinished(snapshot([], **ended)) == ""
    assert not has_open_tests(ended)
    assert unfinished(snapshot([])) == ""


def test_a_search_that_goes_on_leaves_the_tested_phases_their_verdicts():
    ended = running(status="finished")
    ended["phases"].append({"name": "base", "status": "finished", "trials": []})
    ended["phases"][0]["status"] = "running"
    assert not has_open_tests(ended)


@pytest.mark.slow
def test_differences_of_unfinished_studies_have_figures_and_no_verdict(tmp_path, write_ledger, monkeypatch):
    monkeypatch.setattr("analysis.report.draw", lambda *_: [])
    monkeypatch.setattr("analysis.report.draw_charts", lambda *_: [])
    folder = write_ledger(tmp_path, num_images=30)
    study = json.loads((folder / "study.json").read_text())
    study["phases"][1] |= {"status": "running", "trials": []}
    (folder / "study.json").write_text(json.dumps(study))
    paths = write_report(folder)
    said = "Phase confirm has not finished: 9 trials so far."
    assert paths.summary.startswith(said)
    assert paths.facts["unfinished"] == said
    assert isinstance(paths.html, Path)
    page = paths.html.read_text().split("<main>")[1].split('id="murk-data"')[0]
    summary = page[page.index('id="summary"') : page.index("</section>")]
    assert f"<strong>{said}</strong>" in summary
    assert page.count(said) == 2, "in the summary and first among the notes"
    assert {row["verdict"] for row in paths.facts["contrasts"]} == {"not finished"}
    for text in (page, paths.summary, str(paths.facts["decision"])):
        for word in ("better", "worse", "keeps it", "distinguishable"):
            assert word not in re.sub(r"“Better” is said only|lower is better|8 are better", "", text), word
    assert "not finished" in paths.summary
    assert paths.facts["contrasts"][0]["difference"] != 0


def clean_only(folder: Path) -> None:
    for file in [*folder.glob("trials/*/cells.parquet"), *folder.glob("trials/*/predictions.parquet")]:
        rows = pd.read_parquet(file)
        rows[rows["corruption"] == "clean"].to_parquet(file, index=False)


@pytest.mark.slow
def test_without_noise_the_summary_tells_of_clean_images(tmp_path, write_ledger):
    folder = write_ledger(tmp_path, num_images=30)
    clean_only(folder)
    found = read_study(folder)
    best = headline(found)
    said = facts.reading(found, best, contrast_table(best).frame)
    assert re.match(
        r"pmal S=3 rho=0.1 got \d\d\.\d % \(95 % interval .*\) of clean test images right \(30 images", said[0]
    )
    assert facts.reading(found, best, pd.DataFrame()), "never empty: a comparison takes the first"


@pytest.mark.slow
def test_a_study_of_named_configurations_compares_all_with_the_baseline(tmp_path, write_ledger):
    folder = write_ledger(tmp_path, num_images=30)
    for path in folder.glob("trials/*/trial.json"):
        if (info := json.loads(path.read_text()))["role"] == "search":
            shutil.rmtree(path.parent)
        else:
            path.write_text(json.dumps(info | {"role": "train", "phase": "all"}))
    study = json.loads((folder / "study.json").read_text())
    study["phases"] = [study["phases"][1] | {"name": "all", "kind": "train", "selected": []}]
    (folder / "study.json").write_text(json.dumps(study))
    found = read_study(folder)
    best = headline(found)
    contrasts = contrast_table(best)
    under_noise, clean, baseline, none = facts.reading(found, best, contrasts.frame)
    assert all(arm.label in said for said in (under_noise, clean) for arm in best.arms)
    assert baseline.startswith("plain rho=0.1 +gaussian_noise, the baseline, got")
    assert none == "Nothing was chosen: every configuration was named in the file."
    assert not decision_table(found, best, contrasts).frame["chosen"].any()
    assert facts.gather(found, best, contrasts).best_yaml == ""
