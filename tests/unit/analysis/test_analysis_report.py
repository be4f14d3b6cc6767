"""The report: self-contained, escaped, its tables in agreement, honest about what population it shows."""

import base64
import hashlib
import io
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from analysis import facts, figures, provenance
from analysis.contrasts import contrast_table
from analysis.load import Snapshot, read_study
from analysis.meantables import mean_table, real_table
from analysis.metrics import ALEXNET_ERRORS
from analysis.report import write_report
from analysis.scores import headline
from analysis.tables import accuracy_table, count_text
from analysis.trialtable import trial_table


@pytest.fixture(scope="module")
def report(study_folder, tmp_path_factory):
    return write_report(study_folder, out=tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def html(report):
    return report.html.read_text()


def test_files_are_there_and_nothing_half_written(report):
    names = sorted(path.name for path in report.tables)
    tables = ("accuracy", "calibration", "confusions", "contrasts", "decision", "flips", "image_flips", "means",
              "rules-search", "severities", "trials")  # fmt: skip
    assert names == [f"{n}.{e}" for n in tables
                     for e in ("csv", "md", "parquet")]  # fmt: skip
    assert sorted(p.stem for p in report.figures) == ["corruptions", "cost", "examples", "search-search", "severity"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in report.figures)
    assert not list(report.html.parent.rglob(".*"))


def test_it_opens_without_a_network(html):
    bare = re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)
    assert not re.findall(r"""(?:src|href|url\()\s*=?\s*["']?(?!data:)[a-z]*:?//""", bare)
    assert "<link" not in html
    assert set(re.findall(r'src="(\w+:[\w/+]+)', bare)) == {"data:image/svg+xml", "data:image/png"}
    assert not re.findall(r"<script[^>]*\bsrc", html)


def test_only_its_own_scripts_may_run_and_none_may_reach_a_network(html):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; img-src data:;")
    assert "unsafe-eval" not in policy[1]
    sources = re.search(r"script-src ([^;]*)", policy[1])
    scripts = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert sources is not None
    assert sources[1].split() == [f"'sha256-{digest}'" for digest in digests]
    assert len(scripts) == 2


def test_it_says_what_was_run_and_what_limits_it(html):
    for text in (
        "5f0c5f0c", "torch 2.15.0", "x86_64 CPU", "read once: confirm", "Skipped images", "bus/17.png",
        "3 seeds are few", "TPE draws its first 10 trials at random", "not the ImageNet-C files", "loss is not finite",
        "backbone: resnet10t", "stopped early", "120 test",
    ):  # fmt: skip
        assert text in html, text
    assert "Validation figures" not in html


def test_further_tables_are_folded_in_their_sections(html):
    sections = {name: part.split("</section>")[0] for name, part in
                ((part.split('"')[0], part) for part in html.split('<section aria-labelledby="')[1:])}  # fmt: skip
    for place, title in (
        ("accuracy", "Error against the strength of noise"), ("search", "Phase search: what other rules would choose"),
        ("fails", "Images that flip most under noise, of pmal S=3 rho=0.1"),
    ):  # fmt: skip
        assert f"<details>\n<summary>{title}</summary>" in sections[place], title


def test_headline_is_test_rows_grouped_over_seeds(study_folder):
    found = headline(read_study(study_folder))
    assert found.split == "test"
    assert [arm.rows["trial"].nunique() for arm in found.arms] == [3, 3, 3]
    assert found.arms[0].config_id == found.baseline
    frame = accuracy_table(found).frame
    rows = found.arms[1].rows
    assert frame["noise_mean"][1] == pytest.approx(rows[rows["corruption"] != "clean"]["accuracy"].mean())
    assert frame["mce"][0] == pytest.approx(1.0)
    assert set(found.unseen_by_all()) == {"contrast", "jpeg_compression", "resolution"}
    assert frame["population"].unique().tolist() == ["method"]
    assert frame["mce_low"][1] < frame["mce"][1] < frame["mce_high"][1]


