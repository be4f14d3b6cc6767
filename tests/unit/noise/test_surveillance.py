"""The roadside family against formulas by hand."""

import math

import pytest
import torch

from noise.corruption import corrupt
from noise.families import CORRUPTIONS, parameter_for
from noise.jpeg import jpeg_compression
from noise.keyed import image_keys
from noise.light import smooth_field, to_linear, to_srgb
from noise.resolution import resolution
from noise.roadside import Dirt, Rain, depth_fog, fog_depth, headlight_glare, lens_dirt, rain_streaks, scaled_rain
from noise.sensor import Far, LowLight, Motion, driving_blur, far_jpeg, low_light, overexposure, underexposure
from noise.surveillance import SURVEILLANCE
from tests.unit.noise.pictures import random_images, scenes

_KEYS_4 = image_keys(range(4), seed=0)


def _flat(*values, side=64, channels=3):
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, channels, side, side).contiguous()


def test_the_family_is_registered_with_sources():
    assert set(SURVEILLANCE) <= set(CORRUPTIONS)
    assert {corruption.family for corruption in SURVEILLANCE.values()} == {"surveillance"}
    assert all(len(corruption.source) >= 3 for corruption in SURVEILLANCE.values())


def test_srgb_has_the_standards_values_and_inverts():
    light = to_linear(torch.tensor([0.0, 0.04045, 0.5, 1.0]))
    assert light.tolist() == pytest.approx([0.0, 0.0031308, 0.2140411, 1.0], abs=1e-6)
    values = torch.linspace(0, 1, 4096)
    assert (to_srgb(to_linear(values)) - values).abs().max() < 1e-5
    assert to_srgb(torch.tensor([-0.2, 1.7])).tolist() == pytest.approx([0.0, 1.0])


def test_a_smooth_field_is_smooth_centred_and_of_square_cells():
    field = smooth_field(image_keys(range(200), seed=0), 40, 80, cells=4, stream="f")
    assert field.shape == (200, 1, 40, 80)
    assert field.abs().max() < 1
    assert field.std() > 0.3
    assert abs(field.mean().item()) < 0.02
    # 3 t^2 - 2 t^3 rises by at most 1.5 in a cell of 10 pixels; values differ by at most 2.
    assert max(field.diff(dim=2).abs().max(), field.diff(dim=3).abs().max()) <= 0.3


@pytest.mark.parametrize("exposure", [LowLight(500, 2.5, 0.0, 0.8), LowLight(90, 6.0, 0.0, 0.6)])
def test_low_light_has_mean_and_variance_of_the_formula(exposure):
    images_BCHW = _flat(0.55, 0.7, 0.85, 0.9)
    noisy = to_linear(low_light(images_BCHW, exposure, keys_B=_KEYS_4)).double()
    light = to_linear(images_BCHW)[:, 0, 0, 0].double()
    variance = exposure.level**2 * (exposure.electrons * light + exposure.read**2) / exposure.electrons**2
    assert torch.allclose(
        noisy.mean((1, 2, 3)), exposure.level * light, atol=5 * (variance.max() / 12288).item() ** 0.5
    )
    assert torch.allclose(noisy.var((1, 2, 3)), variance, rtol=0.06)


def test_low_light_rows_share_an_offset_over_columns_and_channels():
    exposure = LowLight(1000, 0.0, 30.0, 1.0)
    noisy = to_linear(low_light(_flat(0.7, side=256), exposure, keys_B=_KEYS_4[:1]))
    rows_CH = noisy[0].mean(2)
    assert rows_CH.std(1).mean().item() == pytest.approx(0.03, rel=0.15)
    assert torch.corrcoef(rows_CH)[0, 1] > 0.99
    assert noisy[0].mean(1).std() < 0.003


def test_a_stop_doubles_or_halves_the_light():
    images_BCHW = _flat(0.3, 0.5)
    for stops in (1.0, 2.0):
        up = overexposure(images_BCHW, stops, keys_B=_KEYS_4[:2])
        assert torch.allclose(to_linear(up), to_linear(images_BCHW) * 2**stops, atol=1e-5)
        down = underexposure(images_BCHW, stops, keys_B=_KEYS_4[:2])
        assert (down - to_srgb(to_linear(images_BCHW) / 2**stops)).abs().max() <= 0.5 / 255 + 1e-6
        assert torch.allclose(down * 255, (down * 255).round(), atol=1e-4)
    # sRGB 0.5 is 21.4 % of the light: 2.3 stops more and it is white.
    assert (overexposure(_flat(0.5), 2.3, keys_B=_KEYS_4[:1]) == 1).all()
    assert (overexposure(_flat(0.5), 2.2, keys_B=_KEYS_4[:1]) < 1).all()


