"""CIFAR as it is published, in both versions; a pickle runs nothing; what is torn is named."""

import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from study.config_data import Cifar
from study.data.cifar_pickle import read_batch
from study.data.prepare import data_fingerprint, prepare_data
from study.data.sources import open_source

NAMES_10 = [f"thing {number}" for number in range(10)]
NAMES_100 = [f"fine {number:02}" for number in range(100)]
NAMES_20 = [f"coarse {number}" for number in range(20)]


def batch(count, seed):
    """Labels 0, 1, ... and colour planes, as both versions hold them."""
    planes = np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)
    return np.arange(count, dtype=np.uint8), planes


BATCHES = {f"data_batch_{number}": batch(10, number) for number in range(1, 6)} | {"test_batch": batch(10, 6)}
PARTS = {"train": batch(400, 7), "test": batch(100, 8)}


def fine(labels):
    return (labels % 100).astype(np.uint8)


def coarse(labels):
    return (labels % 100 // 5).astype(np.uint8)


def write_10_binary(root):
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name, (labels, planes) in BATCHES.items():
        (folder / f"{name}.bin").write_bytes(np.column_stack([labels, planes]).tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(NAMES_10) + "\n\n")
    return folder


def write_100_binary(root):
    folder = root / "cifar-100-binary"
    folder.mkdir(parents=True)
    for name, (_, planes) in PARTS.items():
        labels = np.arange(len(planes))
        (folder / f"{name}.bin").write_bytes(np.column_stack([coarse(labels), fine(labels), planes]).tobytes())
    (folder / "fine_label_names.txt").write_text("\n".join(NAMES_100) + "\n")
    (folder / "coarse_label_names.txt").write_text("\n".join(NAMES_20) + "\n")
    return folder


def text_2(content):
    """A string of Python 2 in protocol 2."""
    if len(content) < 256:
        return b"U" + bytes([len(content)]) + content
    return b"T" + struct.pack("<i", len(content)) + content


def array_2(planes):
    """An array of bytes as Python 2 and its NumPy pickled it."""
    shape = b"(J" + struct.pack("<i", planes.shape[0]) + b"M" + struct.pack("<H", planes.shape[1]) + b"t"
    dtype = b"cnumpy\ndtype\n" + text_2(b"u1") + b"K\x00K\x01\x87R(K\x03" + text_2(b"|")
    dtype += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text_2(b"b") + b"\x87R"
    return start + b"(K\x01" + shape + dtype + b"\x89" + text_2(planes.tobytes()) + b"tb"


def list_2(items):
    return b"](" + b"".join(b"K" + bytes([item]) if isinstance(item, int) else text_2(item) for item in items) + b"e"


def pickle_2(**items):
    """A dict as Python 2 pickled it in protocol 2: the published files."""
    body = b"".join(text_2(key.encode()) + value for key, value in items.items())
    return b"\x80\x02}(" + body + b"u."


def write_10_python(root):
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, (labels, planes) in BATCHES.items():
        content = pickle_2(
            data=array_2(planes), labels=list_2(labels.tolist()), batch_label=text_2(b"x"), filenames=list_2([b"a.png"])
        )
        (folder / name).write_bytes(content)
    names = pickle_2(label_names=list_2([name.encode() for name in NAMES_10]), num_cases_per_batch=b"K\x0a")
    (folder / "batches.meta").write_bytes(names)
    return folder


def write_100_python(root):
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for name, (_, planes) in PARTS.items():
        labels = np.arange(len(planes))
        content = pickle_2(
            data=array_2(planes),
            fine_labels=list_2(fine(labels).tolist()),
            coarse_labels=list_2(coarse(labels).tolist()),
        )
        (folder / name).write_bytes(content)
    names = {"fine_label_names": NAMES_100, "coarse_label_names": NAMES_20}
    (folder / "meta").write_bytes(pickle_2(**{k: list_2([n.encode() for n in v]) for k, v in names.items()}))
    return folder


def section(path, **settings):
    return Cifar(source="cifar", path=str(path), **settings)


@pytest.mark.parametrize("write", [write_10_binary, write_10_python])
def test_cifar_10(tmp_path, write):
    folder = write(tmp_path / "sets")
    splits = prepare_data(section(tmp_path / "sets", validation_share=0.2), cache_dir=tmp_path / "cache")
    assert [len(part) for part in splits.by_name().values()] == [40, 10, 10]
    assert splits.class_names == tuple(NAMES_10)
    assert splits.test.labels.tolist() == list(range(10))
    expected = BATCHES["test_batch"][1].reshape(10, 3, 32, 32).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(splits.test.images, expected)
    assert data_fingerprint(section(folder), cache_dir=tmp_path) == splits.fingerprint
    assert open_source(section(folder)).place(12).startswith("data_batch_2")


@pytest.mark.parametrize("write", [write_100_binary, write_100_python])
@pytest.mark.parametrize(("labels", "names", "of"), [(None, NAMES_100, fine), ("coarse", NAMES_20, coarse)])
def test_cifar_100(tmp_path, write, labels, names, of):
    write(tmp_path)
    splits = prepare_data(section(tmp_path, labels=labels), cache_dir=tmp_path / "cache")
    assert splits.class_names == tuple(names)
    assert splits.test.labels.tolist() == of(np.arange(100)).tolist()
    assert len(splits.train) + len(splits.validation) == 400
    assert splits.test.images[3, 4, 5].tolist() == PARTS["test"][1][3].reshape(3, 32, 32)[:, 4, 5].tolist()


def test_both_versions_are_the_same_set(tmp_path):
    write_10_binary(tmp_path / "binary")
    write_10_python(tmp_path / "python")
    prints = {data_fingerprint(section(tmp_path / name), cache_dir=tmp_path) for name in ("binary", "python")}
    assert len(prints) == 1
    other = tmp_path / "binary" / "cifar-10-batches-bin" / "data_batch_3.bin"
    content = bytearray(other.read_bytes())
    content[50] ^= 1
    other.write_bytes(content)
    assert data_fingerprint(section(tmp_path / "binary"), cache_dir=tmp_path) not in prints


def test_the_binary_version_is_taken_where_both_are_there(tmp_path):
    write_10_binary(tmp_path)
    (write_10_python(tmp_path) / "data_batch_1").write_bytes(b"torn")
    assert len(open_source(section(tmp_path)).listing().labels) == 60


def test_another_working_size_is_resized_as_a_decoded_image_is(tmp_path):
    write_10_binary(tmp_path)
    small = prepare_data(section(tmp_path, image_size=16), cache_dir=tmp_path / "cache")
    native = prepare_data(section(tmp_path), cache_dir=tmp_path / "cache")
    expected = Image.fromarray(native.test.images[0]).resize((16, 16), Image.Resampling.BICUBIC, box=(0, 0, 32, 32))
    np.testing.assert_array_equal(small.test.images[0], np.asarray(expected))
    np.testing.assert_array_equal(small.test.ids, native.test.ids)
    assert small.source_sizes.tolist() == [[32, 32]] * 60


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_pickles_of_python_3_are_read_too(tmp_path, protocol):
    (tmp_path / "batch").write_bytes(pickle.dumps({b"data": BATCHES["test_batch"][1], b"labels": [1, 2]}, protocol))
    found = read_batch(tmp_path / "batch")
    np.testing.assert_array_equal(found["data"], BATCHES["test_batch"][1])
    assert found["labels"] == [1, 2]


class Harm:
    def __init__(self, call, *given):
        self._said = call, given

    def __reduce__(self):
        return self._said


@pytest.mark.parametrize(
    ("thing", "named"),
    [
        (Harm(os.mkdir, "harmed"), "posix.mkdir"),
        (Harm(eval, "1"), "eval"),
        (Harm(getattr, "a", "upper"), "getattr"),
        (np.float64(1), "numpy.*scalar"),
    ],
)
def test_a_pickle_that_names_anything_else_is_refused_and_runs_nothing(tmp_path, monkeypatch, thing, named):
    monkeypatch.chdir(tmp_path)
    folder = write_10_python(tmp_path)
    (folder / "data_batch_2").write_bytes(pickle.dumps({"data": thing}, 2))
    with pytest.raises(ValueError, match=rf"data_batch_2' names .*{named} for Python to call, .*binary version"):
        prepare_data(section(tmp_path), cache_dir=tmp_path / "cache")
    assert not (tmp_path / "harmed").exists()


WHOLE = pickle_2(data=array_2(BATCHES["test_batch"][1]), labels=list_2(list(range(10))))
OBJECTS = io.BytesIO()
pickle.dump({"data": np.array([["a"] * 3072], dtype=object), "labels": [1]}, OBJECTS, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as one .EOFError"),
        (WHOLE[:2000], "cannot be read as one"),
        (OBJECTS.getvalue(), "cannot be read as one .ValueError"),
        (pickle.dumps([1, 2], 2), "cannot be read as one"),
        (pickle_2(data=array_2(BATCHES["test_batch"][1])), "a label in 'labels' for each"),
        (pickle_2(data=array_2(BATCHES["test_batch"][1]), labels=list_2([1])), "a label in 'labels' for each"),
        (pickle_2(data=array_2(BATCHES["test_batch"][1][:, :9]), labels=list_2([1])), "'data' of 3072 bytes"),
        (pickle_2(data=array_2(BATCHES["test_batch"][1]), labels=list_2([b"1"] * 10)), "whole numbers as labels"),
        (pickle_2(data=array_2(BATCHES["test_batch"][1]), labels=list_2([11] * 10)), "labels from 0 to 9, but image 0"),
    ],
)
def test_a_batch_that_is_torn_or_strange_is_refused(tmp_path, content, message):
    (write_10_python(tmp_path) / "test_batch").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        open_source(section(tmp_path)).listing()


