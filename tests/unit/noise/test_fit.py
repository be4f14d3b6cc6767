"""A camera's noise and blur, found again on images degraded by known values."""

import io
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from noise import families
from noise.blur import gaussian_blur
from noise.camera import MULTIPLES, CameraLevel, camera_corruption, camera_levels, camera_noise
from noise.corruption import corrupt
from noise.edges import edge_blur
from noise.fit import _MEDIAN_OF_MEAN, CameraFit, _blocks, fit_camera
from noise.keyed import image_keys
from tests.unit.noise.pictures import scenes

# The scenes' own texture (0.03) is white, so it is noise to any estimator: 4 x 4 means bring it to 0.0075.
_TEXTURE = 0.03 / 4
_READ, _GAIN, _BLUR = (0.0, 0.01, 0.03, 0.1), (0.002, 0.01, 0.02), (0.7, 1.0, 1.5, 2.0, 3.0, 4.0)


@pytest.fixture(scope="module")
def clean_BCHW():
    return F.avg_pool2d(scenes(8, 1024, 1024), 4)


@pytest.fixture(scope="module")
def photos():
    place = Path(os.environ.get("MURK_TEST_DATA", "missing")) / "photos-256.parquet"
    if not place.is_file():
        pytest.skip("needs photos-256.parquet in the folder that MURK_TEST_DATA names")
    images = []
    for content in pq.read_table(place, columns=["jpeg"])["jpeg"].to_pylist()[:24]:
        with Image.open(io.BytesIO(content)) as picture:
            images.append(torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None].float() / 255)
    return images


def _degraded(images, read, gain, blur, *, seed=0):
    """As a camera would store them: blur, noise, 8 bits."""
    level = CameraLevel(read, gain, blur)
    taken = [
        camera_noise(image, level, keys_B=image_keys(range(i, i + len(image)), seed=seed))
        for i, image in enumerate(images)
    ]
    return [(image.clamp(0, 1) * 255).round() / 255 for image_BCHW in taken for image in image_BCHW]


@pytest.mark.parametrize("read", _READ[1:])
@pytest.mark.parametrize("blur", [0.0, 1.5])
def test_read_noise_is_found(clean_BCHW, read, blur):
    fit = fit_camera(_degraded([clean_BCHW], read, 0.0, blur))
    # A blur of 1.5 px takes the texture away.
    assert fit.noise_at(0.5) == pytest.approx(math.hypot(read, _TEXTURE if not blur else 0.0), rel=0.03)
    # Its standard error is 0.09 to 0.13 read^2 (jackknife); over 12 seeds the largest of each case was 0.11 to 0.21.
    assert fit.shot_gain < 0.4 * read**2
    assert fit.num_images == 8
    assert fit.num_blocks > 300


@pytest.mark.parametrize("gain", _GAIN)
@pytest.mark.parametrize("read", [0.005, 0.03])
def test_shot_gain_is_found(clean_BCHW, gain, read):
    fit = fit_camera(_degraded([clean_BCHW], read, gain, 1.0))
    assert fit.shot_gain == pytest.approx(gain, rel=0.07)
    assert fit.noise_at(0.5) == pytest.approx(math.sqrt(gain / 2 + read**2), rel=0.03)
    # Where shot noise is far stronger, read noise is lost in its error: what both make in the dark is found still.
    assert fit.noise_at(0.2) == pytest.approx(math.sqrt(gain / 5 + read**2), rel=0.06)
    assert fit.separated


def test_read_noise_beside_shot_noise_is_found(clean_BCHW):
    fit = fit_camera(_degraded([clean_BCHW], 0.03, 0.002, 1.0))
    assert fit.read_sigma == pytest.approx(0.03, rel=0.07)
    assert 0 < fit.read_sigma_spread < 0.005


@pytest.mark.parametrize("blur", _BLUR)
@pytest.mark.parametrize("read", [0.0, 0.03])
def test_blur_is_found(clean_BCHW, blur, read):
    fit = fit_camera(_degraded([clean_BCHW], read, 0.0, blur))
    assert fit.blur_sigma == pytest.approx(blur, rel=0.06, abs=0.05)


def test_sharp_images_have_almost_no_blur(clean_BCHW):
    assert fit_camera(_degraded([clean_BCHW], 0.01, 0.0, 0.0)).blur_sigma < 0.4


