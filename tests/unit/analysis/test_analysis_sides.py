"""Studies that measure lower sides: their figure, what stays out of severities, and what their means are called."""

import itertools
import json
from unittest.mock import patch

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from analysis import facts, figures, provenance
from analysis.contrasts import endpoint_phrase, endpoint_title
from analysis.load import read_study
from analysis.meantables import mean_table, real_table
from analysis.records import side_of
from analysis.report import draw, write_report
from analysis.scores import headline
from analysis.sides import full_side, full_size_noise, lower_sides, noise_word, side_means
from analysis.tables import accuracy_table, severity_means
from analysis.trialtable import trial_table
from tests.unit.analysis.conftest import add_sides, write_study

SIDES = (8, 16, 32)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Noise at full size, sides, and noise at sides."""
    return read_study(add_sides(write_study(tmp_path_factory.mktemp("mixed"), num_images=64), sides=SIDES))


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Sides and no noise at all."""
    return read_study(add_sides(write_study(tmp_path_factory.mktemp("bare"), num_images=64), sides=SIDES, only=True))


@pytest.fixture
def without_pictures(monkeypatch):
    """Drawing takes most of a report's time; what a test reads in the page needs none."""
    monkeypatch.setattr("analysis.report.draw", lambda *_: [])


def pictures(snapshot):
    found = headline(snapshot)
    tables = {"accuracy": accuracy_table(found), "trials": trial_table(snapshot)}
    with patch("analysis.pictures.read_examples", return_value=None):  # photographs take longest to lay out
        return {picture.name: picture for picture in draw(snapshot, found, tables)}


@pytest.mark.parametrize(
    ("name", "group", "side"),
    [("16px", "resolution", 16), ("gaussian_noise_16px", "resolution-noise", 16), ("resolution", "resolution", 0),
     ("resolution_8px", "resolution-resolution", 8), ("gaussian_noise", "noise", 0), ("clean", "clean", 0),
     ("camera_16px", "real", 0)],
)  # fmt: skip
def test_a_cell_of_a_lower_side_is_known_by_name_and_group(name, group, side):
    assert side_of(name, group) == side


def test_accuracy_by_side_is_that_of_the_rows(mixed):
    arm = headline(mixed).arms[1]
    rows = side_means(arm, 64)
    assert lower_sides(arm) == list(SIDES)
    assert rows[["kind", "side"]].to_numpy().tolist() == [[k, s] for k in ("clean", "noise") for s in (*SIDES, 64)]
    own = arm.rows
    by_hand = [own[own["corruption"] == f"{side}px"]["accuracy"].mean() for side in SIDES]
    by_hand += [own[own["corruption"] == "clean"]["accuracy"].mean()]
    by_hand += [own[own["corruption"].str.endswith(f"_{side}px")]["accuracy"].mean() for side in SIDES]
    full = own[~own["corruption"].str.endswith("px") & (own["corruption"] != "clean")]
    assert rows["accuracy"].tolist() == pytest.approx([*by_hand, full["accuracy"].mean()])
    assert (rows["accuracy_low"] < rows["accuracy"]).all()
    assert (rows["accuracy_high"] > rows["accuracy"]).all()


def test_the_side_figure_has_octaves_with_plain_labels_and_a_panel_with_noise(mixed):
    found = headline(mixed)
    figure = figures.side_figure(found, 64)
    clean, noise = figure.axes
    assert [axes.get_title() for axes in (clean, noise)] == ["without noise", "mean under noise"]
    for axes, kind in ((clean, "clean"), (noise, "noise")):
        assert axes.get_xscale() == "log"
        assert [label.get_text() for label in axes.get_xticklabels()] == ["8", "16", "32", "64"]
        assert len(axes.lines) == len(axes.collections) == len(found.arms) == 3
        rows = side_means(found.arms[2], 64)
        assert list(axes.lines[2].get_ydata()) == pytest.approx(rows[rows["kind"] == kind]["accuracy"] * 100)
        looks = [(to_hex(line.get_color()), line.get_marker()) for line in axes.lines]
        assert looks == [(colour.lower(), marker) for colour, marker in figures.styles(found).values()]
    assert figures.render(figure, "png").startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_study_without_noise_has_one_panel_and_no_figure_by_severity(bare):
    assert len(figures.side_figure(headline(bare), 64).axes) == 1
    found = pictures(bare)
    assert "sides" in found
    assert "severity" not in found
    assert "Accuracy at lower sides against cost" in found["cost"].title
    arm = headline(bare).arms[0]
    assert full_size_noise(arm) == []
    assert severity_means(arm)["severity"].tolist() == [0]


def test_labels_that_would_run_into_each_other_are_left_out():
    figure, (axes,) = figures._panels(1, width=7.2, height=3.9)
    figures._side_axis(axes, [8, 60, 62, 64], gap=0.035)
    figure.canvas.draw()
    assert [label.get_text() for label in axes.get_xticklabels()] == ["8", "", "", "64"]


