"""A trial is one plain function: it records itself, and interrupted-and-resumed equals uninterrupted to the bit."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load as load_safetensors

from analysis.load import load
from analysis.report import write_report
from noise.training import NoisyPair, TrainingNoise
from study import checkpoint
from study.build import build_method
from study.data.prepare import prepare_data
from study.data.real import prepare_all_real
from study.ledger import TrialSpec, trial_key
from study.loop import Diverged, Stopped
from study.ranks import Ranks
from study.trial import prepare_run, run_trial
from study.trialrun import NoReporter
from tests.unit.study.trials import PMAL, ledger_of, tiny_config, tiny_spec


class Recorder:
    """Keeps what a trial reports."""

    def __init__(self) -> None:
        self.reports: list[tuple[int, bool, dict[str, float]]] = []

    def report(self, metrics: dict[str, float], *, epoch: int, final: bool) -> None:
        self.reports.append((epoch, final, metrics))


class StopAfter:
    """Asks to stop at the n-th batch."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


def _state(spec: Any) -> tuple[dict, dict, dict]:
    ledger = ledger_of(spec)
    run = prepare_run(spec, ledger, reporter=NoReporter(), ranks=Ranks())
    progress = checkpoint.restore(ledger, spec.key, network=run.method.network, optimizer=run.optimizer)
    assert progress is not None
    return run.method.network.state_dict(), run.optimizer.state_dict(), vars(progress)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    return one == other


def test_a_search_trial_writes_validation_rows_only_and_says_final_once(tmp_path: Path) -> None:
    spec, recorder = tiny_spec(tmp_path), Recorder()
    metrics = run_trial(spec, recorder)
    ledger = ledger_of(spec)
    assert [(epoch, final) for epoch, final, _ in recorder.reports] == [(1, False), (2, False), (2, True)]
    assert [event["event"] for event in ledger.events(spec.key)] == ["start", "epoch", "epoch", "final"]
    assert ledger.status(spec.key) == "finished"
    cells = pd.read_parquet(io.BytesIO(ledger.read_bytes(spec.key, "cells.parquet") or b""))
    assert set(cells["split"]) == {"validation"}
    assert list(zip(cells["corruption"], cells["severity"], strict=True)) == [("clean", 0), ("gaussian_noise", 3)]
    assert ledger.read_bytes(spec.key, "predictions.parquet") is None
    assert metrics["acc/clean"] == cells["accuracy"][0]
    assert not any(name.startswith("test/") for name in metrics)


@pytest.mark.slow
def test_a_train_trial_reads_the_test_split_and_keeps_a_row_for_each_image_and_cell(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path, tiny_config(method=PMAL), role="train")
    run_trial(spec)
    ledger = ledger_of(spec)
    cells = pd.read_parquet(io.BytesIO(ledger.read_bytes(spec.key, "cells.parquet") or b""))
    rows = pd.read_parquet(io.BytesIO(ledger.read_bytes(spec.key, "predictions.parquet") or b""))
    test = cells[cells["split"] == "test"]
    assert len(rows) == 12 * len(test) == 12 * 3
    counted = rows.groupby(["corruption", "severity"])["correct"].sum()
    assert [counted[c, s] for c, s in zip(test["corruption"], test["severity"], strict=True)] == list(test["correct"])
    with np.load(io.BytesIO(ledger.read_bytes(spec.key, "examples.npz") or b"")) as examples:
        assert list(examples["head_names"]) == ["stage1", "stage2", "backbone"]
        assert examples["predicted_heads"].shape == (len(examples["labels"]), 3)
        assert set(np.unique(examples["predicted_heads"])) <= set(range(len(examples["class_names"])))
    weights = load_safetensors(ledger.read_bytes(spec.key, "model.safetensors") or b"")
    assert weights
    assert json.loads(ledger.read_bytes(spec.key, "model.json") or b"")["class_names"]


def _camera(folder: Path, count: int = 5) -> str:
    """Noisy pictures of the tiny trial's classes."""
    for number in range(count):
        path = folder / ("Alda hatchback", "Alda saloon")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return str(folder)


