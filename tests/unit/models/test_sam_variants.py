"""SAM against a public implementation, its cheaper variants against their formulas by hand, and gradient clipping."""

import copy
from collections.abc import Callable

import pytest
import torch
from timm.layers import RmsNorm
from torch import Tensor, nn

from models.sam import Direction, SamSettings, climbs, sam_step

RHO = 0.3
ALPHA = 0.6
LEARNING_RATE = 0.1
BASES = {
    "sgd": (torch.optim.SGD, {"lr": LEARNING_RATE, "momentum": 0.9, "weight_decay": 0.05}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.05}),
}


def make_network(*, bias: bool = True, norm: bool = False) -> nn.Sequential:
    """A small network in float64 with weights away from zero, and from one for the norm."""
    middle = [nn.LayerNorm(4)] if norm else []
    net = nn.Sequential(nn.Linear(3, 4, bias=bias), *middle, nn.Tanh(), nn.Linear(4, 2, bias=bias)).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return net


def make_inputs(number: int = 0) -> Tensor:
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(40 + number), dtype=torch.float64)


def mean_loss(network: nn.Module, inputs: Tensor) -> Tensor:
    return network(inputs).square().mean()


def flat(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()]).clone()


def gradient_at(network: nn.Module, weights: Tensor, inputs: Tensor) -> Tensor:
    """The gradient as one vector, at other weights than the network's."""
    other = copy.deepcopy(network)
    nn.utils.vector_to_parameters(weights, list(other.parameters()))
    found = torch.autograd.grad(mean_loss(other, inputs), list(other.parameters()))
    return torch.cat([gradient.flatten() for gradient in found])


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("base", BASES)
def test_twenty_steps_are_those_of_pytorch_optimizer(base: str, adaptive: bool) -> None:
    """Adaptive at eta = 0 and without biases: theirs has no eta and scales biases too."""
    theirs = pytest.importorskip("pytorch_optimizer", reason="needs the dev extra's pytorch-optimizer")
    network = make_network(bias=not adaptive)
    other = copy.deepcopy(network)
    kind, options = BASES[base]
    optimizer = kind(network.parameters(), **options)
    reference = theirs.SAM(other.parameters(), kind, rho=RHO, adaptive=adaptive, **options)
    for step in range(20):
        inputs = make_inputs(step)

        def closure(inputs: Tensor = inputs) -> Tensor:
            reference.zero_grad()
            loss = mean_loss(other, inputs)
            loss.backward()
            return loss

        closure()
        reference.step(closure)
        sam_step(
            optimizer,
            lambda inputs=inputs: mean_loss(network, inputs),
            parameters=list(network.parameters()),
            sam=SamSettings(rho=RHO, adaptive=adaptive, eta=0.0),
            modules=network,
        )
        # Their norm is in float32.
        torch.testing.assert_close(flat(network), flat(other), rtol=1e-5, atol=1e-7)


def steps(network: nn.Module, sam: SamSettings, *, number: int, direction: Direction | None = None) -> list[int]:
    """Make updates by SGD without momentum; gives how many passes each had."""
    optimizer, passes = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE), []
    for update in range(number):

        def closure(update: int = update) -> Tensor:
            passes[-1] += 1
            return mean_loss(network, make_inputs(update))

        passes.append(0)
        sam_step(
            optimizer, closure, parameters=list(network.parameters()), sam=sam, modules=network, update=update,
            direction=direction,
        )  # fmt: skip
    return passes


def test_every_k_climbs_once_in_k_and_is_plain_between() -> None:
    network, sam = make_network(), SamSettings(rho=RHO, every=3)
    weights = flat(network)
    assert steps(network, sam, number=7) == [2, 1, 1, 2, 1, 1, 2]
    assert [climbs(sam, update=update) for update in range(4)] == [True, False, False, True]
    for update in range(7):
        gradient = gradient_at(network, weights, make_inputs(update))
        if update % 3 == 0:
            gradient = gradient_at(network, weights + RHO * gradient / gradient.norm(), make_inputs(update))
        weights = weights - LEARNING_RATE * gradient
    torch.testing.assert_close(flat(network), weights, rtol=1e-10, atol=1e-12)


