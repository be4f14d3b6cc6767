"""LFW's folders of persons, and pairs of faces by its own lists or a csv."""

import io
import os
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import study.data.cache as cache_module
from study.config import StudyConfig
from study.config_data import Lfw
from study.config_task import Verification
from study.data.pair_list import read_pairs
from study.data.pairs import prepare_pairs
from study.data.prepare import prepare_data
from study.data.sources import open_source
from study.possible import refuse_what_cannot_run
from study.problems import ProblemsError
from study.tasks import read_pairs as read_task_pairs

PERSONS = {"Ann_Lee": 6, "Bob_De_la_Cruz": 5, "Cy_Young": 2, "Di_Ng": 1}
PAIRS = (
    "2\t2\n"
    "Ann_Lee\t1\t2\nAnn_Lee\t3\t4\nAnn_Lee\t1\tCy_Young\t1\nBob_De_la_Cruz\t5\tDi_Ng\t1\n"
    "Bob_De_la_Cruz\t1\t2\nCy_Young\t1\t2\nAnn_Lee\t6\tBob_De_la_Cruz\t1\nCy_Young\t2\tDi_Ng\t1\n"
)


def face(number):
    pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


FACES = {
    f"{person}_{number:04}": face(100 * len(person) + number)
    for person, count in PERSONS.items()
    for number in range(1, count + 1)
}


def write_lfw(root, home="lfw", pairs=PAIRS):
    for key, content in FACES.items():
        file = root / home / key[:-5] / f"{key}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    (root / "pairs.txt").write_text(pairs)
    return root


def write_table(root, csv="fold,same,a,b\n0,1,Ann_Lee_0001,Ann_Lee_0002\n1,0,Di_Ng_0001,Cy_Young_0001\n", **changed):
    columns = {"key": list(FACES), "person": [key[:-5] for key in FACES], "jpeg": list(FACES.values())} | changed
    pq.write_table(
        pa.table({name: column for name, column in columns.items() if column is not None}), root / "f.parquet"
    )
    (root / "pairs.csv").write_text(csv)
    return str(root / "f.parquet"), str(root / "pairs.csv")


def prepared(path, pairs=None, *, cache, image_size=16):
    return prepare_pairs(str(path), pairs, image_size=image_size, cache_dir=cache)


# ------------------------------------------------------------------------------------------------------- identification
@pytest.mark.parametrize("home", ["lfw", "lfw_funneled", "lfw-deepfunneled", "lfw-deepfunneled/lfw-deepfunneled"])
def test_persons_with_enough_images_are_classes(tmp_path, home):
    write_lfw(tmp_path / "faces", home)
    (tmp_path / "faces" / home / "Ann_Lee" / "notes.jpg").write_bytes(b"no face")
    data = Lfw(source="lfw", path=str(tmp_path / "faces"), image_size=8, min_images=5)
    splits = prepare_data(data, cache_dir=tmp_path / "cache")
    assert splits.class_names == ("Ann_Lee", "Bob_De_la_Cruz")
    assert [len(part) for part in splits.by_name().values()] == [7, 2, 2]
    inside = data.model_copy(update={"path": f"{tmp_path}/faces/{home}"})
    assert prepare_data(inside, cache_dir=tmp_path / "cache").fingerprint == splits.fingerprint


def test_too_few_persons_no_faces_and_two_versions_are_refused(tmp_path):
    write_lfw(tmp_path)
    data = Lfw(source="lfw", path=str(tmp_path))
    with pytest.raises(ValueError, match=r"min_images must leave two .* 0 of the 4 in .* have 20 .*the most is 6"):
        open_source(data)
    write_lfw(tmp_path, "lfw_funneled")
    with pytest.raises(ValueError, match=r"data.path must hold one version of LFW, .* has lfw, lfw_funneled; name one"):
        open_source(data)
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"data.path must be the folder of LFW, .* has none"):
        open_source(data.model_copy(update={"path": str(tmp_path / "none")}))
    with pytest.raises(ValueError, match=r"data.path must be a folder, but got .*nowhere"):
        open_source(data.model_copy(update={"path": str(tmp_path / "nowhere")}))


