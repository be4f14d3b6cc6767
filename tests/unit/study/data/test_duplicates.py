"""The duplicate audit: copies and near copies in two splits are found, by distance, however many images there are."""

import io
import json
from itertools import product

import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import study.data.duplicates as duplicates
from study.config_data import Parquet
from study.data.duplicate_report import audit_json, audit_text, pair_sheet
from study.data.duplicates import BITS, DEFAULT_DISTANCE, find_duplicates, hamming, perceptual_hashes


def photo(seed, *, quality=90, brighter=0):
    """A smooth random picture as JPEG."""
    small = np.random.default_rng(seed).integers(40, 200, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC)
    image = image.point(lambda value: value + brighter)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def write_set(path, *, broken=False):
    """Test image 0 is train image 0, byte for byte; test image 1 is train image 1, brighter and encoded anew."""
    cells = [photo(number) for number in range(24)]
    cells[16], cells[17] = cells[0], photo(1, quality=60, brighter=20)
    if broken:
        cells[3] = b"torn"
    splits = ["train"] * 12 + ["val"] * 4 + ["test"] * 8
    labels = ["car", "van"] * 12
    labels[17] = "car"
    pq.write_table(pa.table({"jpeg": cells, "label": labels, "split": splits}), path)
    return Parquet(source="parquet", path=str(path))


def test_copies_and_near_copies_are_found_with_places_and_classes(tmp_path):
    audit = find_duplicates(write_set(tmp_path / "set.parquet"), cache_dir=tmp_path / "cache")
    same, near = audit.pairs
    assert (same.distance, same.same_bytes, same.same_class) == (0, True, True)
    assert (same.first.split, same.first.place) == ("train", "set.parquet row 0")
    assert (same.second.split, same.second.place) == ("test", "set.parquet row 16")
    assert 0 <= near.distance <= DEFAULT_DISTANCE
    assert (near.same_bytes, near.same_class) == (False, False)
    assert (near.first.place, near.second.place) == ("set.parquet row 1", "set.parquet row 17")
    assert (near.first.class_name, near.second.class_name) == ("van", "car")


def test_counts_are_of_all_pairs_across_splits(tmp_path):
    audit = find_duplicates(write_set(tmp_path / "set.parquet"), cache_dir=tmp_path / "cache")
    assert audit.counts.sum() == 12 * 4 + 12 * 8 + 4 * 8
    assert audit.nearest["validation"].sum() == 4
    assert audit.nearest["test"].sum() == 8
    assert audit.nearest["test"][: DEFAULT_DISTANCE + 1].sum() == 2
    parts = list(audit.splits.by_name().values())
    hashes = [[imagehash.phash(Image.fromarray(np.asarray(i)), hash_size=16) for i in part.images] for part in parts]
    counts, same = np.zeros(BITS + 1, int), np.zeros(BITS + 1, int)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        for i, j in product(range(len(parts[first])), range(len(parts[second]))):
            distance = hashes[first][i] - hashes[second][j]
            counts[distance] += 1
            same[distance] += parts[first].labels[i] == parts[second].labels[j]
    np.testing.assert_array_equal(audit.counts, counts)
    np.testing.assert_array_equal(audit.same_class, same)


def test_blocks_and_a_full_list_change_no_count_and_keep_the_nearest(tmp_path, monkeypatch):
    data = write_set(tmp_path / "set.parquet")
    whole = find_duplicates(data, cache_dir=tmp_path / "cache", distance=BITS)
    monkeypatch.setattr(duplicates, "BLOCK", 3)
    blocks = find_duplicates(data, cache_dir=tmp_path / "cache", distance=BITS)
    assert set(blocks.pairs) == set(whole.pairs)
    monkeypatch.setattr(duplicates, "MAX_PAIRS", 7)
    short = find_duplicates(data, cache_dir=tmp_path / "cache", distance=BITS)
    np.testing.assert_array_equal(short.counts, whole.counts)
    assert len(whole.pairs) == 176
    assert [pair.distance for pair in short.pairs] == [pair.distance for pair in whole.pairs[:7]]


