"""Random and mutated files of every kind that is read: the result, or one clear error of the project's own.

Quick by default; `MURK_FUZZ_EXAMPLES=2000` runs so many of each.
"""

import hashlib
import io
import json
import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from analysis.load import read_study
from analysis.recordfile import RecordError, parse_event, parse_study, parse_trial
from study import checkpoint
from study.data.decode import MAX_PIXELS, CorruptImageError, decode_square
from study.data.parquet import ParquetSource
from study.ledger import Ledger
from study.storage import Storage
from study.studyfile import StudyFileError, load_study
from study.trained import read_model

FUZZ = settings(
    max_examples=int(os.environ.get("MURK_FUZZ_EXAMPLES", "25")), deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)  # fmt: skip


def encoded(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 27, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def _with_exif(kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(kind, exif=exif)


IMAGES = [
    encoded("PNG"), encoded("PNG", "P"), encoded("PNG", "LA"), encoded("JPEG"), encoded("JPEG", progressive=True),
    encoded("GIF"), encoded("WEBP"), encoded("BMP"), encoded("PPM"), encoded("TIFF"),
    encoded("TIFF", compression="tiff_lzw"), _with_exif("JPEG"), _with_exif("PNG"), _with_exif("TIFF"),
]  # fmt: skip

EDITS = st.lists(
    st.tuples(st.integers(0, 2**31), st.one_of(st.sampled_from([0, 1, 127, 128, 255]), st.integers(0, 255))),
    max_size=12,
)


def mutated(data: bytes, edits: list[tuple[int, int]], end: int | None, near: int) -> bytes:
    """Bytes changed at some places (within the first `near` ones), then cut off."""
    changed = bytearray(data)
    for place, value in edits:
        changed[place % min(near, len(changed))] = value
    return bytes(changed) if end is None else bytes(changed[: end % (len(changed) + 1)])


CUTS = st.none() | st.integers(0, 2**20)
NEAR = st.sampled_from([32, 128, 2**30])


@FUZZ
@given(st.sampled_from(IMAGES), EDITS, CUTS, NEAR)
def test_mutated_images_are_decoded_or_corrupt(data: bytes, edits: list, cut: int | None, near: int) -> None:
    with warnings.catch_warnings(), suppress(CorruptImageError):
        warnings.simplefilter("ignore")
        pixels, _ = decode_square(mutated(data, edits, cut, near), image_size=8)
        assert pixels.shape == (8, 8, 3)


@FUZZ
@given(st.binary(max_size=80))
@example(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EOF\n")  # Pillow would start Ghostscript
@example(b"BLP1\x80\x00\x00\x00")
def test_random_bytes_are_no_image(data: bytes) -> None:
    with pytest.raises(CorruptImageError):
        decode_square(data, image_size=8)


def test_an_image_that_claims_a_great_size_is_refused_before_it_is_decoded() -> None:
    header = bytearray(encoded("BMP"))
    header[18:26] = (30_000).to_bytes(4, "little") + (30_000).to_bytes(4, "little")
    assert MAX_PIXELS < 30_000**2
    with pytest.raises(CorruptImageError, match=r"30000 x 30000|[Bb]omb"):
        decode_square(bytes(header), image_size=8)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["bytes", "a"]), inner, max_size=2),
    max_leaves=3,
)


@FUZZ
@given(st.lists(VALUES, max_size=4), st.lists(VALUES, max_size=4), st.lists(VALUES, max_size=4), EDITS, CUTS, NEAR)
@example([b"", b""], [{"a": 1}, {"a": 2}], [], [], None, 32)
@example([b"", b""], [[1], [2]], ["test", "test"], [], None, 32)
@example([], [], [], [], None, 32)
def test_random_parquet_rows_are_read_or_refused(
    tmp_path: Path, images: list, labels: list, splits: list, edits: list, cut: int | None, near: int
) -> None:
    count = min(len(images), len(labels))
    columns = {"image": images[:count], "label": labels[:count]}
    columns |= {"split": splits[:count]} if len(splits) >= count else {}
    place = tmp_path / "x.parquet"
    try:
        pq.write_table(pa.table(columns), place)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return  # no such file can be written
    if edits or cut is not None:
        place.write_bytes(mutated(place.read_bytes(), edits, cut, near))
    with suppress(ValueError):
        source = ParquetSource(str(place))
        rows = np.arange(len(source.listing().labels))
        for raw in source.read(rows, image_size=8):
            assert isinstance(raw.content, bytes)


# ---------------------------------------------------------------------------------------------------------- the ledger
TRIAL = {"key": "0" * 16, "study": "a", "phase": "search", "role": "search", "number": 1, "seed": 0,
         "config": {"method": {"name": "plain"}, "optim": {"sam": {"rho": 0.1}}, "train": {"seed": 0}},
         "fingerprint": "x", "params": {"optim.lr": 0.1}, "real": {}, "teacher": {}, "pairs": ""}  # fmt: skip
STUDY = {"study": "a", "config": {"name": "a", "method": {"name": "plain"}}, "fingerprint": "x",
         "skipped": [["a", "b"]],
         "groups": {"fog": "weather"}, "phases": [{"name": "search", "kind": "search", "trials": [], "selected": []}],
         "test_reads": [{"phase": "p", "trials": [], "generation": 0, "again": False, "time": ""}]}  # fmt: skip
EVENT = {"event": "epoch", "time": 1.5, "epoch": 1, "metrics": {"acc/clean": 0.5, "loss": None}}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


def changed_tree(tree: Any, choices: list[int], value: Any) -> Any:
    """A copy with one place in it, found by the choices, set to a value."""
    if not choices or not isinstance(tree, (dict, list)) or not tree:
        return value
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key = keys[choices[0] % len(keys)]
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[key] = changed_tree(tree[key], choices[1:], value)
    return copy