def test_without_a_confirmation_the_figures_are_labelled_validation(tmp_path, write_ledger, without_pictures):
    folder = write_ledger(tmp_path, confirm=False)
    paths = write_report(folder)
    html = paths.html.read_text()
    assert paths.html == folder / "report.html"
    assert "Validation figures" in html
    assert "VALIDATION" in paths.summary
    found = headline(read_study(folder))
    assert sorted(arm.rows["method"].iloc[0] for arm in found.arms) == ["plain", "pmal"]
    assert contrast_table(found).frame.empty


@pytest.fixture
def without_pictures(monkeypatch):
    """Drawing takes most of a report's time; what a test reads in the page needs none."""
    monkeypatch.setattr("analysis.report.draw", lambda *_: [])
    monkeypatch.setattr("analysis.report.draw_charts", lambda *_: [])


def _keep_tested(folder, keys):
    """Leave only these tested trials in the study."""
    for place in folder.glob("trials/00000000000c*"):
        if place.name not in keys:
            shutil.rmtree(place)
    study = json.loads((folder / "study.json").read_text())
    study["phases"][1]["trials"] = list(keys)
    (folder / "study.json").write_text(json.dumps(study))


@pytest.mark.slow
def test_one_network_without_a_baseline(tmp_path, write_ledger, without_pictures):
    folder = write_ledger(tmp_path, num_images=30)
    _keep_tested(folder, ["00000000000c0000"])
    paths = write_report(folder)
    html = paths.html.read_text()
    assert "With one seed the intervals are for these trained networks" in html
    assert "no configuration shown here matches the baseline" in html
    frame = pd.read_parquet(next(p for p in paths.tables if p.name == "accuracy.parquet"))
    assert frame["population"].tolist() == ["networks"]
    assert frame["mce"].isna().all()


@pytest.mark.slow
def test_one_network_against_one_has_mcnemar_and_says_whom_it_speaks_of(tmp_path, write_ledger):
    folder = write_ledger(tmp_path, num_images=60)
    _keep_tested(folder, ["00000000000c0000", "00000000000c0006"])
    frame = contrast_table(headline(read_study(folder))).frame
    clean = frame[frame["endpoint"] == "clean"].iloc[0]
    assert 0 < clean["p_mcnemar"] <= 1
    assert frame["population"].unique().tolist() == ["networks"]
    assert frame["verdict"].str.startswith(("better (these networks only)", "not distinguishable with 1 seed")).all()


@pytest.mark.slow
def test_test_reads_again_are_said(tmp_path, write_ledger, without_pictures):
    folder = write_ledger(tmp_path, num_images=20)
    study = json.loads((folder / "study.json").read_text())
    study["test_reads"] *= 2
    (folder / "study.json").write_text(json.dumps(study))
    html = write_report(folder).html.read_text()
    assert "READ 2 TIMES (--again)" in html
    assert "no longer a first look" in html


@pytest.mark.slow
def test_hostile_names_are_text(tmp_path, write_ledger):
    classes = ("<script>alert(1)</script>", "$x^2$", "a|b", "50 $", "狗", "f", "g", "h")
    error = "<img src=http://evil/x onerror=alert(1)>"
    folder = write_ledger(tmp_path, num_images=20, classes=classes, error=error)
    paths = write_report(folder)
    html = paths.html.read_text()
    assert "<script>alert" not in html
    assert html.count("<script") == html.count("</script") == 3
    assert "<img src=http" not in html
    assert "&lt;img src=http" in html
    assert "<img" not in (paths.html.parent / "tables" / "trials.md").read_text()


