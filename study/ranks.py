"""The workers of one trial: who this one is, and the few sums they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


@dataclass(frozen=True)
class Ranks:
    """This worker's place among a trial's workers.

    Args:
        rank: From 0; rank 0 writes all records.
        world: Number of workers. Above 1 a `torch.distributed` group must be up.
        device: A torch device, or `auto` for the GPU where there is one.
    """

    rank: int = 0
    world: int = 1
    device: str = "auto"

    @property
    def is_first(self) -> bool:
        """Whether this worker writes."""
        return self.rank == 0

    def torch_device(self) -> torch.device:
        """The device, `auto` resolved."""
        if self.device != "auto":
            return torch.device(self.device)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def sum(self, values: Tensor) -> Tensor:
        """Element-wise sum over workers, on the device of `values`; every worker must call it."""
        if self.world == 1:
            return values
        total = values.to(self.torch_device(), copy=True)  # NCCL takes no tensor of the CPU
        dist.all_reduce(total)
        return total.to(values.device)

    def gather(self, value: Any) -> list[Any]:
        """Every worker's object, in order of rank; every worker must call it."""
        if self.world == 1:
            return [value]
        parts: list[Any] = [None] * self.world
        dist.all_gather_object(parts, value)
        return parts

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on some worker."""
        if self.world == 1:
            return flag
        return any(self.gather(flag))

    def barrier(self) -> None:
        """Wait for all workers."""
        if self.world > 1:
            dist.barrier()

    def average_gradients(self, parameters: Sequence[nn.Parameter], count: float) -> None:
        """Turn each worker's gradient of its own mean loss into the gradient of the mean over all examples.

        A worker without a gradient for a parameter gives zeros, so that all workers reduce the same list. A parameter
        that no worker has a gradient for keeps none: zeros would let momentum and weight decay move it.

        Args:
            parameters: The list that this update may touch, the same on every worker.
            count: Examples in this worker's mean, or what it weighs.
        """
        if self.world == 1:
            return
        flat = torch.cat([
            (torch.zeros_like(p) if p.grad is None else p.grad).detach().float().flatten() for p in parameters
        ])  # fmt: skip
        has_gradient = [p.grad is not None for p in parameters]
        ending = torch.tensor([*has_gradient, count], dtype=torch.float32).to(flat.device, non_blocking=True)
        packed = torch.cat([flat * count, ending])
        dist.all_reduce(packed)
        mean = packed[: len(flat)] / packed[-1]
        if not all(has_gradient):  # else no worker's answer is needed, nor waiting for the device
            has_gradient = (packed[len(flat) : -1] > 0).tolist()
        parts = mean.split([p.numel() for p in parameters])
        for parameter, part, is_reached in zip(parameters, parts, has_gradient, strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype) if is_reached else None

    def average_buffers(self, network: nn.Module) -> None:
        """Average BatchNorm's running statistics over workers, so that all evaluate one network."""
        if self.world == 1:
            return
        buffers = running_statistics(network)
        if not buffers:
            return
        flat = torch.cat([b.detach().double().flatten() for b in buffers])  # a mean of equal values is that value
        dist.all_reduce(flat)
        for buffer, part in zip(buffers, (flat / self.world).split([b.numel() for b in buffers]), strict=True):
            buffer.copy_(part.view_as(buffer))


def running_statistics(network: nn.Module) -> list[Tensor]:
    """BatchNorm's running means and variances: the buffers in which workers differ within an epoch."""
    norms = [module for module in network.modules() if isinstance(module, _NormBase)]
    return [b for norm in norms for b in (norm.running_mean, norm.running_var) if b is not None]
