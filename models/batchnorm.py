"""What batch norms do in training: follow the batch, keep the weights' own statistics, or share them over workers.

Source of sharing: PyTorch's SyncBatchNorm, converted by timm, whose own layers (norm and activation in one) it knows.
"""

from typing import Literal

from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

BatchNorm = Literal["train", "frozen", "sync"]


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """The batch norms of a network."""
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def keep_statistics(network: nn.Module) -> None:
    """Have all batch norms normalise by their running statistics and leave these alone; scales and shifts still train.

    It lasts until the next ``network.train()``.
    """
    for norm in batch_norms(network):
        norm.eval()


def synchronise(network: nn.Module, *, device_type: str) -> None:
    """Turn every batch norm, in place, into one whose batch is that of all workers together.

    Parameters and buffers stay the same objects under the same names, so optimisers and checkpoints do not notice.

    Args:
        device_type: where the network trains.

    Raises:
        ValueError: PyTorch cannot do it on a CPU, or there is nothing to do.
    """
    if device_type == "cpu":
        raise ValueError(
            "batch_norm must be train or frozen on a CPU, where PyTorch cannot share batch statistics, but got sync; "
            "give the workers GPUs (resources.gpus_per_worker), or take frozen or a backbone without batch norms"
        )
    if not batch_norms(network):
        raise ValueError("batch_norm must be left out for a network without batch norms, but got sync")
    converted = convert_sync_batchnorm(network)
    assert converted is network


def is_synchronised(network: nn.Module) -> bool:
    """Whether a pass of the network waits for the other workers."""
    return any(isinstance(module, nn.SyncBatchNorm) for module in network.modules())