def test_csv_parquet_and_markdown_agree(report):
    folder = report.html.parent / "tables"
    for name in ("accuracy", "contrasts", "means", "trials"):
        from_csv, from_parquet = pd.read_csv(folder / f"{name}.csv"), pd.read_parquet(folder / f"{name}.parquet")
        assert list(from_csv.columns) == list(from_parquet.columns)
        for column in from_parquet.select_dtypes("number"):
            np.testing.assert_allclose(from_csv[column].astype(float), from_parquet[column].astype(float), rtol=1e-12)
    lines = (folder / "accuracy.md").read_text().splitlines()
    titles = [cell.strip() for cell in lines[0].strip("|").split("|")]
    shown = [dict(zip(titles, map(str.strip, line.strip("|").split("|")), strict=True)) for line in lines[2:5]]
    frame = pd.read_parquet(folder / "accuracy.parquet")
    for row, (_, numbers) in zip(shown, frame.iterrows(), strict=True):
        for title, column in (
            ("clean", "clean"),
            ("mean noise", "noise_mean"),
            ("shot_noise", "noise/shot_noise/accuracy"),
        ):
            values = [float(v) for v in re.findall(r"[\d.]+", row[title])]
            expected = [round(numbers[c] * 100, 1) for c in (column, f"{column}_low", f"{column}_high")]
            assert values == pytest.approx(expected)


def test_every_trial_is_in_the_table(study_folder):
    frame = trial_table(read_study(study_folder)).frame
    assert frame["status"].value_counts().to_dict() == {"finished": 14, "pruned": 2, "failed": 1}


def test_terminal_text_holds_the_answer(report):
    assert "pmal S=3 rho=0.1" in report.summary
    assert "better" in report.summary
    assert max(len(line) for line in report.summary.splitlines()) < 180


def test_a_trial_of_settings_replaced_since_is_not_the_best(tmp_path, write_ledger, without_pictures):
    folder = write_ledger(tmp_path, confirm=False)
    best, _ = facts.chosen_record(read_study(folder))
    assert best is not None
    study = json.loads((folder / "study.json").read_text())
    study["phases"][0]["trials"] = [key for key in study["phases"][0]["trials"] if key != best.key]
    (folder / "study.json").write_text(json.dumps(study))
    other, _ = facts.chosen_record(read_study(folder))
    assert other is not None
    assert other.key != best.key


def test_a_study_with_nothing_finished_still_gets_a_report(tmp_path):
    folder = tmp_path / "young"
    (folder / "trials").mkdir(parents=True)
    paths = write_report(folder)
    assert "No trial has finished yet" in paths.html.read_text()
    assert paths.summary == "no finished trial yet"


@pytest.mark.slow
def test_predictions_that_disagree_with_cells_are_refused(tmp_path, write_ledger):
    folder = write_ledger(tmp_path, num_images=20)
    place = next(folder.glob("trials/00000000000c0000/predictions.parquet"))
    frame = pd.read_parquet(place).assign(correct=True)
    frame.to_parquet(place, index=False)
    with pytest.raises(ValueError, match="predictions and cells must agree"):
        write_report(folder)


@pytest.mark.slow
def test_without_predictions_intervals_come_from_counts(tmp_path, write_ledger):
    folder = write_ledger(tmp_path, num_images=40)
    wide_before = accuracy_table(headline(read_study(folder))).frame
    next(folder.glob("trials/00000000000c0000/predictions.parquet")).unlink()
    found = headline(read_study(folder))
    assert any("predictions of some trials are missing" in note for note in found.notes)
    frame = accuracy_table(found).frame
    np.testing.assert_allclose(frame["noise_mean"], wide_before["noise_mean"])
    assert frame["noise_mean_low"].notna().all()
    assert contrast_table(found).frame.empty


@pytest.mark.slow
def test_pictures_are_the_same_bytes_every_time(study_folder):
    found = headline(read_study(study_folder))
    first, second = (figures.render(figures.heat_figure(found), "svg") for _ in range(2))
    assert first == second
    assert not [name for name in dir(figures) if name == "plt"]


