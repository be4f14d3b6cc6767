"""A pickle that would touch a file, planted in every place that is read: it is refused by name and nothing runs."""

import hashlib
import io
import json
import logging
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import TypeAdapter

from analysis.load import Place, Snapshot, iter_predictions, read_examples, read_study
from models.backbones import load_weights
from study import checkpoint
from study.config_data import DataConfig
from study.data.cache import load_cache
from study.data.matfile import read_variable
from study.data.prepare import prepare_data
from study.ledger import Ledger
from study.studyfile import load_study
from study.trained import read_model


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "IT-RAN"


def as_array(payload: Payload) -> bytes:
    """An .npy file of objects."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([payload], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def as_npz(payload: Payload, *names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(f"{name}.npy", as_array(payload))
    return buffer.getvalue()


def as_torch(payload: Payload) -> bytes:
    buffer = io.BytesIO()
    torch.save({"network": payload}, buffer)
    return buffer.getvalue()


def test_the_payload_works(mark: Path) -> None:
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.is_dir()


def _checkpoint(folder: Path, payload: Payload) -> None:
    ledger = Ledger(str(folder), "a")
    for name, data in (
        ("checkpoint.pt", as_torch(payload)),
        ("checkpoint-before.pt", pickle.dumps(payload, protocol=2)),
    ):
        ledger.write_bytes("k", name, hashlib.sha256(data).digest() + data)
    network = torch.nn.Linear(1, 1)
    found = checkpoint.restore(ledger, "k", network=network, optimizer=torch.optim.SGD(network.parameters(), lr=0.1))
    assert found is None
    raise ValueError("checkpoint.pt")  # it starts anew, with warnings that name the file


def _model(folder: Path, payload: Payload) -> None:
    (folder / "model.safetensors").write_bytes(as_torch(payload))
    (folder / "model.json").write_text(json.dumps({"backbone": "test_resnet"}))
    read_model(str(folder))


def _model_facts(folder: Path, payload: Payload) -> None:
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "model.json").write_bytes(pickle.dumps(payload))
    read_model(str(folder))


def _pretrained(folder: Path, payload: Payload) -> None:
    (folder / "weights.safetensors").write_bytes(pickle.dumps(payload))
    load_weights(SimpleNamespace(), str(folder / "weights.safetensors"))


def _pth(folder: Path, payload: Payload) -> None:
    (folder / "weights.pth").write_bytes(as_torch(payload))
    load_weights(SimpleNamespace(), str(folder / "weights.pth"))


def _cache(folder: Path, payload: Payload) -> None:
    (folder / "meta.json").write_text(json.dumps({"class_names": ["a"], "skipped": []}))
    for name in ("images", "labels", "ids", "content", "split", "source_sizes"):
        (folder / f"{name}.npy").write_bytes(as_array(payload))
    load_cache(folder)


def _prepared(folder: Path, **data: object) -> None:
    prepare_data(TypeAdapter(DataConfig).validate_python(data), cache_dir=folder / "cache")


def _npz(folder: Path, payload: Payload) -> None:
    (folder / "x.npz").write_bytes(as_npz(payload, "x_train", "y_train", "x_test", "y_test"))
    _prepared(folder, source="cifar", path=str(folder / "x.npz"))


def _cifar(folder: Path, payload: Payload) -> None:
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps(payload))
    _prepared(folder, source="cifar", path=str(folder))


def _parquet(folder: Path, payload: Payload) -> None:
    (folder / "x.parquet").write_bytes(pickle.dumps(payload))
    _prepared(folder, source="parquet", path=str(folder / "x.parquet"))


def _parquet_type(folder: Path, payload: Payload) -> None:
    """An extension type whose description is a pickle, as old versions of Arrow read them."""
    described = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(payload),
    }
    schema = pa.schema([pa.field("image", pa.binary()), pa.field("label", pa.int64(), metadata=described)])
    pq.write_table(pa.table({"image": [b"no image"] * 4, "label": [0, 1, 0, 1]}, schema=schema), folder / "x.parquet")
    _prepared(folder, source="parquet", path=str(folder / "x.parquet"), on_corrupt="refuse")


def _mat(folder: Path, payload: Payload) -> None:
    (folder / "x.mat").write_bytes(pickle.dumps(payload))
    read_variable(folder / "x.mat", "x")


def _examples(folder: Path, payload: Payload) -> None:
    place = Place("k", lambda name: as_npz(payload, "class_names"))
    read_examples(Snapshot("a", {}, (), places={"k": place}), "k")


def _predictions(folder: Path, payload: Payload) -> None:
    place = Place("k", lambda name: pickle.dumps(payload))
    list(iter_predictions(Snapshot("a", {}, (), places={"k": place}), trials=["k"]))


def _record(folder: Path, payload: Payload) -> None:
    (folder / "study.json").write_bytes(pickle.dumps(payload))
    read_study(str(folder))


def _study_file(folder: Path, payload: Payload) -> None:
    del payload
    (folder / "s.yaml").write_text(f"name: !!python/object/apply:os.mkdir ['{folder / 'IT-RAN'}']\n")
    load_study(folder / "s.yaml")


PLACES: dict[str, tuple[Callable[[Path, Payload], None], str]] = {
    "checkpoint": (_checkpoint, "checkpoint.pt"), "model": (_model, "model in .*is damaged"),
    "model facts": (_model_facts, "model in .*is damaged"), "pretrained": (_pretrained, "weights.safetensors"),
    "pth": (_pth, r"\.safetensors file.*weights\.pth"), "cache": (_cache, "cache of decoded images .*delete that"),
    "npz": (_npz, r"x\.npz"), "cifar": (_cifar, "names (posix|nt).mkdir"), "parquet": (_parquet, r"x\.parquet"),
    "parquet type": (_parquet_type, "row 0|label"), "mat": (_mat, r"x\.mat"),
    "examples": (_examples, r"examples\.npz of k"), "predictions": (_predictions, "predictions.parquet of trial k"),
    "study.json": (_record, r"study\.json"), "study file": (_study_file, "tags are not read"),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_nothing_runs_and_the_place_is_named(
    place: str, tmp_path: Path, mark: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read, said = PLACES[place]
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match=said):
        read(tmp_path, Payload(mark))
    assert not mark.exists()
    if place == "checkpoint":
        assert [name in caplog.text for name in ("checkpoint.pt of", "checkpoint-before.pt of")] == [True, True]
