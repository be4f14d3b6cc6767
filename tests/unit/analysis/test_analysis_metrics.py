"""Metrics against figures worked out by hand, and the rules of choosing."""

import math
import re

import pandas as pd
import pytest

from analysis.load import read_study
from analysis.metrics import (
    ALEXNET_ERRORS,
    alexnet_corruption_error,
    as_test,
    find_baseline,
    headline,
    main_rows,
    mean_corruption_error,
    trial_metrics,
    worst_family,
)
from analysis.records import config_id
from analysis.searches import searched
from analysis.selection import Candidate, ranked, top_of, top_per


def rows(accuracies, trial="t"):
    """Rows of (corruption, severity) -> accuracy."""
    groups = {"clean": "clean", "fog": "weather", "shot": "noise"}
    relations = {"clean": "clean", "fog": "unseen", "shot": "similar"}
    return pd.DataFrame(
        {"trial": trial, "corruption": c, "severity": s, "accuracy": a, "group": groups[c], "relation": relations[c],
         "bn": "reestimated", "split": "test"}
        for (c, s), a in accuracies.items()
    )  # fmt: skip


OWN = rows({("clean", 0): 0.9, ("fog", 1): 0.8, ("fog", 2): 0.6, ("shot", 1): 0.5, ("shot", 2): 0.3})
BASE = rows({("clean", 0): 0.8, ("fog", 1): 0.6, ("fog", 2): 0.4, ("shot", 1): 0.5, ("shot", 2): 0.1})


def test_means_by_hand():
    found = trial_metrics(OWN)
    assert found["acc/clean"] == pytest.approx(0.9)
    assert found["acc/noise"] == pytest.approx((0.8 + 0.6 + 0.5 + 0.3) / 4)
    assert found["error/mean"] == pytest.approx(0.45)
    assert found["acc/worst_family"] == pytest.approx(0.4)
    assert found["acc/group/weather"] == pytest.approx(0.7)
    assert found["acc/relation/similar"] == pytest.approx(0.4)
    assert worst_family(OWN) == ("shot", pytest.approx(0.4))
    assert headline(OWN.to_dict("records")) == pytest.approx(
        {"acc/clean": 0.9, "acc/noise": 0.55, "acc/worst_family": 0.4}
    )


def measured(accuracies, *, ece=0.1, flips=0.2):
    """Rows as a trial writes them now: with family, calibration error and flips."""
    plain = rows(accuracies)
    families = {"clean": "clean", "fog": "imagecorruptions", "shot": "own"}
    steps = pd.Series(range(len(plain)), dtype=float)
    clean = plain["corruption"] == "clean"
    return plain.assign(family=plain["corruption"].map(families), ece=ece * (steps + 1),
                        flips=(flips * steps).where(~clean, 0.0))  # fmt: skip


CAMERA = {"trial": "t", "corruption": "camera", "severity": 0, "accuracy": 0.25, "group": "real", "family": "real",
          "relation": "unseen", "bn": "reestimated", "split": "test", "ece": 0.9, "flips": float("nan")}  # fmt: skip
GRID = {("clean", 0): 0.9, ("fog", 1): 0.8, ("fog", 2): 0.6, ("shot", 1): 0.5, ("shot", 2): 0.3}


def test_calibration_flips_and_families_by_hand():
    found = trial_metrics(measured(GRID))
    assert found["acc/family/imagecorruptions"] == pytest.approx((0.8 + 0.6) / 2)
    assert found["acc/family/own"] == pytest.approx((0.5 + 0.3) / 2)
    assert "acc/family/clean" not in found
    assert found["ece/clean"] == pytest.approx(0.1)
    assert found["ece/noise"] == pytest.approx((0.2 + 0.3 + 0.4 + 0.5) / 4)
    assert found["flips/noise"] == pytest.approx((0.2 + 0.4 + 0.6 + 0.8) / 4)
    assert "ece/clean" not in trial_metrics(OWN)  # rows of an earlier version