def test_history_figure_takes_trials_without_values():
    rows = pd.DataFrame({"number": [0, 1], "status": ["failed", "running"], "value": [np.nan, np.nan]})
    figure = figures.history_figure(rows, metric="acc/noise", goal="maximise")
    assert figures.render(figure, "png").startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_remote_place_gets_the_report(study_folder, without_pictures):
    import fsspec

    paths = write_report(study_folder, out="memory://reports/vehicles")
    assert paths.html == "memory://reports/vehicles/report.html"
    assert fsspec.filesystem("memory").cat_file("/reports/vehicles/report.html").startswith(b"<!doctype html>")
    content = fsspec.filesystem("memory").cat_file("/reports/vehicles/tables/trials.parquet")
    assert len(pd.read_parquet(io.BytesIO(content))) == 17


@pytest.mark.parametrize(("value", "text"), [(3.14, "3.1"), (940, "940"), (12_345, "12.3k"), (4.5e6, "4.5M"),
                          (0.04, "0.04"), (0, "0.0"), (9.99, "10"),
                          (0.996, "1.0"), (9_999, "9999"), (9_999.6, "10k"), (999_499, "999k"), (999_600, "1M"),
                          (999.7e6, "1G")])  # fmt: skip
def test_costs_are_short(value, text):
    assert count_text(value) == text


def test_a_read_after_other_settings_counts_though_its_phase_has_another_name() -> None:
    reads = [
        {"phase": "confirm", "trials": ["a"], "generation": 0},
        {"phase": "renamed", "trials": ["b"], "generation": 1},
    ]
    first_alone, alike = reads[:1], [{**read, "generation": 0} for read in reads]
    times = [provenance.times_read(Snapshot("s", {"test_reads": some}, [])) for some in (first_alone, reads, alike)]
    assert times == [1, 2, 1]


# ------------------------------------------------------------------------------------------- measures and real images
@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    from tests.unit.analysis.conftest import add_measures, write_study

    return add_measures(write_study(tmp_path_factory.mktemp("measured"), num_images=60), real={"camera": 8, "dusk": 3})


def _titles(table):
    return [column.title for column in table.columns]


@pytest.mark.slow
def test_earlier_records_have_no_columns_for_what_they_lack(study_folder):
    found = headline(read_study(study_folder))
    assert not {"ECE clean", "ECE noise", "flips"} & set(_titles(accuracy_table(found)))
    assert found.real == []
    assert real_table(found).frame.empty
    assert set(mean_table(found).frame["over"]) == {"group", "relation"}


@pytest.mark.slow
def test_calibration_and_flips_are_means_over_cells_and_seeds(measured):
    table = accuracy_table(headline(read_study(measured)))
    assert {"ECE clean", "ECE noise", "flips"} <= set(_titles(table))
    assert table.frame["ece_clean"].tolist() == pytest.approx([0.1] * 3)
    assert table.frame["ece_noise"].tolist() == pytest.approx([0.2] * 3)
    assert table.frame["flips_noise"].tolist() == pytest.approx([0.3] * 3)
    assert "20.0" in table.markdown()
    assert "Flips: per cent of images" in table.markdown()


@pytest.mark.slow
def test_real_images_stand_apart_and_change_nothing_else(measured, tmp_path, write_ledger, with_measures):
    without = headline(read_study(with_measures(write_ledger(tmp_path, num_images=60))))
    found = headline(read_study(measured))
    assert found.notes == without.notes == []
    assert found.corruptions == without.corruptions
    assert found.unseen_by_all() == without.unseen_by_all()
    plain, more = accuracy_table(without).frame, accuracy_table(found).frame
    pd.testing.assert_frame_equal(more[list(plain.columns)], plain)
    pd.testing.assert_frame_equal(contrast_table(found).frame, contrast_table(without).frame)
    pd.testing.assert_frame_equal(mean_table(found).frame, mean_table(without).frame)
    rows = real_table(found).frame
    assert rows["images_of"].tolist() == ["camera"] * 3 + ["dusk"] * 3
    assert rows["accuracy"].tolist() == pytest.approx([0.5] * 3 + [2 / 3] * 3)
    assert rows["accuracy_n"].tolist() == [8] * 3 + [3] * 3
    assert (rows["accuracy_low"] < rows["accuracy"]).all()
    assert rows["accuracy_ece"].tolist() == pytest.approx([0.4] * 6)


