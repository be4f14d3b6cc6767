"""Training noise: shares, keys, and PMAL's own pair."""

import pickle

import pytest
import torch

from noise import training
from noise.corruption import corrupt
from noise.keyed import fold_in, image_keys
from noise.training import NoiseType, TrainingNoise, pmal_pair
from tests.unit.noise.pictures import scenes

_MIXTURE = TrainingNoise(
    [
        NoiseType("gaussian_noise", (1, 3), 0.3),
        NoiseType("pmal_pair", (1,), 0.2),
        NoiseType("gaussian_blur", (2,), 0.25),
    ]
)


def test_kinds_and_severities_are_drawn_by_their_probability():
    images_BCHW = torch.full((4000, 1, 8, 8), 0.5)
    record = _MIXTURE(images_BCHW, image_keys(range(4000), seed=0)).record
    shares = [(record["kind"] == kind).double().mean().item() for kind in (-1, 0, 1, 2)]
    assert shares == pytest.approx([0.25, 0.3, 0.2, 0.25], abs=0.035)
    severities = record["severity"][record["kind"] == 0]
    assert set(severities.tolist()) == {1, 3}
    assert (severities == 1).double().mean().item() == pytest.approx(0.5, abs=0.07)
    assert record["severity"][record["kind"] == 1].max() == 0


def test_target_is_the_image_and_input_its_corruption():
    images_BCHW, keys_B = scenes(40, 32, 32), image_keys(range(40), seed=0)
    pair = _MIXTURE(images_BCHW, keys_B, draw=2)
    assert pair.target_BCHW.shape == pair.input_BCHW.shape == images_BCHW.shape
    own = pair.record["kind"] != 1
    assert torch.equal(pair.target_BCHW[own], images_BCHW[own])
    clean = pair.record["kind"] == -1
    assert torch.equal(pair.input_BCHW[clean], images_BCHW[clean])
    for index in (pair.record["kind"] == 0).nonzero()[:, 0].tolist():
        severity = pair.record["severity"][index].item()
        alone = corrupt(
            images_BCHW[index : index + 1], "gaussian_noise", severity, keys=fold_in(keys_B, "training/2")[[index]]
        )
        assert torch.equal(pair.input_BCHW[index], alone[0])


def test_a_pair_is_a_function_of_keys_and_draw():
    images_BCHW, keys_B = scenes(24, 17, 30), image_keys(range(24), seed=0)
    first = _MIXTURE(images_BCHW, keys_B)
    torch.manual_seed(9)
    order = torch.randperm(24)
    state = torch.get_rng_state()
    moved = pickle.loads(pickle.dumps(_MIXTURE))(images_BCHW[order], keys_B[order])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.allclose(moved.input_BCHW, first.input_BCHW[order], atol=1e-6)
    assert torch.allclose(moved.target_BCHW, first.target_BCHW[order], atol=1e-6)
    halves = [_MIXTURE(images_BCHW[part], keys_B[part]).input_BCHW for part in (slice(0, 5), slice(5, None))]
    assert torch.allclose(torch.cat(halves), first.input_BCHW, atol=1e-6)
    assert not torch.equal(_MIXTURE(images_BCHW, keys_B, draw=1).input_BCHW, first.input_BCHW)


def test_empty_batches_and_empty_mixtures_pass():
    images_BCHW, keys_B = scenes(3, 16, 16), image_keys(range(3), seed=0)
    assert _MIXTURE(images_BCHW[:0], keys_B[:0]).input_BCHW.shape == (0, 3, 16, 16)
    assert torch.equal(TrainingNoise([])(images_BCHW, keys_B).input_BCHW, images_BCHW)


def test_pmal_pair_adds_weak_noise_to_its_own_target():
    images_BCHW, keys_B = torch.rand(2000, 3, 12, 12), image_keys(range(2000), seed=0)
    target, noisy = pmal_pair(images_BCHW, keys_B)
    added = (noisy - target).double()
    deviations = added[:, 0].std((1, 2))
    assert deviations.max() < 0.025 * 1.3
    assert deviations.mean().item() == pytest.approx(0.0125, rel=0.05)
    assert abs(added.mean().item()) < 2e-4
    shared = (added - added[:, :1]).abs().amax((1, 2, 3)) < 1e-6
    assert shared.double().mean().item() == pytest.approx(0.5, abs=0.05)


