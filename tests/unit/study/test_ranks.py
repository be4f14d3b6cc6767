"""What workers share: sums, gradients of one mean, batch norms' statistics."""

import copy

import pytest
import torch
from torch import Tensor, nn

from models.sam import SamSettings, sam_step
from study.ranks import Ranks
from tests.unit.study.workers import run_workers


def test_sums_come_to_all_and_change_no_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(ranks: Ranks) -> tuple[Tensor, Tensor]:
        own = torch.tensor([1.0, 10.0]) * (ranks.rank + 1)
        return own, ranks.sum(own)

    for rank, (own, total) in enumerate(run_workers(3, work, monkeypatch)):
        assert own.tolist() == [rank + 1, 10 * (rank + 1)]
        assert total.tolist() == [6, 60]


@pytest.mark.parametrize("rho", [0.0, 0.3])
def test_uneven_workers_make_the_update_of_one(rho: float, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    start = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    inputs, parts = torch.randn(7, 3), (slice(0, 4), slice(4, 6), slice(6, 7))

    def step(network: nn.Module, part: slice, ranks: Ranks) -> list[Tensor]:
        parameters = list(network.parameters())
        sam_step(
            torch.optim.SGD(parameters, lr=0.1),
            lambda: network(inputs[part]).square().mean(),
            parameters=parameters,
            sam=SamSettings(rho=rho),
            reduce=lambda reduced: ranks.average_gradients(reduced, len(inputs[part])),
        )
        return [parameter.detach() for parameter in parameters]

    alone = step(copy.deepcopy(start), slice(None), Ranks())
    for found in run_workers(3, lambda ranks: step(copy.deepcopy(start), parts[ranks.rank], ranks), monkeypatch):
        torch.testing.assert_close(found, alone)


def test_what_no_worker_reaches_does_not_move(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(ranks: Ranks) -> list[list[float]]:
        first, second, third = (nn.Parameter(torch.ones(1)) for _ in range(3))
        parameters = [first, second, third]
        optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1)
        sam_step(optimizer, lambda: first + second + third, parameters=parameters, sam=SamSettings(rho=0))
        before = [parameter.item() for parameter in parameters]
        sam_step(
            optimizer,
            lambda: first + second if ranks.is_first else 2 * first,
            parameters=parameters,
            sam=SamSettings(rho=0),
            reduce=lambda reduced: ranks.average_gradients(reduced, 1),
        )
        gradients = [0.0 if p.grad is None else p.grad.item() for p in parameters]
        return [before, [parameter.item() for parameter in parameters], gradients]

    found = run_workers(2, work, monkeypatch)
    assert found[0] == found[1]
    before, after, gradients = found[0]
    assert gradients == pytest.approx([1.5, 0.5, 0.0])
    assert after[0] < before[0]
    assert after[1] < before[1]
    assert after[2] == before[2]


def test_only_batch_statistics_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    class Network(nn.Module):
        def __init__(self, rank: int) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(1)
            self.norm.running_mean = torch.tensor([float(rank)])
            self.norm.running_var = torch.tensor([1.0 + rank])
            self.register_buffer("own", torch.tensor([float(rank)]))

    def work(ranks: Ranks) -> dict[str, Tensor]:
        network = Network(ranks.rank)
        ranks.average_buffers(network)
        return network.state_dict()

    for rank, state in enumerate(run_workers(3, work, monkeypatch)):
        assert state["norm.running_mean"].item() == 1
        assert state["norm.running_var"].item() == 2
        assert state["own"].item() == rank