def test_family_means_by_hand(measured):
    found = headline(read_study(measured))
    table = mean_table(found).frame
    arm = found.arms[1]
    own = arm.rows[arm.rows["family"] == "imagecorruptions"]
    row = table[(table["name"] == "imagecorruptions") & (table["config_id"] == arm.config_id)].iloc[0]
    assert row["accuracy"] == pytest.approx(own["accuracy"].mean())
    assert row["num_cells"] == 25
    assert set(table.loc[table["over"] == "family", "name"]) == {"imagecorruptions", "resolution"}
    assert table.loc[table["over"] == "group", "name"].drop_duplicates().tolist() == [
        "noise", "blur", "digital", "resolution",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_report_with_real_images_claims_nothing_by_them(measured, without_pictures):
    paths = write_report(measured, out=measured / "out")
    html = paths.html.read_text()
    assert "camera (8 images; 2 left out that stand in train or validation)" in html
    assert "On 8 real noisy images of camera it got 50.0 %" in html
    assert "these figures stand in no mean" in html
    assert "Means by family" in html
    assert not [
        line for line in paths.summary.splitlines() if "camera" in line and ("better" in line or "worse" in line)
    ]
    assert "tables/real.csv" in {str(path.relative_to(measured / "out")) for path in paths.tables}


@pytest.mark.slow
def test_real_images_of_other_trials_get_intervals_from_counts(tmp_path, write_ledger, with_measures):
    folder = with_measures(write_ledger(tmp_path, num_images=20), real={"camera": 8})
    place = folder / "trials" / "00000000000c0000" / "predictions.parquet"
    rows = pd.read_parquet(place)
    rows.loc[rows["corruption"] == "camera", "image_id"] += 1
    rows.to_parquet(place, index=False)
    found = headline(read_study(folder))
    assert found.notes == ["trials read different images of camera: its intervals come from counts"]
    assert accuracy_table(found).frame["real/camera/accuracy_low"].notna().all()
    assert not contrast_table(found).frame.empty


@pytest.mark.slow
def test_alexnet_is_shown_for_imagenet_only_and_under_a_name_of_its_own(tmp_path, write_ledger, without_pictures):
    folder = write_ledger(tmp_path, num_images=20)
    study = json.loads((folder / "study.json").read_text())
    study["config"]["report"]["normaliser"] = "alexnet"
    (folder / "study.json").write_text(json.dumps(study))
    found = headline(read_study(folder))
    assert found.normaliser == "baseline"
    assert any("these data have None at 64 px" in note or "these data have 8 at 64 px" in note for note in found.notes)
    study["data"] |= {"num_classes": 1000, "image_size": 224}
    (folder / "study.json").write_text(json.dumps(study))
    table = accuracy_table(headline(read_study(folder)))
    arm = headline(read_study(folder)).arms[1]
    errors = 1 - arm.rows.groupby("corruption")["accuracy"].mean()
    expected = np.mean([errors[name] / ALEXNET_ERRORS[name] for name in set(errors.index) & set(ALEXNET_ERRORS)])
    assert table.frame["mce_alexnet"][1] == pytest.approx(expected)
    assert "mCE by AlexNet (imagecorruptions, not ImageNet-C)" in _titles(table)
    assert any("over 4 of ImageNet-C's 15 corruptions" in note for note in table.notes)
    html = write_report(folder).html.read_text()
    assert "it is no official ImageNet-C figure" in html
    assert "so it is not the official ImageNet-C mCE" in html
