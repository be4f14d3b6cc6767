"""Each head of a PMAL network by itself: counted on the same pixels as the network, on any number of workers."""

import io
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import analysis.heads
from models.methods.method import SUM, Headed
from noise.corruption import corrupt
from study.build import build_method
from study.data.image_set import ImageSet
from study.evaluate import Evaluation, evaluate, grid
from study.ranks import Ranks
from study.trial import run_trial
from tests.unit.study.trials import PMAL, ledger_of, tiny_config, tiny_spec
from tests.unit.study.workers import run_workers

CELLS = grid(["gaussian_noise", "motion_blur"], [2, 5])


def _images(count: int) -> ImageSet:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 12, 10, 3), dtype=np.uint8)
    return ImageSet(pixels, rng.integers(0, 3, count), rng.permutation(1000)[:count], ("a", "b", "c"))


def _heads(images_BCHW: Tensor) -> dict[str, Tensor]:
    """Logits that follow each image's own pixels closely, differently for each head."""
    sums_B = images_BCHW.sum((1, 2, 3))
    parts = {
        name: torch.stack([(sums_B * weight * w).sin() for w in (1.0, 7.0, 31.0)], dim=1)
        for name, weight in (("stage1", 1.0), ("stage2", 3.0), ("backbone", 5.0))
    }
    return parts | {SUM: torch.stack(list(parts.values())).sum(0)}


def _refused(images_BCHW: Tensor) -> Tensor:
    raise AssertionError("the heads give the prediction, so that the network runs once")


def _run(ranks: Ranks, images: ImageSet, batch_size: int) -> Evaluation:
    return evaluate(_refused, images, CELLS, split="test", seed=3, ranks=ranks, batch_size=batch_size,
                    keep_predictions=True, heads=_heads)  # fmt: skip


def _right(found: Evaluation, head: str) -> list[int]:
    return [row["correct"] for row in found.heads if row["head"] == head]


def test_each_head_counts_as_if_it_were_alone() -> None:
    images = _images(20)
    found = _run(Ranks(device="cpu"), images, 8)
    assert [row["head"] for row in found.heads[:: len(CELLS)]] == ["stage1", "stage2", "backbone", SUM]
    for head in ("stage1", "stage2", "backbone", SUM):
        alone = evaluate(lambda x, head=head: _heads(x)[head], images, CELLS, split="test", seed=3,
                         ranks=Ranks(device="cpu"), keep_predictions=True)  # fmt: skip
        mine = [row for row in found.heads if row["head"] == head]
        assert mine == [{"head": head} | {name: cell[name] for name in mine[0] if name != "head"}
                        for cell in alone.cells]  # fmt: skip
        kept = found.predictions["correct" if head == SUM else f"correct_{head}"]
        assert np.array_equal(kept, alone.predictions["correct"])
    assert len({tuple(_right(found, head)) for head in ("stage1", "stage2", "backbone", SUM)}) == 4
    assert [row["correct"] for row in found.cells] == _right(found, SUM)


@pytest.mark.parametrize(("count", "world"), [(11, 3), (2, 3)], ids=["uneven", "a worker without images"])
def test_workers_do_not_matter(count: int, world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = _images(count)
    whole = _run(Ranks(device="cpu"), images, 256)
    for other in run_workers(world, lambda ranks: _run(ranks, images, 2), monkeypatch):
        assert other.heads == whole.heads
        for name, values in whole.predictions.items():
            if name != "confidence":
                assert np.array_equal(other.predictions[name], values), name


def _frame(spec: Any, name: str) -> pd.DataFrame | None:
    content = ledger_of(spec).read_bytes(spec.key, name)
    return None if content is None else pd.read_parquet(io.BytesIO(content))


@pytest.mark.slow
def test_a_tested_pmal_trial_leaves_its_heads(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy: list[str] = []

    def counting(images_BCHW: Tensor, name: str, *args: Any, **named: Any) -> Tensor:
        noisy.append(name)
        return corrupt(images_BCHW, name, *args, **named)

    monkeypatch.setattr("study.evaluate.corrupt", counting)
    config = tiny_config(method=PMAL, train={"epochs": 1})
    spec = tiny_spec(tmp_path, config, role="train")
    run_trial(spec)
    # 12 images are one batch: each of two severities once for all heads, and once for the example pictures.
    assert noisy.count("contrast") == 2 + 1
    heads, cells, rows = (_frame(spec, f"{name}.parquet") for name in ("heads", "cells", "predictions"))
    assert heads is not None
    assert cells is not None
    assert rows is not None
    assert list(dict.fromkeys(heads["head"])) == ["stage1", "stage2", "backbone", SUM]
    columns = ["split", "corruption", "group", "family", "severity", "n", "correct", "accuracy", "bn"]
    summed = heads[heads["head"] == SUM].reset_index(drop=True)
    pd.testing.assert_frame_equal(summed[columns], cells[columns])
    assert set(cells["split"]) == {"validation", "test"}
    for head in ("stage1", "stage2", "backbone"):
        own = heads[(heads["head"] == head) & (heads["split"] == "test")]
        counted = rows.groupby(["corruption", "severity"])[f"correct_{head}"].sum()
        assert [counted[c, s] for c, s in zip(own["corruption"], own["severity"], strict=True)] == list(own["correct"])
    method = build_method(config, num_classes=3)
    assert isinstance(method, Headed)
    costs = heads.groupby("head")[["parameters", "macs"]].agg(["min", "max"])
    for head, cost in method.head_costs().items():
        assert costs.loc[head].tolist() == [cost.parameters, cost.parameters, cost.macs, cost.macs]


@pytest.mark.slow
def test_a_search_and_a_method_of_one_head_leave_none(tmp_path) -> None:
    search = tiny_spec(tmp_path, tiny_config(method=PMAL, train={"epochs": 1}))
    plain = tiny_spec(tmp_path, tiny_config(train={"epochs": 1}), role="train", study="plain")
    for spec in (search, plain):
        run_trial(spec)
        assert _frame(spec, "heads.parquet") is None
    rows = _frame(plain, "predictions.parquet")
    assert rows is not None
    assert not [name for name in rows if name.startswith("correct_")]


def test_reader_and_writer_call_the_sum_by_one_name() -> None:
    assert analysis.heads.SUM == SUM
