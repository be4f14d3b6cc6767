"""Stanford Cars as it is published: the devkit's labels, boxes and split; what lacks is named before decoding."""

import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.io import savemat

import study.data.cache as cache_module
from study.config_data import StanfordCars
from study.data.prepare import data_fingerprint, prepare_data
from study.data.sources import open_source
from study.data.stanford_cars import read_devkit

NAMES = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Acura TL Sedan 2012"]
BOX = (3, 5, 12, 14)
PER_CLASS = {"train": 3, "test": 2}


def annotations(rows, *, labels=True):
    """The struct array of the devkit: 1 x n, boxes, class (train and labelled test) and fname."""
    dtype = [(f"bbox_{name}", object) for name in ("x1", "y1", "x2", "y2")]
    dtype += [("class", object)] * labels + [("fname", object)]
    items = [(*BOX, *((label,) if labels else ()), fname) for label, fname in rows]
    return {"annotations": np.array([items], dtype=dtype).reshape(1, -1)}


def write_set(root, *, names=NAMES, outside=False, change=None):
    """The official layout with small images: white inside of the box, black around it."""
    (root / "devkit").mkdir(parents=True)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": np.array([names], dtype=object)})
    for split, count in PER_CLASS.items():
        rows = [(1 + number % len(names), f"{number + 1:05}.jpg") for number in range(count * len(names))]
        if change and change[0] == split:
            rows[1] = (change[1], rows[1][1])
        (root / f"cars_{split}").mkdir()
        for number, (_, fname) in enumerate(rows):
            pixels = np.full((20, 30, 3), number, dtype=np.uint8)
            pixels[BOX[1] - 1 : BOX[3], BOX[0] - 1 : BOX[2]] = 255
            Image.fromarray(pixels).save(root / f"cars_{split}" / fname, "PNG")
        file = "cars_train_annos.mat" if split == "train" else "cars_test_annos_withlabels.mat"
        savemat((root if outside and split == "test" else root / "devkit") / file, annotations(rows))
    unlabelled = [(None, f"{number + 1:05}.jpg") for number in range(PER_CLASS["test"] * len(names))]
    savemat(root / "devkit" / "cars_test_annos.mat", annotations(unlabelled, labels=False))
    return StanfordCars(source="stanford-cars", path=str(root), image_size=8)


def test_the_official_split_and_labels(tmp_path):
    data = write_set(tmp_path / "cars")
    splits = prepare_data(data, cache_dir=tmp_path / "cache")
    assert [len(part) for part in splits.by_name().values()] == [6, 3, 6]
    assert splits.class_names == tuple(NAMES)
    assert splits.test.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert splits.source_sizes.tolist() == [[30, 20]] * 15


def test_boxes_cut_the_first_and_the_last_pixel_right(tmp_path):
    data = write_set(tmp_path / "cars").model_copy(update={"crop_to_box": True})
    splits = prepare_data(data, cache_dir=tmp_path / "cache")
    assert splits.source_sizes.tolist() == [[10, 10]] * 15
    for part in splits.by_name().values():
        assert part.images.min() == 255
    whole = data.model_copy(update={"crop_to_box": False})
    assert data_fingerprint(data, cache_dir=tmp_path) != data_fingerprint(whole, cache_dir=tmp_path)


def test_the_labels_of_the_test_images_may_stand_beside_the_devkit(tmp_path):
    inside = write_set(tmp_path / "inside")
    outside = write_set(tmp_path / "outside", outside=True)
    prints = {data_fingerprint(data, cache_dir=tmp_path / "cache") for data in (inside, outside)}
    assert len(prints) == 1


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("devkit/cars_meta.mat", "has no devkit/cars_meta.mat; put it there"),
        ("devkit/cars_train_annos.mat", "has no devkit/cars_train_annos.mat"),
        (
            "devkit/cars_test_annos_withlabels.mat",
            r"no devkit/cars_test_annos_withlabels.mat or .*cars_test_annos.mat is there, but has no labels",
        ),
        ("cars_test/00003.jpg", r"1 of 15 are missing, the first .*cars_test/00003.jpg' \(devkit/.* entry 3\)"),
        ("cars_test", r"6 of 15 are missing"),
    ],
)
def test_what_lacks_is_named_before_anything_is_decoded(tmp_path, monkeypatch, gone, message):
    data = write_set(tmp_path / "cars")
    place = tmp_path / "cars" / gone
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    monkeypatch.setattr(cache_module, "decode_all", None)
    with pytest.raises(ValueError, match=message):
        prepare_data(data, cache_dir=tmp_path / "cache")


