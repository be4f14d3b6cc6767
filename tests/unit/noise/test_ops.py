"""Single corruptions against formulas by hand and against independent implementations."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from noise import blur, filters, photometric, resolution
from noise.keyed import image_keys
from tests.unit.noise.pictures import random_images, scenes

_KEYS_4 = image_keys(range(4), seed=0)


def test_gaussian_noise_adds_the_stated_deviation():
    images_BCHW = torch.full((4, 3, 64, 64), 0.5)
    added = photometric.gaussian_noise(images_BCHW, 0.12, keys_B=_KEYS_4) - images_BCHW
    assert added.std().item() == pytest.approx(0.12, rel=0.02)
    assert abs(added.mean().item()) < 0.003
    assert abs(torch.corrcoef(added.transpose(0, 1).flatten(1))[0, 1].item()) < 0.05


def test_speckle_noise_is_proportional_to_the_value():
    images_BCHW = torch.tensor([0.1, 0.8]).view(2, 1, 1, 1).expand(2, 3, 64, 64)
    added = photometric.speckle_noise(images_BCHW, 0.2, keys_B=_KEYS_4[:2]) - images_BCHW
    assert (added.std((1, 2, 3)) / torch.tensor([0.1, 0.8])).tolist() == pytest.approx([0.2, 0.2], rel=0.04)


@pytest.mark.parametrize("photons", [3, 60, 500])
def test_shot_noise_keeps_the_mean_and_has_variance_x_over_c(photons):
    images_BCHW = torch.tensor([0.05, 0.3, 0.6, 1.0]).view(4, 1, 1, 1).expand(4, 3, 64, 64)
    noisy = photometric.shot_noise(images_BCHW, photons, keys_B=_KEYS_4).double()
    expected = images_BCHW[:, 0, 0, 0].double()
    assert torch.allclose(noisy.mean((1, 2, 3)), expected, atol=5 * (1 / photons / 12288) ** 0.5)
    assert torch.allclose(noisy.var((1, 2, 3)), expected / photons, rtol=0.12)


def test_impulse_noise_hits_the_share_half_salt_half_pepper():
    images_BCHW = torch.full((4, 3, 64, 64), 0.5)
    noisy = photometric.impulse_noise(images_BCHW, 0.27, keys_B=_KEYS_4)
    assert (noisy == 1).double().mean().item() == pytest.approx(0.135, abs=0.005)
    assert (noisy == 0).double().mean().item() == pytest.approx(0.135, abs=0.005)
    assert (noisy == 0.5).double().mean().item() == pytest.approx(0.73, abs=0.01)
    assert not torch.equal(noisy[:, 0] == 0.5, noisy[:, 1] == 0.5)


def test_contrast_by_hand():
    image_BCHW = torch.tensor([[[[0.0, 0.2], [0.4, 0.6]], [[1.0, 1.0], [1.0, 0.2]]]])
    expected = torch.tensor([[[[0.18, 0.26], [0.34, 0.42]], [[0.88, 0.88], [0.88, 0.56]]]])
    assert torch.allclose(photometric.contrast(image_BCHW, 0.4, keys_B=_KEYS_4[:1]), expected)


def test_brightness_by_hand():
    pixels = torch.tensor([[0.2, 0.4, 0.1], [0.0, 0.0, 0.0], [0.9, 0.45, 0.9]]).T.view(1, 3, 1, 3)
    expected = torch.tensor([[0.3, 0.6, 0.15], [0.2, 0.2, 0.2], [1.0, 0.5, 1.0]]).T.view(1, 3, 1, 3)
    assert torch.allclose(photometric.brightness(pixels, 0.2, keys_B=_KEYS_4[:1]), expected)


def test_saturate_by_hand():
    pixels = torch.tensor([[0.4, 0.3, 0.2], [0.5, 0.5, 0.5]]).T.view(1, 3, 1, 2)
    doubled = photometric.saturate(pixels, (2, 0), keys_B=_KEYS_4[:1])
    assert torch.allclose(doubled, torch.tensor([[0.4, 0.2, 0.0], [0.5, 0.5, 0.5]]).T.view(1, 3, 1, 2), atol=1e-6)
    added = photometric.saturate(pixels, (1, 0.2), keys_B=_KEYS_4[:1])
    assert torch.allclose(added[0, :, 0, 1], torch.tensor([0.5, 0.4, 0.4]))
    grey = random_images(1, 8, 8, channels=1)
    assert torch.equal(photometric.saturate(grey, (20, 0.2), keys_B=_KEYS_4[:1]), grey)


@pytest.mark.parametrize("sigma", [0.4, 1, 3, 6])
def test_gaussian_blur_equals_scipy(sigma):
    images_BCHW = random_images(2, 21, 16)
    blurred = blur.gaussian_blur(images_BCHW, sigma, keys_B=_KEYS_4[:2])
    reference = ndimage.gaussian_filter(
        images_BCHW.double().numpy(), sigma=(0, 0, sigma, sigma), mode="nearest", truncate=4.0
    )
    assert np.abs(blurred.numpy() - reference).max() < 1e-6


def test_gaussian_filter_takes_a_deviation_for_each_image():
    images_BCHW = random_images(3, 17, 12)
    filtered = filters.gaussian_filter(images_BCHW, torch.tensor([0.0, 0.8, 2.5]), reach=12)
    assert torch.equal(filtered[0], images_BCHW[0])
    for index, sigma in ((1, 0.8), (2, 2.5)):
        reference = ndimage.gaussian_filter(images_BCHW[index].numpy(), (0, sigma, sigma), mode="nearest", radius=12)
        assert np.abs(filtered[index].numpy() - reference).max() < 1e-5


def test_motion_blur_of_a_point_is_a_one_sided_line():
    images_BCHW = torch.zeros(64, 1, 65, 65)
    images_BCHW[:, 0, 32, 32] = 1
    blurred_BHW = blur.motion_blur(images_BCHW, (10, 3), keys_B=image_keys(range(64), seed=1))[:, 0]
    assert torch.allclose(blurred_BHW.sum((1, 2)), torch.ones(64), atol=1e-3)  # a sum of 4,225 roundings
    weights = torch.exp(-(torch.arange(21.0) ** 2) / 18)
    weights /= weights.sum()
    rows, columns = torch.arange(65.0)[:, None] - 32, torch.arange(65.0)[None, :] - 32
    assert (blurred_BHW * (columns > 0)).abs().max() < 1e-6
    mean_right = (blurred_BHW * columns).sum((1, 2))
    mean_down = (blurred_BHW * rows).sum((1, 2))
    length = (weights * torch.arange(21.0)).sum().item()
    assert torch.allclose(mean_right.hypot(mean_down), torch.full((64,), length), atol=0.35)
    angles = torch.atan2(mean_down, mean_right.abs()).rad2deg()
    assert angles.abs().max() < 47
    assert angles.min() < -35
    assert angles.max() > 35


def test_motion_blur_repeats_edges():
    images_BCHW = torch.full((2, 3, 9, 11), 0.7)
    assert torch.allclose(blur.motion_blur(images_BCHW, (20, 15), keys_B=_KEYS_4[:2]), images_BCHW, atol=1e-6)


@pytest.mark.parametrize("share", [0.95, 0.6, 0.5, 0.3, 0.25])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (47, 33), (8, 9)])
def test_pixelate_equals_pillow(share, height, width):
    image_BCHW = scenes(1, height, width, channels=1)
    picture = Image.fromarray(image_BCHW[0, 0].numpy())
    small = picture.resize((max(1, int(width * share)), max(1, int(height * share))), Image.Resampling.BOX)
    reference = np.array(small.resize((width, height), Image.Resampling.NEAREST))
    ours = resolution.pixelate(image_BCHW, share, keys_B=_KEYS_4[:1])[0, 0].numpy()
    # Pillow decides by rounding errors where a pixel's centre lies on the edge of two cells (47 to 44, for one).
    assert np.abs(ours - reference).mean() < (1e-6 if height != 47 else 1.5 / 255)


def test_what_pixelate_keeps_from_inference_mode_serves_gradients():
    resolution._pixels_of.cache_clear()
    resolution._cell_of.cache_clear()
    images_BCHW = scenes(1, 30, 30)
    with torch.inference_mode():
        plain = resolution.pixelate(images_BCHW, 0.4, keys_B=_KEYS_4[:1])
    wanted = images_BCHW.clone().requires_grad_()
    pixelated = resolution.pixelate(wanted, 0.4, keys_B=_KEYS_4[:1])
    pixelated.sum().backward()
    assert torch.equal(pixelated.detach(), plain)
    assert wanted.grad is not None
    assert wanted.grad.sum().item() == pytest.approx(2700, rel=1e-4)


def test_resolution_keeps_what_the_small_image_can_show():
    ramp_BCHW = torch.linspace(0, 1, 64).view(1, 1, 1, 64).expand(1, 3, 64, 64).contiguous()
    for op in (resolution.resolution, resolution.resolution_bilinear, resolution.resolution_bicubic):
        restored = op(ramp_BCHW, 4, keys_B=_KEYS_4[:1])
        assert (restored - ramp_BCHW)[..., 8:-8].abs().max() < 0.02
        checkers = (torch.arange(64) % 2).float().expand(1, 3, 64, 64)
        assert (op(checkers, 4, keys_B=_KEYS_4[:1]) - 0.5)[..., 8:-8].abs().max() < 0.1


def test_resolution_area_is_the_mean_of_blocks():
    images_BCHW = random_images(1, 16, 16)
    blocks = images_BCHW.view(1, 3, 2, 8, 2, 8).mean((3, 5))
    restored = resolution.resolution(images_BCHW, 8, keys_B=_KEYS_4[:1])
    assert torch.allclose(restored[..., 0, 0], blocks[..., 0, 0], atol=1e-6)
    assert math.isclose(restored.mean().item(), images_BCHW.mean().item(), rel_tol=1e-5)
