"""SAM against its formula by hand, in float64."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from models.sam import SamSettings, frozen_statistics, sam_step

RHO = 0.3
ETA = 0.02
LEARNING_RATE = 0.1

OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda net: torch.optim.SGD(net.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=0.05),
    "adamw": lambda net: torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=0.05),
}


@pytest.fixture
def network() -> nn.Sequential:
    generator = torch.Generator().manual_seed(3)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return net


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def mean_loss(network: nn.Module, inputs: Tensor) -> Tensor:
    return network(inputs).square().mean()


def gradients(network: nn.Module, inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(mean_loss(network, inputs), list(network.parameters())))


def values(network: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


@pytest.mark.parametrize("adaptive", [False, True])
def test_step_is_the_formula(network: nn.Module, inputs: Tensor, adaptive: bool) -> None:
    before, first = values(network), gradients(network, inputs)
    sizes = [
        value.abs() + ETA if adaptive and "weight" in name else torch.ones_like(value)
        for (name, _), value in zip(network.named_parameters(), before, strict=True)
    ]
    norm = sum((size * g).square().sum() for size, g in zip(sizes, first, strict=True)) ** 0.5
    climbed = copy.deepcopy(network)
    with torch.no_grad():
        for parameter, size, g in zip(climbed.parameters(), sizes, first, strict=True):
            parameter += RHO * size**2 * g / (norm + 1e-12)
    expected = [value - LEARNING_RATE * g for value, g in zip(before, gradients(climbed, inputs), strict=True)]
    expected_loss = mean_loss(network, inputs)

    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE)
    loss = sam_step(
        optimizer,
        lambda: mean_loss(network, inputs),
        parameters=list(network.parameters()),
        sam=SamSettings(rho=RHO, adaptive=adaptive, eta=ETA),
        modules=network,
    )

    torch.testing.assert_close(loss, expected_loss.detach())
    torch.testing.assert_close(values(network), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("terms", [1, 2])
def test_a_climb_tells_what_it_added_to_the_loss(network: nn.Module, inputs: Tensor, terms: int) -> None:
    first, climbed = gradients(network, inputs), copy.deepcopy(network)
    norm = sum(g.square().sum() for g in first) ** 0.5
    with torch.no_grad():
        for parameter, g in zip(climbed.parameters(), first, strict=True):
            parameter += RHO * g / norm
    expected = (mean_loss(climbed, inputs) - mean_loss(network, inputs)).detach()
    plain, heard = copy.deepcopy(network), []
    for net, on_climb in ((plain, None), (network, heard.append)):
        sam_step(
            torch.optim.SGD(net.parameters(), lr=LEARNING_RATE),
            lambda net=net: (mean_loss(net, part) / terms for part in inputs.chunk(terms)),
            parameters=list(net.parameters()),
            sam=SamSettings(rho=RHO),
            on_climb=on_climb,
        )
    torch.testing.assert_close(heard, [expected])
    assert heard[0] > 0
    assert not heard[0].requires_grad
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(values(network), values(plain), strict=True))


@pytest.mark.parametrize("sam", [SamSettings(rho=0), SamSettings(rho=RHO, every=2)])
def test_what_does_not_climb_tells_nothing(network: nn.Module, inputs: Tensor, sam: SamSettings) -> None:
    heard: list[Tensor] = []
    sam_step(
        torch.optim.SGD(network.parameters(), lr=LEARNING_RATE),
        lambda: mean_loss(network, inputs),
        parameters=list(network.parameters()),
        sam=sam,
        update=1,
        on_climb=heard.append,
    )
    assert heard == []


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rho_zero_is_the_base_optimiser(network: nn.Module, inputs: Tensor, name: str) -> None:
    plain = copy.deepcopy(network)
    optimizer, base = OPTIMIZERS[name](network), OPTIMIZERS[name](plain)
    for _ in range(3):
        sam_step(
            optimizer,
            lambda: mean_loss(network, inputs),
            parameters=list(network.parameters()),
            sam=SamSettings(rho=0),
        )
        base.zero_grad()
        mean_loss(plain, inputs).backward()
        base.step()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(values(network), values(plain), strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("rho", [0.0, RHO])
def test_what_is_not_declared_does_not_move(network: nn.Sequential, inputs: Tensor, name: str, rho: float) -> None:
    optimizer = OPTIMIZERS[name](network)
    everything, last = list(network.parameters()), list(network[2].parameters())
    # A step of everything first, so that momentum and weight decay have something to move by.
    sam_step(optimizer, lambda: mean_loss(network, inputs), parameters=everything, sam=SamSettings(rho=rho))
    before = values(network)

    sam_step(optimizer, lambda: mean_loss(network, inputs), parameters=last, sam=SamSettings(rho=rho))

    moved = [not torch.equal(old, new) for old, new in zip(before, values(network), strict=True)]
    assert moved == [False, False, True, True]
    assert all(parameter.grad is None for parameter in network[0].parameters())


def test_declared_but_unreached_does_not_move(network: nn.Sequential, inputs: Tensor) -> None:
    optimizer = OPTIMIZERS["sgd"](network)
    everything = list(network.parameters())
    sam_step(optimizer, lambda: mean_loss(network, inputs), parameters=everything, sam=SamSettings())
    before = values(network)
    sam_step(optimizer, lambda: mean_loss(network[0], inputs), parameters=everything, sam=SamSettings())
    moved = [not torch.equal(old, new) for old, new in zip(before, values(network), strict=True)]
    assert moved == [True, True, False, False]


def test_weight_decay_takes_no_part_in_the_ascent(network: nn.Sequential, inputs: Tensor) -> None:
    visited: dict[float, list[Tensor]] = {}
    for decay in (0.0, 10.0):
        net = copy.deepcopy(network)
        seen: list[Tensor] = []

        def closure(net: nn.Sequential = net, seen: list[Tensor] = seen) -> Tensor:
            seen.append(net[0].weight.detach().clone())
            return mean_loss(net, inputs)

        optimizer = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE, weight_decay=decay)
        sam_step(optimizer, closure, parameters=list(net.parameters()), sam=SamSettings(rho=RHO))
        visited[decay] = seen
    assert len(visited[0.0]) == 2
    torch.testing.assert_close(visited[0.0], visited[10.0], rtol=0, atol=0)


def test_weights_come_back_to_the_bit(network: nn.Module, inputs: Tensor) -> None:
    network.float()
    before = values(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    sam_step(
        optimizer,
        lambda: mean_loss(network, inputs.float()),
        parameters=list(network.parameters()),
        sam=SamSettings(rho=RHO),
    )
    assert all(torch.equal(old, new) for old, new in zip(before, values(network), strict=True))


def test_statistics_follow_the_first_pass_only(inputs: Tensor) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    single = copy.deepcopy(net)
    mean_loss(single, inputs)
    optimizer = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE)
    sam_step(
        optimizer,
        lambda: mean_loss(net, inputs),
        parameters=list(net.parameters()),
        sam=SamSettings(rho=RHO),
        modules=net,
    )
    for name, buffer in single.named_buffers():
        assert torch.equal(dict(net.named_buffers())[name], buffer), name
    assert net[1].track_running_stats


def test_frozen_statistics_normalise_by_the_batch_and_recover_from_errors(inputs: Tensor) -> None:
    norm = nn.BatchNorm1d(3).double()
    expected = copy.deepcopy(norm)(inputs)
    with frozen_statistics(norm):
        torch.testing.assert_close(norm(inputs), expected)
    assert int(norm.num_batches_tracked) == 0
    with pytest.raises(ValueError, match="expected 2D or 3D input"), frozen_statistics(norm):
        norm(inputs[0])
    assert norm.track_running_stats


@pytest.mark.parametrize("rho", [0.0, RHO])
def test_terms_add_up_to_the_whole(network: nn.Module, inputs: Tensor, rho: float) -> None:
    whole = copy.deepcopy(network)
    sam = SamSettings(rho=rho)
    optimizer = OPTIMIZERS["sgd"](whole)
    loss = sam_step(optimizer, lambda: mean_loss(whole, inputs), parameters=list(whole.parameters()), sam=sam)

    optimizer = OPTIMIZERS["sgd"](network)
    summed = sam_step(
        optimizer,
        lambda: (mean_loss(network, inputs[part]) * share for part, share in [(slice(4), 4 / 6), (slice(4, 6), 2 / 6)]),
        parameters=list(network.parameters()),
        sam=sam,
    )
    torch.testing.assert_close(summed, loss)
    torch.testing.assert_close(values(network), values(whole))


def test_gradients_are_reduced_after_each_pass(network: nn.Module, inputs: Tensor) -> None:
    """Two workers with half of the batch each end where one with the whole batch does."""
    alone, parameters = copy.deepcopy(network), list(network.parameters())
    optimizer = torch.optim.SGD(alone.parameters(), lr=LEARNING_RATE)
    sam = SamSettings(rho=RHO)
    sam_step(optimizer, lambda: mean_loss(alone, inputs), parameters=list(alone.parameters()), sam=sam)

    def average(reduced: object) -> None:
        assert reduced == parameters
        others = gradients(network, inputs[3:])
        for parameter, other in zip(parameters, others, strict=True):
            assert parameter.grad is not None
            parameter.grad = (parameter.grad + other) / 2

    optimizer = torch.optim.SGD(parameters, lr=LEARNING_RATE)
    sam_step(optimizer, lambda: mean_loss(network, inputs[:3]), parameters=parameters, sam=sam, reduce=average)
    torch.testing.assert_close(values(network), values(alone))


def test_errors_name_the_rule(network: nn.Module, inputs: Tensor) -> None:
    with pytest.raises(ValueError, match=r"rho must be zero or positive, but got rho=-0\.1"):
        SamSettings(rho=-0.1)
    with pytest.raises(ValueError, match="eta must be zero or positive, but got eta=nan"):
        SamSettings(eta=float("nan"))
    optimizer, parameters = torch.optim.SGD(network.parameters()), list(network.parameters())
    with pytest.raises(ValueError, match="adaptive=True needs modules="):
        sam_step(optimizer, lambda: mean_loss(network, inputs), parameters=parameters, sam=SamSettings(adaptive=True))
    with pytest.raises(ValueError, match="at least one loss"):
        sam_step(optimizer, lambda: iter(()), parameters=parameters, sam=SamSettings())
    with pytest.raises(ValueError, match="at least one parameter"):
        sam_step(optimizer, lambda: mean_loss(network, inputs), parameters=[], sam=SamSettings())