@pytest.mark.slow
def test_real_photographs(photos):
    own = fit_camera([image[0] for image in photos])
    assert own.noise_at(0.5) * 255 < 1.0
    for read, gain, blur in ((0.01, 0.0, 1.0), (0.03, 0.0, 2.0), (0.03, 0.002, 1.5), (0.005, 0.01, 3.0)):
        fit = fit_camera(_degraded(photos, read, gain, blur))
        assert fit.noise_at(0.5) == pytest.approx(math.sqrt(gain / 2 + read**2), rel=0.05)
        assert fit.shot_gain == pytest.approx(gain, rel=0.15, abs=4e-4)
        assert fit.blur_sigma == pytest.approx(math.hypot(blur, own.blur_sigma), rel=0.06)


def test_the_camera_is_found_again_in_its_own_corruption(clean_BCHW):
    fit = fit_camera(_degraded([clean_BCHW], 0.02, 0.005, 1.6))
    entry = camera_corruption(fit)
    # The table is for 224 px: at the side of the images measured, it gives what was measured.
    assert entry.scaled is not None
    level = entry.scaled(entry.severities["imagenet"][2], fit.side / 224)
    assert level == pytest.approx((fit.read_sigma, fit.shot_gain, fit.blur_sigma))
    noisy_BCHW = entry.op(clean_BCHW, level, keys_B=image_keys(range(8), seed=5)).clamp(0, 1)
    again = fit_camera([(image * 255).round() / 255 for image in noisy_BCHW])
    assert again.noise_at(0.5) == pytest.approx(fit.noise_at(0.5), rel=0.03)
    assert again.noise_at(0.25) == pytest.approx(fit.noise_at(0.25), rel=0.05)
    assert again.shot_gain == pytest.approx(fit.shot_gain, rel=0.1)
    assert again.blur_sigma == pytest.approx(fit.blur_sigma, rel=0.05)


def test_it_works_as_an_entry(clean_BCHW, monkeypatch):
    fit = CameraFit(0.02, 0.002, 1.2, 0, 0, 0, 256, 8, 8, 999, True)
    monkeypatch.setitem(families.CORRUPTIONS, "my_camera", camera_corruption(fit))
    images_BCHW, keys_B = clean_BCHW[:, :, :64, :80], image_keys(range(8), seed=0)
    changes = []
    for severity in range(1, 6):
        noisy = corrupt(images_BCHW, "my_camera", severity, keys=keys_B)
        alone = corrupt(images_BCHW[3:4], "my_camera", severity, keys=keys_B[3:4])
        assert torch.equal(noisy[3:4], alone)
        changes.append((noisy - images_BCHW).abs().mean().item())
    assert changes == sorted(changes)
    assert families.parameter_for("my_camera", 3, 256).blur_sigma == pytest.approx(1.2)
    assert families.parameter_for("my_camera", 3, 64).blur_sigma == pytest.approx(0.3)


def test_levels_are_the_stated_multiples():
    fit = CameraFit(0.01, 0.004, 2.0, 0, 0, 0, 224, 1, 1, 99, True)
    levels = camera_levels(fit)
    assert levels[2] == (0.01, 0.004, 2.0)
    for multiple, level in zip(MULTIPLES, levels, strict=True):
        variance = level.shot_gain * 0.3 + level.read_sigma**2
        assert math.sqrt(variance) == pytest.approx(multiple * fit.noise_at(0.3))
        assert level.blur_sigma == pytest.approx(multiple * 2.0)


def test_camera_noise_has_the_variance_of_the_formula():
    images_BCHW = torch.tensor([0.2, 0.8]).view(2, 1, 1, 1).expand(2, 3, 64, 64)
    noisy = camera_noise(images_BCHW, CameraLevel(0.02, 0.003, 0.0), keys_B=image_keys(range(2), seed=0))
    assert noisy.var((1, 2, 3)).tolist() == pytest.approx([0.001, 0.0028], rel=0.06)


def test_block_variances_of_white_noise_are_unbiased_and_have_the_stated_median():
    noise_CHW = 0.5 + 0.04 * torch.randn(3, 1024, 1024, generator=torch.Generator().manual_seed(0))
    variance_K = _blocks(noise_CHW)[:, 1]
    assert variance_K.mean().sqrt().item() == pytest.approx(0.04, rel=0.005)
    assert (variance_K.median() / variance_K.mean()).item() == pytest.approx(_MEDIAN_OF_MEAN, abs=0.01)


def test_planes_have_no_noise():
    ramp_CHW = (torch.arange(64.0)[:, None] / 200 + torch.arange(64.0) / 300 + 0.1)[None]
    assert _blocks(ramp_CHW)[:, 1].max() < 1e-12


def test_one_image_or_one_channel_is_enough(clean_BCHW):
    for image in (clean_BCHW[:1], clean_BCHW[:1, :1]):
        fit = fit_camera(_degraded([image], 0.03, 0.0, 1.5))
        assert fit.noise_at(0.5) == pytest.approx(0.03, rel=0.1)
        assert fit.blur_sigma == pytest.approx(1.5, rel=0.15)
        assert fit.blur_sigma_spread == 0
        assert fit.num_images == 1


