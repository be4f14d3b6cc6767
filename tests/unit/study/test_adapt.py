"""Batch norms adapted to the test: by whose statistics, and that everything else stays as it was."""

import copy
from pathlib import Path

import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from analysis.metrics import main_rows
from noise.low_resolution import Lens
from study.adapt import ADAPTED, adapted_cells
from study.build import build_method
from study.data.prepare import prepare_data
from study.evaluate import Cell, Evaluation, evaluate, grid, noisy
from study.loop import device_images
from study.ranks import Ranks
from study.trial import run_trial
from tests.unit.study.trials import ledger_of, tiny_config, tiny_spec

RANKS = Ranks(device="cpu")


def test_a_cells_rows_are_under_statistics_of_its_own_images(tmp_path: Path) -> None:
    images = prepare_data(tiny_config().data, cache_dir=tmp_path).test
    method = build_method(tiny_config(), num_classes=3)
    method.network.eval()
    cells = [*grid(["contrast"], [5]), Cell("clean", 0, 16)]
    before = copy.deepcopy(method.network.state_dict())
    common = {"seed": 0, "scale": "nearest", "lens": Lens(), "ranks": RANKS}

    def measure(cell: Cell) -> Evaluation:
        return evaluate(method.predict, images, [cell], split="test", **common)

    rows = adapted_cells(method.network, method.predict, images, cells, measure, **common)
    assert [(row["corruption"], row["bn"]) for row in rows] == [(cell.name, ADAPTED) for cell in cells]
    assert all(torch.equal(value, before[name]) for name, value in method.network.state_dict().items())
    for cell, row in zip(cells, rows, strict=True):
        twin = copy.deepcopy(method.network)
        for layer in twin.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.reset_running_stats()
                layer.momentum = None
        raw = torch.from_numpy(images.images.copy()).permute(0, 3, 1, 2)
        seen_BCHW = noisy(device_images(raw, torch.device("cpu")), cell, ids_B=torch.from_numpy(images.ids.copy()),
                          seed=0, scale="nearest")  # fmt: skip
        with torch.no_grad():
            twin.train()(seen_BCHW * 2 - 1)
            predicted_B = twin.eval()(seen_BCHW * 2 - 1).argmax(1)
        assert row["correct"] == int((predicted_B.numpy() == images.labels).sum())


@pytest.mark.slow
def test_a_trial_keeps_them_beside_its_own_rows(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path / "with", tiny_config(train={"adapt_bn": True}), role="train")
    plain = tiny_spec(tmp_path / "without", role="train")
    run_trial(spec)
    run_trial(plain)
    tables = [pd.read_parquet(f"{one.storage}/{one.study}/trials/{one.key}/cells.parquet") for one in (spec, plain)]
    adapted = tables[0][tables[0].bn == ADAPTED]
    assert sorted(zip(adapted.corruption, adapted.severity, strict=True)) == [
        ("clean", 0), ("contrast", 2), ("contrast", 4)
    ]  # fmt: skip
    assert set(adapted.split) == {"test"}
    rest = tables[0][tables[0].bn != ADAPTED].reset_index(drop=True)
    pd.testing.assert_frame_equal(rest, tables[1])
    kept = main_rows(tables[0].assign(trial=""), split="test")
    assert ADAPTED not in set(kept.bn)
    models = [ledger_of(one).read_bytes(one.key, "model.safetensors") for one in (spec, plain)]
    assert models[0] == models[1]


@pytest.mark.slow
def test_a_network_without_batch_norms_has_none(tmp_path: Path) -> None:
    config = tiny_config(model={"backbone": "test_convnext"}, train={"adapt_bn": True, "epochs": 1})
    spec = tiny_spec(tmp_path, config, role="train")
    run_trial(spec)
    cells = pd.read_parquet(f"{spec.storage}/{spec.study}/trials/{spec.key}/cells.parquet")
    assert ADAPTED not in set(cells.bn)


def test_frozen_statistics_are_not_adapted() -> None:
    with pytest.raises(ValidationError, match=r"train\.adapt_bn must be left out with model\.batch_norm: frozen"):
        tiny_config(train={"adapt_bn": True}, model={"batch_norm": "frozen", "pretrained": "x.safetensors"})
