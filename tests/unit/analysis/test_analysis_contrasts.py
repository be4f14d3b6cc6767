"""Contrasts that a study file states: which figures they are made of, what is said of them, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from analysis import facts, page
from analysis.charts import severity_chart
from analysis.contrasts import check_note, contrast_table, endpoint_cells, endpoint_phrase, endpoint_title
from analysis.decision import decision_table
from analysis.labels import label_configs
from analysis.load import read_study
from analysis.repeats import ADAPTIVE_ERROR
from analysis.report import write_report
from analysis.scores import headline
from analysis.stats import Interval, crossed_difference
from analysis.tables import accuracy_table
from study.config import StudyConfig


@pytest.fixture
def without_pictures(monkeypatch):
    """Drawing takes most of a report's time; what a test reads in the page needs none."""
    monkeypatch.setattr("analysis.report.draw", lambda *_: [])


def stated(folder: Path, contrasts: list[dict], endpoints: list[str]) -> None:
    """Make the confirmed configurations phases A, B and C, and state contrasts between them."""
    for number in range(9):
        place = folder / "trials" / f"{0xC0000 + number:016x}" / "trial.json"
        info = json.loads(place.read_text())
        place.write_text(json.dumps({**info, "phase": "ABC"[number // 3], "role": "train"}))
    study = json.loads((folder / "study.json").read_text())
    study["config"]["report"] |= {"contrasts": contrasts, "endpoints": endpoints}
    keys = [f"{0xC0000 + number:016x}" for number in range(9)]
    study["phases"] = [study["phases"][0]] + [
        {"name": name, "kind": "train", "status": "finished", "trials": keys[3 * n : 3 * n + 3], "selected": []}
        for n, name in enumerate("ABC")
    ]
    (folder / "study.json").write_text(json.dumps(study))


@pytest.mark.slow
def test_each_contrast_is_the_paired_difference_of_its_endpoints_cells(tmp_path, write_ledger):
    folder = write_ledger(tmp_path, num_images=60)
    contrasts = [{"arm": "A", "against": "B"}, {"arm": "A", "against": "C", "margin_points": 30.0}]
    stated(folder, contrasts, ["clean", "outside:noise+blur"])
    snapshot = read_study(folder)
    found = headline(snapshot)
    frame = contrast_table(found, snapshot.study).frame
    assert frame[["endpoint", "label", "baseline"]].to_numpy().tolist() == [
        ["clean", "A", "B"], ["clean", "A", "C"], ["outside:noise+blur", "A", "B"], ["outside:noise+blur", "A", "C"],
    ]  # fmt: skip
    arms = {str(arm.rows["phase"].iloc[0]): arm for arm in found.arms}
    outside = [(name, level) for name in ("contrast", "jpeg_compression", "resolution") for level in range(1, 6)]
    assert endpoint_cells(arms["A"], "outside:noise+blur") == outside
    means = {name: np.mean([arm.scores[cell] for cell in outside], axis=0) for name, arm in arms.items()}
    for place, other in ((2, "B"), (3, "C")):
        expected = crossed_difference(means["A"], means[other])
        row = frame.iloc[place]
        assert row["difference"] == pytest.approx(expected.estimate)
        assert (row["difference_low"], row["difference_high"]) == pytest.approx((expected.low, expected.high))
        assert row["joint_low"] <= expected.low
    assert "it may be below 0.05 where the interval still holds 0" in contrast_table(found, snapshot.study).notes[0]
    lost = frame[frame["baseline"] == "C"]
    keeps = (lost["joint_low"] > -0.3) & (lost["joint_low"] <= 0)
    assert (
        lost["verdict"].str.startswith("keeps it (loses less than 30 points; 3 seeds, few").tolist() == keeps.tolist()
    )
    assert not frame[frame["baseline"] == "B"]["verdict"].str.startswith("keeps").any()


@pytest.mark.slow
def test_the_report_says_what_was_stated_and_what_is_not_there_yet(tmp_path, write_ledger, without_pictures):
    folder = write_ledger(tmp_path, num_images=30)
    stated(folder, [{"arm": "A", "against": "B"}, {"arm": "A", "against": "later"}], ["group:blur"])
    paths = write_report(folder)
    html = paths.html.read_text()
    assert "stated in the study" in html
    assert "Under the corruptions of the group blur (30 images, 3 seeds; simultaneous 95 % intervals): " in html
    assert "A: pmal" in html
    assert "A against later: no tested trials of later yet" in html
    assert "mean blur: A against B" in paths.summary


@pytest.mark.slow
def test_contrasts_that_were_changed_after_a_look_are_said_to_be(tmp_path, write_ledger, without_pictures):
    folder = write_ledger(tmp_path, num_images=30)
    stated(folder, [{"arm": "A", "against": "B"}], ["clean"])
    study = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps(study | {"restated": True}))
    html = write_report(folder).html.read_text()
    assert "after the test images had been read" in html
    assert "before any was measured" not in html


@pytest.mark.slow
def test_all_contrasts_that_are_not_there_yet_are_named(tmp_path, write_ledger, without_pictures):
    folder = write_ledger(tmp_path, num_images=30)
    stated(folder, [{"arm": "A", "against": "later"}, {"arm": "B", "against": "never"}], ["clean"])
    html = write_report(folder).html.read_text()
    assert "Not drawn: A against later" in html
    assert "Not drawn: B against never" in html


def test_phases_of_the_same_settings_are_arms_of_their_own_seeds(tmp_path, write_ledger):
    folder = write_ledger(tmp_path, num_images=60)
    stated(folder, [{"arm": "A", "against": "B"}, {"arm": "A2", "against": "B"}], ["clean"])
    place = folder / "trials" / f"{0xC0002:016x}" / "trial.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "phase": "A2"}))
    study = json.loads((folder / "study.json").read_text())
    moved = study["phases"][1]["trials"].pop()
    study["phases"].append({**study["phases"][1], "name": "A2", "trials": [moved]})
    (folder / "study.json").write_text(json.dumps(study))
    snapshot = read_study(folder)
    found = headline(snapshot)
    own, other = (next(arm for arm in found.arms if name in set(arm.rows["phase"])) for name in "AB")
    clean = own.of("clean")
    frame = contrast_table(found, snapshot.study).frame
    gaps = [own.mean_scores(clean)[chosen].mean() - other.mean_scores(clean).mean() for chosen in ([0, 1], [2])]
    assert frame["difference"].tolist() == pytest.approx(gaps)
    assert frame["n_seeds"].tolist() == [2, 1]
    assert own.label.startswith("A, A2: pmal"), "its row pools the seeds of both"
    accuracy = accuracy_table(found)
    row = accuracy.frame.set_index("label").loc[own.label]
    assert row["n_seeds"] == 3
    table = contrast_table(found, snapshot.study)
    assert own.label in set(decision_table(snapshot, found, table).frame["label"])
    rows, _ = page._headline_rows(found, accuracy)
    assert {row["marks"]["phase"] for row in rows} == {"A, A2", "B", "C"}, "the page's filter knows both"
    chart = severity_chart(found)
    assert chart is not None
    assert set(chart.rows["phase"]) == {"A, A2", "B", "C"}


def test_equal_settings_under_a_label_for_each_phase_have_one_row_with_both_names(tmp_path, write_ledger):
    """Without contrasts a label has its phase's name only where other settings have the same label elsewhere."""
    folder = write_ledger(tmp_path, num_images=30)
    stated(folder, [], [])
    for number, phase, width in ((2, "A2", 64), (0, "A", 64), (1, "A", 64), (6, "C", 32), (7, "C", 32), (8, "C", 32)):
        place = folder / "trials" / f"{0xC0000 + number:016x}" / "trial.json"
        info = json.loads(place.read_text())
        info["config"]["method"] = {"name": "pmal", "stages": 3, "head_width": width}
        info["config"]["optim"] = {"name": "sgd", "lr": 0.03, "sam": {"rho": 0.1, "adaptive": False}}
        info["config"]["noise"]["train"] = None
        place.write_text(json.dumps(info | {"phase": phase}))
    study = json.loads((folder / "study.json").read_text())
    study["phases"].append({**study["phases"][1], "name": "A2", "trials": [study["phases"][1]["trials"].pop()]})
    (folder / "study.json").write_text(json.dumps(study))
    labels = [arm.label for arm in headline(read_study(folder)).arms]
    assert sorted(labels) == ["A, A2: pmal S=3 rho=0.1", "C: pmal S=3 rho=0.1", "pmal S=3 rho=0.05"]


def confirm_twice(folder: Path) -> None:
    """A second confirm phase that chose the same settings with the same seeds, so that it trained the same networks."""
    study = json.loads((folder / "study.json").read_text())
    first, again = study["phases"][1], []
    for key in first["trials"]:
        again.append(f"{int(key, 16) + 0x1000:016x}")
        place = folder / "trials" / again[-1]
        shutil.copytree(folder / "trials" / key, place)
        info = json.loads((place / "trial.json").read_text()) | {"key": again[-1], "phase": "confirm2"}
        (place / "trial.json").write_text(json.dumps(info))
    study["phases"].append(first | {"name": "confirm2", "trials": again})
    (folder / "study.json").write_text(json.dumps(study))


@pytest.mark.slow
def test_networks_of_the_same_settings_and_seed_are_no_further_seeds(tmp_path, write_ledger):
    folder = write_ledger(tmp_path, num_images=30)
    once = contrast_table(headline(read_study(folder))).frame
    confirm_twice(folder)
    found = headline(read_study(folder))
    pd.testing.assert_frame_equal(contrast_table(found).frame, once)
    assert [arm.rows["trial"].nunique() for arm in found.arms] == [3, 3, 3]
    assert [len(arm.trials) for arm in found.arms] == [3, 3, 3]
    assert accuracy_table(found).frame["n_seeds"].tolist() == [3, 3, 3]
    assert sum("phases confirm, confirm2 trained the same settings with 3 seeds" in note for note in found.notes) == 3


@pytest.mark.slow
def test_a_phase_of_equal_networks_can_still_be_contrasted(tmp_path, write_ledger):
    folder = write_ledger(tmp_path, num_images=30)
    confirm_twice(folder)
    own = headline(read_study(folder)).arms[0]
    assert own.phases() == ["confirm", "confirm2"]
    first, second = (own.of_phase(phase) for phase in own.phases())
    assert len(second.trials) == 3
    assert not set(first.trials) & set(second.trials)
    assert second.mean_scores(second.of("clean")).tolist() == first.mean_scores(first.of("clean")).tolist()


def test_endpoints_in_words():
    assert [endpoint_title(name) for name in ("clean", "noise", "group:blur", "outside:noise+blur")] == [
        "clean", "mean noise", "mean blur", "mean outside noise, blur",
    ]  # fmt: skip
    assert endpoint_phrase("outside:noise+blur") == ("under the corruptions outside the groups noise and blur")


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ({"contrasts": [{"arm": "on", "against": "two"}]}, "must be the name of a phase that is tested.*near: one"),
        ({"contrasts": [{"arm": "one", "against": "search"}]}, "must be the name of a phase that is tested"),
        ({"contrasts": [{"arm": "one", "against": "one"}]}, "must be another phase than arm"),
        ({"contrasts": [{"arm": "both", "against": "one"}]}, "must be a phase of one configuration"),
        ({"endpoints": ["dirty"]}, "must be clean, noise, group:NAME, outside:NAME"),
        ({"endpoints": ["group:blurr"]}, "must name a group of corruptions, but got 'blurr'; near: blur"),
        ({"endpoints": ["outside:noise+"]}, "must name a group of corruptions, but got ''"),
    ],
)
def test_contrasts_that_cannot_be_drawn_are_refused(report: dict, message: str):
    phases = [
        {"kind": "search", "name": "search"},
        {"kind": "confirm", "name": "both", "of": "search", "top": 2},
        {"kind": "train", "name": "one"},
        {"kind": "train", "name": "two", "set": {"method.name": "pmal"}},
    ]
    with pytest.raises(ValidationError, match=message):
        StudyConfig.model_validate({"name": "a", "phases": phases, "report": report})


def test_phases_of_one_label_are_told_apart_by_their_names():
    plain = {"method": {"name": "pmal", "stages": 2, "alpha": 1.0}}
    other = {"method": {"name": "pmal", "stages": 2, "alpha": 0.0}}
    none = {"method": {"name": "plain"}}
    configs = {("search", "a"): plain, ("A5", "a"): plain, ("A2", "b"): other, ("A0", "c"): none}
    assert label_configs(configs) == {
        ("search", "a"): "search: pmal S=2", ("A5", "a"): "A5: pmal S=2", ("A2", "b"): "A2: pmal S=2",
        ("A0", "c"): "plain",
    }  # fmt: skip
    assert set(label_configs({("search", "a"): plain, ("A5", "a"): plain}).values()) == {"pmal S=2"}


@pytest.mark.slow
def test_seeds_that_validation_chose_make_the_family_stricter(tmp_path, write_ledger):
    """The report's own error after looks is simulated in tests/bench/bench_statistics.py; here: that it is drawn so."""
    folder = write_ledger(tmp_path, num_images=60)
    plain = contrast_table(headline(read_study(folder)), read_study(folder).study)
    study = json.loads((folder / "study.json").read_text())
    look = {"look": 0, "seeds": {}, "leader": "x", "level": 0.99, "differences": {}, "open": []}
    study["phases"][1]["looks"] = [look, {**look, "look": 1}]
    (folder / "study.json").write_text(json.dumps(study))
    snapshot = read_study(folder)
    looked = contrast_table(headline(snapshot), snapshot.study)
    width = [(table.frame["joint_high"] - table.frame["joint_low"]).to_numpy() for table in (plain, looked)]
    assert (width[1] > width[0]).all()
    assert looked.frame["difference_low"].tolist() == plain.frame["difference_low"].tolist()
    assert "drawn at 97%" in looked.markdown()
    assert "p (Holm) is multiplied by 1.67" in looked.markdown()
    expected = np.minimum(1.0, plain.frame["p_holm"].to_numpy() * 0.05 / ADAPTIVE_ERROR)
    assert looked.frame["p_holm"].to_numpy() == pytest.approx(expected)
    assert looked.frame["p"].tolist() == plain.frame["p"].tolist()
    assert "drawn at" not in plain.markdown()


def test_seeds_of_stated_contrasts_are_said_as_a_range_where_they_differ():
    row = {"label": "a", "baseline": "b", "verdict": "better", "difference": 0.1, "joint_low": 0.05, "joint_high": 0.15}
    frame = pd.DataFrame([row | {"n_images": 1200, "n_seeds": 1}, row | {"n_images": 1200, "n_seeds": 3}])
    said = facts._stated("clean", frame, "noise")
    assert said.startswith("On clean images (1,200 images, 1 to 3 seeds; simultaneous 95 % intervals): ")
    assert facts._stated("clean", frame.iloc[:1], "noise").startswith("On clean images (1,200 images, 1 seed; ")


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (
            "better (3 seeds, few for a claim)",
            "a is better than b (+10.0 points, +5.0 to +15.0; 3 seeds, few for a claim)",
        ),
        ("better", "a is better than b (+10.0 points, +5.0 to +15.0)"),
        ("worse (these networks only)", "a is worse than b (+10.0 points, +5.0 to +15.0; these networks only)"),
        (
            "keeps it (loses less than 1 point; 3 seeds, few for a claim)",
            "a keeps the accuracy of b (+10.0 points, +5.0 to +15.0; 3 seeds, few for a claim)",
        ),
        ("keeps it (loses less than 1 point)", "a keeps the accuracy of b (+10.0 points, +5.0 to +15.0)"),
    ],
)  # fmt: skip
def test_stated_contrasts_say_what_limits_them(verdict, said):
    row = {"label": "a", "baseline": "b", "verdict": verdict, "difference": 0.1, "joint_low": 0.05, "joint_high": 0.15}
    frame = pd.DataFrame([row | {"n_images": 200, "n_seeds": 3}])
    head = "On clean images (200 images, 3 seeds; simultaneous 95 % intervals): "
    assert facts._stated("clean", frame, "noise") == f"{head}{said}."


