"""Running out of memory while training: told from other errors, and what a trial does about it.

PyTorch raises its own error on a GPU and a plain RuntimeError on the CPU. Where the micro-batch may be halved, the
trial goes on from its last checkpoint with half as many images in a forward pass; the update is then that of
`train.micro_batch`. It needs torch only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

LEAST_IMAGES = 2
"""Batch normalisation cannot take one image alone."""

_SAYINGS = ("out of memory", "can't allocate memory", "alloc_failed")


class OutOfMemory(RuntimeError):
    """An update needed more memory than the device has.

    Attributes:
        micro_batch: The most images of a forward pass on this worker; an epoch's short last batch has fewer.
    """

    def __init__(self, message: str, *, micro_batch: int = 0) -> None:
        super().__init__(message)
        self.micro_batch = micro_batch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(saying in str(error).lower() for saying in _SAYINGS)


@contextmanager
def telling_out_of_memory(*, num_images: int, micro_batch: int, epoch: int) -> Iterator[None]:
    """Raise `OutOfMemory` in place of any error of the block that says that memory ran out.

    Args:
        num_images: Of the block's forward passes.
        micro_batch: The most that any batch gives them.
        epoch: From 0.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        line = (str(error).splitlines() or [""])[0]
        raise OutOfMemory(
            f"an update must fit into the device's memory, but {num_images} images in a forward pass of epoch "
            f"{epoch + 1} did not ({line}); lower train.micro_batch or train.batch_size, or set "
            "resources.on_out_of_memory: halve",
            micro_batch=micro_batch,
        ) from error


def half(num_images: int) -> int | None:
    """The next smaller micro-batch; None where there is none."""
    return None if num_images <= LEAST_IMAGES else max(LEAST_IMAGES, num_images // 2)