@pytest.mark.parametrize(
    ("write", "file", "content", "message"),
    [
        (write_10_binary, "data_batch_4.bin", None, "has no data_batch_4.bin; add it"),
        (write_10_binary, "data_batch_4.bin", b"", "3073 bytes for each image, but .* has 0 bytes"),
        (write_10_binary, "data_batch_4.bin", b"a" * 3000, "has 3000 bytes; fetch it again"),
        (write_10_binary, "data_batch_4.bin", b"\x0a" * 3073, "image 0 of data_batch_4.bin has 10"),
        (write_10_binary, "batches.meta.txt", None, "the names of the classes, but there is no .*batches.meta.txt"),
        (write_10_binary, "batches.meta.txt", b"cat\ndog\n", "must hold 10 names of classes .* but it has 2"),
        (write_100_binary, "fine_label_names.txt", None, "there is no .*fine_label_names.txt"),
    ],
)
def test_what_lacks_or_is_torn_is_named(tmp_path, write, file, content, message):
    place = write(tmp_path) / file
    place.unlink() if content is None else place.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        open_source(section(tmp_path)).listing()


def test_no_set_two_sets_and_labels_without_effect_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must be a folder with one of cifar-10-batches-bin, .* or an .npz"):
        open_source(section(tmp_path))
    write_10_binary(tmp_path)
    with pytest.raises(ValueError, match=r"data.labels has no effect on CIFAR-10, .* got coarse; take it out"):
        open_source(section(tmp_path, labels="coarse"))
    write_100_binary(tmp_path)
    with pytest.raises(ValueError, match=r"must hold one set, but there are .*cifar-10-batches-bin' and .*cifar-100"):
        open_source(section(tmp_path))


