"""Memory banks: which rows are drawn, which vectors are taken, and two workers that take the same."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from models.distillation.memory import MemoryBank, OtherClasses, first_of_each, gather_rows

WORLD = 2


def test_a_new_bank_is_uniform_and_of_length_1() -> None:
    torch.manual_seed(3)
    bank = MemoryBank(400, 128)
    assert bank.values_nD.abs().max() <= math.sqrt(3 / 128)
    torch.testing.assert_close(bank.values_nD.square().sum(1).mean(), torch.tensor(1.0), rtol=0.01, atol=0)
    torch.manual_seed(3)
    assert torch.equal(bank.values_nD, MemoryBank(400, 128).values_nD)
    assert set(bank.state_dict()) == {"values_nD"}


@pytest.mark.parametrize(("dim", "tolerance"), [(128, 0.12), (4, 0.3)])
def test_level_is_that_of_a_first_batch(dim: int, tolerance: float) -> None:
    torch.manual_seed(0)
    bank = MemoryBank(4000, dim)
    level = bank.level(0.07 if dim == 128 else 0.5)
    anchors = torch.nn.functional.normalize(torch.randn(64, dim))
    by_hand = (anchors @ bank.values_nD.T / (0.07 if dim == 128 else 0.5)).exp().mean().log()
    torch.testing.assert_close(level, by_hand, rtol=0, atol=tolerance)
    if dim == 128:
        torch.testing.assert_close(level, torch.tensor(1 / (2 * dim * 0.07**2)), rtol=0, atol=tolerance)


def test_an_update_mixes_old_and_new_at_unit_length() -> None:
    bank = MemoryBank(3, 2).double()
    bank.values_nD.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
    bank.update(torch.tensor([2, 0]), torch.tensor([[0.6, -0.8], [0.0, 1.0]]), momentum=0.25)
    mixed = torch.tensor([[0.25, 0.75], [0.0, 1.0], [0.6, 0.25 * 0.8 - 0.75 * 0.8]], dtype=torch.float64)
    torch.testing.assert_close(bank.values_nD, mixed / mixed.norm(dim=1, keepdim=True), rtol=1e-6, atol=1e-7)


def test_negatives_are_all_others_and_of_other_classes() -> None:
    labels_n = torch.tensor([2, 0, 0, 2, 1, 4, 0, 1])  # no image of class 3
    others = OtherClasses(labels_n)
    rows_B = torch.arange(8)
    drawn = others(rows_B, torch.arange(8) + 5, 4000)
    assert drawn.shape == (8, 4000)
    for row in range(8):
        expected = {other for other in range(8) if labels_n[other] != labels_n[row]}
        assert set(drawn[row].tolist()) == expected
    few = others(rows_B, torch.arange(8), 5)  # the least class leaves 5
    assert all(len(set(row)) == 5 for row in few.tolist())
    assert others.state_dict() == {}


def test_one_class_has_no_negatives() -> None:
    with pytest.raises(ValueError, match=r"two classes or more, but got 6 images of 1; take other data"):
        OtherClasses(torch.full((6,), 2))


def test_first_of_each() -> None:
    rows_P = torch.tensor([5, 3, 5, 9, 3, 5])
    assert first_of_each(rows_P).tolist() == [0, 1, 0, 3, 1, 0]
    assert first_of_each(rows_P[:0]).tolist() == []


def test_alone_nothing_is_gathered() -> None:
    rows_P, values_PD = torch.arange(3), torch.rand(3, 2)
    found = gather_rows(rows_P, values_PD)
    assert found[0] is rows_P
    assert found[1] is values_PD


def given(rank: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three rows and one, then none and two, then none at all; a row of both workers in the first step."""
    rows = [[[1, 4, 6], [4]], [[], [2, 9]], [[], []]][step][rank]
    generator = torch.Generator().manual_seed(10 * rank + step)
    return torch.tensor(rows, dtype=torch.int64), torch.randn(len(rows), 2, generator=generator)


def work(rank: int, place: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{place}/meeting", rank=rank, world_size=WORLD)
    torch.manual_seed(0)
    bank, gathered = MemoryBank(12, 2), []
    shapes = torch.empty(2, dtype=torch.int64, device="meta"), torch.empty(2, 2, device="meta")
    assert gather_rows(*shapes) == shapes  # counting a step's cost exchanges nothing
    for step in range(3):
        rows_P, values_PD = gather_rows(*given(rank, step))
        gathered.append((rows_P, values_PD))
        bank.update(rows_P, values_PD[first_of_each(rows_P)], momentum=0.5)
    torch.save({"bank": bank.values_nD, "gathered": gathered}, place / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_workers_gather_the_same(tmp_path: Path) -> None:
    processes.spawn(work, (tmp_path,), nprocs=WORLD)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(WORLD))
    assert torch.equal(first["bank"], second["bank"])
    for step in range(3):
        parts = [given(rank, step) for rank in range(WORLD)]
        for found in (first, second):
            assert torch.equal(found["gathered"][step][0], torch.cat([rows for rows, _ in parts]))
            assert torch.equal(found["gathered"][step][1], torch.cat([values for _, values in parts]))
