"""On a GPU nothing in a step reads a value back or copies from pageable memory: the host would wait for the device.

Fake tensors stand for the GPU's: an operation that needs their values is an error, and copies are noted. Backward
passes need a real GPU and are left out.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import clip_grad_norm_
from torch.utils._python_dispatch import TorchDispatchMode

from models.methods.method import Batch, Context
from models.methods.pmal import Pmal, PmalSettings
from models.sam import SamSettings, _climbed, add_scaled
from noise.training import NoisyPair, pmal_pair

SETTINGS = PmalSettings(stages=3, head_widths=(6, 8), classifier_width=5, decoder_widths=(8, 8, 4))
GPU = "cuda"


class Copies(TorchDispatchMode):
    """Notes copies from one device to another."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sources = {str(value.device) for value in args if isinstance(value, Tensor)}
        if "copy" in str(func) and isinstance(result, Tensor) and sources != {str(result.device)}:
            self.seen.append(f"{func} from {sources} to {result.device}")
        return result


def sampler(images_BCHW: Tensor, keys_B: Tensor, *, draw: int = 0, level: float = 1.0) -> NoisyPair:
    return NoisyPair(*pmal_pair(images_BCHW, keys_B + draw, level=level), {})


def to_gpu(network: nn.Module) -> None:
    """`Module.to` cannot swap fake parameters."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            module.register_parameter(name, nn.Parameter(parameter.detach().to(GPU)))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(GPU))


@pytest.mark.slow
@pytest.mark.parametrize("adaptive", [False, True])
def test_a_step_waits_for_nothing(adaptive: bool) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        context = Context("test_resnet", num_classes=3, image_size=32, sampler=sampler, label_smoothing=0.1)
        method = Pmal(context, SETTINGS)
        to_gpu(method.network)
        images_BCHW, keys_B = torch.rand(4, 3, 32, 32, device=GPU), torch.arange(4, device=GPU)
        parameters = list(method.network.parameters())
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
        with Copies() as copies:
            losses = [
                objective.loss(slice(None)).total
                for objective in method.objectives(Batch(images_BCHW, keys_B % 3, keys_B))
            ]
            with _climbed({p: p.grad for p in parameters}, SamSettings(adaptive=adaptive), method.network):
                pass
            clip_grad_norm_(parameters, 1.0)
            optimizer.step()
        assert [loss.device.type for loss in losses] == [GPU] * 4
        assert copies.seen == []


def test_scaled_moves_are_added_as_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator) for shape in ((3, 2), (5,), ())]
    moves = [torch.randn(value.shape, generator=generator) for value in values]
    scale = torch.tensor(0.3)
    expected = [value + 0.3 * move for value, move in zip(values, moves, strict=True)]
    before = [move.clone() for move in moves]
    add_scaled(values, moves, scale)
    torch.testing.assert_close(values, expected)
    assert all(torch.equal(move, old) for move, old in zip(moves, before, strict=True)), "moves belong to the caller"
