"""From files to splits: one whole cache, fingerprints that follow the content, broken images named."""

import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import study.data.cache as cache_module
from study.config_data import ImageFolder, Parquet, SyntheticVehicles
from study.data.prepare import data_fingerprint, prepare_data

SYNTHETIC = SyntheticVehicles(num_classes=3, train_per_class=6, test_per_class=2, image_size=16)


def picture(number, size=(20, 16)):
    noise = np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def write_folder(root, *, splits=("",), classes=("cat", "dog"), count=5):
    number = 0
    for split in splits:
        for name in classes:
            for index in range(count):
                path = root / split / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture(number))
                number += 1
    return ImageFolder(source="image-folder", path=str(root), image_size=8)


def write_parquet(path, *, count=12, **columns):
    table = {"jpeg": [picture(i) for i in range(count)], "label": [1 + i % 2 for i in range(count)]} | columns
    pq.write_table(pa.table(table), path)
    return Parquet(source="parquet", path=str(path), image_size=8)


def test_synthetic_splits(tmp_path):
    splits = prepare_data(SYNTHETIC, cache_dir=tmp_path)
    assert [len(part) for part in splits.by_name().values()] == [15, 3, 6]
    assert splits.train.images.shape == (15, 16, 16, 3)
    assert splits.train.images.dtype == np.uint8
    assert splits.train.labels.dtype == splits.train.ids.dtype == np.int64
    ids = np.concatenate([part.ids for part in splits.by_name().values()])
    assert len(np.unique(ids)) == 24
    assert splits.class_names[0] == "Alda hatchback"


def test_a_second_call_decodes_nothing_and_gives_the_same(tmp_path, monkeypatch):
    data = write_folder(tmp_path / "images")
    first = prepare_data(data, cache_dir=tmp_path / "cache")
    monkeypatch.setattr(cache_module, "decode_all", None)
    monkeypatch.setattr(Path, "read_bytes", None)
    second = prepare_data(data, cache_dir=tmp_path / "cache")
    assert second.fingerprint == first.fingerprint
    for name, part in first.by_name().items():
        np.testing.assert_array_equal(part.images, second.by_name()[name].images)
        np.testing.assert_array_equal(part.ids, second.by_name()[name].ids)
    assert isinstance(second.train.images, np.memmap)
    assert not second.train.images.flags.writeable


def test_the_fingerprint_follows_content_and_settings_but_no_path_and_no_time(tmp_path):
    data = write_folder(tmp_path / "here")
    again = write_folder(tmp_path / "there")
    cache = tmp_path / "cache"
    first = data_fingerprint(data, cache_dir=cache)
    assert data_fingerprint(again, cache_dir=cache) == first
    os.utime(tmp_path / "here" / "cat" / "0.png", (1, 1))
    assert data_fingerprint(data, cache_dir=cache) == first
    skipping = data.model_copy(update={"on_corrupt": "skip"})
    assert data_fingerprint(skipping, cache_dir=cache) == first
    for changed in ({"image_size": 9}, {"split_seed": 1}, {"validation_share": 0.3}, {"max_per_class": 2}):
        assert data_fingerprint(data.model_copy(update=changed), cache_dir=cache) != first
    (tmp_path / "here" / "cat" / "0.png").write_bytes(picture(99))
    assert data_fingerprint(data, cache_dir=cache) != first


def test_the_synthetic_fingerprint_needs_no_file(tmp_path):
    first = data_fingerprint(SYNTHETIC, cache_dir=tmp_path)
    assert first == data_fingerprint(SYNTHETIC, cache_dir=tmp_path / "other")
    assert first != data_fingerprint(SYNTHETIC.model_copy(update={"seed": 1}), cache_dir=tmp_path)