def test_real_images_are_in_no_mean():
    whole = pd.concat([measured(GRID), pd.DataFrame([CAMERA])], ignore_index=True)
    plain = trial_metrics(measured(GRID))
    assert trial_metrics(whole) == pytest.approx(plain | {"acc/real/camera": 0.25})
    assert worst_family(whole) == ("shot", pytest.approx(0.4))
    assert mean_corruption_error(whole, BASE) == mean_corruption_error(OWN, BASE)
    assert mean_corruption_error(whole, BASE, relative=True) == mean_corruption_error(OWN, BASE, relative=True)
    named = as_test(headline(whole.drop(columns=["trial", "relation"]).to_dict("records")))
    assert named.keys() == {"test/clean", "test/noise", "test/worst_family", "test/ece/clean", "test/ece/noise",
                            "test/flips/noise", "test/real/camera"}  # fmt: skip
    assert named["test/noise"] == pytest.approx(0.55)


def alexnet_rows(accuracies, *, clean=0.7, levels=(1, 2, 3, 4, 5)):
    """Corruption -> accuracy at each level."""
    cells = [
        ("clean", 0, clean),
        *((c, s, a) for c, per in accuracies.items() for s, a in zip(levels, per, strict=True)),
    ]
    return pd.DataFrame(
        {"trial": "t", "corruption": c, "severity": s, "accuracy": a, "group": "any"} for c, s, a in cells
    )


def test_mce_by_alexnet_by_hand():
    found = alexnet_rows({"contrast": (0.6, 0.5, 0.4, 0.3, 0.2), "brightness": (0.7,) * 5, "resolution": (0.1,) * 5})
    plain = alexnet_corruption_error(found)
    assert plain.by_corruption == pytest.approx({"brightness": 0.3 / 0.564592, "contrast": 0.6 / 0.853204})
    assert plain.value == pytest.approx((0.3 / 0.564592 + 0.6 / 0.853204) / 2)
    assert plain.notes == ["not in the mean, without a published error: resolution"]
    relative = alexnet_corruption_error(found, relative=True)
    assert relative.by_corruption == pytest.approx({"brightness": 0.0, "contrast": 0.3 / (0.853204 - 0.435)})
    assert len(ALEXNET_ERRORS) == 15
    with pytest.raises(ValueError, match=re.escape("contrast has [1, 3]")):
        alexnet_corruption_error(alexnet_rows({"contrast": (0.6, 0.5)}, levels=(1, 3)))


def test_alexnet_itself_has_an_mce_of_one():
    own = alexnet_rows({name: (1 - error,) * 5 for name, error in ALEXNET_ERRORS.items()}, clean=1 - 0.435)
    for relative in (False, True):
        found = alexnet_corruption_error(own, relative=relative)
        assert (found.value, found.notes) == (pytest.approx(1.0), [])


def test_rows_of_two_trials_are_refused():
    with pytest.raises(ValueError, match="of one trial"):
        trial_metrics(pd.concat([OWN, rows({("clean", 0): 0.1}, trial="u")]))


def test_mce_by_hand():
    found = mean_corruption_error(OWN, BASE)
    assert found.by_corruption == pytest.approx({"fog": 0.6 / 1.0, "shot": 1.2 / 1.4})
    assert found.value == pytest.approx((0.6 + 1.2 / 1.4) / 2)
    assert found.notes == []
    relative = mean_corruption_error(OWN, BASE, relative=True)
    assert relative.by_corruption == pytest.approx({"fog": 0.4 / 0.6, "shot": 1.0 / 1.0})
    assert mean_corruption_error(BASE, BASE).value == pytest.approx(1.0)