def test_underexposure_merges_grey_levels():
    levels = (torch.arange(256) / 255).view(1, 1, 16, 16)
    assert len(underexposure(levels, 5.0, keys_B=_KEYS_4[:1]).unique()) < 64


def test_driving_blur_of_a_point_is_a_centred_even_line_along_an_axis():
    count = 64
    images_BCHW = torch.zeros(count, 1, 61, 61)
    images_BCHW[:, 0, 30, 30] = 1
    blurred = to_linear(driving_blur(images_BCHW, Motion(9.0), keys_B=image_keys(range(count), seed=3)))[:, 0]
    blurred = blurred.masked_fill(blurred < 1e-5, 0.0)  # roundings, which second moments would weigh by their distance
    assert torch.allclose(blurred.sum((1, 2)), torch.ones(count), atol=1e-3)
    places = torch.arange(61.0) - 30
    mean_y, mean_x = (blurred.sum(2) * places).sum(1), (blurred.sum(1) * places).sum(1)
    assert max(mean_y.abs().max(), mean_x.abs().max()) < 0.01
    var_y, var_x = (blurred.sum(2) * places**2).sum(1), (blurred.sum(1) * places**2).sum(1)
    sideways = var_x > var_y
    assert 16 < sideways.sum() < 48
    # Nine whole pixels: variance (81 - 1) / 12, as of the numbers -4..4.
    assert torch.allclose(torch.where(sideways, var_x, var_y), torch.full((count,), 80 / 12), atol=1e-3)
    slope = ((blurred * places[:, None] * places[None, :]).sum((1, 2)) / (80 / 12)).abs().atan().rad2deg()
    assert slope[sideways].max() < 6.01
    assert 8 < slope[~sideways].max() < 12.01


def test_driving_blur_of_a_part_of_a_pixel_weighs_the_ends():
    images_BCHW = torch.zeros(1, 1, 9, 9)
    images_BCHW[..., 4, 4] = 1
    blurred = to_linear(driving_blur(images_BCHW, Motion(2.0), keys_B=_KEYS_4[:1]))
    along = min(blurred.sum(3).flatten(), blurred.sum(2).flatten(), key=lambda line: line[4].item())
    assert along[3:6].tolist() == pytest.approx([0.25, 0.5, 0.25], abs=0.01)


def test_driving_blur_leaves_flat_images():
    images_BCHW = _flat(0.7, 0.2, side=9)
    assert torch.allclose(driving_blur(images_BCHW, Motion(17.0), keys_B=_KEYS_4[:2]), images_BCHW, atol=1e-5)


def test_fog_follows_koschmieder():
    assert fog_depth(4).tolist() == pytest.approx([30.0, 30.0, 24.0, 15 / 0.875])
    count = 200
    black_BCHW = torch.zeros(count, 1, 64, 64)
    keys_B = image_keys(range(count), seed=0)
    veil = to_linear(depth_fog(black_BCHW, 100.0, keys_B=keys_B))
    passed = to_linear(depth_fog(black_BCHW + 1, 100.0, keys_B=keys_B)) - veil
    # White minus black is t alone; the field has mean 0, so the mean depth is that of the rows.
    depth = passed.log() / math.log(0.05) * 100.0
    assert torch.allclose(depth.mean((0, 1, 3)), fog_depth(64), rtol=0.02)
    assert (depth / fog_depth(64)[:, None] - 1).abs().max() <= 0.25 + 1e-3
    airlight_B1HW = veil / (1 - passed)
    assert (airlight_B1HW.amax((1, 2, 3)) - airlight_B1HW.amin((1, 2, 3))).max() < 1e-3
    assert airlight_B1HW.min() > 0.499
    assert airlight_B1HW.max() < 0.651


def test_visibility_is_the_distance_of_five_percent_contrast():
    black_BCHW, white_BCHW = _flat(0.0), _flat(1.0)
    near_30 = [to_linear(depth_fog(image, 30.0, keys_B=_KEYS_4[:1]))[..., :16, :] for image in (black_BCHW, white_BCHW)]
    assert (near_30[1] - near_30[0]).mean().item() == pytest.approx(0.05, abs=0.02)