# ---------------------------------------------------------------------------------------------------------------- pairs
def test_pairs_of_the_official_list(tmp_path):
    pairs = prepared(write_lfw(tmp_path / "faces"), cache=tmp_path / "cache", image_size=20)
    assert pairs.same.tolist() == [True, True, False, False] * 2
    assert pairs.fold.tolist() == [0] * 4 + [1] * 4
    assert len(pairs.images) == len(pairs.ids) == len(pairs.persons) == len(set(pairs.ids.tolist())) == 11
    assert pairs.images.shape[1:] == (20, 20, 3)
    assert pairs.first.dtype == pairs.second.dtype == pairs.fold.dtype == pairs.ids.dtype == np.int64
    for index, key in ((pairs.first[3], "Bob_De_la_Cruz_0005"), (pairs.second[3], "Di_Ng_0001")):
        assert pairs.persons[index] == key[:-5]
        np.testing.assert_array_equal(pairs.images[index], np.asarray(Image.open(io.BytesIO(FACES[key]))))
    assert pairs.same.tolist() == [
        pairs.persons[a] == pairs.persons[b] for a, b in zip(pairs.first, pairs.second, strict=True)
    ]


def test_persons_that_are_classes_too_are_told(tmp_path):
    pairs = prepared(write_lfw(tmp_path / "faces"), cache=tmp_path / "cache")
    assert pairs.known(("ann lee", "Cy_Young", "Ed_Wood")) == ("Ann_Lee", "Cy_Young")
    assert pairs.known(("cat", "dog")) == ()


def test_the_ids_are_those_of_an_image_set(tmp_path):
    write_lfw(tmp_path / "faces")
    pairs = prepared(tmp_path / "faces", cache=tmp_path / "cache")
    data = Lfw(source="lfw", path=str(tmp_path / "faces"), image_size=8, min_images=2)
    splits = prepare_data(data, cache_dir=tmp_path / "cache")
    known = {number for part in splits.by_name().values() for number in part.ids.tolist()}
    ids = dict(zip(pairs.ids.tolist(), pairs.persons, strict=True))
    assert {ids[number] for number in ids.keys() - known} == {"Di_Ng"}


def test_a_second_call_decodes_nothing_and_the_fingerprint_follows_what_matters(tmp_path, monkeypatch):
    root = write_lfw(tmp_path / "faces")
    first = prepared(root, cache=tmp_path / "cache")
    elsewhere = prepared(write_lfw(tmp_path / "again", "lfw_funneled"), cache=tmp_path / "other")
    small = prepared(root, cache=tmp_path / "cache", image_size=8)
    assert first.fingerprint == elsewhere.fingerprint != small.fingerprint
    monkeypatch.setattr(cache_module, "decode_all", None)
    again = prepared(root / "lfw", cache=tmp_path / "cache")
    assert again.fingerprint == first.fingerprint
    np.testing.assert_array_equal(again.images, first.images)
    assert isinstance(again.images, np.memmap)
    monkeypatch.undo()
    (root / "pairs.txt").write_text(PAIRS.replace("Ann_Lee\t1\t2\n", "Ann_Lee\t2\t1\n"))
    swapped = prepared(root, cache=tmp_path / "cache")
    assert swapped.fingerprint != first.fingerprint
    assert swapped.images[swapped.first[0]].tolist() == first.images[first.second[0]].tolist()