def test_a_denominator_of_zero_or_less_is_missing_with_a_note():
    perfect = rows({("clean", 0): 0.9, ("fog", 1): 1.0, ("fog", 2): 1.0, ("shot", 1): 0.5, ("shot", 2): 0.1})
    found = mean_corruption_error(OWN, perfect)
    assert math.isnan(found.by_corruption["fog"])
    assert found.value == pytest.approx(1.2 / 1.4)
    assert found.notes == ["fog: the baseline's error is 0, so its ratio is missing"]
    relative = mean_corruption_error(OWN, perfect, relative=True)
    assert "fog: the baseline's loss against clean is -0.2" in relative.notes[0]
    flawless = rows(dict.fromkeys([("clean", 0), ("fog", 1), ("fog", 2), ("shot", 1), ("shot", 2)], 1.0))
    assert math.isnan(mean_corruption_error(OWN, flawless).value)


def test_mce_wants_the_same_cells():
    with pytest.raises(ValueError, match="same corruption x severity cells"):
        mean_corruption_error(OWN, BASE.iloc[:-1])


def test_main_rows_prefer_reestimated_statistics():
    both = pd.concat([OWN.assign(bn="trained", accuracy=0.0), OWN], ignore_index=True)
    found = main_rows(both, split="test")
    assert len(found) == len(OWN)
    assert set(found["bn"]) == {"reestimated"}
    assert len(main_rows(OWN.assign(bn="trained"), split="test")) == len(OWN)
    assert len(main_rows(OWN, split="validation")) == 0


def test_the_baseline_is_found_by_key_or_by_settings(study_folder):
    records = list(read_study(study_folder).trials)
    plain = find_baseline(records, {"method.name": "plain"}, phase="confirm")
    assert plain in {config_id(r.info["config"]) for r in records if r.info["config"]["method"]["name"] == "plain"}
    assert find_baseline(records, records[1].key) == config_id(records[1].info["config"])
    with pytest.raises(LookupError, match="no trial"):
        find_baseline(records, {"method.name": "horkd"})


POOL = [
    Candidate("a", 0.5, 3, {"method": {"name": "pmal"}}),
    Candidate("b", 0.7, 2, {"method": {"name": "plain"}}),
    Candidate("c", 0.7, 1, {"method": {"name": "pmal"}}),
    Candidate("d", float("nan"), 0, {"method": {"name": "pmal"}}),
]


def test_ranking_is_the_same_in_any_order_and_breaks_ties():
    assert [c.key for c in ranked(POOL)] == ["c", "b", "a"]
    assert [c.key for c in ranked(POOL[::-1])] == ["c", "b", "a"]
    assert [c.key for c in ranked(POOL, goal="minimise")] == ["a", "c", "b"]
    same = [Candidate("z", 0.1, 0), Candidate("y", 0.1, 0)]
    assert top_of(same, 1)[0].key == "y"


def test_top_and_top_per_value():
    assert [c.key for c in top_of(POOL, 2)] == ["c", "b"]
    assert [c.key for c in top_per(POOL, 1, key="method.name")] == ["c", "b"]
    assert [c.key for c in top_per(POOL, 2, key="method.name")] == ["c", "a", "b"]


def test_choosing_says_what_is_wrong():
    with pytest.raises(ValueError, match="there is none"):
        top_of([POOL[3]], 1)
    with pytest.raises(ValueError, match="count must be at least 1"):
        top_of(POOL, 0)
    with pytest.raises(ValueError, match=r"dotted key.*method\.name"):
        top_per(POOL, 1, key="method.nam")
    with pytest.raises(ValueError, match="goal must be"):
        ranked(POOL, goal="maximize")  # pyright: ignore[reportArgumentType]


def test_candidates_are_finished_search_trials_alone(study_folder):
    snapshot = read_study(study_folder)
    pools = searched(snapshot.trials, snapshot.study)
    assert list(pools) == ["search"]
    found = pools["search"]
    assert [c.number for c in found] == [0, 1, 3, 5, 6]
    assert top_of(found, 1)[0].number == 5