def test_equal_brightness_is_said_not_to_separate(clean_BCHW):
    grey = [0.5 + 0.05 * (image - 0.5) for image in _degraded([clean_BCHW[:4]], 0.0, 0.0, 1.0)]
    fit = fit_camera(_degraded([torch.stack(grey)], 0.01, 0.0, 0.0))
    assert not fit.separated
    assert fit.shot_gain == 0
    assert fit.read_sigma == pytest.approx(0.01, rel=0.05)


def test_clipped_blocks_do_not_count(clean_BCHW):
    plain = _degraded([clean_BCHW], 0.02, 0.0, 1.0)
    half_white = [image.clone() for image in plain]
    for image in half_white:
        image[:, :128] = 1.0
    fit = fit_camera(half_white)
    assert fit.noise_at(0.5) == pytest.approx(0.02, rel=0.05)


@pytest.mark.slow
def test_the_order_of_images_hardly_matters_and_nothing_is_random(clean_BCHW):
    images = _degraded([clean_BCHW], 0.02, 0.002, 1.0)
    assert fit_camera(images) == fit_camera(images)
    turned = fit_camera(images[::-1])
    assert turned.noise_at(0.5) == pytest.approx(fit_camera(images).noise_at(0.5), rel=1e-3)


@pytest.mark.parametrize("side", [512, 300, 100])
def test_resized_values_are_what_pillow_leaves_of_white_noise(side):
    fit = CameraFit(0.05, 0.01, 2.0, 0.001, 0.001, 0.1, 1024, 8, 8, 999, True).resized(side)
    noise = np.random.default_rng(0).normal(0.5, 0.05, (1024, 1024)).astype(np.float32)
    small = np.asarray(Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC))
    assert small.std() == pytest.approx(fit.read_sigma, rel=0.03)
    assert fit.shot_gain / 0.01 == pytest.approx((fit.read_sigma / 0.05) ** 2)
    assert fit.blur_sigma == pytest.approx(2.0 * side / 1024)
    assert fit.side == side


@pytest.mark.parametrize("side", [7, 1025])
def test_resized_wants_a_smaller_side(side):
    fit = CameraFit(0.05, 0.01, 2.0, 0, 0, 0, 1024, 8, 8, 999, True)
    assert fit.resized(1024) == fit
    with pytest.raises(ValueError, match=f"size must be 8 to 1024 pixels, .* but got {side}"):
        fit.resized(side)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "at least one image, but got none"),
        ([torch.rand(3, 64, 31)], r"a\.png must have sides of at least 32 pixels, but has 31 x 64; leave it out"),
        ([torch.rand(2, 64, 64)], r"a\.png must be \(1 or 3, H, W\)"),
        ([torch.ones(3, 64, 64)], "0 blocks .* are neither black nor white"),
        ([torch.full((3, 64, 64), 0.5)], "none of the 1 images has 20 edge points .* look flat"),
    ],
)
def test_what_cannot_be_measured_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        fit_camera(images, names=["a.png"])


def test_a_side_can_be_given_for_cut_outs(clean_BCHW):
    fit = fit_camera(_degraded([clean_BCHW[:1]], 0.02, 0.0, 1.0), side=1080)
    assert fit.side == 1080
    assert replace(fit, side=256) == fit_camera(_degraded([clean_BCHW[:1]], 0.02, 0.0, 1.0))


@pytest.mark.parametrize("blur", [0.0, 0.8, 2.0, 3.5])
@pytest.mark.parametrize("slant", [0.0, 0.3, 1.0])
def test_edge_blur_of_an_exact_edge(blur, slant):
    # An edge of any slant, integrated over each pixel by 8 x 8 samples.
    place = (torch.arange(128 * 8, dtype=torch.float64) + 0.5) / 8 - 64.37
    edge_HW = ((place[None, :] - slant * place[:, None]) > 0).float() * 0.5 + 0.2
    pixels = F.avg_pool2d(edge_HW[None, None], 8)
    if blur:
        pixels = gaussian_blur(pixels, blur, keys_B=image_keys([0], seed=0))
    # Of an edge sharper than the pixels, one phase is all there is: half a pixel of blur cannot be told from none.
    assert edge_blur(pixels[0, 0], 0.0) == pytest.approx(blur, rel=0.03, abs=0.5 if not blur else 0.15)


def test_a_flat_picture_has_no_edges():
    assert edge_blur(torch.full((64, 64), 0.3), 0.0) is None
    noise_HW = 0.5 + 0.05 * torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    assert edge_blur(noise_HW, 0.05) is None
