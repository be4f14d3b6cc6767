"""What a method's updates and predictions cost, as counted operations rather than by the clock."""

import copy
import hashlib
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.backbones import StagedBackbone
from models.methods.method import Batch, Objective

_NUM_IMAGES = 2  # the least that batch statistics allow

_counted: dict[str, float] = {}

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def counted_once(*facts: object, count: Callable[[], float]) -> float:
    """What `count` gives, counted the first time that this process meets these facts.

    Counting takes seconds, as each operation's shapes are worked out in Python; a process runs many trials alike.

    Args:
        facts: all that the count depends on, as their texts: a network's is its modules with their shapes.
    """
    known = hashlib.sha256("\n".join(repr(fact) for fact in facts).encode()).hexdigest()
    if known not in _counted:
        _counted[known] = count()
    return _counted[known]


def meta_copy(network: AnyModule) -> AnyModule:
    """Its shapes alone, on the meta device; a pass waits for no other worker."""
    shapes = copy.deepcopy(network).to("meta")
    for module in shapes.modules():
        if isinstance(module, nn.SyncBatchNorm):
            module.eval()
    return shapes


def meta_batch(network: nn.Module, *, image_size: int) -> Batch:
    """A batch of shapes only, for a network on the meta device."""
    dtype = next(network.parameters()).dtype
    with torch.device("meta"):
        return Batch(
            images_BCHW=torch.zeros(_NUM_IMAGES, 3, image_size, image_size, dtype=dtype),
            labels_B=torch.zeros(_NUM_IMAGES, dtype=torch.int64),
            keys_B=torch.zeros(_NUM_IMAGES, dtype=torch.int64),
        )


def gradient_passes(objectives: Iterable[Objective], *, backbone: StagedBackbone, batch: Batch) -> float:
    """Multiplications of the objectives' forward and backward passes, as a share of the backbone's own.

    Args:
        objectives: of `batch`, their networks on its device; run without an update between them.
        backbone: that is deployed or compared with; its classifier's forward and backward pass counts 1.
        batch: of any device; "meta" computes nothing.
    """
    with FlopCounterMode(display=False) as counter:
        for objective in objectives:
            _backward(objective.loss(slice(0, len(batch))).total, objective.parameters)
    parameters = list(backbone.parameters())
    with FlopCounterMode(display=False) as unit:
        _backward(backbone.logits(batch.images_BCHW).sum(), parameters)
    return counter.get_total_flops() / unit.get_total_flops()


@torch.no_grad()
def forward_macs(forward: Callable[[Tensor], object], images_BCHW: Tensor) -> int:
    """Multiply-accumulates of a forward pass: those of convolutions, linear layers and attention.

    Args:
        images_BCHW: of any device; "meta" computes nothing.
    """
    with FlopCounterMode(display=False) as counter:
        forward(images_BCHW)
    return counter.get_total_flops() // 2  # a multiplication and an addition count as two operations


def _backward(loss: Tensor, parameters: list[nn.Parameter]) -> None:
    torch.autograd.grad(loss, parameters, allow_unused=True)