def test_looksam_is_the_formula() -> None:
    network, direction = make_network(), []
    weights = flat(network)
    assert steps(network, SamSettings(rho=RHO, every=3, variant="looksam", alpha=ALPHA), number=5,
                 direction=direction) == [2, 1, 1, 2, 1]  # fmt: skip
    across = torch.zeros_like(weights)
    for update in range(5):
        gradient = gradient_at(network, weights, make_inputs(update))
        if update % 3 == 0:
            sharp = gradient_at(network, weights + RHO * gradient / gradient.norm(), make_inputs(update))
            across = sharp - (sharp @ gradient) / (gradient @ gradient) * gradient
            weights = weights - LEARNING_RATE * sharp
        else:
            weights = weights - LEARNING_RATE * (gradient + ALPHA * gradient.norm() / across.norm() * across)
    torch.testing.assert_close(flat(network), weights, rtol=1e-9, atol=1e-11)
    kept = torch.cat([part.flatten() for part in direction if part is not None])
    torch.testing.assert_close(kept, across, rtol=1e-9, atol=1e-11)
    assert across.norm() > 1e-3


def test_looksam_climbs_first_whatever_the_number() -> None:
    """An objective may come in only after some batches."""
    sam = SamSettings(rho=RHO, every=4, variant="looksam")
    assert climbs(sam, update=1, direction=[])
    assert not climbs(sam, update=1, direction=[torch.zeros(1)])


@pytest.mark.parametrize("rho", [0.0, RHO])
def test_looksam_moves_only_what_this_update_touches(rho: float) -> None:
    network, direction = make_network(), []
    parameters = list(network.parameters())
    optimizer = torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=0.9, weight_decay=0.1)
    sam = SamSettings(rho=rho, every=2, variant="looksam")
    for update, reached in enumerate([network, network[0]]):
        before = [parameter.detach().clone() for parameter in parameters]
        sam_step(
            optimizer, lambda reached=reached: mean_loss(reached, make_inputs()), parameters=parameters, sam=sam,
            update=update, direction=direction,
        )  # fmt: skip
    assert [not torch.equal(p, old) for p, old in zip(parameters, before, strict=True)] == [True, True, False, False]


def test_sam_on_is_the_formula() -> None:
    network = make_network(norm=True)
    weights, sizes = flat(network), [parameter.numel() for parameter in network.parameters()]
    is_norm = torch.cat([torch.full((n,), float(i in (2, 3))).double() for i, n in enumerate(sizes)])
    assert is_norm.sum() == 8
    gradient = gradient_at(network, weights, make_inputs())
    climb = RHO * gradient * is_norm / (gradient * is_norm).norm()
    expected = weights - LEARNING_RATE * gradient_at(network, weights + climb, make_inputs())
    assert steps(network, SamSettings(rho=RHO, variant="sam_on"), number=1) == [2]
    torch.testing.assert_close(flat(network), expected, rtol=1e-10, atol=1e-12)


def test_sam_on_computes_and_shares_only_what_climbs_before_the_ascent() -> None:
    network = make_network(norm=True)
    parameters, norms = list(network.parameters()), list(network[1].parameters())
    reduced: list[list[bool]] = []

    def note(given: object) -> None:
        assert given == (parameters if reduced else norms)
        reduced.append([parameter.grad is not None for parameter in parameters])

    optimizer = torch.optim.SGD(parameters, lr=LEARNING_RATE)
    sam = SamSettings(rho=RHO, variant="sam_on", every=2)
    for update in range(2):
        sam_step(
            optimizer,
            lambda: mean_loss(network, make_inputs()),
            parameters=parameters,
            sam=sam,
            modules=network,
            reduce=note,
            update=update,
        )
    assert reduced == [[False, False, True, True, False, False], [True] * 6, [True] * 6]


@pytest.mark.parametrize("norm", [RmsNorm(3), nn.BatchNorm1d(3), nn.GroupNorm(1, 3)], ids=["rms", "batch", "group"])
def test_sam_on_knows_normalisation_layers(norm: nn.Module) -> None:
    network = nn.Sequential(norm, nn.Linear(3, 2)).double()
    seen: list[Tensor] = []

    def closure() -> Tensor:
        seen.append(flat(network))
        return mean_loss(network, make_inputs())

    sam_step(
        torch.optim.SGD(network.parameters(), lr=0.1), closure, parameters=list(network.parameters()),
        sam=SamSettings(rho=RHO, variant="sam_on"), modules=network,
    )  # fmt: skip
    moved, size = seen[1] - seen[0], len(flat(norm))
    assert moved[:size].norm() == pytest.approx(RHO)
    assert not moved[size:].any()