def test_rain_lightens_the_dark_and_spares_what_is_as_bright_as_itself():
    rain = SURVEILLANCE["rain_streaks"].severities["imagenet"][4]
    dark = rain_streaks(_flat(0.1, side=224), rain, keys_B=_KEYS_4[:1]) - 0.1
    assert dark.min() > -1e-5
    assert 0.05 < (dark > 0.05).float().mean() < 0.7
    alike = to_srgb(torch.tensor(0.8)).item()
    assert torch.allclose(
        rain_streaks(_flat(alike), rain, keys_B=_KEYS_4[:1]), torch.full((1, 3, 64, 64), alike), atol=1e-4
    )
    assert torch.equal(dark[:, 0], dark[:, 2])


def test_rain_streaks_run_down_the_image():
    dark = rain_streaks(_flat(0.0, side=224), Rain(0.001, 20, 0.5, 0.6), keys_B=_KEYS_4[:1])[0, 0]
    assert dark.diff(dim=0).abs().mean() < 0.5 * dark.diff(dim=1).abs().mean()


def test_rain_keeps_its_number_of_streaks_at_other_sizes():
    small = scaled_rain(Rain(0.001, 20, 0.8, 0.5), 0.5)
    thinner = 0.5 * math.sqrt((1 + 12 * 0.64) / (1 + 12 * 0.16))
    assert small == pytest.approx((0.004, 10, 0.4, 0.5 * thinner))
    assert scaled_rain(Rain(0.001, 20, 0.8, 0.5), 8 / 224).drops <= 0.1


def test_glare_adds_light_that_falls_with_the_square_of_the_distance():
    dark_BCHW = torch.zeros(1, 1, 400, 400)
    light = to_linear(headlight_glare(dark_BCHW, 0.1, keys_B=_KEYS_4[:1]))[0, 0]
    lamps_row = light.amax(1).argmax().item()
    assert 0.5 * 400 <= lamps_row <= 0.72 * 400
    left, right = light[lamps_row, :200].argmax().item(), 200 + light[lamps_row, 200:].argmax().item()
    # p (4 + 1) at the lamp itself, p in 0.07..0.1, and the other lamp's halo.
    assert 0.34 < light[lamps_row, left] < 0.55
    assert 0.4 <= (right - left) / 400 <= 0.68
    # Far above, both lamps are about equally far away: halo sum_lamps p / (1 + r^2 / h^2).
    power = light[0, (left + right) // 2].item() / (
        1 / (1 + (lamps_row**2 + ((right - left) / 2) ** 2) / (0.14 * 400) ** 2)
    )
    assert 0.14 < power < 0.2


def test_dirt_takes_light_and_only_where_the_spots_are():
    images_BCHW = _flat(0.8, side=128)
    light = to_linear(lens_dirt(images_BCHW, Dirt(12, 0.8, 4.0), keys_B=_KEYS_4[:1])) / to_linear(images_BCHW)
    # y / x = T + 0.35 (1 - T) on a flat image.
    assert light.max() <= 1 + 1e-5
    assert light.min() >= 0.35
    assert 0.03 < (light < 0.9).float().mean() < 0.8
    assert (light > 0.97).float().mean() > 0.2


def test_far_jpeg_is_both_in_turn():
    images_BCHW = scenes(2, 40, 48)
    by_hand = jpeg_compression(resolution(images_BCHW, 3, keys_B=_KEYS_4), 35, keys_B=_KEYS_4)
    assert torch.equal(far_jpeg(images_BCHW, Far(3, 35), keys_B=_KEYS_4[:2]), by_hand)


def test_lengths_follow_the_side():
    assert parameter_for("driving_blur", 5, 112) == Motion(8.5)
    assert parameter_for("driving_blur", 1, 32).length == pytest.approx(1 + (3 / 7) ** 2 / 4)
    assert parameter_for("lens_dirt", 3, 448).scatter == 12.0
    assert parameter_for("depth_fog", 3, 64) == 200.0
    assert parameter_for("far_jpeg", 5, 64) == Far(3.2, 40)


@pytest.mark.parametrize("name", sorted(SURVEILLANCE))
def test_severity_1_is_mild_and_5_leaves_something(name):
    images_BCHW = scenes(4, 224, 224)
    mild, severe = (corrupt(images_BCHW, name, severity, keys=_KEYS_4) for severity in (1, 5))
    assert (mild - images_BCHW).abs().mean() < 0.13
    for before, after in zip(images_BCHW, severe, strict=True):
        assert torch.corrcoef(torch.stack([before.flatten(), after.flatten()]))[0, 1] > 0.2


@pytest.mark.parametrize("name", sorted(SURVEILLANCE))
def test_random_pixels_and_one_channel_pass(name):
    images_BCHW = random_images(2, 17, 40, channels=1)
    assert corrupt(images_BCHW, name, 3, keys=_KEYS_4[:2]).isfinite().all()
