"""Trials of distillation at low resolution: resumed to the bit, kept small and exported, and what they cost."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from models.backbones import StagedBackbone
from models.methods.distil import Distil
from models.methods.method import Batch
from noise.keyed import image_keys
from noise.low_resolution import enlarge, shrink
from study import checkpoint
from study.build import build_method, loop_settings
from study.config import TrialConfig
from study.estimate import Sizes, measure, trial_seconds
from study.export import export_model
from study.ledger import Role, TrialSpec, trial_key
from study.loop import Stopped, plan_course
from study.ranks import Ranks
from study.teachers import look_at
from study.trained import load_model
from study.trial import prepare_run, run_trial
from study.trialend import clean_batches
from study.trialrun import NoReporter
from tests.unit.study.test_trial import StopAfter, _same, _state
from tests.unit.study.trials import ledger_of, tiny_config, tiny_spec

SIDES = {"train": [32, 16], "kernel": "random", "validation": [16]}
SMALL = {"train": [16], "view": "small", "validation": [8], "test": [8, 16]}
NO_SAM = {"sam": {"rho": 0.0}}
STATEFUL = {"losses": {"crd": 0.8, "vid": 1.0}, "crd_negatives": 32, "crd_dim": 8}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Folders of two trained tiny trials of the student's backbone."""
    found = []
    for seed in (1, 2):
        spec = tiny_spec(
            tmp_path_factory.mktemp("teacher"), tiny_config(train={"epochs": 1, "seed": seed}, optim=NO_SAM)
        )
        run_trial(spec)
        found.append(ledger_of(spec).path(spec.key))
    return found


def taught(method: dict[str, Any], teachers: list[str], **sections: Any) -> TrialConfig:
    """A tiny trial whose method names the first teacher, and the second where it has a direct one."""
    named = {"teacher": teachers[0]} | ({"direct_teacher": teachers[1]} if "direct_weight" in method else {})
    return tiny_config(method=method | named, **{"optim": NO_SAM, **sections})


def spec_of(folder: Path, config: TrialConfig, *, study: str = "tiny", role: Role = "search") -> TrialSpec:
    """A trial as a study plans it, with its teachers."""
    spec = tiny_spec(folder, config, study=study, role=role)
    given: dict[str, str] = {}
    for setting, prefix in (("teacher", ""), ("direct_teacher", "direct_")):
        if place := getattr(config.method, setting, None):
            given |= {f"{prefix}{name}": value for name, value in look_at(place).as_spec().items()}
    digest = "/".join(given[name] for name in ("digest", "direct_digest") if name in given)
    key = trial_key(config, fingerprint=spec.fingerprint, role=role, teacher=digest)
    return dataclasses.replace(spec, key=key, teacher=given)


# ------------------------------------------------------------------------------------------------------------- resuming
@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        {"name": "distil", **STATEFUL},
        {"name": "horkd", "start": "teacher", "direct_weight": 0.5, "kd_weight": 0.9},
    ],
    ids=["crd and vid", "horkd from its teacher"],
)
def test_interrupted_within_an_epoch_and_resumed_equals_uninterrupted_to_the_bit(
    tmp_path: Path, teachers: list[str], method: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "remove", lambda *_: None)
    config = taught(
        method, teachers, resolution=SIDES, noise={"train": ["speckle_noise"]}, optim={"sam": {"rho": 0.05}}
    )
    whole, broken = (spec_of(tmp_path, config, study=name) for name in ("whole", "broken"))
    expected = run_trial(whole)
    for batches in (2, 3):  # within the first epoch, and within the second
        with pytest.raises(Stopped):
            run_trial(broken, should_stop=StopAfter(batches))
    found = run_trial(broken)
    for name in ("cost/seconds", "cost/latency_ms"):
        expected.pop(name), found.pop(name)
    assert found == expected
    assert _same(_state(whole)[:2], _state(broken)[:2])
    kept = set(_state(whole)[0])
    assert any("crd" in name for name in kept) == (method["name"] == "distil")


