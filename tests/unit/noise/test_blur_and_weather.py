"""Facts of single blurs, weathers and the elastic transform that can be checked by hand."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch

from noise import blur, digital, frost, weather
from noise.keyed import image_keys
from tests.unit.noise.pictures import random_images, scenes


def keys(count: int, seed: int = 0) -> torch.Tensor:
    return image_keys(range(count), seed=seed)


@pytest.mark.parametrize(("radius", "pixels"), [(1, 5), (2, 13), (3, 29), (10, 317)])
def test_defocus_of_a_point_is_a_disk(radius: int, pixels: int) -> None:
    point = torch.zeros(1, 1, 61, 61)
    point[0, 0, 30, 30] = 1
    spread = blur.defocus_blur(point, (radius, 1e-3), keys_B=keys(1))[0, 0]
    assert int((spread > 1e-4).sum()) == pixels
    assert float(spread.sum()) == pytest.approx(1.0, abs=1e-3)
    assert float(spread.max()) == pytest.approx(1 / pixels, abs=1e-5)


def test_defocus_is_the_convolution_with_its_kernel() -> None:
    image = random_images(1, 40, 50)[0, 0]
    x, y = np.meshgrid(*[np.arange(-4, 5)] * 2)
    disk = (x**2 + y**2 <= 16).astype(float)
    rim = np.exp(-0.5 * (np.arange(-1, 2) / 0.5) ** 2)
    kernel = scipy.signal.convolve2d(disk / disk.sum(), np.outer(rim, rim) / rim.sum() ** 2)
    expected = scipy.ndimage.correlate(image.double().numpy(), kernel, mode="mirror")
    found = blur.defocus_blur(image[None, None], (4, 0.5), keys_B=keys(1))[0, 0].numpy()
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize(("shift", "rounds"), [(1, 2), (2, 3), (4, 2)])
def test_glass_moves_every_pixel_once_and_not_far(shift: int, rounds: int) -> None:
    height, width = 30, 41
    origin_BL = blur._shuffled(keys(3), (height, width), shift=shift, rounds=rounds)
    assert torch.equal(origin_BL.sort(1).values, torch.arange(height * width).expand(3, -1))
    place_L = torch.arange(height * width)
    moved_down = (origin_BL // width - place_L // width).abs()
    assert int(moved_down.max()) > 0
    # A pixel swaps once by itself and may be fetched by others before and after it in each round.
    assert float(moved_down.double().quantile(0.99)) <= 2 * shift * rounds
    assert not torch.equal(origin_BL[0], origin_BL[1])


def test_zoom_blur_leaves_the_middle_and_blurs_the_rim() -> None:
    ramp = torch.linspace(0, 1, 224).expand(1, 1, 224, 224)
    change = (blur.zoom_blur(ramp, (1.3, 0.03), keys_B=keys(1)) - ramp)[0, 0, 100]
    # A pixel u from the middle reads u / z, so the change is the mean of u (1 / z - 1) over both copies of the image.
    zooms = [1.0, *(1 + 0.03 * i for i in range(11))]
    share = float(np.mean([1 / zoom - 1 for zoom in zooms]))
    expected = (torch.linspace(0, 1, 224) - 0.5) * share
    assert (change - expected).abs().max() < 0.01


def test_plasma_fills_its_range_and_is_rougher_with_less_decay() -> None:
    rough = {}
    for decay in (1.4, 2.0, 3.0):
        cloud = weather.plasma(keys(8), 64, decay=decay)
        assert torch.equal(cloud.amin((1, 2)), torch.zeros(8))
        assert torch.allclose(cloud.amax((1, 2)), torch.ones(8))
        rough[decay] = float(cloud.diff(dim=2).abs().mean())
    assert rough[1.4] > rough[2.0] > rough[3.0]


def test_plasma_goes_on_beyond_its_edges() -> None:
    cloud = weather.plasma(keys(16), 64, decay=3.0)
    seam = (cloud[:, :, 0] - cloud[:, :, -1]).abs().mean()
    inside = cloud.diff(dim=2).abs().mean()
    assert float(seam) < 1.5 * float(inside)


def test_fog_keeps_the_brightest_value_and_never_darkens_black() -> None:
    images_BCHW = scenes(3, 48, 48)
    foggy = weather.fog(images_BCHW, (1.5, 2.0), keys_B=keys(3))
    assert (foggy.amax((1, 2, 3)) <= images_BCHW.amax((1, 2, 3)) + 1e-6).all()
    assert (weather.fog(torch.zeros(1, 3, 16, 16), (1.5, 2.0), keys_B=keys(1)) == 0).all()  # black has no range


def test_frost_windows_are_parts_of_few_textures_made_once() -> None:
    frost._frost_textures.cache_clear()
    light = frost.frost_field(keys(40), (48, 64))
    assert frost._frost_textures.cache_info().misses == 1
    assert light.shape == (40, 1, 48, 64)
    textures = frost._frost_textures(64, light.device)
    assert textures.shape == (8, 128, 128)
    assert torch.equal(textures[4], textures[0].rot90(-1))
    assert float((textures == 0).float().mean() + (textures == 255).float().mean()) < 1e-3  # bytes hold their range
    assert len({tuple(one.flatten().tolist()) for one in light[:, 0, :4, :4]}) == 40
    assert torch.equal(frost.frost_field(keys(40)[7:9], (48, 64)), light[7:9])


def test_frost_is_a_weighted_sum_with_bluish_crystals() -> None:
    alone = frost.frost(torch.zeros(6, 3, 64, 64), (1.0, 1.0), keys_B=keys(6))
    red, green, blue = alone.mean((0, 2, 3)).tolist()
    assert 0.45 < red < green < blue < 0.75
    half = frost.frost(torch.ones(6, 3, 64, 64), (0.6, 0.5), keys_B=keys(6))
    assert torch.allclose(half, 0.6 + 0.5 * alone, atol=1e-6)


def test_snow_whitens_and_falls_alike_when_turned() -> None:
    dark = torch.zeros(2, 3, 64, 64)
    strength = weather.Snow(0.55, 0.3, 4, 0.9, 12, 8, 0.7)
    snowy = weather.snow(dark, strength, keys_B=keys(2))
    assert torch.allclose(snowy, snowy.flip(2, 3), atol=1e-6)
    assert float(snowy.min()) >= 0.3 * 0.5 - 1e-6  # (1 - mix) (1.5 grey + .5)


def test_water_brightens_and_mud_covers() -> None:
    images_BCHW = scenes(4, 96, 96)
    water = weather.spatter(images_BCHW, weather.Spatter(0.65, 0.3, 2, 0.68, 0.5, is_mud=False), keys_B=keys(4))
    assert float((water - images_BCHW).min()) >= -1e-6
    assert float((water > images_BCHW + 1e-3).float().mean()) > 0.02
    mud = weather.spatter(
        torch.ones(4, 3, 96, 96), weather.Spatter(0.65, 0.3, 1, 0.65, 1.5, is_mud=True), keys_B=keys(4)
    )
    assert float(mud.amin((0, 2, 3))[0]) == pytest.approx(63 / 255, abs=3e-3)
    assert (mud[:, 2] <= mud[:, 0] + 1e-6).all()


def test_distance_is_the_euclidean_one_up_to_twenty() -> None:
    marked = torch.rand(1, 1, 90, 70, generator=torch.Generator().manual_seed(0)) > 0.998
    expected = scipy.ndimage.distance_transform_edt(~marked[0, 0].numpy())
    found = weather._distance_to(marked)[0, 0].numpy()
    near = expected <= 20
    assert near.any()
    assert not near.all()
    assert np.abs(found - expected)[near].max() < 1e-4
    assert found[~near].min() > 20


def test_elastic_moves_are_of_one_length_at_any_side_and_none_at_strength_0() -> None:
    images_BCHW = scenes(2, 40, 56)
    assert torch.allclose(digital.elastic_transform(images_BCHW, 0.0, keys_B=keys(2)), images_BCHW, atol=1e-5)
    spreads = {
        side: float(digital._moves(keys(8), (side, side), alpha=20.0, stream="down").std()) for side in (112, 448)
    }
    # U(-r, r) with r = .005 side, smoothed over about .01 side: r / sqrt(3) / (2 sqrt(pi) sigma).
    for side, spread in spreads.items():
        expected = 20 * 0.005 * side / 3**0.5 / (2 * np.pi**0.5 * 0.01 * side)
        assert spread == pytest.approx(expected, rel=0.15)