PATHS = st.lists(st.integers(0, 20), max_size=4)


@FUZZ
@given(PATHS, JSON, EDITS, CUTS, NEAR)
@example([4], float("nan"), [], None, 32)
@example([2], "../../x", [], None, 32)
def test_changed_trials_are_read_or_named(path: list, value: Any, edits: list, cut: int | None, near: int) -> None:
    content = mutated(json.dumps(changed_tree(TRIAL, path, value)).encode(), edits, cut, near)
    with suppress(RecordError):
        found = parse_trial(content, "trial.json")
        assert "/" not in found["phase"] + found["key"]


@FUZZ
@given(PATHS, JSON, EDITS, CUTS, NEAR)
def test_changed_studies_are_read_or_named(path: list, value: Any, edits: list, cut: int | None, near: int) -> None:
    content = mutated(json.dumps(changed_tree(STUDY, path, value)).encode(), edits, cut, near)
    with suppress(RecordError):
        assert isinstance(parse_study(content, "study.json").get("config", {}), dict)


@pytest.mark.slow
@FUZZ
@given(PATHS, JSON, EDITS, CUTS, NEAR)
@example([0], [], [], None, 32)
@example([1], float("inf"), [], None, 32)
@example([3], [1], [], None, 32)
@example([3, 0], "x", [], None, 32)
def test_changed_events_are_read_or_passed_over(
    tmp_path: Path, path: list, value: Any, edits: list, cut: int | None, near: int
) -> None:
    line = mutated(json.dumps(changed_tree(EVENT, path, value)).encode(), edits, cut, near)
    ledger = Ledger(str(tmp_path), "a")
    ledger.write_bytes("k", "events.jsonl", line + b'\n{"event": "final", "time": 2, "metrics": {"acc/clean": 1}}\n')
    ledger.write_bytes("k", "trial.json", json.dumps({**TRIAL, "key": "k"}).encode())
    assert ledger.status("k") == "finished"
    assert ledger.metrics("k")["acc/clean"] == 1
    read_study(ledger.root).frame()


def test_records_that_nest_without_end_are_refused() -> None:
    deep = b"[" * 100_000
    with pytest.raises(RecordError, match=r"nests too deep|no JSON"):
        parse_study(b'{"a":' + deep, "study.json")
    assert parse_event(b'{"event": "x", "time": 1, "a":' + deep) is None
    with pytest.raises(RecordError, match=r"deeper than 32 levels"):
        parse_study(b'{"a":' + b"[" * 60 + b"]" * 60 + b"}", "study.json")


# ------------------------------------------------------------------------------------------ checkpoints, weights, names
def _saved(ledger: Ledger) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for epoch in (1, 2):
        checkpoint.save(ledger, "k", network=network, optimizer=optimizer, progress=checkpoint.Progress(epoch=epoch))
    return network, optimizer


@FUZZ
@given(EDITS, CUTS, NEAR, st.booleans())
@example([(0, 128)], None, 32, True)  # no archive any more: torch would take it for an old pickle, and warn
@example([(82, 128)], None, 128, True)  # within the archive, which torch reads without its check sums
def test_a_mutated_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, edits: list, cut: int | None, near: int, sealed: bool
) -> None:
    """Also where the checksum was made to fit (`sealed`)."""
    ledger = Ledger(str(tmp_path), "a")
    network, optimizer = _saved(ledger)
    data = ledger.read_bytes("k", "checkpoint.pt") or b""
    body = mutated(data[32:], edits, cut, near)
    ledger.write_bytes("k", "checkpoint.pt", (hashlib.sha256(body).digest() if sealed else data[:32]) + body)
    if body == data[32:]:
        return
    try:
        found = checkpoint.restore(ledger, "k", network=network, optimizer=optimizer)
    except (RuntimeError, ValueError):  # whole, but of another network: said by torch, and the trial's recorded error
        assert sealed
        return
    assert found is not None
    assert sealed or found.epoch == 1


@FUZZ
@given(EDITS, CUTS, NEAR, st.dictionaries(st.text(max_size=5), JSON, max_size=3))
def test_mutated_weights_and_facts_are_refused(
    tmp_path: Path, edits: list, cut: int | None, near: int, facts: dict
) -> None:
    from safetensors.torch import save

    (tmp_path / "model.safetensors").write_bytes(mutated(save({"w": torch.zeros(3)}), edits, cut, near))
    (tmp_path / "model.json").write_text(json.dumps({"method": "plain", "class_names": ["a", "b"], **facts}))
    with pytest.raises(ValueError, match="damaged or of another version"):
        read_model(str(tmp_path))


@FUZZ
@given(
    st.text(max_size=30) | st.lists(st.sampled_from(["..", ".", "a", "/", "~", "\0", "\\"]), max_size=6).map("/".join)
)
@example("..")
@example("../x")
@example("CON")
@example("a.")
@example("a\n")
def test_no_name_leaves_the_results_folder(tmp_path: Path, name: str) -> None:
    root = tmp_path / "results"
    with suppress(ValueError):
        assert Path(Ledger(str(root), name).root).parent == root
    with suppress(ValueError):
        place = Path(os.path.normpath(Storage(str(root)).path("trials", name, "trial.json")))
        assert place.is_relative_to(root / "trials")


PRESET = (Path(__file__).parents[3] / "study" / "presets" / "quickstart.yaml").read_bytes()


@FUZZ
@given(EDITS, CUTS)
def test_a_mutated_study_file_is_read_or_refused(tmp_path: Path, edits: list, cut: int | None) -> None:
    place = tmp_path / "study.yaml"
    place.write_bytes(mutated(PRESET, edits, cut, 2**30))
    with suppress(StudyFileError):
        load_study(place)