@pytest.mark.slow
def test_a_student_starts_from_its_teacher_and_leaves_it_as_it_was(tmp_path: Path, teachers: list[str]) -> None:
    spec = spec_of(tmp_path, taught({"name": "horkd", "start": "teacher"}, teachers, resolution=SIDES))
    run = prepare_run(spec, ledger_of(spec), reporter=NoReporter(), ranks=Ranks())
    weights = load_model(teachers[0]).method.deployed.state_dict()
    assert _same(dict(run.method.deployed.state_dict()), dict(weights))
    run_trial(spec)
    assert _same(dict(load_model(teachers[0]).method.deployed.state_dict()), dict(weights))
    assert not _same(dict(load_model(ledger_of(spec).path(spec.key)).method.deployed.state_dict()), dict(weights))


# ----------------------------------------------------------------------------------------------------------- small view
@pytest.fixture(scope="module")
def small(teachers: list[str], tmp_path_factory: pytest.TempPathFactory) -> TrialSpec:
    """A finished student that only ever saw small images while it trained."""
    config = taught({"name": "distil", "losses": {"kd": 0.9}}, teachers, resolution=SMALL, train={"epochs": 1})
    spec = spec_of(tmp_path_factory.mktemp("small"), config, role="train")
    run_trial(spec)
    return spec


@pytest.mark.slow
def test_a_small_student_has_cells_of_its_sides_and_headlines(small: TrialSpec) -> None:
    ledger = ledger_of(small)
    cells = pd.read_parquet(io.BytesIO(ledger.read_bytes(small.key, "cells.parquet") or b""))
    found = {split: cells[cells["split"] == split] for split in ("validation", "test")}
    assert found["validation"]["corruption"].tolist() == ["clean", "gaussian_noise", "8px"]
    assert found["test"]["corruption"].tolist() == ["clean", "contrast", "contrast", "8px", "16px"]
    assert found["test"]["severity"].tolist() == [0, 2, 4, 1, 1]
    rows = pd.read_parquet(io.BytesIO(ledger.read_bytes(small.key, "predictions.parquet") or b""))
    assert len(rows) == 12 * 5
    with np.load(io.BytesIO(ledger.read_bytes(small.key, "examples.npz") or b"")) as examples:
        assert set(examples["corruption"]) == {"contrast", "8px", "16px"}
        assert examples["noisy"].shape == examples["clean"].shape == (4 * 3, 32, 32, 3)


@pytest.mark.slow
def test_an_exported_small_student_takes_images_of_the_side_it_trained_on(small: TrialSpec, tmp_path: Path) -> None:
    place = ledger_of(small).path(small.key)
    described = json.loads((Path(place) / "model.json").read_text())
    assert (described["input_size"], described["image_size"]) == (16, 32)
    trained = load_model(place)
    assert trained.input_size == 16
    said = export_model(place, formats=["safetensors", "torch"], storage=None, out=tmp_path / "out")
    assert "images float32 in [0, 1], (B, 3, 16, 16), any B -> logits (B, 3)" in said
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    images_BCHW = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(program(images_BCHW), trained.method.predict(images_BCHW), rtol=1e-4, atol=1e-4)
    assert load_model(str(tmp_path / "out")).input_size == 16