def test_a_wide_distance_holds_no_more_than_the_nearest_of_a_block(monkeypatch):
    monkeypatch.setattr(duplicates, "MAX_PAIRS", 50)
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 2**63, (200, 4), dtype=np.uint64) for _ in range(2))
    labels, found, taken = np.zeros(200, dtype=np.int64), duplicates._Found(BITS), []
    keep = found._keep
    monkeypatch.setattr(found, "_keep", lambda rows: (taken.append(len(rows)), keep(rows)))
    found.compare(("train", "test"), (first, second), (labels, labels))
    assert 50 <= sum(taken) < 500  # of 40,000; those of the last distance are all taken
    assert found.nearest()[:, 0].tolist() == sorted(hamming(first, second).ravel().tolist())[:50]
    assert found.counts.sum() == 40_000


def test_hamming_counts_bits():
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 2**63, (count, 4), dtype=np.uint64) for count in (5, 7))
    expected = [[sum((int(a) ^ int(b)).bit_count() for a, b in zip(x, y, strict=True)) for y in second] for x in first]
    assert hamming(first, second).tolist() == expected
    ends = np.array([[0] * 4, [2**64 - 1] * 4], dtype=np.uint64)
    assert hamming(ends, ends).tolist() == [[0, 256], [256, 0]]
    assert perceptual_hashes(np.zeros((0, 8, 8, 3), np.uint8)).shape == (0, 4)


def test_unreadable_images_move_no_place(tmp_path):
    audit = find_duplicates(write_set(tmp_path / "set.parquet", broken=True), cache_dir=tmp_path / "cache")
    assert [pair.first.place for pair in audit.pairs] == ["set.parquet row 0", "set.parquet row 1"]
    assert [pair.second.place for pair in audit.pairs] == ["set.parquet row 16", "set.parquet row 17"]
    assert "1 images that cannot be read" in audit_text(audit)


def test_text_json_and_sheet(tmp_path):
    audit = find_duplicates(write_set(tmp_path / "set.parquet"), cache_dir=tmp_path / "cache")
    text = audit_text(audit)
    assert "train 12, validation 4, test 8, compared at 64 x 64" in text
    assert "2 of 8 test images (25.0%) have such a neighbour in train or validation" in text
    assert "0 of 4 validation images (0.0%) have such a neighbour in train" in text
    assert "  0  same bytes  train set.parquet row 0  =  test set.parquet row 16  [car]" in text
    assert "[van | car]" in text
    tree = json.loads(json.dumps(audit_json(audit)))
    assert [pair["same_bytes"] for pair in tree["pairs"]] == [True, False]
    assert tree["all_pairs_listed"]
    assert sum(row["pairs"] for row in tree["by_distance"]) == 176
    sheet = pair_sheet(audit)
    left = np.asarray(sheet)[:128, :128].astype(int)
    right = np.asarray(sheet)[:128, 128:256].astype(int)
    np.testing.assert_array_equal(left, right)
    assert left.std() > 10


def test_none_found_and_a_distance_out_of_range(tmp_path):
    data = write_set(tmp_path / "set.parquet").model_copy(update={"max_classes": 2})
    cells = [photo(number) for number in range(12)]
    pq.write_table(pa.table({"jpeg": cells, "label": [1, 2] * 6}), tmp_path / "other.parquet")
    other = data.model_copy(update={"path": str(tmp_path / "other.parquet")})
    audit = find_duplicates(other, cache_dir=tmp_path / "cache")
    assert audit.pairs == ()
    assert "no such pair" in audit_text(audit)
    assert pair_sheet(audit).width > 0
    with pytest.raises(ValueError, match="--distance must be from 0 to 256 bits, but got 257"):
        find_duplicates(data, cache_dir=tmp_path / "cache", distance=257)
