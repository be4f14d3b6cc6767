"""Kornia's generators with our keys: against Kornia's own functions and draws, and without Kornia."""

import subprocess
import sys
from pathlib import Path

import kornia.augmentation as K
import pytest
import torch
from kornia.enhance import jpeg_codec_differentiable, normalize_min_max
from kornia.filters import gaussian, get_motion_kernel2d
from kornia.filters import median_blur as kornia_median
from kornia.filters import motion_blur as kornia_motion

from noise import kornia_ops
from noise.families import CORRUPTIONS, parameter_for
from noise.keyed import image_keys, uniform
from noise.kornia_ops import KORNIA
from tests.unit.noise.pictures import scenes

_KEYS_8 = image_keys(range(8), seed=0)
_GREY_BCHW = torch.full((8, 1, 24, 37), 0.5)


def test_every_entry_is_kornias_and_in_the_table():
    for name, corruption in KORNIA.items():
        assert name.startswith("kornia.")
        assert corruption.family == "kornia"
        assert CORRUPTIONS[name] is corruption
        assert corruption.source.startswith("Kornia Random")
        assert hasattr(K, corruption.source.split()[1].rstrip(","))


def test_rain_draws_lines_of_kornias_level_over_the_stated_share():
    images_BCHW = scenes(8, 64, 80)
    noisy = kornia_ops.rain(images_BCHW, (0.05, 9), keys_B=_KEYS_8)
    hit = (noisy != images_BCHW).any(1)
    assert noisy.movedim(1, -1)[hit].sub(200 / 255).abs().max() < 1e-6
    assert 0.035 < hit.double().mean() < 0.052
    assert hit.flatten(1).double().mean(1).std() < 0.01


def test_snow_brightens_the_dark_and_leaves_the_light():
    ramp_BCHW = torch.linspace(0.05, 1, 96).expand(8, 3, 8, 96)
    noisy = kornia_ops.snow(ramp_BCHW, (0.5, 1.5), keys_B=_KEYS_8)
    factor = noisy / ramp_BCHW
    assert factor[..., ramp_BCHW[0, 0, 0] > 0.5].sub(1).abs().max() < 1e-4
    dark = factor[..., ramp_BCHW[0, 0, 0] < 0.4]
    assert dark.min() > 1.4 - 1e-4
    assert dark.max() < 1.5 + 1e-4
    assert dark.flatten(1).std(1).max() < 1e-4
    assert len(dark[:, 0, 0, 0].unique()) == 8


@pytest.mark.parametrize("size", [3, 5, 10, 37])
@pytest.mark.parametrize("shape", [(3, 24, 37), (1, 8, 9)])
def test_motion_blur_equals_kornias(size, shape):
    images_BCHW = scenes(8, *shape[1:], channels=shape[0])
    expected = kornia_motion(
        images_BCHW, kernel_size=size + 1 - size % 2,
        angle=uniform(_KEYS_8, (1,), stream="angle", low=0.0, high=360.0)[:, 0],
        direction=uniform(_KEYS_8, (1,), stream="direction", low=-1.0, high=1.0)[:, 0],
        border_type="replicate", mode="nearest",
    )  # fmt: skip
    assert torch.allclose(kornia_ops.motion_blur(images_BCHW, size, keys_B=_KEYS_8), expected, atol=1e-5)


def test_no_motion_kernel_has_more_taps_than_are_gathered():
    for side in (3, 5, 7, 9, 15, 31, 45):
        kernels = get_motion_kernel2d(side, torch.linspace(0, 360, 1441), torch.full((1441,), 0.3))
        assert (kernels > 0).flatten(1).sum(1).max() <= 2 * side


def test_median_blur_is_kornias_over_and_over():
    images_BCHW = scenes(4, 17, 22)
    once = kornia_median(images_BCHW, (5, 5), border_type="replicate")
    assert torch.equal(kornia_ops.median_blur(images_BCHW, (5, 1), keys_B=_KEYS_8[:4]), once)
    twice = kornia_median(once, (5, 5), border_type="replicate")
    assert torch.equal(kornia_ops.median_blur(images_BCHW, (5, 2), keys_B=_KEYS_8[:4]), twice)


def test_jpeg_is_kornias_at_a_quality_of_each_image():
    images_BCHW = scenes(8, 33, 24)
    quality_B = uniform(_KEYS_8, (1,), stream="quality", low=15, high=50)[:, 0]
    coded = kornia_ops.jpeg(images_BCHW, (15, 50), keys_B=_KEYS_8)
    # Float32 rounds a few coefficients to the other side.
    assert (coded - jpeg_codec_differentiable(images_BCHW, quality_B)).abs().mean() < 1e-5
    grey_BCHW = images_BCHW[:, :1]
    whole = jpeg_codec_differentiable(grey_BCHW.expand(-1, 3, -1, -1), quality_B)
    assert (kornia_ops.jpeg(grey_BCHW, (15, 50), keys_B=_KEYS_8) - whole[:, :1]).abs().mean() < 1e-5


def test_salt_and_pepper_hits_all_channels_of_a_pixel():
    images_BCHW = torch.full((8, 3, 96, 96), 0.5)
    noisy = kornia_ops.salt_and_pepper(images_BCHW, 0.2, keys_B=_KEYS_8)
    assert torch.equal(noisy[:, 0], noisy[:, 1])
    white, black = (noisy == 1).double().mean((1, 2, 3)), (noisy == 0).double().mean((1, 2, 3))
    assert (white + black).mean().item() == pytest.approx(0.2, abs=0.01)
    share_B = white / (white + black)
    assert share_B.min() > 0.37
    assert share_B.max() < 0.63
    assert share_B.std() > 0.02


