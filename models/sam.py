"""Sharpness-aware minimisation (SAM, ASAM) as one function around any optimiser.

SAM:  w_adv = w + rho * g / (||g|| + 1e-12)
ASAM: w_adv = w + rho * T^2 g / (||T g|| + 1e-12), with T = |w| + eta for weights and 1 for everything else
then the optimiser steps from w with the gradient at w_adv. The norm is global over the parameters that have a
gradient in this step; weight decay is the optimiser's and takes no part in the ascent.

Source: arXiv 2010.01412 (SAM), arXiv 2102.11600 and its authors' code (ASAM; what has "weight" in its name is scaled).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import get_total_norm

_TINY = 1e-12

Closure = Callable[[], Tensor | Iterable[Tensor]]
Reduce = Callable[[Sequence[nn.Parameter]], None]


@dataclass(frozen=True)
class SamSettings:
    """How far to climb before each step.

    Args:
        rho: radius, 0 for the base optimiser alone. ASAM wants about ten times SAM's.
        adaptive: ASAM: scale by the size of each weight.
        eta: added to the size of a weight; ASAM only.
    """

    rho: float = 0.05
    adaptive: bool = False
    eta: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.rho < float("inf"):
            raise ValueError(f"rho must be zero or positive, but got rho={self.rho}")
        if not 0 <= self.eta < float("inf"):
            raise ValueError(f"eta must be zero or positive, but got eta={self.eta}")


def sam_step(
    optimizer: torch.optim.Optimizer,
    closure: Closure,
    *,
    parameters: Sequence[nn.Parameter],
    sam: SamSettings,
    modules: nn.Module | None = None,
    reduce: Reduce | None = None,
) -> Tensor:
    """Make one update of `parameters`; nothing else moves, not by momentum or weight decay either.

    Args:
        optimizer: any whose ``step()`` needs no closure and skips parameters without a gradient.
        closure: gives the mean loss, before any backward pass; called once, or twice when rho > 0. To accumulate
            over micro-batches it yields terms that add up to the mean loss: each is freed after its backward pass.
        parameters: those that this update may touch.
        sam: the ascent.
        modules: the network. Its batch statistics are updated in the first pass only, and ASAM reads its names.
        reduce: averages the gradients of `parameters` over workers, in place; called after each pass.

    Returns:
        The loss at w, detached.

    Raises:
        ValueError: for ASAM without `modules`, as biases cannot be told from weights; without parameters or a loss.
    """
    if sam.adaptive and modules is None:
        raise ValueError("adaptive=True needs modules=<the network>: only its names tell weights from biases")
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if not trainable:
        raise ValueError("an update must touch at least one parameter that requires a gradient, but got none")
    loss = _gradients(optimizer, closure, trainable, reduce)
    if sam.rho > 0:
        touched = [parameter for parameter in trainable if parameter.grad is not None]
        before = [parameter.detach().clone() for parameter in touched]
        _ascend(touched, sam, _scaled(modules) if modules is not None else frozenset())
        with frozen_statistics(modules):
            _gradients(optimizer, closure, trainable, reduce)
        with torch.no_grad():
            for parameter, value in zip(touched, before, strict=True):
                parameter.copy_(value)
    optimizer.step()
    return loss


def _gradients(
    optimizer: torch.optim.Optimizer, closure: Closure, parameters: list[nn.Parameter], reduce: Reduce | None
) -> Tensor:
    optimizer.zero_grad(set_to_none=True)
    for parameter in parameters:
        parameter.grad = None
    result = closure()
    total: Tensor | None = None
    for term in [result] if isinstance(result, Tensor) else result:
        torch.autograd.backward(term, inputs=parameters)
        total = term.detach() if total is None else total + term.detach()
    if total is None:
        raise ValueError("the closure must give at least one loss, but yielded none: is the batch empty?")
    if reduce is not None:
        reduce(parameters)
    return total


def _scaled(network: nn.Module) -> frozenset[int]:
    named = network.named_parameters()
    return frozenset(id(parameter) for name, parameter in named if "weight" in name.rpartition(".")[2])


@torch.no_grad()
def _ascend(parameters: list[nn.Parameter], sam: SamSettings, scaled: frozenset[int]) -> None:
    if not sam.adaptive:
        _climb(parameters, [_gradient(parameter) for parameter in parameters], [None] * len(parameters), sam.rho)
        return
    sizes = [parameter.abs() + sam.eta if id(parameter) in scaled else None for parameter in parameters]
    steps = [_times(_gradient(parameter), size) for parameter, size in zip(parameters, sizes, strict=True)]
    _climb(parameters, steps, sizes, sam.rho)


def _climb(parameters: list[nn.Parameter], steps: list[Tensor], sizes: list[Tensor | None], rho: float) -> None:
    """Add rho * size * step / ||steps||; the norm stays on the device, so nothing waits for it."""
    scale = rho / (get_total_norm(steps) + _TINY)
    for parameter, step, size in zip(parameters, steps, sizes, strict=True):
        parameter.addcmul_(_times(step, size), scale)


def _times(step: Tensor, size: Tensor | None) -> Tensor:
    return step if size is None else step * size


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


@contextmanager
def frozen_statistics(network: nn.Module | None) -> Iterator[None]:
    """Let batch norms in training mode normalise by their batch as always, yet keep their running statistics."""
    modules = [] if network is None else list(network.modules())
    tracking = [
        module for module in modules if isinstance(module, _NormBase) and module.training and module.track_running_stats
    ]
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True