def test_a_development_list_is_one_fold(tmp_path):
    root = write_lfw(tmp_path / "faces")
    (root / "pairsDevTest.txt").write_text("1\nAnn_Lee\t1\t2\nCy_Young\t1\tDi_Ng\t1\n\n")
    pairs = prepared(root, str(root / "pairsDevTest.txt"), cache=tmp_path / "cache")
    assert (pairs.same.tolist(), pairs.fold.tolist()) == ([True, False], [0, 0])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("2\t2\n", "two\t2\n", r"line 1 is 'two 2'"),
        ("2\t2\n", "0\n", r"line 1 is '0'"),
        ("2\t2\n", "2\t2\t2\n", r"line 1 is '2 2 2'"),
        ("2\t2\n", "3\t2\n", r"must be 3 x 2 x 2 after line 1 of pairs.txt, but there are 8"),
        ("Cy_Young\t2\tDi_Ng\t1\n", "", r"must be 2 x 2 x 2 after line 1 of pairs.txt, but there are 7"),
        ("Cy_Young\t2\tDi_Ng\t1\n", "Cy_Young\t2\tDi_Ng\t1\n" * 2, r"but there are 9"),
        ("Ann_Lee\t3\t4\n", "Ann_Lee\t3\n", r"must be 'person i j' there, but pairs.txt line 3 is 'Ann_Lee 3'"),
        ("Ann_Lee\t3\t4\n", "Ann_Lee\t3\tfour\n", r"pairs.txt line 3 is 'Ann_Lee 3 four'"),
        ("Ann_Lee\t6\tBob_De_la_Cruz\t1\n", "Ann_Lee\t5\t6\n", r"'person1 i person2 j' there, but pairs.txt line 8"),
        ("Ann_Lee\t6\tBob_De_la_Cruz\t1\n", "Ann_Lee\t5\tAnn_Lee\t6\n", r"of two persons there, but pairs.txt line 8"),
        ("Ann_Lee\t3\t4\n", "Ann_Lee\t3\t3\n", r"two images, but pairs.txt line 3 has 'Ann_Lee_0003' twice"),
        ("Ann_Lee\t3\t4\n", "Ann_Lee\t3\t7\n", r"line 3 names 'Ann_Lee_0007', .* no 'Ann_Lee/Ann_Lee_0007.jpg'"),
        ("Ann_Lee\t3\t4\n", "../x\t3\t4\n", r"line 3 names '../x_0003', and .* has no"),
    ],
)  # fmt: skip
def test_a_list_that_does_not_fit_is_refused_with_its_line(tmp_path, monkeypatch, old, new, message):
    assert PAIRS.count(old) == 1
    monkeypatch.setattr(cache_module, "decode_all", None)
    with pytest.raises(ValueError, match=message):
        prepared(write_lfw(tmp_path / "faces", pairs=PAIRS.replace(old, new)), cache=tmp_path / "cache")


def test_files_that_lack_are_named(tmp_path):
    root = write_lfw(tmp_path / "faces")
    with pytest.raises(ValueError, match=r"pairs must be a list of pairs, .* no '.*more.txt'"):
        prepared(root, str(root / "more.txt"), cache=tmp_path / "cache")
    (root / "pairs.txt").unlink()
    with pytest.raises(ValueError, match=r"pairs must name the list of pairs, as there is no pairs.txt"):
        prepared(root, cache=tmp_path / "cache")
    with pytest.raises(ValueError, match=r"pairs must name the list of pairs beside a parquet file"):
        prepared(tmp_path / "f.parquet", cache=tmp_path / "cache")
    table, listed = write_table(tmp_path)
    with pytest.raises(ValueError, match=r"path must be a folder, but got .*nowhere"):
        prepared(tmp_path / "nowhere", listed, cache=tmp_path / "cache")
    Path(table).unlink()
    with pytest.raises(ValueError, match=r"path must be LFW's folder or a .parquet file, but there is no"):
        prepared(table, listed, cache=tmp_path / "cache")


