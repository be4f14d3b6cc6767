"""Every entry of CORRUPTIONS keeps the promises of `corrupt`."""

import pytest
import torch

from noise.corruption import corrupt
from noise.families import CORRUPTIONS, GROUPS, TABLE_SIDES, parameter_for, table_for
from noise.keyed import image_keys
from tests.unit.noise.pictures import scenes

_SHAPES = [(3, 8, 8), (3, 33, 21), (1, 9, 40), (1, 32, 32)]
# Severity is no order of the mean change there: saturation is taken away and then added, snow falls in other flakes,
# and strong frost or fog darkens as it lightens.
_NOT_MONOTONE = {"saturate", "snow", "frost", "fog"}
_ROUNDED = {"defocus_blur", "glass_blur"}
# Nothing is random there: the key has no effect.
_DETERMINISTIC = {
    "brightness", "contrast", "defocus_blur", "far_jpeg", "gaussian_blur", "jpeg_compression", "kornia.median_blur",
    "overexposure", "pixelate", "resolution", "resolution_bicubic", "resolution_bilinear", "saturate", "underexposure",
    "zoom_blur",
}  # fmt: skip


@pytest.fixture(params=sorted(CORRUPTIONS))
def name(request):
    return request.param


def test_entry_is_complete(name):
    corruption = CORRUPTIONS[name]
    assert corruption.group in GROUPS
    assert corruption.source
    assert corruption.op.__doc__
    assert "imagenet" in corruption.severities
    assert set(corruption.severities) <= set(TABLE_SIDES)
    assert all(len(parameters) == 5 for parameters in corruption.severities.values())


@pytest.mark.parametrize("scale", ["nearest", "imagenet", "tiny", "cifar"])
def test_table_has_the_parameters_in_use(name, scale):
    corruption = CORRUPTIONS[name]
    for side in (8, 32, 64, 100, 224, 400):
        table = table_for(name, side, scale)
        assert table in {*corruption.severities, "scaled"}
        if table != "scaled":
            assert parameter_for(name, 4, side, scale) == corruption.severities[table][3]


@pytest.mark.parametrize("shape", _SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_shape_dtype_and_range_are_kept(name, shape, dtype):
    channels, height, width = shape
    images_BCHW = scenes(2, height, width, channels=channels).to(dtype)
    before = images_BCHW.clone()
    for severity in (1, 5):
        noisy = corrupt(images_BCHW, name, severity, keys=image_keys([4, 2], seed=0))
        assert noisy.shape == images_BCHW.shape
        assert noisy.dtype == dtype
        assert noisy.isfinite().all()
        assert noisy.min() >= 0
        assert noisy.max() <= 1
    assert torch.equal(images_BCHW, before)


@pytest.mark.e2e
def test_the_largest_images_pass(name):
    images_BCHW = scenes(1, 1024, 1024)
    noisy = corrupt(images_BCHW, name, 5, keys=image_keys([1], seed=0))
    assert noisy.shape == images_BCHW.shape
    assert noisy.isfinite().all()
    assert float((noisy - images_BCHW).abs().mean()) > 1e-3


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_black_and_white_stay_finite(name, value):
    images_BCHW = torch.full((1, 3, 16, 16), value)
    for severity in range(1, 6):
        assert corrupt(images_BCHW, name, severity, keys=image_keys([0], seed=0)).isfinite().all()


def test_empty_batch_passes(name):
    empty_BCHW = torch.empty(0, 3, 12, 9)
    assert corrupt(empty_BCHW, name, 3, keys=image_keys([], seed=0)).shape == empty_BCHW.shape


def test_pixels_do_not_depend_on_batch_order_or_global_state(name):
    images_BCHW, keys_B = scenes(7, 19, 24), image_keys(range(7), seed=0)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    together = corrupt(images_BCHW, name, 3, keys=keys_B)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(corrupt(images_BCHW.flip(0), name, 3, keys=keys_B.flip(0)).flip(0), together)
    chunks = [
        corrupt(images_BCHW[part], name, 3, keys=keys_B[part]) for part in (slice(0, 1), slice(1, 4), slice(4, 7))
    ]
    assert torch.equal(torch.cat(chunks), together)
    strided_BCHW = images_BCHW.to(memory_format=torch.channels_last)
    assert torch.allclose(corrupt(strided_BCHW, name, 3, keys=keys_B), together, atol=1e-6)


def test_each_image_has_noise_of_its_own(name):
    images_BCHW = scenes(1, 64, 64).expand(4, 3, 64, 64)
    noisy = corrupt(images_BCHW, name, 5, keys=image_keys([3, 8, 3, 9], seed=0))
    assert torch.equal(noisy[2], noisy[0])
    seeded = corrupt(images_BCHW[:1], name, 5, keys=image_keys([3], seed=1))
    for other in (noisy[1], noisy[3], seeded[0]):
        assert torch.equal(other, noisy[0]) == (name in _DETERMINISTIC)


@pytest.mark.parametrize("side", [32, 64])
def test_no_two_severities_are_alike(name, side):
    entry, keys_B = CORRUPTIONS[name], image_keys(range(2), seed=0)
    images_BCHW = scenes(2, side, side)
    noisy = [entry.op(images_BCHW, parameter_for(name, level, side), keys_B=keys_B) for level in range(1, 6)]
    for i, one in enumerate(noisy):
        for other in noisy[i + 1 :]:
            assert not torch.equal(one, other)


def test_severity_raises_the_mean_change(name):
    # Many images, so that directions and places average out; lengths of few whole pixels are not rounded at 224 px.
    count, side = (3, 224) if name in _ROUNDED else (24, 64)
    images_BCHW, keys_B = scenes(count, side, side), image_keys(range(count), seed=0)
    changes = [
        (corrupt(images_BCHW, name, severity, keys=keys_B) - images_BCHW).abs().mean().item()
        for severity in range(1, 6)
    ]
    assert min(changes) > 1e-4
    if name not in _NOT_MONOTONE:
        assert changes == sorted(changes)