def _with_camera(spec: TrialSpec, config: Any) -> TrialSpec:
    """The spec as a study plans it that has folders of real images."""
    data = prepare_data(config.data, cache_dir=Path(spec.cache_dir))
    size = config.data.image_size
    found = prepare_all_real(config.noise.real, data=data, image_size=size, refuse=True, cache_dir=Path(spec.cache_dir))
    real = {name: images.fingerprint for name, images in found.items()}
    key = trial_key(config, fingerprint=spec.fingerprint, role=spec.role, real=real)
    return TrialSpec(**{**spec.as_dict(), "key": key, "real": real})


@pytest.mark.slow
def test_real_images_are_cells_of_their_own_in_no_mean(tmp_path: Path) -> None:
    config = tiny_config(noise={"real": {"camera": _camera(tmp_path / "shots")}})
    spec = _with_camera(tiny_spec(tmp_path, config, role="train"), config)
    plain = tiny_spec(tmp_path, role="train", study="plain")
    metrics, without = run_trial(spec), run_trial(plain)
    ledger = ledger_of(spec)
    cells = pd.read_parquet(io.BytesIO(ledger.read_bytes(spec.key, "cells.parquet") or b""))
    rows = pd.read_parquet(io.BytesIO(ledger.read_bytes(spec.key, "predictions.parquet") or b""))
    real = cells[cells["group"] == "real"].iloc[0]
    assert real[["split", "corruption", "family", "severity", "n"]].tolist() == ["test", "camera", "real", 0, 5]
    assert np.isnan(real["flips"])
    assert 0 <= real["ece"] <= 1
    mine = rows[rows["corruption"] == "camera"]
    assert len(mine) == 5
    assert mine["correct"].sum() == real["correct"]
    assert len(rows) == 5 + 12 * 3
    assert metrics["test/real/camera"] == real["accuracy"]
    times = {"cost/seconds", "cost/latency_ms"}
    others = {k: v for k, v in metrics.items() if k not in {"test/real/camera", *times}}
    assert others == {name: value for name, value in without.items() if name not in times}
    assert {"test/ece/clean", "test/ece/noise", "test/flips/noise", "ece/noise", "flips/noise"} <= others.keys()
    own = cells[(cells["split"] == "test") & ~cells["corruption"].isin(["clean", "camera"])]
    assert metrics["test/flips/noise"] == pytest.approx(own["flips"].mean())
    assert metrics["test/noise"] == pytest.approx(own["accuracy"].mean())


@pytest.mark.slow
def test_the_report_shows_real_images_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.report.draw", lambda *_: [])
    config = tiny_config(noise={"real": {"camera": _camera(tmp_path / "shots")}})
    spec = _with_camera(tiny_spec(tmp_path, config, role="train"), config)
    metrics = run_trial(spec)
    folder = tmp_path / "results" / "tiny"
    frame = load(folder)
    assert frame[frame["corruption"] == "camera"]["relation"].tolist() == ["unseen"]
    paths = write_report(folder)
    table = pd.read_parquet(folder / "tables" / "real.parquet")
    assert table[["images_of", "accuracy_n", "accuracy"]].iloc[0].tolist() == [
        "camera", 5, pytest.approx(metrics["test/real/camera"]),
    ]  # fmt: skip
    accuracy = pd.read_parquet(folder / "tables" / "accuracy.parquet").iloc[0]
    assert accuracy["noise_mean"] == pytest.approx(metrics["test/noise"])
    assert accuracy["ece_noise"] == pytest.approx(metrics["test/ece/noise"])
    assert accuracy["flips_noise"] == pytest.approx(metrics["test/flips/noise"])
    assert accuracy["n_images"] == 12
    html = paths.html.read_text()
    assert "Real noisy images" in html
    assert "On 5 real noisy images of camera it got" in html
    assert "real images camera (in no mean)" in paths.summary


def test_a_search_trial_reads_no_real_images(tmp_path: Path) -> None:
    folder = Path(_camera(tmp_path / "shots"))
    config = tiny_config(noise={"real": {"camera": str(folder)}})
    spec = tiny_spec(tmp_path, config)
    shutil.rmtree(folder)
    assert not any("real" in name for name in run_trial(spec))