def test_an_image_that_cannot_be_read_is_refused(tmp_path):
    root = write_lfw(tmp_path / "faces")
    (root / "lfw" / "Di_Ng" / "Di_Ng_0001.jpg").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"^path: each image must be readable, but Di_Ng/Di_Ng_0001.jpg is not"):
        prepared(root, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*/meta.json"))


def test_a_parquet_file_and_a_csv(tmp_path):
    pairs = prepared(*write_table(tmp_path), cache=tmp_path / "cache", image_size=20)
    assert (pairs.same.tolist(), pairs.fold.tolist()) == ([True, False], [0, 1])
    assert pairs.persons == ("Ann_Lee", "Ann_Lee", "Cy_Young", "Di_Ng")
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([0, 3], [1, 2])
    np.testing.assert_array_equal(pairs.images[3], np.asarray(Image.open(io.BytesIO(FACES["Di_Ng_0001"]))))
    as_folder = prepared(write_lfw(tmp_path / "faces"), str(tmp_path / "pairs.csv"), cache=tmp_path / "cache")
    assert set(as_folder.ids.tolist()) == set(pairs.ids.tolist())


HEAD = "fold,same,a,b\n"


@pytest.mark.parametrize(
    ("csv", "changed", "message"),
    [
        ("fold,a,b\n", {}, r"the columns fold, same, a, b, but pairs.csv has fold, a, b; add same"),
        ("", {}, r"but pairs.csv has none"),
        (HEAD, {}, r"must hold a pair, but .*pairs.csv' has none"),
        (f"{HEAD}0,1,Ann_Lee_0001,Ann_Lee_0002\nx,1,a,b\n", {}, r"pairs.csv line 3 has \['x', '1', 'a', 'b'\]"),
        (f"{HEAD}0,2,a,b\n", {}, r"line 2 has \['0', '2'"),
        (f"{HEAD}0,1,a\n", {}, r"line 2 has \['0', '1', 'a', ''\]"),
        (f"{HEAD}0,1,Di_Ng_0001,Di_Ng_0001\n", {}, r"two images, but pairs.csv line 2 has 'Di_Ng_0001' twice"),
        (f"{HEAD}0,0,Di_Ng_0001,Di_Ng_0002\n", {}, r"line 2 names 'Di_Ng_0002', and f.parquet has none of that key"),
        (f"{HEAD}0,1,Di_Ng_0001,Ann_Lee_0001\n", {}, r"line 2 is a pair of one person and names 'Di_Ng' and 'Ann_Lee'"),
        (f"{HEAD}0,0,Ann_Lee_0002,Ann_Lee_0001\n", {}, r"line 2 is a pair of two persons and names 'Ann_Lee' and 'Ann"),
        (
            f"{HEAD}0,0,a,b\n",
            {"person": None},
            r"path: f.parquet must have the columns key and person, but has no pers",
        ),
        (f"{HEAD}0,0,a,b\n", {"key": ["Di_Ng_0001"] * 14}, r"a key of its own, but 'Di_Ng_0001' stands twice"),
        (f"{HEAD}0,0,a,b\n", {"jpeg": None}, r"path: f.parquet cannot be read .*image_column must name a column"),
    ],
)
def test_a_csv_or_parquet_file_that_does_not_fit_is_refused(tmp_path, csv, changed, message):
    with pytest.raises(ValueError, match=message):
        prepared(*write_table(tmp_path, csv, **changed), cache=tmp_path / "cache")


@pytest.mark.slow
def test_the_published_pairs(tmp_path):
    folder = Path(os.environ.get("MURK_TEST_DATA", ""))
    table, listed = folder / "lfw-pairs-gray64.parquet", folder / "lfw-pairs.csv"
    if not os.environ.get("MURK_TEST_DATA") or not (table.is_file() and listed.is_file()):
        pytest.skip("needs lfw-pairs-gray64.parquet and lfw-pairs.csv in the folder that MURK_TEST_DATA names")
    assert len(read_pairs(listed)) == 6000
    pairs = prepared(table, str(listed), cache=tmp_path, image_size=64)
    assert pairs.images.shape == (7701, 64, 64, 3)
    assert len(np.unique(pairs.ids)) == 7701
    assert pairs.same.sum() == 3000
    assert np.bincount(pairs.fold).tolist() == [600] * 10
    assert np.bincount(pairs.fold, weights=pairs.same).tolist() == [300] * 10
    assert pairs.known(("Abel_Pacheco", "Nobody")) == ("Abel_Pacheco",)


def test_pairs_at_a_url_are_those_of_the_files(tmp_path):
    write_lfw(tmp_path)
    root = f"memory://{tmp_path.name}"
    for path in tmp_path.rglob("*.*"):
        with fsspec.open(f"{root}/{path.relative_to(tmp_path)}", "wb") as file:
            file.write(path.read_bytes())

    def read(place: str, cache: str, **more: str):
        task = Verification(name="verification", pairs=f"{place}/pairs.txt", **more)
        return read_task_pairs(task, image_size=16, cache_dir=tmp_path / cache)

    here, there = read(str(tmp_path), "one"), read(root, "two", images=f"{root}/lfw")
    assert there.fingerprint == here.fingerprint == read(root, "three").fingerprint
    np.testing.assert_array_equal(there.images, here.images)
    with pytest.raises(ValueError, match=r"task\.images: memory://none must be a file or folder, but there is none"):
        read(root, "four", images="memory://none")
    fsspec.filesystem("memory").rm(root, recursive=True)


def test_pairs_at_a_url_that_are_not_there_are_refused_before_anything_starts():
    task = Verification(name="verification", pairs="memory://none/pairs.txt", images="memory://none/faces.parquet")
    study = StudyConfig(name="faces", task=task)
    with pytest.raises(ProblemsError) as found:
        refuse_what_cannot_run(study)
    assert [problem.path for problem in found.value.problems] == [("task", "pairs"), ("task", "images")]
    assert "memory://none/pairs.txt must be a file or folder, but there is none" in str(found.value)
