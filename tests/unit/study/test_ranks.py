"""What workers share: sums, gradients of one mean, batch norms' statistics."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from models.sam import Ascent, Direction, SamSettings, Variant, sam_step
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


@pytest.mark.parametrize(
    ("ascent", "variant", "reductions"),
    [("global", "sam", 2), ("local", "sam", 1), ("global", "looksam", 2), ("local", "looksam", 2)],
)
def test_the_ascent_is_the_whole_batchs_or_each_workers_own(
    ascent: Ascent, variant: Variant, reductions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: w_adv of each worker, and the step from w by the mean of the gradients there, weighted by images.

    LookSAM's direction is taken across the mean gradient, whoever climbs by what.
    """
    torch.manual_seed(0)
    start = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    inputs, parts, rho, lr = torch.randn(7, 3).double(), (slice(0, 4), slice(4, 7)), 0.3, 0.1
    weights = nn.utils.parameters_to_vector(start.parameters()).detach()

    def gradient(at: Tensor, part: slice) -> Tensor:
        network = copy.deepcopy(start)
        nn.utils.vector_to_parameters(at, network.parameters())
        loss = network(inputs[part]).square().mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])

    own = [gradient(weights, part) for part in parts]
    whole = (4 * own[0] + 3 * own[1]) / 7
    uphill = own if ascent == "local" else [whole, whole]
    sharp = [gradient(weights + rho * up / up.norm(), part) for up, part in zip(uphill, parts, strict=True)]
    mean_sharp = (4 * sharp[0] + 3 * sharp[1]) / 7
    across = mean_sharp - (mean_sharp @ whole) / (whole @ whole) * whole
    sam = SamSettings(rho=rho, ascent=ascent, variant=variant, every=2 if variant == "looksam" else 1)

    def work(ranks: Ranks) -> tuple[Tensor, Direction, int]:
        network, part, direction, calls = copy.deepcopy(start), parts[ranks.rank], [], []
        parameters = list(network.parameters())

        def reduce(reduced: Sequence[nn.Parameter]) -> None:
            calls.append(1)
            ranks.average_gradients(reduced, len(inputs[part]))

        sam_step(
            torch.optim.SGD(parameters, lr=lr), lambda: network(inputs[part]).square().mean(), parameters=parameters,
            sam=sam, reduce=reduce, direction=direction,
        )  # fmt: skip
        return nn.utils.parameters_to_vector(parameters).detach(), direction, len(calls)

    (first, kept, calls), (second, *_) = run_workers(2, work, monkeypatch)
    assert calls == reductions
    assert torch.equal(first, second)
    torch.testing.assert_close(first, weights - lr * mean_sharp, rtol=1e-6, atol=1e-7)  # averaged in float32
    if variant == "looksam":
        found = torch.cat([part.flatten() for part in kept if part is not None])
        torch.testing.assert_close(found, across, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ascent", ["global", "local"])
def test_workers_keep_one_looksam_direction(ascent: Ascent, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    start, inputs = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(8, 3)
    sam = SamSettings(rho=0.3, every=3, variant="looksam", ascent=ascent)

    def work(ranks: Ranks) -> tuple[Tensor, Direction]:
        network, direction, part = copy.deepcopy(start), [], slice(4 * ranks.rank, 4 * ranks.rank + 4)
        parameters = list(network.parameters())
        for update in range(5):
            sam_step(
                torch.optim.SGD(parameters, lr=0.1), lambda: network(inputs[part]).square().mean(),
                parameters=parameters, sam=sam, update=update, direction=direction,
                reduce=lambda reduced: ranks.average_gradients(reduced, 4),
            )  # fmt: skip
        return nn.utils.parameters_to_vector(parameters).detach(), direction

    (first, kept), (second, also) = run_workers(2, work, monkeypatch)
    assert torch.equal(first, second)
    assert len(kept) == len(also) == 4
    for one, other in zip(kept, also, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


@pytest.mark.parametrize("ascent", ["global", "local"])
def test_sam_waits_for_no_worker_where_one_touches_less(ascent: Ascent, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has no gradient for a parameter takes part all the same; what none touches does not move."""

    def work(ranks: Ranks) -> list[float]:
        first, second, third = (nn.Parameter(torch.ones(1)) for _ in range(3))
        parameters = [first, second, third]
        sam_step(
            torch.optim.SGD(parameters, lr=0.1, weight_decay=0.1),
            lambda: (first * second).square() if ranks.is_first else first.square(),
            parameters=parameters, sam=SamSettings(rho=0.1, ascent=ascent),
            reduce=lambda reduced: ranks.average_gradients(reduced, 1),
        )  # fmt: skip
        return [parameter.item() for parameter in parameters]

    found = run_workers(2, work, monkeypatch)
    assert found[0] == found[1]
    assert found[0][0] < 1
    assert found[0][1] < 1
    assert found[0][2] == 1


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


def test_statistics_that_are_equal_stay_so_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen ones must not drift by rounding, epoch after epoch."""
    values = torch.rand(1000, generator=torch.Generator().manual_seed(0))

    def work(ranks: Ranks) -> Tensor:
        norm = nn.BatchNorm1d(1000)
        norm.running_mean = values.clone()
        ranks.average_buffers(norm)
        return norm.running_mean

    assert all(torch.equal(found, values) for found in run_workers(3, work, monkeypatch))
