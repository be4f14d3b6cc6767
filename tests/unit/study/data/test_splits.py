"""Splits: official ones are followed, drawn ones are stratified, disjoint, and move no image needlessly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.data.splits import assign_splits, keep_per_class, take_share

LABELS = np.repeat(np.arange(4), [40, 20, 10, 2])


def split(labels=LABELS, official=None, **changed):
    official = np.full(len(labels), "") if official is None else official
    options = {"validation_share": 0.2, "test_share": 0.25, "seed": 0} | changed
    return assign_splits(labels, official, **options)


def test_drawn_splits_are_disjoint_whole_and_stratified():
    rows = split()
    assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(len(LABELS)))
    assert np.bincount(LABELS[rows["test"]]).tolist() == [10, 5, 2, 1]
    assert np.bincount(LABELS[rows["validation"]], minlength=4).tolist() == [6, 3, 2, 0]
    assert np.bincount(LABELS[rows["train"]]).tolist() == [24, 12, 6, 1]


def test_the_seed_decides_the_draw():
    np.testing.assert_array_equal(split()["validation"], split()["validation"])
    assert not np.array_equal(split()["validation"], split(seed=1)["validation"])


def test_official_splits_are_followed():
    official = np.where(np.arange(72) % 3 == 0, "test", np.where(np.arange(72) % 3 == 1, "validation", "train"))
    rows = split(official=official)
    for name, members in rows.items():
        np.testing.assert_array_equal(members, np.flatnonzero(official == name))


def test_the_official_test_split_is_the_same_for_every_setting():
    official = np.where(np.arange(72) % 3 == 0, "test", "train")
    for changed in ({}, {"seed": 5}, {"validation_share": 0.5}, {"max_per_class": 2}, {"test_share": 0.5}):
        np.testing.assert_array_equal(split(official=official, **changed)["test"], np.arange(0, 72, 3))


def test_max_per_class_counts_train_images_and_shrinks_a_drawn_validation_set_with_them():
    official = np.full(400, "train")
    official[:100] = "test"
    rows = split(np.arange(400) % 2, official, max_per_class=16)
    assert [len(rows[name]) for name in ("train", "validation", "test")] == [32, 8, 100]


def test_fewer_classes_move_no_image():
    kept = np.where(LABELS < 2, "", "left out")
    some, every = split(official=kept), split()
    for name in every:
        np.testing.assert_array_equal(some[name], every[name][LABELS[every[name]] < 2])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0.01, 0.89), st.integers(0, 3))
def test_a_share_never_takes_a_whole_class(labels, share, seed):
    labels = np.array(labels)
    rows = np.arange(len(labels))
    taken = take_share(labels, rows, share=share, seed=seed, salt="s")
    before, after = np.bincount(labels, minlength=5), np.bincount(labels[taken], minlength=5)
    assert len(set(taken.tolist())) == len(taken)
    assert ((after < before) | (before == 0)).all()
    assert (after[before >= 2] >= 1).all()


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_keep_per_class(limit):
    kept = keep_per_class(LABELS, np.arange(len(LABELS)), limit=limit, seed=0)
    assert np.bincount(LABELS[kept]).tolist() == [min(limit, count) for count in (40, 20, 10, 2)]