def test_pmal_pair_leaves_the_range_and_is_not_clamped():
    _, noisy = pmal_pair(torch.ones(50, 3, 12, 12), image_keys(range(50), seed=0))
    assert noisy.max() > 1.01


def test_pmal_targets_are_moved_and_blurred_as_often_as_stated():
    images_BCHW = scenes(1, 32, 32).expand(2000, 3, 32, 32).contiguous()
    target, _ = pmal_pair(images_BCHW, image_keys(range(2000), seed=0))
    untouched = (target == images_BCHW).flatten(1).all(1)
    # Blurs with sigma below about 0.25 (a twelfth of U(0, 3)) change nothing that can be seen in float32 below 1e-3.
    assert untouched.double().mean().item() == pytest.approx(0.8 * 0.5, abs=0.06)
    moved = (target[:, :, 0, 0] - 0.5).abs().amax(1) < 1e-3
    assert 0.01 < moved.double().mean() < 0.2


def test_pmal_blurs_by_up_to_three_pixels(monkeypatch):
    monkeypatch.setattr(training, "_AFFINE_SHARE", 0.0)
    point_BCHW = torch.zeros(1000, 1, 41, 41)
    point_BCHW[:, 0, 20, 20] = 1.0
    target = pmal_pair(point_BCHW, image_keys(range(1000), seed=0))[0][:, 0].double()
    spread = (target * (torch.arange(41.0) - 20) ** 2).sum((1, 2)).sqrt()
    blurred = spread[spread > 0.3]
    assert len(blurred) / 1000 == pytest.approx(0.5 * 0.9, abs=0.06)
    assert 2.9 < blurred.max() <= 3.0
    assert blurred.mean().item() == pytest.approx(1.65, abs=0.1)


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        (3, 1.0, (1.2, 1.0, 0, 0)),  # zoom across and down, shift across and down, all by themselves
        (4, -1.0, (1.0, 0.8, 0, 0)),
        (5, 1.0, (1.0, 1.0, 0.2 * 80, 0)),
        (6, -1.0, (1.0, 1.0, 0, -0.2 * 40)),
    ],
)
def test_pmal_affine_zooms_and_shifts_as_far_as_stated(place, value, expected):
    signed_BP = torch.zeros(1, 7)
    signed_BP[0, place] = value
    centre_y, centre_x = 20.0, 40.0
    y_H1, x_1W = torch.arange(41.0)[:, None], torch.arange(81.0)[None, :]
    spot = 0.5 * torch.exp(-((y_H1 - centre_y) ** 2 + (x_1W - centre_x) ** 2) / 18)
    moved = (training._affine((0.5 + spot)[None, None], signed_BP)[0, 0] - 0.5).clamp(min=0).double()
    moved /= moved.sum()
    mean_x, mean_y = (moved * x_1W).sum(), (moved * y_H1).sum()
    size_x, size_y = ((moved * (x_1W - mean_x) ** 2).sum() ** 0.5, (moved * (y_H1 - mean_y) ** 2).sum() ** 0.5)
    found = [size_x / 3, size_y / 3, mean_x - centre_x, mean_y - centre_y]
    assert [value.item() for value in found] == pytest.approx(expected, rel=0.02, abs=0.25)


def test_pmal_affine_rotates_truly_on_wide_images():
    signed_BP = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0]])
    wide_BCHW = torch.full((1, 1, 64, 160), 0.5)
    wide_BCHW[..., 31:33, :] = 1.0
    turned_HW = training._affine(wide_BCHW, signed_BP)[0, 0]
    rows = [turned_HW[:, column].argmax().item() for column in (60, 100)]
    assert abs(rows[1] - rows[0]) / 40 == pytest.approx(0.268, abs=0.04)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 8, 9), (1, 21, 13)])
def test_pairs_keep_shape_and_dtype(dtype, shape):
    images_BCHW = torch.rand(16, *shape).to(dtype)
    for pair in (_MIXTURE(images_BCHW, image_keys(range(16), seed=0)),):
        assert pair.input_BCHW.dtype == pair.target_BCHW.dtype == dtype
        assert pair.input_BCHW.shape == images_BCHW.shape
        assert pair.input_BCHW.isfinite().all()