def _checked(bootstrap: tuple[float, float], *, seeds: int = 5, low: float = 0.001) -> dict:
    return {"endpoint": "noise_mean", "label": "a", "baseline": "b", "difference_low": low, "difference_high": 0.04,
            "bootstrap_low": bootstrap[0], "bootstrap_high": bootstrap[1], "n_seeds": seeds}  # fmt: skip


def test_a_bootstrap_that_does_not_agree_on_the_sign_is_told():
    said = check_note([_checked((-0.002, 0.05)), _checked((0.002, 0.05))])
    assert said.count("a against b") == 1
    assert "a against b, mean noise (+0.1 to +4.0 by the model, -0.2 to +5.0 by the bootstrap)" in said
    assert "a against b" in check_note([_checked((0.002, 0.05), low=-0.001)]), "the other way round too"
    assert check_note([_checked((0.002, 0.05)), _checked((-0.002, 0.05), low=-0.001)]) == ""
    assert check_note([_checked((-0.002, 0.05), seeds=4)]) == "", "with few seeds the bootstrap is too narrow to tell"
    assert check_note([_checked((float("nan"), float("nan")))]) == ""
    assert check_note([_checked((-0.002, 0.05))] * 5).endswith("; and 2 more. Read these as close to the border.")


def test_the_table_of_contrasts_holds_the_bootstraps_note(study_folder, monkeypatch):
    monkeypatch.setattr("analysis.contrasts.LEAST_SEEDS", 3)
    found = headline(read_study(study_folder))
    assert "crossed bootstrap" not in " ".join(contrast_table(found).notes)
    wide = [Interval(0.0, -1.0, 1.0, 0.1, 5.0, 10, 3, "method")] * 2
    monkeypatch.setattr("analysis.contrasts.crossed_bootstraps", lambda _: wide)
    table = contrast_table(found)
    assert len(table.notes) == 1, "part of the table's first note: the page says of others that they are not drawn"
    assert "the crossed bootstrap, does not agree" in table.notes[0]


def test_labels_with_braces_stand_in_stated_contrasts_as_they_are():
    row = {"label": "a +{...}", "baseline": "b {0}", "difference": 0.1, "joint_low": 0.05, "joint_high": 0.15}
    verdicts = [{"verdict": "better"}, {"verdict": "not distinguishable with 3 seeds"}]
    frame = pd.DataFrame([row | {"n_images": 200, "n_seeds": 3} | verdict for verdict in verdicts])
    said = facts._stated("clean", frame, "noise")
    assert "a +{...} is better than b {0} (+10.0 points" in said
    assert said.endswith("Not distinguishable: a +{...} and b {0}.")
