"""A GPU gives the pixels of a CPU: integers to the bit, smooth operations within 1e-5, few values over a threshold."""

import pytest
import torch

from noise import keyed
from noise.corruption import corrupt
from noise.families import CORRUPTIONS
from noise.keyed import image_keys
from noise.training import NoiseType, TrainingNoise
from tests.unit.noise.pictures import scenes

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

# A value near a threshold or half a step may fall to the other side: fewer than 1 in 10,000, by more than one level.
_FEW, _LEVEL = 1e-4, 1 / 255


def test_random_integers_are_equal_to_the_bit():
    keys_B = image_keys(range(9), seed=3)
    assert torch.equal(keys_B, image_keys(torch.arange(9).cuda(), seed=3).cpu())
    assert torch.equal(keyed.bits(keys_B, 5000, stream="x"), keyed.bits(keys_B.cuda(), 5000, stream="x").cpu())


def test_uniform_and_normal_values_are_near():
    keys_B = image_keys(range(9), seed=3)
    for draw in (keyed.uniform, keyed.normal):
        one, other = (draw(keys.view(-1), (5000,), stream="x").cpu() for keys in (keys_B, keys_B.cuda()))
        assert (one - other).abs().max() < 1e-5


@pytest.mark.parametrize("side", [32, 224])
@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_corruptions_are_near(name, side):
    images_BCHW, keys_B = scenes(3, side, side), image_keys(range(3), seed=0)
    for severity in (1, 3, 5):
        on_cpu = corrupt(images_BCHW, name, severity, keys=keys_B)
        on_gpu = corrupt(images_BCHW.cuda(), name, severity, keys=keys_B).cpu()
        apart = (on_cpu - on_gpu).abs()
        assert float((apart > _LEVEL + 1e-6).double().mean()) < _FEW
        assert float(apart.median()) < 1e-5


def test_training_pairs_are_near():
    images_BCHW, keys_B = scenes(24, 32, 32), image_keys(range(24), seed=0)
    mixture = TrainingNoise([NoiseType("pmal_pair", probability=0.5), NoiseType("shot_noise", (1, 3), 0.5)])
    one, other = mixture(images_BCHW, keys_B), mixture(images_BCHW.cuda(), keys_B)
    assert torch.equal(one.record["kind"], other.record["kind"])
    apart = (one.input_BCHW - other.input_BCHW.cpu()).abs()
    assert float((apart > _LEVEL).double().mean()) < _FEW