def test_a_corrupt_image_is_refused_with_its_place_and_leaves_no_cache(tmp_path):
    data = write_folder(tmp_path / "images")
    (tmp_path / "images" / "dog" / "3.png").write_bytes(picture(8)[:60])
    with pytest.raises(ValueError, match=r"each image must be readable, but dog/3.png is not .*on_corrupt: skip"):
        prepare_data(data, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*/meta.json"))
    assert not list((tmp_path / "cache").glob(".*"))


def test_corrupt_images_are_skipped_with_a_count_and_still_refused_later(tmp_path):
    broken = [picture(i) if i not in {3, 7} else None if i == 3 else b"no image" for i in range(12)]
    data = write_parquet(tmp_path / "set.parquet", jpeg=broken)
    skipping = data.model_copy(update={"on_corrupt": "skip"})
    splits = prepare_data(skipping, cache_dir=tmp_path / "cache")
    assert [place for place, _ in splits.skipped] == ["set.parquet row 3", "set.parquet row 7"]
    assert splits.skipped[0][1] == "there are no bytes"
    assert sum(len(part) for part in splits.by_name().values()) == 10
    for part in splits.by_name().values():
        assert len(part.images) == len(part.labels) == len(part.ids)
        assert part.images.reshape(len(part), -1).any(axis=1).all()
    with pytest.raises(ValueError, match=r"set.parquet row 3 is not \(there are no bytes\)"):
        prepare_data(data, cache_dir=tmp_path / "cache")


def test_split_folders_are_followed(tmp_path):
    data = write_folder(tmp_path / "images", splits=("train", "val", "test"))
    splits = prepare_data(data, cache_dir=tmp_path / "cache")
    assert [len(part) for part in splits.by_name().values()] == [10, 10, 10]
    assert splits.class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing", "must be a folder"),
        ("empty", "must hold images in class folders"),
        ("flat", "must stand in a class"),
    ],
)
def test_a_folder_that_is_none_or_holds_no_classes_is_refused(tmp_path, path, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.png").write_bytes(picture(0))
    data = ImageFolder(source="image-folder", path=str(tmp_path / path))
    with pytest.raises(ValueError, match=message):
        prepare_data(data, cache_dir=tmp_path / "cache")


def test_parquet_columns_splits_and_labels(tmp_path):
    split = ["train"] * 8 + ["test"] * 4
    names = ["odd" if i % 2 else "even" for i in range(12)]
    data = write_parquet(tmp_path / "set.parquet", split=split, class_name=names)
    splits = prepare_data(data, cache_dir=tmp_path / "cache")
    assert [len(part) for part in splits.by_name().values()] == [6, 2, 4]
    assert splits.class_names == ("even", "odd")
    assert splits.test.labels.tolist() == [0, 1, 0, 1]
    for row, image in zip(range(8, 12), splits.test.images, strict=True):
        whole = Image.open(io.BytesIO(picture(row)))
        expected = whole.resize((8, 8), Image.Resampling.BICUBIC, box=(2, 0, 18, 16))
        np.testing.assert_array_equal(image, np.asarray(expected))


def test_parquet_structs_strings_and_max_classes(tmp_path):
    cells = [{"bytes": picture(i), "path": f"{i}.png"} for i in range(12)]
    path = tmp_path / "set.parquet"
    pq.write_table(pa.table({"image": cells, "kind": [f"class {i % 3}" for i in range(12)]}), path)
    data = Parquet(source="parquet", path=str(path), image_size=8, label_column="kind", max_classes=2)
    splits = prepare_data(data, cache_dir=tmp_path / "cache")
    assert splits.class_names == ("class 0", "class 1")
    assert sum(len(part) for part in splits.by_name().values()) == 8


def test_words_as_labels_need_no_other_column_to_name_them(tmp_path):
    path = tmp_path / "set.parquet"
    kinds, models = [f"kind {i % 2}" for i in range(12)], [f"model {i % 4}" for i in range(12)]
    pq.write_table(pa.table({"jpeg": [picture(i) for i in range(12)], "body": kinds, "class_name": models}), path)
    data = Parquet(source="parquet", path=str(path), image_size=8, label_column="body")
    assert prepare_data(data, cache_dir=tmp_path / "cache").class_names == ("kind 0", "kind 1")
    named = data.model_copy(update={"name_column": "class_name"})
    with pytest.raises(ValueError, match="must give each label one name"):
        prepare_data(named, cache_dir=tmp_path / "cache")


def test_parquet_at_a_remote_address(tmp_path):
    data = write_parquet(tmp_path / "set.parquet")
    remote = data.model_copy(update={"path": f"file://{tmp_path}/set.parquet"})
    here = prepare_data(data, cache_dir=tmp_path / "cache")
    assert prepare_data(remote, cache_dir=tmp_path / "cache").fingerprint == here.fingerprint


@pytest.mark.parametrize(
    ("columns", "settings", "message"),
    [
        (
            {},
            {"label_column": "kind"},
            "data.label_column must name a column, but got 'kind'; the file has jpeg, label",
        ),
        ({"split": ["train"] * 11 + ["night"]}, {}, "must say one of train, .* but says 'night'"),
        (
            {"label": [1] * 11 + [None]},
            {},
            "column 'label' must have a value in each row, but has none in set.parquet row 11",
        ),
        ({"class_name": ["a", "b"] * 5 + ["b", "b"]}, {}, "must give each label one name, but set.parquet row 10"),
        (
            {"split": ["train"] * 10 + ["test"] * 2, "label": [1, 2] * 5 + [3, 3]},
            {},
            "each class must have an image in train",
        ),
    ],
)
def test_a_parquet_file_that_does_not_fit_is_refused(tmp_path, columns, settings, message):
    data = write_parquet(tmp_path / "set.parquet", **columns).model_copy(update=settings)
    with pytest.raises(ValueError, match=message):
        prepare_data(data, cache_dir=tmp_path / "cache")


def test_a_missing_file_and_an_unknown_source_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must be a parquet file, but got"):
        prepare_data(Parquet(source="parquet", path=str(tmp_path / "no.parquet")), cache_dir=tmp_path)
    with pytest.raises(ValueError, match=r"must be one of synthetic-vehicles, image-folder, .*, but got 'tar'"):
        prepare_data(SYNTHETIC.model_copy(update={"source": "tar"}), cache_dir=tmp_path)


def test_copies_have_ids_of_their_own_and_are_counted_across_splits(tmp_path):
    cells = [picture(0)] * 6 + [picture(i) for i in range(1, 7)]
    data = write_parquet(tmp_path / "set.parquet", jpeg=cells, split=["test", "train"] * 6, label=[1, 1, 2, 2] * 3)
    splits = prepare_data(data, cache_dir=tmp_path / "cache")
    ids = np.concatenate([part.ids for part in splits.by_name().values()])
    assert len(np.unique(ids)) == 12
    assert splits.num_leaked == 3


def test_ids_do_not_depend_on_the_working_size(tmp_path):
    data = write_folder(tmp_path / "images")
    small = prepare_data(data, cache_dir=tmp_path / "cache")
    large = prepare_data(data.model_copy(update={"image_size": 16}), cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(small.train.ids, large.train.ids)


def test_two_at_once_write_one_cache(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: prepare_data(SYNTHETIC, cache_dir=tmp_path), range(4)))
    assert len({result.fingerprint for result in results}) == 1
    assert len(list(tmp_path.glob("*/meta.json"))) == 1
    assert not list(tmp_path.glob(".*"))


def test_where_locks_do_nothing_the_first_rename_wins(tmp_path):
    prepared = prepare_data(SYNTHETIC, cache_dir=tmp_path)
    folder = tmp_path / prepared.fingerprint
    late = tmp_path / ".late"
    late.mkdir()
    cache_module._publish(late, folder)
    assert json.loads((folder / "meta.json").read_text())["skipped"] == []


def test_what_a_killed_process_left_is_neither_used_nor_kept(tmp_path):
    name = data_fingerprint(SYNTHETIC, cache_dir=tmp_path)
    left = tmp_path / f".{name}-dead"
    left.mkdir()
    (left / "images.npy").write_bytes(b"half")
    os.utime(left, (1, 1))
    assert len(prepare_data(SYNTHETIC, cache_dir=tmp_path).train) == 15
    assert not left.exists()
