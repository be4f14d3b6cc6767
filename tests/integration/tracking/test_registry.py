"""The champion in a real SQLite registry: registered once, found by its alias, loaded by MLflow and as plain torch."""

import io

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.tracking import MlflowClient
from PIL import Image

from study.ledger import Ledger
from study.registry import ALIAS, load_registered
from study.tracking import sync
from tests.integration.projected import (
    CLASSES,
    add_epoch,
    add_trial,
    config,
    files_of,
    finish,
    runs_of,
    set_phase,
    use_real_weights,
)

pytestmark = pytest.mark.integration


def add_finished(ledger: Ledger, key: str, phase: str, accuracy: float, *, number: int, role: str = "search") -> None:
    add_trial(ledger, key, phase, config("plain", seed=number), role=role, number=number)
    add_epoch(ledger, key, 1)
    finish(ledger, key, accuracy=accuracy)
    use_real_weights(ledger, key, seed=number)


@pytest.fixture
def study(ledger) -> Ledger:
    """A finished search of two; its second is the better."""
    set_phase(ledger, "search", "search", "running")
    add_finished(ledger, "t0", "search", 0.5, number=0)
    add_finished(ledger, "t1", "search", 0.7, number=1)
    set_phase(ledger, "search", "search", "finished")
    return ledger


def versions(client: MlflowClient, name: str) -> dict[str, str]:
    """Version -> its trial."""
    return {str(item.version): item.tags["murk.trial"] for item in client.search_model_versions(f"name='{name}'")}


def png(pixels_HWC: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels_HWC).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_best_by_validation_is_registered_once_and_a_later_choice_moves_the_alias(study, uri, client):
    name = study.study
    assert sync(study, uri).problems == {}
    assert versions(client, name) == {"1": "t1"}
    best = client.get_model_version_by_alias(name, ALIAS)
    assert (str(best.version), best.run_id) == ("1", runs_of(client, name)["t1"].info.run_id)
    assert best.tags["murk.reason"] == "best of phase search by acc/noise"
    assert str(sync(study, uri)).startswith(f"{name} is up to date")
    study.files.remove("mlflow.json")
    sync(study, uri)
    assert versions(client, name) == {"1": "t1"}, "a lost state registers nothing twice"

    set_phase(study, "confirm", "confirm", "running")
    add_finished(study, "c0", "confirm", 0.6, number=0, role="confirm")
    add_finished(study, "c1", "confirm", 0.9, number=1, role="confirm")
    sync(study, uri)
    assert versions(client, name) == {"1": "t1"}, "a study under way has no champion"
    set_phase(study, "confirm", "confirm", "finished")
    sync(study, uri)
    assert versions(client, name) == {"1": "t1", "2": "c0"}, "what was chosen first, not what did best afterwards"
    assert client.get_model_version_by_alias(name, ALIAS).tags["murk.trial"] == "c0"

    files = files_of(client, runs_of(client, name)["c0"], "registered_model")
    assert {"registered_model/MLmodel", "registered_model/artifacts/model/model.safetensors"} <= set(files)
    assert not [file for file in files if file.endswith((".pkl", ".pt", ".pth"))], "nothing is pickled"


def test_loads_by_mlflow_and_as_plain_torch_and_predicts_from_image_bytes(study, uri):
    sync(study, uri)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        loaded = mlflow.pyfunc.load_model(f"models:/{study.study}@{ALIAS}")
    finally:
        mlflow.set_tracking_uri(before)
    assert len(loaded.input_example) > 1
    assert list(loaded.predict(loaded.input_example)["predicted"].isin(CLASSES)) == [True, True]

    rng = np.random.default_rng(0)
    exact = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    large = np.repeat(np.repeat(exact[:1], 3, axis=1), 3, axis=2)[0]
    grey = Image.fromarray(exact[1, :, :20, 0])
    jpeg = io.BytesIO()
    grey.save(jpeg, "JPEG")
    frame = pd.DataFrame({"image": [*(png(image) for image in exact), png(large), jpeg.getvalue()], "note": "x"})
    found = loaded.predict(frame)
    assert len(found) == 5

    trained = load_registered(study.study, tracking_uri=uri)
    assert isinstance(trained.method.network, torch.nn.Module)
    assert trained.class_names == CLASSES
    images_BCHW = torch.from_numpy(exact).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        expected_BN = trained.method.predict(images_BCHW).softmax(1)
    np.testing.assert_allclose(np.stack(found["probabilities"][:3]), expected_BN.numpy(), atol=1e-6)
    assert list(found["class"][:3]) == expected_BN.argmax(1).tolist()
    assert found["confidence"].between(1 / 3, 1).all()

    frame.loc[3, "image"] = png(large)[:60]
    with pytest.raises(ValueError, match=r"row 3 \(from 0\)"):
        loaded.predict(frame)


def test_a_damaged_network_is_told_and_registers_nothing(study, uri, client):
    study.write_bytes("t1", "model.safetensors", b"no weights")
    report = sync(study, uri)
    assert list(report.problems) == ["t1"]
    assert "cannot be registered" in report.problems["t1"]
    assert versions(client, study.study) == {}
    assert runs_of(client, study.study)["t1"].info.status == "FINISHED"


def test_a_crash_between_version_and_alias_is_made_good(study, uri, client, monkeypatch):
    def dies(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", dies)
    with pytest.raises(KeyboardInterrupt):
        sync(study, uri)
    monkeypatch.undo()
    sync(study, uri)
    assert versions(client, study.study) == {"1": "t1"}
    assert str(client.get_model_version_by_alias(study.study, ALIAS).version) == "1"