def test_other_real_images_than_planned_are_refused_before_training(tmp_path: Path) -> None:
    config = tiny_config(noise={"real": {"camera": _camera(tmp_path / "shots")}})
    spec = _with_camera(tiny_spec(tmp_path, config, role="train"), config)
    _camera(tmp_path / "shots", count=6)
    with pytest.raises(ValueError, match=r"noise\.real\.camera: the images are not those that the study was planned"):
        run_trial(spec)
    assert [event["event"] for event in ledger_of(spec).events(spec.key)] == []


@pytest.mark.slow
@pytest.mark.usefixtures("kept_checkpoints")
def test_two_runs_are_equal_to_the_bit(tmp_path: Path) -> None:
    config = tiny_config(method=PMAL)
    one, other = tiny_spec(tmp_path, config), tiny_spec(tmp_path, config, study="again")
    first, second = run_trial(one), run_trial(other)
    for name in ("cost/seconds", "cost/latency_ms"):
        first.pop(name), second.pop(name)
    assert first == second
    assert _same(_state(one)[:2], _state(other)[:2])


@pytest.fixture
def kept_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished trial's checkpoints stay, to be compared or gone on from."""
    monkeypatch.setattr(checkpoint, "remove", lambda *_: None)


@pytest.mark.slow
@pytest.mark.usefixtures("kept_checkpoints")
@pytest.mark.parametrize("method", [{"name": "plain"}, PMAL], ids=["plain", "pmal"])
@pytest.mark.parametrize("optim", [{}, {"name": "adamw", "lr": 0.003}], ids=["sgd", "adamw"])
def test_interrupted_and_resumed_equals_uninterrupted_to_the_bit(tmp_path: Path, method: dict, optim: dict) -> None:
    config = tiny_config(method=method, optim=optim, train={"augment": {"crop_padding": 2, "colour": 0.2}})
    whole = tiny_spec(tmp_path, config)
    broken = tiny_spec(tmp_path, config, study="broken")
    expected = run_trial(whole)
    for batches in (2, 1, 2):  # in the first epoch, again at once, and in the second epoch
        with pytest.raises(Stopped):
            run_trial(broken, should_stop=StopAfter(batches))
        assert ledger_of(broken).status(broken.key) == "running"
    found = run_trial(broken)
    for name in ("cost/seconds", "cost/latency_ms"):
        expected.pop(name), found.pop(name)
    assert found == expected
    network, optimizer, progress = _state(whole)
    network_again, optimizer_again, progress_again = _state(broken)
    assert _same(network, network_again)
    assert _same(optimizer, optimizer_again)
    assert progress["passes"] == progress_again["passes"]
    epochs = [event["epoch"] for event in ledger_of(broken).events(broken.key) if event["event"] == "epoch"]
    assert epochs == [1, 2]


@pytest.mark.usefixtures("kept_checkpoints")
def test_an_epoch_saved_but_not_recorded_is_recorded_once_on_resume(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path)
    run_trial(spec)
    ledger = ledger_of(spec)
    lines = (ledger.read_bytes(spec.key, "events.jsonl") or b"").splitlines()
    ledger.write_bytes(spec.key, "events.jsonl", b"\n".join(lines[:2]) + b"\n")  # as if killed after the second save
    run_trial(spec)
    assert [e["epoch"] for e in ledger.events(spec.key) if e["event"] == "epoch"] == [1, 2]
    assert ledger.status(spec.key) == "finished"


def test_a_finished_trial_is_not_run_again(tmp_path: Path) -> None:
    spec, recorder = tiny_spec(tmp_path), Recorder()
    first = run_trial(spec)
    events = ledger_of(spec).events(spec.key)
    assert run_trial(spec, recorder) == first
    assert ledger_of(spec).events(spec.key) == events
    assert [(epoch, final) for epoch, final, _ in recorder.reports] == [(2, True)]


def test_a_finished_trial_keeps_its_model_and_no_checkpoint(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path)
    run_trial(spec)
    kept = {path.name for path in Path(ledger_of(spec).path(spec.key)).iterdir()}
    assert "model.safetensors" in kept
    assert not {name for name in kept if name.startswith((".", "checkpoint"))}


