"""Sharpness-aware minimisation (SAM, ASAM) as one function around any optimiser.

SAM:     w_adv = w + rho * g / (||g|| + 1e-12)
ASAM:    w_adv = w + rho * T^2 g / (||T g|| + 1e-12), with T = |w| + eta for weights and 1 for everything else
then the optimiser steps from w with the gradient g_s at w_adv. The norm is global over the parameters that have a
gradient in this step; weight decay is the optimiser's and takes no part in the ascent. Cheaper or sparser:
every k:  one update in k climbs, the others step with g.
LookSAM: one update in k climbs and keeps g_v = g_s - (g_s . g) g / ||g||^2, the part of g_s across g; the others step
         with g + alpha * (||g|| / ||g_v||) * g_v. All norms and products are over the whole vector.
SAM-ON:  only the normalisation layers' own parameters climb, with a norm over these alone; all parameters step.

Source: arXiv 2010.01412 (SAM), arXiv 2102.11600 and its authors' code (ASAM; what has "weight" in its name is scaled),
arXiv 2203.02714 algorithm 1 (LookSAM), arXiv 2306.04226 and its authors' code (SAM-ON).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import clip_grad_norm_, get_total_norm

_TINY = 1e-12
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

Closure = Callable[[], Tensor | Iterable[Tensor]]
Reduce = Callable[[Sequence[nn.Parameter]], None]
Variant = Literal["sam", "looksam", "sam_on"]
Ascent = Literal["global", "local"]
Direction = list[Tensor | None]
"""LookSAM's g_v of one objective, in the order of its parameters; empty before its first climb."""


@dataclass(frozen=True)
class SamSettings:
    """How far to climb before each step.

    Args:
        rho: radius, 0 for the base optimiser alone. ASAM wants about ten times SAM's.
        adaptive: ASAM: scale by the size of each weight.
        eta: added to the size of a weight; ASAM only.
        every: k: the updates 0, k, 2k ... climb, the others are plain, or LookSAM's.
        variant: see the head of this file.
        alpha: length of LookSAM's kept direction as a share of the gradient's; the paper's 0.7.
        ascent: with several workers, climb by the gradient of the whole batch (global), or let each worker climb by
            its own (local: m-sharpness with m = its images, arXiv 2010.01412 section 4.1). Both step with the mean.
    """

    rho: float = 0.05
    adaptive: bool = False
    eta: float = 0.01
    every: int = 1
    variant: Variant = "sam"
    alpha: float = 0.7
    ascent: Ascent = "global"

    def __post_init__(self) -> None:
        if not 0 <= self.rho < float("inf"):
            raise ValueError(f"rho must be zero or positive, but got rho={self.rho}")
        if not 0 <= self.eta < float("inf"):
            raise ValueError(f"eta must be zero or positive, but got eta={self.eta}")
        if self.every < 1:
            raise ValueError(f"every must be at least 1, but got every={self.every}")
        if not 0 <= self.alpha < float("inf"):
            raise ValueError(f"alpha must be zero or positive, but got alpha={self.alpha}")
        if self.variant == "looksam" and self.every < 2:
            raise ValueError(f"looksam needs updates between its climbs: every above 1, but got every={self.every}")

    @property
    def mean_passes(self) -> float:
        """Passes of an update, in the long run, where a plain one is 1."""
        return 1.0 + 1.0 / self.every if self.rho > 0 else 1.0


def climbs(sam: SamSettings, *, update: int, direction: Direction | None = None) -> bool:
    """Whether an objective climbs (two passes) in its update of this number; LookSAM's first one always does."""
    return sam.rho > 0 and (update % sam.every == 0 or (sam.variant == "looksam" and not direction))


