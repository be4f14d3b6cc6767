"""Loaders on real image sets, which stand outside the project: set MURK_TEST_DATA to their folder."""

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from study.config_data import ImageFolder, Parquet
from study.data.prepare import prepare_data

SETS = {
    "stanford-cars-64.parquet": ({"max_classes": 20, "label_column": "class_id"}, 20),
    "cifar10-60k.parquet": ({"image_size": 32, "max_classes": 2, "max_per_class": 50}, 2),
    "tiny-imagenet-vehicles12.parquet": ({"max_classes": 3, "max_per_class": 40}, 3),
}


def real(name):
    folder = os.environ.get("MURK_TEST_DATA")
    if not folder or not (Path(folder) / name).is_file():
        pytest.skip(f"needs {name} in the folder that MURK_TEST_DATA names")
    return Path(folder).resolve() / name


@pytest.mark.parametrize("name", SETS)
def test_real_parquet(name, tmp_path):
    settings, num_classes = SETS[name]
    splits = prepare_data(Parquet(source="parquet", path=str(real(name)), **settings), cache_dir=tmp_path)
    assert len(splits.class_names) == num_classes
    assert not splits.skipped
    for part in splits.by_name().values():
        assert set(part.labels.tolist()) == set(range(num_classes))
    if "max_per_class" in settings:
        assert np.bincount(splits.train.labels).tolist() == [settings["max_per_class"]] * num_classes


def test_the_same_images_as_a_class_folder(tmp_path):
    path = real("stanford-cars-64.parquet")
    table = pq.read_table(path, columns=["class_id", "split", "jpeg"]).to_pylist()
    classes = sorted({row["class_id"] for row in table})[:3]
    for number, row in enumerate(row for row in table if row["class_id"] in classes):
        file = tmp_path / "cars" / row["split"] / f"{row['class_id']:03}" / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(row["jpeg"])
    cache = tmp_path / "cache"
    folder = prepare_data(ImageFolder(source="image-folder", path=str(tmp_path / "cars")), cache_dir=cache)
    parquet = prepare_data(Parquet(source="parquet", path=str(path), max_classes=3), cache_dir=cache)
    assert set(folder.test.ids.tolist()) == set(parquet.test.ids.tolist())
    place = {number: index for index, number in enumerate(parquet.test.ids.tolist())}
    rows = [place[number] for number in folder.test.ids.tolist()]
    np.testing.assert_array_equal(folder.test.images, parquet.test.images[rows])
    np.testing.assert_array_equal(folder.test.labels, parquet.test.labels[rows])