@pytest.mark.slow
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny_config()
    spec, whole = tiny_spec(tmp_path, config), tiny_spec(tmp_path, config, study="whole")
    expected = run_trial(whole)
    with pytest.raises(Stopped):
        run_trial(spec, should_stop=StopAfter(4))  # one epoch of 3 batches, then one batch
    ledger = ledger_of(spec)
    data = bytearray(ledger.read_bytes(spec.key, "checkpoint.pt") or b"")
    data[len(data) // 2] ^= 0x10
    ledger.write_bytes(spec.key, "checkpoint.pt", bytes(data))
    found = run_trial(spec)
    assert "checksum" in caplog.text
    for name in ("cost/seconds", "cost/latency_ms"):
        expected.pop(name), found.pop(name)
    assert found == expected


def test_other_images_than_planned_are_refused(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path)
    changed = {**spec.as_dict(), "fingerprint": "0" * 64}
    with pytest.raises(ValueError, match="not those that the study was planned with"):
        run_trial(type(spec)(**changed))


def test_a_loss_that_is_not_finite_ends_the_trial_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(config: Any, **given: Any) -> Any:
        method = build_method(config, **given)
        with torch.no_grad():
            method.parameter_groups()["heads"][0].fill_(torch.nan)
        return method

    monkeypatch.setattr("study.trial.build_method", broken)
    spec = tiny_spec(tmp_path)
    with pytest.raises(Diverged, match=r"not finite in epoch 1 .*lower optim\.lr"):
        run_trial(spec)
    assert ledger_of(spec).metrics(spec.key) == {}


def test_noise_keys_differ_from_image_to_image_and_from_epoch_to_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    class Recording(TrainingNoise):
        def __call__(
            self, images_BCHW: torch.Tensor, keys_B: torch.Tensor, *, draw: int = 0, level: float = 1.0
        ) -> NoisyPair:
            seen.extend(keys_B.tolist())
            return super().__call__(images_BCHW, keys_B, draw=draw, level=level)

    monkeypatch.setattr("study.build.TrainingNoise", Recording)
    spec = tiny_spec(tmp_path, tiny_config(noise={"train": ["speckle_noise"]}))
    run_trial(spec)
    assert len(seen) == len(set(seen)) == 2 * 21


@pytest.mark.slow
@pytest.mark.usefixtures("kept_checkpoints")
def test_a_curriculum_grows_by_epoch_and_goes_on_where_it_stood(tmp_path: Path) -> None:
    noise = {"train": ["speckle_noise"], "curriculum": {"start": 0.1, "epochs": 2}}
    config = tiny_config(noise=noise, train={"epochs": 3})
    whole, broken = tiny_spec(tmp_path, config), tiny_spec(tmp_path, config, study="broken")
    run_trial(whole)
    for batches in (2, 3):
        with pytest.raises(Stopped):
            run_trial(broken, should_stop=StopAfter(batches))
    run_trial(broken)
    levels = [e["metrics"]["noise/level"] for e in ledger_of(broken).events(broken.key) if e["event"] == "epoch"]
    assert levels == pytest.approx([0.1, 0.55, 1.0])
    assert _same(_state(whole)[:2], _state(broken)[:2])
    flat = tiny_spec(tmp_path, tiny_config(noise={"train": ["speckle_noise"]}, train={"epochs": 3}), study="flat")
    run_trial(flat)
    assert not _same(_state(whole)[0], _state(flat)[0])


def test_checkpoints_that_cannot_be_removed_do_not_fail_a_finished_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError("no right to delete")

    spec = tiny_spec(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("study.storage.Storage.remove", refuse)
        run_trial(spec)
    assert "no right to delete" in caplog.text
    assert ledger_of(spec).status(spec.key) == "finished"
    assert ledger_of(spec).read_bytes(spec.key, "checkpoint.pt") is not None
    run_trial(spec)  # nothing is trained again, and what was left is removed
    assert ledger_of(spec).read_bytes(spec.key, "checkpoint.pt") is None


def test_nothing_global_changes(tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    run_trial(tiny_spec(tmp_path))
    assert torch.equal(before, torch.get_rng_state())
