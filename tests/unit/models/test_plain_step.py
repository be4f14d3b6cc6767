"""PMAL's step against its plain form, which runs the whole network and all heads in every pass."""

import copy

import pytest
import torch
from torch import Tensor

from models.methods.method import Batch, Context
from models.methods.pmal import Pmal, PmalSettings
from models.sam import SamSettings, sam_step
from noise.keyed import image_keys
from noise.training import NoisyPair, pmal_pair
from tests.bench.plain_step import plain_batch, plain_pairs

SETTINGS = PmalSettings(stages=3, head_widths=(6, 8), classifier_width=5, decoder_widths=(8, 8, 4))
LABELS_B = torch.tensor([0, 2, 1, 2, 0, 1])
SMOOTHING = 0.1


def images_of(batch: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.rand(len(LABELS_B), 3, 32, 32, generator=generator).to(dtype)


def sampler(images_BCHW: Tensor, keys_B: Tensor, *, draw: int = 0, level: float = 1.0) -> NoisyPair:
    return NoisyPair(*pmal_pair(images_BCHW, keys_B + draw, level=level), {})


def pairs_of(images_BCHW: Tensor, keys_B: Tensor) -> list[tuple[Tensor, Tensor]]:
    drawn = [sampler(images_BCHW, keys_B, draw=draw) for draw in (1, 2, 3)]
    return [(2 * pair.target_BCHW - 1, 2 * pair.input_BCHW - 1) for pair in drawn]


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.0, 0.05])
@pytest.mark.parametrize(("dtype", "lr", "tolerance"), [(torch.float64, 0.02, 1e-9), (torch.float32, 2e-4, 1e-3)])
def test_plain_form_has_the_same_losses_and_weights(
    dtype: torch.dtype, lr: float, tolerance: float, rho: float
) -> None:
    """In float32 a rounding error that changes a max pool's winner grows with the rate, hence the lower one."""
    context = Context("test_resnet", num_classes=3, image_size=32, sampler=sampler, label_smoothing=SMOOTHING, seed=2)
    method = Pmal(context, SETTINGS)
    method.network.to(dtype).train()
    plain = copy.deepcopy(method.network)
    start = copy.deepcopy(method.network.state_dict())
    ours_sgd, plain_sgd = (
        torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
        for network in (method.network, plain)
    )
    for number in range(2):
        images_BCHW = images_of(number, dtype)
        keys_B = image_keys(range(len(LABELS_B)), seed=number)
        ours = [
            sam_step(
                ours_sgd,
                lambda objective=objective: objective.loss(slice(None)).total / len(LABELS_B),
                parameters=objective.parameters,
                sam=SamSettings(rho=rho),
                modules=method.network,
            ).item()
            for objective in method.objectives(Batch(images_BCHW, LABELS_B, keys_B))
        ]
        expected = plain_batch(
            plain,
            plain_sgd,
            2 * images_BCHW - 1,
            LABELS_B,
            pairs_of(images_BCHW, keys_B),
            smoothing=SMOOTHING,
            rho=rho,
        )
        assert ours == pytest.approx(expected, abs=tolerance)
    for (name, value), other in zip(method.network.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(value, other, atol=tolerance, rtol=tolerance, msg=name)
        assert not torch.equal(value, start[name]), f"{name} did not move, so that nothing was compared"


def test_plain_pairs_keep_shape_and_differ_between_draws() -> None:
    images_BCHW = 2 * images_of(0, torch.float32) - 1
    drawn = list(plain_pairs(images_BCHW, 2, torch.Generator().manual_seed(0)))
    for target_BCHW, noisy_BCHW in drawn:
        assert target_BCHW.shape == noisy_BCHW.shape == images_BCHW.shape
        assert 0 < (noisy_BCHW - target_BCHW).std() < 0.05
    assert not torch.equal(drawn[0][0], drawn[1][0])