def sam_step(
    optimizer: torch.optim.Optimizer,
    closure: Closure,
    *,
    parameters: Sequence[nn.Parameter],
    sam: SamSettings,
    modules: nn.Module | None = None,
    reduce: Reduce | None = None,
    clip_norm: float | None = None,
    update: int = 0,
    direction: Direction | None = None,
    on_climb: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Make one update of `parameters`; nothing else moves, not by momentum or weight decay either.

    Args:
        optimizer: any whose ``step()`` needs no closure and skips parameters without a gradient.
        closure: gives the mean loss, before any backward pass; called once, or twice when this update climbs. To
            accumulate over micro-batches it yields terms that add up to the mean loss: each is freed after its
            backward pass, and both passes sweep all of them.
        parameters: those that this update may touch.
        sam: the ascent.
        modules: the network. Its batch statistics are updated in the first pass only; ASAM reads its names and SAM-ON
            its kinds of layers.
        reduce: averages the gradients of the parameters that it is given over workers, in place; called after each
            pass, with a local ascent after the second one only.
        clip_norm: greatest norm over `parameters` of the gradient that the optimiser steps with, after `reduce`. The
            ascent is not clipped: it has a norm of its own.
        update: number of this objective's update, from 0; decides with `sam.every` whether it climbs.
        direction: this objective's own list, which LookSAM fills and reads; part of a run's state.
        on_climb: called in an update that climbs with the loss at w_adv less that at w, as float64 on the loss's
            device, of the same examples; with several workers each one's own. It must not change the network.

    Returns:
        The loss at w, detached; with several workers each one's own.

    Raises:
        ValueError: for ASAM or SAM-ON without `modules`, as biases cannot be told from weights nor layers from each
            other; SAM-ON without normalisation parameters, LookSAM without `direction`; no parameters or no loss.
    """
    if sam.adaptive and modules is None:
        raise ValueError("adaptive=True needs modules=<the network>: only its names tell weights from biases")
    looks = sam.rho > 0 and sam.variant == "looksam"
    if looks and direction is None:
        raise ValueError("variant='looksam' needs direction=<the objective's own list>, empty at the start")
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if not trainable:
        raise ValueError("an update must touch at least one parameter that requires a gradient, but got none")
    climbers = _climbers(trainable, sam, modules)
    climbing = climbs(sam, update=update, direction=direction)
    is_local = climbing and sam.ascent == "local"
    needed = climbers if climbing else trainable  # SAM-ON's first pass wants no other gradient
    loss = _gradients(optimizer, closure, needed)
    own = _by_parameter(climbers, clone=looks) if is_local else {}
    if reduce is not None and (looks or not is_local):
        reduce(needed)
    first = [parameter.grad for parameter in trainable] if looks else []
    if climbing:
        with _climbed(own if is_local else _by_parameter(climbers), sam, modules):
            above = _gradients(optimizer, closure, trainable)
            if reduce is not None:
                reduce(trainable)
        if on_climb is not None:
            on_climb(above.double() - loss.double())
    if looks and direction is not None:
        if climbing:
            direction[:] = _across(first, [parameter.grad for parameter in trainable])
        else:
            _look(trainable, direction, sam.alpha)
    if clip_norm is not None:
        clip_grad_norm_(trainable, clip_norm)
    optimizer.step()
    return loss


def _gradients(optimizer: torch.optim.Optimizer, closure: Closure, parameters: list[nn.Parameter]) -> Tensor:
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
    return total


def _by_parameter(parameters: list[nn.Parameter], *, clone: bool = False) -> dict[nn.Parameter, Tensor]:
    """The gradients that there are."""
    return {p: p.grad.clone() if clone else p.grad for p in parameters if p.grad is not None}


@contextmanager
def _climbed(uphill: dict[nn.Parameter, Tensor], sam: SamSettings, network: nn.Module | None) -> Iterator[None]:
    """The weights at w_adv, batch statistics frozen; afterwards the weights are w again to the bit.

    It empties `uphill`.
    """
    before = {parameter: parameter.detach().clone() for parameter in uphill}
    _ascend(uphill, sam, _scaled(network) if sam.adaptive and network is not None else frozenset())
    uphill.clear()  # frees the gradients for the second pass
    with frozen_statistics(network):
        yield
    with torch.no_grad():
        if before:
            torch._foreach_copy_(list(before), list(before.values()))  # pyright: ignore[reportPrivateImportUsage]


def _climbers(parameters: list[nn.Parameter], sam: SamSettings, modules: nn.Module | None) -> list[nn.Parameter]:
    """The parameters that the ascent may move."""
    if sam.rho == 0 or sam.variant != "sam_on":
        return parameters
    if modules is None:
        raise ValueError("variant='sam_on' needs modules=<the network>: only its layers tell which ones normalise")
    norms = {id(p) for module in modules.modules() if _normalises(module) for p in module.parameters(recurse=False)}
    chosen = [parameter for parameter in parameters if id(parameter) in norms]
    if not chosen:
        raise ValueError("sam_on climbs by the parameters of normalisation layers, but this update has none; use sam")
    return chosen


def _normalises(module: nn.Module) -> bool:
    """PyTorch's layers by type, timm's own (RmsNorm, EvoNorm, ...) by name."""
    return isinstance(module, _NORMS) or "norm" in type(module).__name__.lower()


@torch.no_grad()
def _across(first: list[Tensor | None], second: list[Tensor | None]) -> Direction:
    """LookSAM's g_v: the part of the second gradient across the first, None where either is missing."""
    pairs = [(g, s) for g, s in zip(first, second, strict=True) if g is not None and s is not None]
    norm = get_total_norm([g for g, _ in pairs]) + _TINY
    along = torch.stack([(g * s).sum() for g, s in pairs]).sum() / norm
    parts = zip(first, second, strict=True)
    return [None if g is None or s is None else s - g * (along / norm) for g, s in parts]


@torch.no_grad()
def _look(parameters: list[nn.Parameter], direction: Direction, alpha: float) -> None:
    """Add LookSAM's kept direction to the gradients, alpha times as long as they are."""
    pairs = [
        (p.grad, v.to(p.grad.device))
        for p, v in zip(parameters, direction, strict=True)
        if p.grad is not None and v is not None
    ]
    if not pairs:
        return
    touched = [p.grad for p in parameters if p.grad is not None]
    scale = alpha * get_total_norm(touched) / (get_total_norm([v for _, v in pairs]) + _TINY)
    for grad, v in pairs:
        grad.addcmul_(v, scale)


def _scaled(network: nn.Module) -> frozenset[int]:
    named = network.named_parameters()
    return frozenset(id(parameter) for name, parameter in named if "weight" in name.rpartition(".")[2])


@torch.no_grad()
def _ascend(uphill: dict[nn.Parameter, Tensor], sam: SamSettings, scaled: frozenset[int]) -> None:
    parameters, gradients = list(uphill), list(uphill.values())
    if not sam.adaptive:
        _climb(parameters, gradients, [None] * len(parameters), sam.rho)
        return
    sizes = [parameter.abs() + sam.eta if id(parameter) in scaled else None for parameter in parameters]
    steps = [_times(gradient, size) for gradient, size in zip(gradients, sizes, strict=True)]
    _climb(parameters, steps, sizes, sam.rho)


def _climb(parameters: list[nn.Parameter], steps: list[Tensor], sizes: list[Tensor | None], rho: float) -> None:
    """Add rho * size * step / ||steps||; the norm stays on the device, so nothing waits for it."""
    scale = rho / (get_total_norm(steps) + _TINY)
    moves = (_times(step, size) for step, size in zip(steps, sizes, strict=True))
    if scale.is_cuda:
        add_scaled(parameters, list(moves), scale)
        return
    for parameter, move in zip(parameters, moves, strict=True):
        parameter.addcmul_(move, scale)


def add_scaled(parameters: list[Any], moves: list[Tensor], scale: Tensor) -> None:
    """Add scale * move to each parameter, in a few kernels for all of them; on a CPU a loop is faster."""
    scaled = torch._foreach_mul(moves, scale)  # pyright: ignore[reportPrivateImportUsage]
    torch._foreach_add_(parameters, scaled)  # pyright: ignore[reportPrivateImportUsage]


def _times(step: Tensor, size: Tensor | None) -> Tensor:
    return step if size is None else step * size


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
