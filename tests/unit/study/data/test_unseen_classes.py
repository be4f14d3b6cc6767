"""Splits of whole classes: the protocol's classes, labels from 0 in each split, and nothing changed where it is off."""

import json

import numpy as np
import pytest
from pydantic import ValidationError

import study.data.cache as cache_module
from study.config import StudyConfig, TrialConfig
from study.config_data import ImageFolder, SyntheticVehicles
from study.config_task import Retrieval
from study.data.duplicates import find_duplicates
from study.data.inspect import inspect_data
from study.data.prepare import data_fingerprint, prepare_data, split_places
from study.data.splits import ClassCut, assign_classes, cut_classes
from study.estimate import Sizes
from study.ledger import trial_key
from study.plan import count_images
from study.possible import refuse_what_cannot_run
from study.problems import ProblemsError

RETRIEVAL = Retrieval(name="retrieval")
SYNTHETIC = SyntheticVehicles(num_classes=12, train_per_class=6, test_per_class=2, image_size=16, unseen_classes=0.5)


@pytest.mark.parametrize(("num_classes", "test"), [(200, range(100, 200)), (196, range(98, 196))])
def test_half_is_the_protocol_of_cub_200_and_cars_196(num_classes, test):
    cut = cut_classes(num_classes, unseen_classes=0.5, validation_share=0.2)
    assert cut.spans()["test"] == test
    assert [*cut.spans()["train"], *cut.spans()["validation"]] == [*range(test.start)]
    assert cut.validation == round(test.start * 0.2)


def test_validation_has_two_classes_at_least():
    assert cut_classes(8, unseen_classes=0.5, validation_share=0.01) == ClassCut(2, 2, 4)


@pytest.mark.parametrize(
    ("num_classes", "share", "validation_share", "found"),
    [
        (5, 0.5, 0.2, "1, 2 and 2"),
        (10, 0.1, 0.2, "7, 2 and 1"),
        (10, 0.9, 0.2, "0, 2 and 9"),
        (20, 0.5, 0.89, "1, 9 an"),
    ],
)
def test_too_few_classes_are_refused(num_classes, share, validation_share, found):
    with pytest.raises(ValueError, match=rf"data.unseen_classes must leave two classes or more .* gives {found}"):
        cut_classes(num_classes, unseen_classes=share, validation_share=validation_share)


def test_rows_of_all_official_splits_go_by_their_class_but_not_those_left_out():
    labels = np.arange(60) % 6
    official = np.array(["train", "test", "", "validation", "left out"])[np.arange(60) % 5]
    rows = assign_classes(labels, official, ClassCut(2, 2, 2), seed=0)
    for split, classes in (("train", [0, 1]), ("validation", [2, 3]), ("test", [4, 5])):
        np.testing.assert_array_equal(rows[split], np.flatnonzero(np.isin(labels, classes) & (official != "left out")))
    few = assign_classes(labels, official, ClassCut(2, 2, 2), seed=0, max_per_class=3)
    assert [len(few[split]) for split in rows] == [6, 6, len(rows["test"])]


def test_splits_share_no_class_and_number_theirs_from_0(tmp_path, monkeypatch):
    whole = prepare_data(SYNTHETIC.model_copy(update={"unseen_classes": None}), cache_dir=tmp_path)
    splits = prepare_data(SYNTHETIC, cache_dir=tmp_path)
    names = whole.class_names
    parts = splits.by_name()
    assert [part.class_names for part in parts.values()] == [names[:4], names[4:6], names[6:]]
    assert splits.class_names == names[:4]
    assert splits.unseen_classes
    assert not whole.unseen_classes
    class_of = {
        number: part.class_names[label]
        for part in whole.by_name().values()
        for number, label in zip(part.ids.tolist(), part.labels.tolist(), strict=True)
    }
    for part in parts.values():
        assert np.bincount(part.labels).tolist() == [8] * len(part.class_names)
        assert [part.class_names[label] for label in part.labels] == [class_of[number] for number in part.ids.tolist()]
    monkeypatch.setattr(cache_module, "decode_all", None)
    assert prepare_data(SYNTHETIC, cache_dir=tmp_path).test.class_names == names[6:]
    places = split_places(SYNTHETIC, splits)
    assert places["test"][0] == "synthetic-vehicles train class 6 number 0"


