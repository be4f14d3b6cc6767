"""What per-image rows say: calibration, flips, confusions and severities, against plain loops, and how fast."""

import io

import numpy as np
import pandas as pd
import pytest
from scipy import stats as sps

from analysis.calibration import calibration_errors, calibration_table, reliability
from analysis.flips import class_flips, confusion_table, confusions, flip_table, image_flip_table, image_flips
from analysis.load import load_predictions, read_study
from analysis.rowcodes import codes_of, kinds_of
from analysis.scores import headline
from analysis.severities import ERROR_COLUMNS, severity_errors, severity_table

KINDS = {"clean": "clean", "fog": "weather", "snow": "weather", "shot_noise": "noise", "street": "real"}
CELLS = (("clean", 0), ("fog", 1), ("fog", 2), ("snow", 1), ("shot_noise", 3))
CLASSES = 4


def made(rng: np.random.Generator, trials: int = 3, images: int = 24) -> pd.DataFrame:
    parts = []
    for trial in range(trials):
        for corruption, severity in CELLS:
            label = np.arange(images) % CLASSES
            right = rng.random(images) < 0.9 - 0.2 * severity
            predicted = np.where(right, label, (label + rng.integers(1, CLASSES, images)) % CLASSES)
            parts.append(pd.DataFrame(
                {"trial": f"t{trial}", "image_id": np.arange(images) + 100, "label": label, "predicted": predicted,
                 "confidence": rng.random(images), "correct": right, "corruption": corruption, "severity": severity}
            ))  # fmt: skip
    return pd.concat(parts, ignore_index=True).sample(frac=1, random_state=0, ignore_index=True)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return made(np.random.default_rng(0))


def test_codes_are_the_same_of_text_and_of_categories(rows) -> None:
    plain, coded = codes_of(rows["corruption"]), codes_of(rows["corruption"].astype("category"))
    assert plain.names == coded.names == sorted({name for name, _ in CELLS})
    assert (plain.of_row == coded.of_row).all()
    unordered = rows["corruption"].astype(pd.CategoricalDtype(["snow", "fog", "unused", "shot_noise", "clean"]))
    assert (codes_of(unordered).of_row == plain.of_row).all()
    kind = kinds_of(plain, KINDS)
    assert kind.names == ["noise", "weather"]
    assert ((kind.of_row == -1) == (rows["corruption"] == "clean")).all()
    assert kinds_of(plain, KINDS, with_clean=True).names == ["clean", "noise", "weather"]


def test_calibration_is_the_sum_over_bins(rows) -> None:
    found = calibration_errors(rows, KINDS).set_index("kind")
    assert found.index.tolist() == ["clean", "noise", "weather"]
    errors = []
    for trial in ("t0", "t1", "t2"):
        mine = rows[(rows["trial"] == trial) & rows["corruption"].isin(["fog", "snow"])]
        place = np.minimum((mine["confidence"] * 15).astype(int), 14)
        parts = [abs(part["correct"].mean() - part["confidence"].mean()) * len(part) for _, part in mine.groupby(place)]
        errors.append(sum(parts) / len(mine))
    low, high = sps.ttest_1samp(errors, 0).confidence_interval()
    row = found.loc["weather"]
    assert (row["ece"], row["ece_low"], row["ece_high"]) == pytest.approx((np.mean(errors), max(0.0, low), high))
    assert (row["n_trials"], row["n_rows"]) == (3, 3 * 3 * 24)
    one = calibration_errors(rows[rows["trial"] == "t0"], KINDS)
    assert one["ece_low"].isna().all()
    assert "ECE" in calibration_table(rows, KINDS).markdown()


def test_the_reliability_table_holds_every_row_once(rows) -> None:
    found = reliability(rows, KINDS)
    assert found["n"].sum() == len(rows)
    weather = found[found["kind"] == "weather"]
    mine = rows[rows["corruption"].isin(["fog", "snow"])]
    assert (weather["accuracy"] * weather["n"]).sum() == pytest.approx(mine["correct"].sum())
    assert ((found["confidence"] >= found["bin_low"]) & (found["confidence"] <= found["bin_high"])).all()
    sure = reliability(rows.assign(confidence=1.0), KINDS)
    assert set(sure["bin_high"]) == {1.0}
    with pytest.raises(ValueError, match=r"confidence must be in \[0, 1\]"):
        reliability(rows.assign(confidence=2.0), KINDS)


def test_flips_are_counted_as_a_loop_would(rows) -> None:
    chances: dict[int, int] = {}
    flips: dict[int, int] = {}
    clean = {(r.trial, r.image_id): r.correct for r in rows.itertuples() if r.corruption == "clean"}
    for row in rows.itertuples():
        if row.corruption != "clean" and clean[row.trial, row.image_id]:
            chances[row.image_id] = chances.get(row.image_id, 0) + 1
            flips[row.image_id] = flips.get(row.image_id, 0) + (not row.correct)
    found = image_flips(rows).set_index("image_id")
    assert found["n_chances"].to_dict() == chances
    assert found["n_flips"].to_dict() == flips
    assert found["flips"].is_monotonic_decreasing
    by_class = class_flips(rows).set_index("label")
    shares = [flips[image] / chances[image] for image in chances if (image - 100) % CLASSES == 2]
    low, high = sps.ttest_1samp(shares, 0).confidence_interval()
    row = by_class.loc[2]
    assert (row["flips"], row["n_images"]) == (pytest.approx(np.mean(shares)), len(shares))
    assert (row["flips_low"], row["flips_high"]) == pytest.approx((max(low, 0), min(high, 1)))
    assert "van" in flip_table(rows, classes=("bus", "car", "van", "lorry")).markdown()


