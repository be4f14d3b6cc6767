"""Folders of real noisy images: the study's classes, its working size, nothing it trained on, one clear error."""

import io
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import study.data.cache as cache_module
from study.config_data import ImageFolder
from study.data.prepare import prepare_data
from study.data.real import list_real, open_real, prepare_all_real, prepare_real


def picture(number, size=(20, 16)):
    noise = np.random.default_rng(number + 10_000).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def write_images(root, images):
    """Relative place -> bytes."""
    for place, content in images.items():
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return str(root)


CLASSES = ("bus", "car", "van")
OWN = {f"{split}/{name}/{i}.png": picture(1000 * k + 100 * j + i)
       for j, split in enumerate(("train", "val", "test"))
       for k, name in enumerate(CLASSES) for i in range(4)}  # fmt: skip


@pytest.fixture
def study_data(tmp_path):
    """Four images of three classes in each split."""
    data = ImageFolder(source="image-folder", path=write_images(tmp_path / "own", OWN), image_size=8)
    return prepare_data(data, cache_dir=tmp_path / "cache")


def prepare(path, study_data, tmp_path, **changes):
    settings = {"image_size": 8, "refuse": True, "cache_dir": tmp_path / "cache"} | changes
    return prepare_real(path, data=study_data, **settings)


def test_all_images_are_test_images_with_the_labels_of_the_study(study_data, tmp_path):
    images = {"van/a.png": picture(-2), "car/b.png": picture(-3), "van/c.jpg.png": picture(-4, size=(40, 30))}
    found = prepare(write_images(tmp_path / "camera", images), study_data, tmp_path)
    assert found.images.labels.tolist() == [1, 2, 2]
    assert found.images.class_names == CLASSES
    assert found.images.images.shape == (3, 8, 8, 3)
    assert (found.num_known, found.skipped) == (0, [])


def test_split_folders_are_passed_through(study_data, tmp_path):
    images = {"train/van/a.png": picture(-2), "test/bus/b.png": picture(-3), "val/car/c.png": picture(-4)}
    found = prepare(write_images(tmp_path / "camera", images), study_data, tmp_path)
    assert sorted(found.images.labels.tolist()) == [0, 1, 2]


def test_a_parquet_file_serves_as_well(study_data, tmp_path):
    path = tmp_path / "camera.parquet"
    pq.write_table(pa.table({"image": [picture(-2), picture(-3)], "label": ["van", "bus"]}), path)
    assert prepare(str(path), study_data, tmp_path).images.labels.tolist() == [2, 0]


def test_images_of_train_and_validation_are_counted_and_left_out_copies_too(study_data, tmp_path):
    images = {"bus/trained.png": OWN["train/bus/0.png"], "bus/again.png": OWN["train/bus/0.png"],
              "car/chosen_by.png": OWN["val/car/2.png"], "van/tested.png": OWN["test/van/1.png"],
              "van/new.png": picture(-1)}  # fmt: skip
    found = prepare(write_images(tmp_path / "camera", images), study_data, tmp_path)
    assert found.num_known == 3
    assert found.images.labels.tolist() == [2, 2]
    tested = study_data.test.ids[np.isin(study_data.test.ids, found.images.ids)]
    assert len(tested) == 1


def test_a_folder_with_nothing_left_is_refused(study_data, tmp_path):
    path = write_images(tmp_path / "camera", {"bus/a.png": OWN["train/bus/0.png"]})
    with pytest.raises(ValueError, match=r"all 1 readable images .* stand in its train or validation split"):
        prepare(path, study_data, tmp_path)
    path = write_images(tmp_path / "broken", {"bus/a.png": b"no image"})
    with pytest.raises(ValueError, match=r"none of the 1 images at .* can be read"):
        prepare(path, study_data, tmp_path, refuse=False)


def test_the_fingerprint_follows_content_size_and_classes_but_no_path(study_data, tmp_path):
    images = {"van/a.png": picture(-2), "bus/b.png": picture(-3)}
    here = prepare(write_images(tmp_path / "here", images), study_data, tmp_path)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    assert prepare(str(tmp_path / "there"), study_data, tmp_path).fingerprint == here.fingerprint
    assert prepare(str(tmp_path / "there"), study_data, tmp_path, image_size=16).fingerprint != here.fingerprint
    write_images(tmp_path / "there", {"bus/b.png": picture(-4)})
    assert prepare(str(tmp_path / "there"), study_data, tmp_path).fingerprint != here.fingerprint


def test_a_second_call_decodes_nothing(study_data, tmp_path, monkeypatch):
    path = write_images(tmp_path / "camera", {"van/a.png": picture(-2)})
    first = prepare(path, study_data, tmp_path)
    monkeypatch.setattr(cache_module, "decode_all", None)
    np.testing.assert_array_equal(prepare(path, study_data, tmp_path).images.images, first.images.images)


def test_unreadable_images_are_refused_or_skipped_as_the_study_says(study_data, tmp_path):
    path = write_images(tmp_path / "camera", {"van/a.png": picture(-2), "van/b.png": b"no image"})
    with pytest.raises(ValueError, match=r"noise\.real\.cam: each image must be readable, but van/b\.png is not"):
        prepare_all_real(
            {"cam": path}, data=study_data, image_size=8, refuse=True, cache_dir=tmp_path / "cache"
        )  # fmt: skip
    found = prepare(path, study_data, tmp_path, refuse=False)
    assert (len(found.images), [place for place, _ in found.skipped]) == (1, ["van/b.png"])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"lorry/a.png": b"", "van/b.png": b""}, r"must hold classes of the study only.*1 others \('lorry'\); rename"),
        ({"van/notes.txt": b""}, "must hold images in class folders, but"),
        ({"a.png": b""}, "cannot be read as images of the study: each image must stand in a class folder"),
    ],
    ids=["classes", "no images", "no class folders"],
)
def test_what_is_no_folder_of_the_study_is_refused_in_words_of_its_own(tmp_path, images, message):
    path = write_images(tmp_path / "camera", images)
    with pytest.raises(ValueError, match=message) as caught:
        list_real(open_real(path), path, CLASSES)
    assert "data.path" not in str(caught.value)


def test_nothing_at_the_path(tmp_path):
    with pytest.raises(ValueError, match=r"must be a class folder or a \.parquet file, but got .*, which is neither"):
        open_real(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="must be a parquet file, but got"):
        open_real(str(tmp_path / "none.parquet"))