def test_a_missing_image_is_skipped_where_the_study_says_so(tmp_path):
    data = write_set(tmp_path / "cars").model_copy(update={"on_corrupt": "skip"})
    (tmp_path / "cars" / "cars_test" / "00003.jpg").unlink()
    splits = prepare_data(data, cache_dir=tmp_path / "cache")
    assert splits.skipped == [("cars_test/00003.jpg", "there are no bytes")]
    for folder in ("cars_train", "cars_test"):
        shutil.rmtree(tmp_path / "cars" / folder)
    with pytest.raises(ValueError, match=r"15 of 15 are missing, .*unpack the images there"):
        open_source(data)


@pytest.mark.parametrize("label", [0, 4])
def test_a_label_that_no_class_has_is_refused(tmp_path, label):
    data = write_set(tmp_path / "cars", change=("train", label))
    with pytest.raises(ValueError, match=rf"labels from 1 to 3, .*cars_train_annos.mat entry 2 has {label}"):
        open_source(data)


@pytest.mark.parametrize("name", ["../outside.jpg", "a/../../outside.jpg"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    data = write_set(tmp_path / "cars")
    rows = [(1, name)]
    savemat(tmp_path / "cars" / "devkit" / "cars_train_annos.mat", annotations(rows))
    Image.new("RGB", (30, 20)).save(tmp_path / "cars" / "outside.jpg")
    with pytest.raises(ValueError, match=r"paths below data.path, but devkit/cars_train_annos.mat entry 1 has '.*out"):
        open_source(data)


def test_a_torn_or_strange_file_is_refused(tmp_path):
    data = write_set(tmp_path / "cars")
    file = tmp_path / "cars" / "devkit" / "cars_train_annos.mat"
    whole = file.read_bytes()
    for content in (whole[:200], b"", b"not a file of MATLAB, but longer than its header is" * 9):
        file.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"must hold a MATLAB file of version 7 or older at .*cars_train_annos.mat"
        ):
            open_source(data)
    savemat(file, {"something": [1]})
    with pytest.raises(ValueError, match="must have the variable 'annotations', but has something"):
        open_source(data)
    savemat(file, annotations([(None, "00001.jpg"), (None, "00002.jpg")], labels=False))
    with pytest.raises(ValueError, match="must have the field 'class', but has bbox_x1"):
        open_source(data)


def test_a_box_without_width_is_refused(tmp_path):
    data = write_set(tmp_path / "cars").model_copy(update={"crop_to_box": True})
    content = annotations([(1 + number % 3, f"{number + 1:05}.jpg") for number in range(9)])
    content["annotations"][0, 4]["bbox_x2"] = BOX[0] - 1
    savemat(tmp_path / "cars" / "devkit" / "cars_train_annos.mat", content)
    with pytest.raises(ValueError, match=r"cars_train/00005.jpg \(.* entry 5\) goes from x 2 to 2"):
        open_source(data)
    assert open_source(data.model_copy(update={"crop_to_box": False}))


@pytest.mark.parametrize("value", [np.nan, np.inf, "wide", np.zeros(0)])
def test_a_box_that_is_no_number_is_refused(tmp_path, value):
    data = write_set(tmp_path / "cars").model_copy(update={"crop_to_box": True})
    content = annotations([(1 + number % 3, f"{number + 1:05}.jpg") for number in range(9)])
    content["annotations"][0, 4]["bbox_x2"] = value
    savemat(tmp_path / "cars" / "devkit" / "cars_train_annos.mat", content)
    with pytest.raises(ValueError, match=r"boxes of whole numbers, but .* entry 5 has bbox_x2 = "):
        open_source(data)
    assert open_source(data.model_copy(update={"crop_to_box": False}))


def test_the_published_devkit(tmp_path):
    place = Path(os.environ.get("MURK_TEST_DATA", "")) / "stanford-cars-devkit"
    if not os.environ.get("MURK_TEST_DATA") or not place.is_dir():
        pytest.skip("needs stanford-cars-devkit in the folder that MURK_TEST_DATA names")
    (tmp_path / "devkit").symlink_to(place.resolve())
    entries, names = read_devkit(tmp_path, boxes=True)
    assert Counter(entry.split for entry in entries) == {"train": 8144, "test": 8041}
    assert len(names) == 196
    assert (names[0], names[195]) == ("AM General Hummer SUV 2000", "smart fortwo Convertible 2012")
    assert {entry.label for entry in entries if entry.split == "test"} == set(range(196))
    first = entries[0]
    assert (first.file, names[first.label], first.box) == (
        "cars_train/00001.jpg",
        "Audi TTS Coupe 2012",
        (38, 115, 569, 375),
    )
    table = place.parent / "stanford-cars-64.parquet"
    if table.is_file():
        rows = pq.read_table(table, columns=["fname", "class_name"]).to_pylist()
        listed = {entry.file: names[entry.label] for entry in entries}
        assert {f"cars_train/{row['fname']}": row["class_name"] for row in rows}.items() <= listed.items()