def test_a_small_student_is_shown_small_images_and_its_teacher_large_ones(
    tmp_path: Path, teachers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    section = {"train": [16], "view": "small", "validation": [8]}
    spec = spec_of(tmp_path, taught({"name": "distil", "losses": {"kd": 0.9}}, teachers, resolution=section))
    run = prepare_run(spec, ledger_of(spec), reporter=NoReporter(), ranks=Ranks())
    assert isinstance(run.method, Distil)
    own, look, seen = run.method.backbone, StagedBackbone.look, set()

    def watching(backbone: StagedBackbone, images_BCHW: torch.Tensor, *rest: Any) -> Any:
        seen.add(("student" if backbone is own else "teacher", images_BCHW.shape[-1]))
        return look(backbone, images_BCHW, *rest)

    monkeypatch.setattr(StagedBackbone, "look", watching)
    images = run.data.train
    raw_BCHW = torch.from_numpy(np.array(images.images[:4])).permute(0, 3, 1, 2).float() / 255
    ids_B, labels_B = (torch.from_numpy(np.array(values[:4])) for values in (images.ids, images.labels))
    batch = Batch(raw_BCHW, labels_B, image_keys(ids_B, seed=0), ids_B=ids_B)
    for objective in run.method.objectives(batch):
        objective.loss(slice(0, len(batch)))
    assert seen == {("student", 16), ("teacher", 32)}


# ----------------------------------------------------------------------------------------------------- batch statistics
@pytest.mark.parametrize("view", ["up", "small"])
def test_batch_statistics_are_those_of_clean_images_of_the_resolution_that_trains(tmp_path: Path, view: str) -> None:
    section = {"train": [16], "kernel": "area", "view": view}
    config = tiny_config(resolution=section, noise={"train": ["speckle_noise"]})
    spec = tiny_spec(tmp_path, config)
    run = prepare_run(spec, ledger_of(spec), reporter=NoReporter(), ranks=Ranks())
    (found_BCHW,) = clean_batches(run)
    images = run.data.train
    clean_BCHW = torch.from_numpy(np.array(images.images)).permute(0, 3, 1, 2).float() / 255
    small_BCHW = shrink(clean_BCHW, 16, keys_B=torch.zeros(len(clean_BCHW), dtype=torch.int64), kernel="area")
    torch.testing.assert_close(found_BCHW, small_BCHW if view == "small" else enlarge(small_BCHW, 32))


# ------------------------------------------------------------------------------------------------------------- the cost
@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "least", "most"), [({"train": [16]}, 1.0, 1.2), (SMALL, 2.0, 4.8)], ids=["up", "small"]
)
def test_the_teachers_pass_is_a_forward_pass_of_the_large_image(
    teachers: list[str], section: dict[str, Any], least: float, most: float
) -> None:
    config = taught({"name": "distil", "losses": {"kd": 0.9}}, teachers, resolution=section)
    teacher: Any = load_model(teachers[0]).method
    passes = build_method(config, num_classes=3, teacher=teacher).passes_per_image()
    forward = passes - 1  # a third of a pass, a little more as no gradient of the images is asked for
    assert least < 3 * forward < most  # four times the pixels of a small image, but for the last maps of 1 x 1
    two = taught({"name": "horkd", "direct_weight": 0.5}, teachers, resolution=section)
    both = build_method(two, num_classes=3, teacher=teacher, direct_teacher=teacher).passes_per_image()
    assert both == pytest.approx(1 + 2 * forward, rel=0.02)  # the orders themselves cost next to nothing


@pytest.mark.slow
def test_a_budget_buys_fewer_epochs_with_a_teacher(tmp_path: Path, teachers: list[str]) -> None:
    whole = tiny_config()
    train = {name: value for name, value in whole.train.model_dump().items() if name != "epochs"}
    train |= {"budget": {"passes_per_image": 4}}
    method = {"name": "distil", "losses": {"kd": 0.9}, "teacher": teachers[0]}
    tree = tiny_config(method=method, optim=NO_SAM, resolution={"train": [16]}).model_dump(mode="json") | {
        "train": train
    }
    config = TrialConfig.model_validate(tree)
    spec = spec_of(tmp_path, config)
    metrics = run_trial(spec)
    run = prepare_run(spec, ledger_of(spec), reporter=NoReporter(), ranks=Ranks())
    each = run.method.passes_per_image()
    course = plan_course(loop_settings(config, torch.device("cpu")), num_images=21, passes_per_image=each)
    assert course.epochs == pytest.approx(4 / each, abs=1 / 3)
    batch = metrics["cost/passes"] / course.steps
    assert 4 * 21 - 2 * batch <= metrics["cost/passes"] <= 4 * 21 + batch


@pytest.mark.slow
def test_the_estimate_times_a_student_with_both_teachers(teachers: list[str]) -> None:
    config = taught({"name": "horkd", "direct_weight": 0.5}, teachers, resolution=SIDES, train={"batch_size": 4})
    teacher: Any = load_model(teachers[0]).method
    cost = measure(config, num_classes=3, teacher=teacher, direct_teacher=teacher)
    assert cost.passes == pytest.approx(
        build_method(config, num_classes=3, teacher=teacher, direct_teacher=teacher).passes_per_image()
    )
    sizes, more = Sizes(num_classes=3, train=21, validation=9, test=12), tiny_config(resolution={"test": [16, 8]})
    for tested, cells in ((True, 2), (False, 0)):
        before, after = (trial_seconds(one, cost, sizes, tested=tested) for one in (tiny_config(), more))
        assert after - before == pytest.approx(12 * cells * cost.evaluate_s)