def test_gaussian_noise_has_the_stated_deviation_and_is_not_the_benchmarks():
    images_BCHW = torch.full((8, 3, 64, 64), 0.5)
    added = kornia_ops.gaussian_noise(images_BCHW, 0.1, keys_B=_KEYS_8) - images_BCHW
    assert added.std().item() == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize("kind", ["Linear", "LinearCorner"])
def test_ramps_are_those_that_kornia_draws(kind):
    op = {"Linear": kornia_ops.linear_illumination, "LinearCorner": kornia_ops.linear_corner_illumination}[kind]
    generator = getattr(K, f"Random{kind}Illumination")(gain=(0.3, 0.3), p=1.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kornias = generator.forward_parameters((200, 1, 24, 37))["gradient"]
    found = kornias.mul(1000).round().flatten(1).unique(dim=0) / 1000
    assert len(found) == 8
    ours = op(torch.full((200, 1, 24, 37), 0.5), (0.3, 0.3), keys_B=image_keys(range(200), seed=0)) - 0.5
    distance = torch.cdist(ours.flatten(1), found, p=float("inf"))
    assert distance.min(1).values.max() < 1e-3
    counts = distance.argmin(1).bincount(minlength=8)
    assert counts.min() >= 10  # 25 on average


def test_gaussian_spot_is_kornias_for_the_same_centre_and_width():
    height, width = _GREY_BCHW.shape[-2:]
    sides = {}
    for stream, length in (("rows", height), ("columns", width)):
        centre = uniform(_KEYS_8, (1,), stream=f"{stream} centre", low=0.1, high=0.9) * length
        sigma = uniform(_KEYS_8, (1,), stream=f"{stream} sigma", low=0.2, high=0.6) * length
        # Kornia's filter counts from the pixels' edges on even sides only.
        sides[stream] = gaussian(length, sigma, mean=centre - (0.5 if length % 2 else 0.0))
    bell = normalize_min_max((sides["rows"][:, :, None] * sides["columns"][:, None, :])[:, None])
    ours = kornia_ops.gaussian_illumination(_GREY_BCHW, (0.4, 0.4), keys_B=_KEYS_8) - 0.5
    assert torch.allclose(ours.abs(), 0.4 * bell, atol=0.002)
    assert {-1.0, 1.0} == set(ours.flatten(1).sum(1).sign().tolist())


def test_plasma_is_a_fractal_of_each_images_own():
    plasma_BCHW = kornia_ops._plasma(torch.zeros(8, 3, 40, 65), _KEYS_8)
    assert plasma_BCHW.shape == (8, 3, 40, 65)
    assert plasma_BCHW.flatten(2).amin(2).abs().max() < 1e-6
    assert plasma_BCHW.flatten(2).amax(2).sub(1).abs().max() < 1e-5
    flat = plasma_BCHW.flatten(0, 1).flatten(1)
    assert torch.corrcoef(flat).fill_diagonal_(0).abs().max() < 0.9
    steps = plasma_BCHW.diff(dim=-1).abs().mean((1, 2, 3))
    assert steps.max() > 2 * steps.min()  # roughness is drawn for each image


def test_plasma_changes_by_the_stated_strengths():
    images_BCHW = torch.full((8, 3, 40, 65), 0.5)
    brighter = kornia_ops.plasma_brightness(images_BCHW, 0.2, keys_B=_KEYS_8)
    assert brighter.amax().item() == pytest.approx(0.7, abs=1e-5)
    assert brighter.amin().item() == pytest.approx(0.3, abs=1e-5)
    shaded = kornia_ops.plasma_shadow(images_BCHW, (0.3, 0.5), keys_B=_KEYS_8)
    assert shaded.sub(0.2).abs().lt(1e-6).logical_or(shaded == 0.5).all()
    assert torch.equal(shaded[:, 0], shaded[:, 2])
    ends_BCHW = torch.ones(8, 3, 40, 65)
    contrast = kornia_ops.plasma_contrast(ends_BCHW * 0.6, 0.5, keys_B=_KEYS_8) - 0.5
    assert contrast.amin().item() == pytest.approx(0.05, abs=1e-5)
    assert contrast.amax().item() == pytest.approx(0.15, abs=1e-5)


@pytest.mark.parametrize("side", [8, 13, 32, 64, 224])
def test_lengths_fit_the_smallest_images(side):
    for severity in range(1, 6):
        share, length = parameter_for("kornia.rain", severity, side)
        assert 0 < share < 0.5
        assert length >= 2
        assert 3 <= parameter_for("kornia.motion_blur", severity, side) <= max(side, 11)


_WITHOUT = """
import sys
sys.modules["kornia"] = None
import torch
from noise.corruption import corrupt
from noise.families import CORRUPTIONS, catalogue
from noise.keyed import image_keys
images, keys = torch.rand(2, 3, 16, 16), image_keys([0, 1], seed=0)
assert len(catalogue()) >= len(CORRUPTIONS)
for name in CORRUPTIONS:
    try:
        corrupt(images, name, 3, keys=keys)
        assert not name.startswith("kornia."), name
    except ImportError as error:
        assert name.startswith("kornia."), name
        assert "need the package kornia, which is not installed" in str(error)
"""


@pytest.mark.slow
def test_the_package_works_without_kornia():
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", _WITHOUT], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
