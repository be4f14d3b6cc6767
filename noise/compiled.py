"""Corruptions run through torch.compile, with the plain function as reference and fallback.

Worth it for point-wise corruptions, above all on a GPU, where they are bound by memory traffic: a compiled one reads
and writes each pixel once. Only those are compiled whose parameter can be a tensor (`Corruption.neutral`), so that all
severities share one program; the others run as they are. Each shape of a batch is compiled at its first call, which
takes seconds; torch compiles eight of them and runs further ones as they are.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from noise.entry import Op

_log = logging.getLogger("murk")


class CompiledOp:
    """A corruption's function, compiled at its first call; where that fails, the function itself from then on.

    Args:
        op: the function.
    """

    def __init__(self, op: Op) -> None:
        self._op = op
        self._run: Any = torch.compile(op, dynamic=False)

    @property
    def is_compiled(self) -> bool:
        """Whether the compiled function is in use still."""
        return self._run is not self._op

    def __call__(self, images_BCHW: Tensor, parameter: Any, /, *, keys_B: Tensor) -> Tensor:
        """As the function itself."""
        if not self.is_compiled:
            return self._op(images_BCHW, parameter, keys_B=keys_B)
        try:
            tensor = torch.as_tensor(parameter, dtype=torch.float32, device=images_BCHW.device).reshape(-1, 1, 1, 1)
            return self._run(images_BCHW, tensor, keys_B=keys_B)
        except Exception as error:  # noqa: BLE001
            # Whatever a compiler raises; an error of the function itself is raised again by the plain call.
            name = getattr(self._op, "__name__", str(self._op))
            _log.warning("torch.compile of %s failed (%s); it runs as it is", name, type(error).__name__)
            self._run = self._op
            return self._op(images_BCHW, parameter, keys_B=keys_B)


@lru_cache(maxsize=128)
def compiled_op(op: Op) -> CompiledOp:
    """The compiled form of a corruption's function; one for all callers."""
    return CompiledOp(op)