def test_the_first_classes_are_kept_before_they_are_split(tmp_path):
    splits = prepare_data(SYNTHETIC.model_copy(update={"max_classes": 8}), cache_dir=tmp_path)
    assert [len(part) for part in splits.by_name().values()] == [16, 16, 32]
    every = prepare_data(SYNTHETIC, cache_dir=tmp_path)
    assert splits.test.class_names == (*every.validation.class_names, *every.test.class_names[:2])


def test_it_enters_fingerprints_and_trial_keys_only_where_it_is_set(tmp_path):
    off = SYNTHETIC.model_copy(update={"unseen_classes": None})
    prints = {
        data_fingerprint(SYNTHETIC.model_copy(update={"unseen_classes": s}), cache_dir=tmp_path) for s in (0.4, 0.5)
    }
    assert len(prints | {data_fingerprint(off, cache_dir=tmp_path)}) == 3
    older = SyntheticVehicles(num_classes=3, train_per_class=6, test_per_class=2, image_size=16)
    assert data_fingerprint(older, cache_dir=tmp_path) == "c5927298cd854c18ec92534986c50c27"  # of before this setting
    tree = TrialConfig(data=off).model_dump(mode="json")
    del tree["data"]["unseen_classes"]
    keys = [trial_key(config, fingerprint="f", role="search") for config in (tree, TrialConfig(data=off))]
    assert keys[0] == keys[1] != trial_key(TrialConfig(data=SYNTHETIC, task=RETRIEVAL), fingerprint="f", role="search")


def test_a_cache_of_before_this_setting_is_read(tmp_path):
    off = SYNTHETIC.model_copy(update={"unseen_classes": None})
    splits = prepare_data(off, cache_dir=tmp_path)
    file = tmp_path / splits.fingerprint / "meta.json"
    meta = json.loads(file.read_text())
    del meta["own_names"]
    file.write_text(json.dumps(meta))
    assert prepare_data(off, cache_dir=tmp_path).test.class_names == splits.class_names


def test_the_plan_counts_the_same(tmp_path):
    sizes, names = count_images(StudyConfig(name="a", data=SYNTHETIC, task=RETRIEVAL))
    splits = prepare_data(SYNTHETIC, cache_dir=tmp_path)
    assert names == splits.class_names
    assert sizes == Sizes(4, *map(len, splits.by_name().values()))


def test_too_few_classes_are_told_before_anything_starts():
    with pytest.raises(ProblemsError, match=r"data.unseen_classes: must leave two classes or more"):
        refuse_what_cannot_run(
            StudyConfig(name="a", data=SYNTHETIC.model_copy(update={"num_classes": 5}), task=RETRIEVAL)
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unseen_classes": 0.5, "test_share": 0.3}, "test_share has no effect beside unseen_classes, .* but got 0.3"),
        ({"unseen_classes": 0.5, "split_seed": 3}, "split_seed has no effect beside unseen_classes"),
        ({"unseen_classes": 1.0}, "less than 1"),
        ({"unseen_classes": 0.0}, "greater than 0"),
    ],
)
def test_settings_without_effect_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        ImageFolder(source="image-folder", path="pets", **settings)
    assert ImageFolder(source="image-folder", path="pets", unseen_classes=0.5, split_seed=3, max_per_class=9)


def test_inspect_shows_each_class_in_its_split(tmp_path):
    lines = inspect_data(SYNTHETIC, cache_dir=tmp_path).splitlines()
    assert lines[1] == "images        96 in 12 classes, working size 16 x 16"
    assert lines[2] == "classes       4 in train, 2 others in validation, 6 others in test"
    numbers = [[int(number) for number in line[28:].split()] for line in lines[6:19]]
    assert numbers == [[8, 0, 0]] * 4 + [[0, 8, 0]] * 2 + [[0, 0, 8]] * 6 + [[32, 16, 48]]
    assert lines[-1] == "nothing looks wrong"


def test_no_pair_of_duplicates_is_of_one_class(tmp_path):
    audit = find_duplicates(SYNTHETIC, cache_dir=tmp_path, distance=256)
    assert audit.same_class.sum() == 0
    assert not any(pair.same_class for pair in audit.pairs)
    assert {pair.second.class_name for pair in audit.pairs} <= {
        n for p in audit.splits.by_name().values() for n in p.class_names
    }
