"""SVHN as it is published: 10 is the digit 0, the extra images only where they are asked for."""

import numpy as np
import pytest
from scipy.io import savemat

from study.config_data import Svhn
from study.data.prepare import data_fingerprint, prepare_data
from study.data.sources import open_source

COUNTS = {"train": 40, "test": 20, "extra": 30}


def pixels(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3, count), dtype=np.uint8)


def write_file(root, name, *, images=None, labels=None):
    count = COUNTS[name]
    content = {
        "X": pixels(count, count) if images is None else images,
        "y": (np.arange(count, dtype=np.uint8) % 10 + 1)[:, None] if labels is None else labels,
    }
    savemat(root / f"{name}_32x32.mat", content, do_compression=True)


def write_set(root):
    root.mkdir(exist_ok=True)
    for name in COUNTS:
        write_file(root, name)
    return Svhn(source="svhn", path=str(root))


def test_labels_images_and_split(tmp_path):
    data = write_set(tmp_path / "svhn")
    splits = prepare_data(data, cache_dir=tmp_path / "cache")
    assert [len(part) for part in splits.by_name().values()] == [30, 10, 20]
    assert splits.class_names == tuple("0123456789")
    assert splits.test.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0] * 2
    np.testing.assert_array_equal(splits.test.images[7], pixels(20, 20)[..., 7])
    assert splits.train.images.shape[1:] == (32, 32, 3)


def test_extra_is_trained_on_too(tmp_path):
    data = write_set(tmp_path / "svhn")
    more = data.model_copy(update={"extra": True})
    splits = prepare_data(more, cache_dir=tmp_path / "cache")
    assert len(splits.train) + len(splits.validation) == 70
    assert len(splits.test) == 20
    assert data_fingerprint(data, cache_dir=tmp_path) != splits.fingerprint
    assert open_source(more).place(65) == "extra_32x32.mat image 5"
    (tmp_path / "svhn" / "extra_32x32.mat").unlink()
    assert open_source(data)
    with pytest.raises(ValueError, match=r"test_32x32.mat and extra_32x32.mat in it, but .* has no extra_32x32.mat"):
        open_source(more)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": np.arange(40, dtype=np.uint8)[:, None]}, "labels from 1 to 10 .*train_32x32.mat' has others"),
        ({"labels": np.full((40, 1), np.nan)}, "labels from 1 to 10"),
        ({"labels": np.ones((39, 1), np.uint8)}, r"32 x 32 x 3 x 39, an image for each label, but .* 32 x 32 x 3 x 40"),
        ({"images": np.zeros((32, 32, 3, 40))}, "X as uint8 .* has float64"),
        ({"images": np.zeros((40, 32, 32, 3), np.uint8)}, "has uint8 of 40 x 32 x 32 x 3"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, changed, message):
    data = write_set(tmp_path / "svhn")
    write_file(tmp_path / "svhn", "train", **changed)
    with pytest.raises(ValueError, match=message):
        prepare_data(data, cache_dir=tmp_path / "cache")


def test_a_file_that_lacks_or_is_torn_is_named(tmp_path):
    data = write_set(tmp_path / "svhn")
    file = tmp_path / "svhn" / "test_32x32.mat"
    whole = file.read_bytes()
    file.write_bytes(whole[:300])  # within X, and y comes after it
    with pytest.raises(ValueError, match=r"test_32x32.mat' must have the variable 'y', but has X; fetch it again"):
        prepare_data(data, cache_dir=tmp_path / "cache")
    file.write_bytes(whole[:150])
    with pytest.raises(ValueError, match=r"MATLAB file of version 7 or older at '.*test_32x32.mat'"):
        prepare_data(data, cache_dir=tmp_path / "cache")
    savemat(file, {"X": pixels(3, 3)})
    with pytest.raises(ValueError, match=r"must have the variable 'y', but has X"):
        prepare_data(data, cache_dir=tmp_path / "cache")
    file.unlink()
    with pytest.raises(ValueError, match=r"has no test_32x32.mat; put it there"):
        open_source(data)