def write_npz(path, **changed):
    labels, planes = BATCHES["test_batch"]
    images = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    arrays = {"x_train": np.tile(images, (3, 1, 1, 1)), "y_train": np.tile(labels, 3), "x_test": images,
              "y_test": labels[:, None], **changed}  # fmt: skip
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return section(path)


def test_an_npz_file(tmp_path):
    splits = prepare_data(write_npz(tmp_path / "set.npz"), cache_dir=tmp_path / "cache")
    assert [len(part) for part in splits.by_name().values()] == [20, 10, 10]
    assert splits.class_names == tuple(str(number) for number in range(10))
    assert splits.test.labels.tolist() == list(range(10))
    named = write_npz(tmp_path / "named.npz", classes=np.array(NAMES_10))
    assert open_source(named).listing().class_names == tuple(NAMES_10)
    assert open_source(named).place(31) == "named.npz x_test image 1"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"y_test": None}, "must have the array 'y_test', but has x_train"),
        ({"x_test": np.zeros((9, 32, 32, 3), np.uint8)}, "uint8 of 10 x height x width x 3, .* has uint8 of 9 x 32"),
        ({"x_test": np.zeros((10, 32, 32, 3))}, "has float64 of 10"),
        ({"y_test": np.full(10, 0.5)}, "whole numbers as labels, but y_test of set.npz has float64"),
        ({"y_test": np.full(10, -1)}, "image 0 of y_test of set.npz has -1"),
        ({"y_test": np.array([None] * 10)}, "cannot be read as one .ValueError"),
        ({"classes": np.array(["a", "b"])}, "labels from 0 to 1, but image 2 of y_train of set.npz has 2"),
    ],
)
def test_an_npz_file_that_does_not_fit_is_refused(tmp_path, changed, message):
    data = write_npz(tmp_path / "set.npz", **changed)
    with pytest.raises(ValueError, match=message):
        prepare_data(data, cache_dir=tmp_path / "cache")


def test_an_npz_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"there is no .*none.npz"):
        open_source(section(tmp_path / "none.npz"))
    (tmp_path / "torn.npz").write_bytes(b"PK torn")
    with pytest.raises(ValueError, match=r"torn.npz' cannot be read as one"):
        open_source(section(tmp_path / "torn.npz"))
    with pytest.raises(ValueError, match=r"data.labels has no effect on an .npz file"):
        open_source(section(tmp_path / "torn.npz", labels="fine"))


def test_the_published_images(tmp_path):
    folder = os.environ.get("MURK_TEST_DATA", "")
    path = Path(folder) / "cifar10-lossless-5k.npz"
    if not folder or not path.is_file():
        pytest.skip("needs cifar10-lossless-5k.npz in the folder that MURK_TEST_DATA names")
    splits = prepare_data(section(path), cache_dir=tmp_path)
    assert [len(part) for part in splits.by_name().values()] == [3200, 800, 1000]
    assert splits.class_names[:2] == ("airplane", "automobile")
    assert not splits.num_leaked
    with np.load(path, allow_pickle=False) as file:
        np.testing.assert_array_equal(splits.test.images, file["x_test"])
        np.testing.assert_array_equal(splits.test.labels, file["y_test"])