@pytest.mark.parametrize(
    ("types", "message"),
    [
        ([NoiseType("fuzz", (1,), 0.5)], "no corruption is called 'fuzz'"),
        ([NoiseType("contrast", (0,), 0.5)], r"severities must be 1 to 5, but got \(0,\) for contrast"),
        ([NoiseType("contrast", (), 0.5)], r"severities must be 1 to 5, but got \(\)"),
        ([NoiseType("contrast", (1,), -0.1)], "probability must be 0 to 1, but got -0.1"),
        ([NoiseType("contrast", (1,), 0.6), NoiseType("pmal_pair", (1,), 0.6)], "sum to at most 1, but sum to 1.2"),
    ],
)
def test_wrong_mixtures_are_refused(types, message):
    with pytest.raises(ValueError, match=message):
        TrainingNoise(types)


def test_strengths_between_severities_are_drawn_for_each_image():
    images_BCHW, keys_B = torch.full((3000, 1, 8, 8), 0.5), image_keys(range(3000), seed=0)
    pair = TrainingNoise([NoiseType("gaussian_noise", probability=1.0, strength=(0.0, 5.0))], scale="imagenet")(
        images_BCHW, keys_B
    )
    strength_B = pair.record["strength"]
    assert strength_B.aminmax() == (pytest.approx(0.0, abs=0.01), pytest.approx(5.0, abs=0.01))
    assert float(strength_B.mean()) == pytest.approx(2.5, abs=0.1)
    spread_B = (pair.input_BCHW - images_BCHW).flatten(1).std(1)
    for low, high, sigma in ((0.0, 0.2, 0.008), (1.45, 1.55, 0.10), (2.9, 3.1, 0.18)):
        chosen = (strength_B > low) & (strength_B < high)
        assert float(spread_B[chosen].mean()) == pytest.approx(sigma, rel=0.15), "0 .08 .12 .18, linear between"


@pytest.mark.parametrize("name", ["impulse_noise", "speckle_noise", "brightness", "contrast", "pmal_gaussian"])
def test_a_whole_strength_is_that_severity_and_0_changes_nothing(name):
    images_BCHW, keys_B = scenes(6, 32, 32), image_keys(range(6), seed=0)
    still = TrainingNoise([NoiseType(name, probability=1.0, strength=(0.0, 0.0))])(images_BCHW, keys_B)
    assert torch.allclose(still.input_BCHW, images_BCHW, atol=1e-6)
    whole = TrainingNoise([NoiseType(name, probability=1.0, strength=(4.0, 4.0))])(images_BCHW, keys_B)
    severe = TrainingNoise([NoiseType(name, (4,), 1.0)])(images_BCHW, keys_B)
    sizes = [(pair.input_BCHW - images_BCHW).abs().mean().item() for pair in (whole, severe)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


def test_strengths_of_other_corruptions_are_rounded_and_a_level_lowers_all():
    images_BCHW, keys_B = scenes(60, 16, 16), image_keys(range(60), seed=0)
    mixture = TrainingNoise([NoiseType("jpeg_compression", probability=1.0, strength=(0.0, 3.0))])
    record = mixture(images_BCHW, keys_B).record
    assert set(record["severity"].tolist()) == {0, 1, 2, 3}
    assert torch.equal(record["strength"], record["severity"].float())
    lowered = mixture(images_BCHW, keys_B, level=0.4).record
    assert set(lowered["severity"].tolist()) == {0, 1}
    none = mixture(images_BCHW, keys_B, level=0.0)
    assert torch.equal(none.input_BCHW, images_BCHW)


def test_a_level_lowers_pmals_own_noise():
    images_BCHW, keys_B = torch.full((50, 3, 16, 16), 0.5), image_keys(range(50), seed=0)
    whole, half = (pmal_pair(images_BCHW, keys_B, level=level) for level in (1.0, 0.5))
    noise_whole, noise_half = (pair[1] - pair[0] for pair in (whole, half))
    assert torch.allclose(noise_half, noise_whole / 2, atol=1e-6)


@pytest.mark.parametrize("strength", [(2.0, 1.0), (-1.0, 2.0), (0.0, 5.1)])
def test_a_strength_out_of_order_or_range_is_refused(strength):
    with pytest.raises(ValueError, match=r"strength must be two numbers from 0 to 5, least first, but got .* contrast"):
        TrainingNoise([NoiseType("contrast", probability=0.5, strength=strength)])