def test_real_images_have_no_clean_one_and_do_not_flip(rows) -> None:
    real = rows[rows["corruption"] == "fog"].assign(corruption="street", image_id=lambda frame: frame["image_id"] + 900)
    assert image_flips(pd.concat([rows, real], ignore_index=True)).equals(image_flips(rows))
    with pytest.raises(ValueError, match="there is no row of corruption 'clean'"):
        image_flips(rows[rows["corruption"] != "clean"])
    with pytest.raises(ValueError, match="one stands twice"):
        image_flips(pd.concat([rows, rows[rows["corruption"] == "clean"].head(1)]))


def test_confusions_by_kind(rows) -> None:
    found = confusions(rows, KINDS)
    assert list(dict.fromkeys(found["kind"])) == ["clean", "noise", "weather"]
    assert (found["label"] != found["predicted"]).all()
    mine = rows[rows["corruption"].isin(["fog", "snow"])]
    table = pd.crosstab(mine["label"], mine["predicted"])
    for row in found[found["kind"] == "weather"].itertuples():
        assert row.n == table.loc[row.label, row.predicted]
        assert row.share == pytest.approx(row.n / table.loc[row.label].sum())
    assert confusions(rows, KINDS, top=2).groupby("kind").size().tolist() == [2, 2, 2]
    assert "taken for" in confusion_table(rows, KINDS).markdown()


def test_millions_of_rows_are_counted_by_array(rows) -> None:
    """No step may go row by row: a million rows of one image set take moments (the bound is on calls, not on time)."""
    big = pd.concat([rows] * 300, ignore_index=True)
    big["trial"] = big["trial"] + "-" + np.repeat(np.arange(300), len(rows)).astype(str)
    big = big.astype({"trial": "category", "corruption": "category"})
    assert image_flips(big)["n_chances"].sum() == 300 * image_flips(rows)["n_chances"].sum()
    assert calibration_errors(big, KINDS)["n_trials"].tolist() == [900, 900, 900]
    assert confusions(big, KINDS)["n"].sum() == 300 * confusions(rows, KINDS)["n"].sum()


def test_errors_against_severity_are_one_less_the_accuracies(study_folder) -> None:
    found = headline(read_study(study_folder))
    arm = found.arms[0]
    frame = severity_errors(arm)
    assert list(frame.columns) == list(ERROR_COLUMNS)
    mean = frame[frame["corruption"] == "noise_mean"].set_index("severity")
    assert mean.index.tolist() == [0, 1, 2, 3, 4, 5]
    clean, third = arm.mean(arm.of("clean")), arm.mean([cell for cell in arm.noisy() if cell[1] == 3])
    assert clean is not None
    assert third is not None
    assert mean.loc[0, "error"] == pytest.approx(1 - clean.estimate)
    assert (mean.loc[3, "error_low"], mean.loc[3, "error_high"]) == pytest.approx((1 - third.high, 1 - third.low))
    assert set(frame["corruption"]) == {"noise_mean", *found.corruptions}
    assert "severity" in severity_table(found).markdown()


def test_a_studys_own_predictions_are_read(study_folder) -> None:
    predictions = load_predictions(study_folder)
    kinds = headline(read_study(study_folder)).groups()
    assert set(calibration_errors(predictions, kinds)["kind"]) == {"clean", "noise", "blur", "digital", "resolution"}
    assert class_flips(predictions)["n_images"].sum() == 120


def test_long_curves_are_cut_to_the_means_and_say_of_which_images(study_folder, monkeypatch) -> None:
    found = headline(read_study(study_folder))
    whole = severity_table(found)
    assert whole.notes[-1].endswith("Of test images.")
    monkeypatch.setattr("analysis.severities.MOST_CURVE_ROWS", 20)
    means = severity_table(found)
    kept = whole.frame[whole.frame["corruption"] == "noise_mean"].reset_index(drop=True)
    pd.testing.assert_frame_equal(means.frame, kept)
    assert means.notes[-1].endswith("the curves of their means alone.")


def test_without_noise_at_full_size_there_is_no_curve(tmp_path, write_ledger, with_sides) -> None:
    found = headline(read_study(with_sides(write_ledger(tmp_path, num_images=20), only=True)))
    assert severity_table(found).frame.empty


def test_the_table_of_images_has_those_that_flip_most() -> None:
    cells = [("clean", True), ("fog", False), ("snow", True)]
    rows = pd.DataFrame([
        {"trial": "a", "image_id": 2**60 + image, "label": image % 2, "corruption": corruption,
         "severity": int(corruption != "clean"), "correct": right or (corruption == "fog" and image > 6)}
        for image in range(8) for corruption, right in cells
    ])  # fmt: skip
    table = image_flip_table(rows, classes=["cat", "dog"], top=3)
    assert table.texts()[0] == [str(2**60), "cat", "50.0", "1", "2"], "every digit of an id"
    assert [text[0] for text in table.texts()] == [str(2**60 + image) for image in range(3)]
    assert table.notes[0].endswith("Of 8 images with a chance 7 flip at least once. The first 3 of 7 that flip.")
    assert table.csv().splitlines()[1] == f"{2**60},0,0.5,1,2"
    assert pd.read_parquet(io.BytesIO(table.parquet()))["image_id"].dtype == "int64"
    assert len(image_flip_table(rows).frame) == 7, "an image that never flips is left out"