@pytest.mark.parametrize("rho", [0.0, RHO])
def test_clipping_acts_on_the_gradient_of_the_step_only(rho: float) -> None:
    network, inputs = make_network(), make_inputs()
    weights = flat(network)
    gradient = gradient_at(network, weights, inputs)
    if rho:
        gradient = gradient_at(network, weights + rho * gradient / gradient.norm(), inputs)
    for clip, length in [(0.5 * gradient.norm(), 0.5 * gradient.norm()), (2 * gradient.norm(), gradient.norm())]:
        net = copy.deepcopy(network)
        seen: list[Tensor] = []

        def closure(net: nn.Module = net, seen: list[Tensor] = seen) -> Tensor:
            seen.append(flat(net))
            return mean_loss(net, inputs)

        sam_step(
            torch.optim.SGD(net.parameters(), lr=LEARNING_RATE), closure, parameters=list(net.parameters()),
            sam=SamSettings(rho=rho), clip_norm=float(clip),
        )  # fmt: skip
        expected = weights - LEARNING_RATE * length * gradient / gradient.norm()
        torch.testing.assert_close(flat(net), expected, rtol=1e-5, atol=1e-7)  # PyTorch adds 1e-6 to the norm
        if rho:
            assert (seen[1] - seen[0]).norm() == pytest.approx(rho)


def test_clipping_follows_the_reduction() -> None:
    network, inputs = make_network(), make_inputs()
    weights = flat(network)

    def grow(parameters: object) -> None:
        for parameter in network.parameters():
            assert parameter.grad is not None
            parameter.grad = parameter.grad * 100

    sam_step(
        torch.optim.SGD(network.parameters(), lr=1.0), lambda: mean_loss(network, inputs),
        parameters=list(network.parameters()), sam=SamSettings(rho=0), reduce=grow, clip_norm=0.01,
    )  # fmt: skip
    assert (flat(network) - weights).norm() == pytest.approx(0.01, rel=1e-3)


def test_bfloat16_passes_climb_and_step_in_float32() -> None:
    """Autocast keeps low copies of the weights for as long as it lasts: the second pass must not see the first's."""
    network, inputs = make_network().float(), make_inputs().float()

    def low(net: nn.Module) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return net(inputs).float().square().mean()

    def gradients(net: nn.Module) -> list[Tensor]:
        return list(torch.autograd.grad(low(net), list(net.parameters())))

    first, climbed = gradients(network), copy.deepcopy(network)
    norm = torch.cat([gradient.flatten() for gradient in first]).norm()
    with torch.no_grad():
        for parameter, gradient in zip(climbed.parameters(), first, strict=True):
            parameter += RHO * gradient / norm
    second = gradients(climbed)
    expected = [p.detach() - LEARNING_RATE * g for p, g in zip(network.parameters(), second, strict=True)]
    sam_step(
        torch.optim.SGD(network.parameters(), lr=LEARNING_RATE), lambda: low(network),
        parameters=list(network.parameters()), sam=SamSettings(rho=RHO),
    )  # fmt: skip
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
    torch.testing.assert_close([p.detach() for p in network.parameters()], expected, rtol=1e-5, atol=1e-6)
    assert max((a - b).abs().max() for a, b in zip(first, second, strict=True)) > 0.01


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SamSettings(every=0), "every must be at least 1, but got every=0"),
        (lambda: SamSettings(alpha=-1), "alpha must be zero or positive, but got alpha=-1"),
        (lambda: SamSettings(variant="looksam"), "every above 1, but got every=1"),
        (lambda: steps(make_network(), SamSettings(every=2, variant="looksam"), number=1), "needs direction="),
        (lambda: steps(make_network(), SamSettings(variant="sam_on"), number=1), "but this update has none; use sam"),
    ],
)
def test_errors_name_the_rule(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
