"""`murk report` and `murk compare`: two studies, formats, watching, colour, JSON, and what is refused."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from analysis.load import read_study
from analysis.report import ReportPaths
from study.cli import BAD_INPUT, app
from study.comparing import compare_runs
from study.terminal import painted, wants_colour
from study.watching import has_ended, watch
from tests.unit.analysis.conftest import write_study

FIRST, THIRD, SEARCHED = "00000000000c0000", "00000000000c0002", "0000000000000001"


def _murk(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("analysis.report.draw", lambda *_: [])
    monkeypatch.setattr("analysis.report.draw_charts", lambda *_: [])


@pytest.fixture(scope="module")
def _written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("studies")
    for name in ("one", "two"):
        write_study(place, name=name, num_images=30)
    return place


@pytest.fixture
def studies(tmp_path: Path, _written: Path) -> Path:
    """Where two studies lie, which the test may change."""
    return Path(shutil.copytree(_written, tmp_path / "results"))


# --------------------------------------------------------------------------------------------------------------- report
@pytest.mark.slow
def test_formats_and_json(studies: Path) -> None:
    made = _murk("report", "one", "--format", "latex", "--format", "csv", "--out", "there", "--json")
    assert made.exit_code == 0, made.output
    facts = json.loads(made.stdout)
    assert facts["study"] == "one"
    assert facts["reading"][0].startswith("pmal S=3 rho=0.1 got ")
    assert [row["chosen"] for row in facts["decision"]] == [False, True, False]
    assert sorted({Path(file).suffix for file in facts["files"]}) == [".csv", ".tex"]
    assert not (Path("there") / "report.html").exists()


def test_two_studies_are_compared(studies: Path) -> None:
    made = _murk("report", "one", "two", "--format", "md")
    assert made.exit_code == 0, made.output
    assert "mean noise: two: pmal S=3 rho=0.1 against one: pmal S=3 rho=0.1" in made.stdout
    assert "note: These differences were not stated beforehand" in made.stdout
    assert sorted(path.name for path in Path("one-against-two/tables").iterdir()) == ["contrasts.md", "studies.md"]
    assert "\x1b" not in made.stdout


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("one", "--format", "docx"), "must be of html, md, csv, parquet, latex, but got docx"),
        (("one", "two", "three"), "is of one study, or compares two, but got 3"),
        (("one", "two", "--watch"), "--watch is for the report of one study"),
        (("one", "--every", "9"), "--every is for --watch"),
        (("one", "--watch", "--every", "0"), "--every must be at least 5 seconds, but got 0"),
        (("one", "nobody"), "nobody"),
    ],
)
def test_what_a_report_cannot_be_is_refused(studies: Path, args: tuple[str, ...], words: str) -> None:
    made = _murk("report", *args)
    assert made.exit_code == BAD_INPUT, made.output
    assert words in made.stderr
    assert len(made.stderr.strip().splitlines()) == 1


# ------------------------------------------------------------------------------------------------------------- watching
def _set_status(folder: Path, status: str) -> None:
    record = json.loads((folder / "study.json").read_text())
    record["config"]["phases"] = [{"name": "search"}, {"name": "confirm"}]
    record["phases"][1]["status"] = status
    (folder / "study.json").write_text(json.dumps(record))


def test_it_is_written_when_something_is_new_and_a_last_time_at_the_end(studies: Path) -> None:
    folder = studies / "one"
    _set_status(folder, "running")
    written: list[int] = []
    said: list[str] = []
    waits = iter(("nothing", "event", "end"))

    def write(seconds: int) -> ReportPaths:
        written.append(seconds)
        return ReportPaths("report.html", [], [], "")

    def wait(seconds: float) -> None:
        assert seconds == 9
        match next(waits):
            case "event":
                with (folder / "trials" / FIRST / "events.jsonl").open("a") as file:
                    file.write('{"event": "resume", "time": 1.0}\n')
            case "end":
                _set_status(folder, "finished")

    watch(write, str(folder), tracking_uri=None, every_s=9, say=said.append, wait=wait)
    assert written == [9, 9, 0]
    assert len(said) == 2
    assert "14 of 17 trials finished" in said[0]
    assert "13 of 17 trials finished" in said[1]


@pytest.mark.slow
def test_of_a_study_that_nobody_runs_a_person_is_told_once_and_may_stop(studies: Path) -> None:
    folder = studies / "one"
    _set_status(folder, "running")
    written: list[int] = []
    said: list[str] = []
    waits = iter(range(14))

    def write(seconds: int) -> ReportPaths:
        written.append(seconds)
        return ReportPaths(None, [Path("accuracy.csv")], [], "")

    def wait(seconds: float) -> None:
        if next(waits, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch(write, str(folder), tracking_uri=None, every_s=100, say=said.append, wait=wait)
    assert written == [100, 0], "the last page loads itself again"
    assert len(said) == 2
    assert said[0].endswith("14 of 17 trials finished; wrote 1 table")
    assert "nothing new for 10 minutes" in said[1]
    assert "`murk resume`" in said[1]


def test_a_moment_in_which_nothing_can_be_read_does_not_end_a_watch(studies: Path) -> None:
    place = studies / "one"
    _set_status(place, "running")
    cells = place / "trials" / FIRST / "cells.parquet"
    whole = cells.read_bytes()
    said: list[str] = []
    waits = iter(("torn", "mended", "torn", *["still"] * 9))

    def wait(seconds: float) -> None:
        cells.write_bytes(whole if next(waits) == "mended" else whole[:50])

    with pytest.raises(ValueError, match=r"cells\.parquet"):
        watch(lambda _: ReportPaths("report.html", [], [], ""), str(place), tracking_uri=None, every_s=9,
              say=said.append, wait=wait)  # fmt: skip
    tried = [line for line in said if "could not be read or written, trying again" in line]
    assert len(tried) == 1 + 4
    assert "cells.parquet" in tried[0]


def test_a_fault_of_our_own_ends_a_watch_at_once(studies: Path) -> None:
    _set_status(studies / "one", "running")
    looks: list[float] = []

    def write(seconds: int) -> ReportPaths:
        if looks:
            raise KeyError("a fault")
        return ReportPaths("report.html", [], [], "")

    def wait(seconds: float) -> None:
        looks.append(seconds)
        with (studies / "one" / "trials" / FIRST / "events.jsonl").open("a") as file:
            file.write('{"event": "resume", "time": 1.0}\n')

    with pytest.raises(KeyError, match="a fault"):
        watch(write, str(studies / "one"), tracking_uri=None, every_s=9, say=lambda _: None, wait=wait)
    assert looks == [9]


def test_a_study_whose_phases_wait_has_not_ended(studies: Path) -> None:
    assert has_ended(read_study(studies / "one"))
    _set_status(studies / "one", "running")
    assert not has_ended(read_study(studies / "one"))
    record = json.loads((studies / "two" / "study.json").read_text())
    record["config"]["phases"] = [{"name": "search"}, {"name": "confirm"}, {"name": "later"}]
    (studies / "two" / "study.json").write_text(json.dumps(record))
    assert not has_ended(read_study(studies / "two"))


@pytest.mark.slow
def test_a_watched_study_that_has_ended_is_written_once_without_reloading(studies: Path) -> None:
    made = _murk("report", "one", "--watch", "--format", "html")
    assert made.exit_code == 0, made.output
    assert 'id="refresh"' not in (studies / "one" / "report.html").read_text()


# -------------------------------------------------------------------------------------------------------------- compare
def test_two_runs_are_tested_pair_by_pair(studies: Path) -> None:
    made = _murk("compare", f"one/{FIRST}", f"one/{THIRD}", "--json")
    assert made.exit_code == 0, made.output
    facts = json.loads(made.stdout)
    assert (facts["first"]["trial"], facts["second"]["trial"]) == (FIRST, THIRD)
    assert facts["population"] == "these two networks"
    rows = pd.DataFrame(facts["cells"])
    assert len(rows) == 32
    first, third = (pd.read_parquet(studies / "one" / "trials" / key / "predictions.parquet") for key in (FIRST, THIRD))
    both = first.merge(third, on=["image_id", "corruption", "severity"])
    clean = both[both["corruption"] == "clean"]
    row = rows[rows["corruption"] == "clean"].iloc[0]
    assert row["only_first"] == (clean["correct_x"] & ~clean["correct_y"]).sum()
    text = _murk("compare", f"one/{FIRST}", f"one/{THIRD}").stdout
    assert "another seed of the same method may differ as much" in text
    assert max(map(len, text.splitlines()[:6])) < 200


def test_no_cell_is_called_better_that_holm_does_not_bear_out(studies: Path) -> None:
    rows = pd.DataFrame(compare_runs(f"one/{FIRST}", f"one/{THIRD}", storage=str(studies)).facts["cells"])
    weak = rows[(rows["p_holm"] >= 0.05)]
    assert len(weak)
    assert weak["reading"].str.startswith("not distinguishable").all()


def test_digits_are_enough_where_they_mean_one_trial(studies: Path) -> None:
    path = studies / "one" / "trials" / THIRD
    info = json.loads((path / "trial.json").read_text()) | {"key": "abc" + THIRD[3:]}
    (path / "trial.json").write_text(json.dumps(info))
    path.rename(path.with_name("abc" + THIRD[3:]))
    made = _murk("compare", "abc", f"one/{FIRST}")
    assert made.exit_code == 0, made.output
    assert "(abc00000)" in made.stdout


def test_a_damaged_study_beside_it_hinders_nothing(studies: Path) -> None:
    path = studies / "one" / "trials" / THIRD
    path.rename(path.with_name("abc" + THIRD[3:]))
    info = json.loads((path.with_name("abc" + THIRD[3:]) / "trial.json").read_text()) | {"key": "abc" + THIRD[3:]}
    (path.with_name("abc" + THIRD[3:]) / "trial.json").write_text(json.dumps(info))
    (studies / "two" / "trials" / FIRST / "cells.parquet").write_bytes(b"damaged")
    made = _murk("compare", "abc", f"one/{FIRST}")
    assert made.exit_code == 0, made.output


def test_cells_that_one_lacks_are_named_with_their_severities(studies: Path) -> None:
    for name in ("predictions.parquet", "cells.parquet"):
        path = studies / "one" / "trials" / THIRD / name
        rows = pd.read_parquet(path)
        is_out = (rows["corruption"] == "shot_noise") & rows["severity"].isin([3, 5])
        rows[~(is_out | (rows["corruption"].eq("contrast") & rows["severity"].eq(1)))].to_parquet(path, index=False)
    (note,) = compare_runs(f"one/{FIRST}", f"one/{THIRD}", storage=str(studies)).facts["notes"]
    assert note.endswith("are left out: contrast (severity 1), shot_noise (severities 3, 5)")


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ((FIRST, f"one/{THIRD}"), f": one/{FIRST}, two/{FIRST}; name the study, as STUDY/KEY"),
        (("one/00000000000c", f"one/{THIRD}"), "; write more of the key"),
        (("nobody/0", f"one/{THIRD}"), "there is no study 'nobody'"),
        (("one/f", f"one/{THIRD}"), "must have a trial that begins with 'f'"),
        ((f"one/{FIRST}", f"one/{FIRST}"), "two different trials can be compared"),
        ((f"one/{SEARCHED}", f"one/{FIRST}"), "kept no predictions of test images"),
        (("one/", f"one/{FIRST}"), "must be STUDY/KEY or the first digits of a key"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(studies: Path, runs: tuple[str, str], words: str) -> None:
    made = _murk("compare", *runs)
    assert made.exit_code == BAD_INPUT, made.output
    assert words in made.stderr


def test_runs_of_other_data_or_noise_are_refused(studies: Path) -> None:
    path = studies / "two" / "trials" / THIRD / "trial.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"numerics": 99}))
    assert "different versions or seeds" in _murk("compare", f"one/{FIRST}", f"two/{THIRD}").stderr
    task = {"task": {"name": "retrieval", "reference": "clean"}}
    path.write_text(json.dumps(info | {"config": info["config"] | task}))
    said = _murk("compare", f"one/{FIRST}", f"two/{THIRD}").stderr
    assert "theirs are classification and retrieval, reference clean" in said
    path.write_text(json.dumps(info | {"pairs": "b" * 64}))
    said = _murk("compare", f"one/{FIRST}", f"two/{THIRD}").stderr
    assert "different lists of pairs (fingerprints none and bbbbbbbbbbbb)" in said
    path.write_text(json.dumps(info | {"fingerprint": "other"}))
    assert "read different data" in _murk("compare", f"one/{FIRST}", f"two/{THIRD}").stderr


# --------------------------------------------------------------------------------------------------------------- colour
class _Terminal:
    def __init__(self, *, is_terminal: bool) -> None:
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.mark.parametrize(
    ("is_terminal", "environment", "wanted"),
    [(True, {}, True), (False, {}, False), (True, {"NO_COLOR": "1"}, False), (True, {"NO_COLOR": ""}, True),
     (True, {"TERM": "dumb"}, False)],
)  # fmt: skip
def test_colour_is_for_terminals_whose_owner_wants_it(is_terminal, environment, wanted) -> None:
    assert wants_colour(_Terminal(is_terminal=is_terminal), environment) is wanted  # pyright: ignore[reportArgumentType]


def test_colour_changes_no_word() -> None:
    text = "title\nclean: a against b +1.0 points (+0.1 to +2.0): better\nnoise: a against b: worse\nplain: betterment"
    shown = painted(text)
    assert re.sub(r"\x1b\[[\d;]*m", "", shown) == text
    assert shown.splitlines()[1].endswith(": \x1b[1;32mbetter\x1b[0m")
    assert "\x1b[1;31mworse" in shown
    assert "\x1b" not in shown.splitlines()[3]