@pytest.mark.slow
def test_severities_are_those_of_images_at_full_size(mixed, study_folder):
    arm = headline(mixed).arms[1]
    table = severity_means(arm)
    full = arm.rows[~arm.rows["corruption"].str.endswith("px")]
    assert table["severity"].tolist() == [0, 1, 2, 3, 4, 5]
    assert table["accuracy"].tolist() == pytest.approx(full.groupby("severity")["accuracy"].mean().tolist())
    assert "Images at full size." in pictures(mixed)["severity"].caption
    assert "sides" not in pictures(read_study(study_folder))


def test_at_most_as_many_lines_as_there_are_looks(mixed, monkeypatch):
    monkeypatch.setattr(figures, "MAX_LINES", 2)
    assert len(figures.side_figure(headline(mixed), 64).axes[0].lines) == 2


def test_without_sides_or_full_size_there_is_no_side_figure(study_folder, bare):
    with pytest.raises(ValueError, match="needs cells of lower sides"):
        figures.side_figure(headline(read_study(study_folder)), 64)
    assert full_side(bare.study) == 64
    assert full_side({"data": {"image_size": 32}}) == 32
    assert full_side({}) is None


def test_names_with_a_side_have_room_in_the_heat_map(mixed):
    figure = figures.heat_figure(headline(mixed))
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert all(left.x1 <= right.x0 + 1 for left, right in itertools.pairwise(boxes))
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names.index("8px  (resolution)") < names.index("16px  (resolution)")
    assert "shot_noise_16px  (resolution-noise)" in names


@pytest.mark.slow
def test_the_mean_is_called_what_it_is_of(mixed, bare, study_folder):
    assert [noise_word(headline(s)) for s in (mixed, bare, read_study(study_folder))] == [
        "noise", "lower sides", "noise",
    ]  # fmt: skip
    table = accuracy_table(headline(bare))
    titles = [column.title for column in table.columns]
    assert "mean lower sides" in titles
    assert "mean noise" not in titles
    arm = headline(bare).arms[0]
    lower = arm.rows[arm.rows["corruption"] != "clean"]
    assert table.frame["noise_mean"][0] == pytest.approx(lower["accuracy"].mean())  # the frame keeps its columns
    assert "mean noise" in [column.title for column in accuracy_table(headline(mixed)).columns]


@pytest.mark.slow
def test_a_report_without_noise_speaks_of_lower_sides(bare, tmp_path, without_pictures):
    folder = add_sides(write_study(tmp_path, num_images=64), sides=SIDES, only=True)
    study = json.loads((folder / "study.json").read_text())
    study["config"]["resolution"] = {"validation": [16], "test": list(SIDES)}
    (folder / "study.json").write_text(json.dumps(study))
    paths = write_report(folder)
    html = paths.html.read_text()
    assert '<h2 id="accuracy">Accuracy at lower sides</h2>' in html
    assert "Mean lower sides: over all sides below full size." in html
    assert "the mean over 3 lower sides (8, 16, 32 px), and" in html
    assert "At lower sides it is" in html
    assert "validation 16 px; test 8, 16, 32 px" in html
    assert "mean noise" not in html.lower()
    assert "mean lower sides" in paths.summary.splitlines()[1]
    assert "mean noise" not in paths.summary


def test_a_report_of_both_says_what_the_mean_is_over(mixed, without_pictures):
    found = headline(mixed)
    said = facts.reading(mixed, found, pd.DataFrame())[0]
    assert "6 corruptions at 5 severities and 3 lower sides (8, 16, 32 px, with and without noise)" in said
    assert "right under noise" in said


@pytest.mark.slow
def test_the_page_shows_the_side_figure_with_its_alt_text(bare, tmp_path):
    folder = add_sides(write_study(tmp_path, num_images=64, confirm=False), sides=(16,), only=True)
    paths = write_report(folder)
    assert 'alt="Lines of accuracy against the side of the images' in paths.html.read_text()
    assert {"sides.png"} <= {path.name for path in paths.figures}
    assert "severity.png" not in {path.name for path in paths.figures}


def test_endpoints_in_words():
    assert endpoint_title("noise", noise="lower sides") == "mean lower sides"
    assert endpoint_phrase("noise", noise="lower sides") == "at lower sides"
    assert endpoint_phrase("noise") == "under noise"
    assert endpoint_phrase("corruption:16px") == "at 16 px"
    assert endpoint_phrase("corruption:gaussian_noise_16px") == "under gaussian_noise at 16 px"
    assert endpoint_phrase("corruption:shot_noise") == "under shot_noise"


@pytest.mark.parametrize(
    ("resolution", "noise", "words"),
    [({"validation": [16]}, {"validation": []}, "at lower sides"),
     ({"validation": [16]}, {"validation": ["fog"]}, "under validation noise and at lower sides"),
     ({}, {"validation": ["fog"]}, "under validation noise")],
)  # fmt: skip
def test_what_a_search_measured(resolution, noise, words):
    said = provenance.validation_words({"config": {"resolution": resolution, "noise": noise}})
    assert said == f"Measured on validation images {words}."


def test_lower_sides_stand_in_the_other_tables(mixed):
    found = headline(mixed)
    names = mean_table(found).frame.query("over == 'group'")["name"].drop_duplicates().tolist()
    assert names[-5:] == ["digital", "resolution", "resolution-noise", "resolution-blur", "resolution-digital"]
    assert real_table(found).frame.empty
