"""Likeness of features in torch: equal to the numpy reference, and blind to what it should not see."""

import math

import pytest
import torch
from torch import Tensor

from analysis import similarity as reference
from models.similarity import linear_cka, mean_cosine, pooled


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(width: int) -> Tensor:
    return torch.linalg.qr(features(width, width, seed=9)).Q


@pytest.mark.parametrize(("images", "width", "other"), [(40, 7, 7), (40, 7, 5), (12, 30, 30), (12, 30, 4)])
def test_cka_is_the_references(images: int, width: int, other: int) -> None:
    clean_ND, noisy_ND = features(images, width) + 3, features(images, other, seed=1)
    noisy_ND[:, :3] += clean_ND[:, :3]
    expected = reference.linear_cka(clean_ND.numpy(), noisy_ND.numpy())
    assert linear_cka(clean_ND, noisy_ND) == pytest.approx(expected, rel=1e-12)
    assert linear_cka(noisy_ND, clean_ND) == pytest.approx(expected, rel=1e-12)
    assert linear_cka(clean_ND.float(), noisy_ND.float()) == pytest.approx(expected, rel=1e-5)
    assert 0.0 < expected < 0.99


@pytest.mark.parametrize("width", [7, 60])
def test_cka_sees_no_rotation_scale_or_shift_but_sees_stretching(width: int) -> None:
    clean_ND = features(40, width)
    moved_ND = 0.3 * clean_ND @ rotation(width) - 4
    assert linear_cka(clean_ND, moved_ND) == pytest.approx(1.0, abs=1e-10)
    noisy_ND = clean_ND + features(40, width, seed=2)
    assert linear_cka(moved_ND, noisy_ND) == pytest.approx(linear_cka(clean_ND, noisy_ND), rel=1e-9)
    stretch_D = torch.ones(width, dtype=torch.float64)
    stretch_D[0] = 20
    assert linear_cka(clean_ND, clean_ND * stretch_D) < 0.9


def test_the_cosine_is_the_references_and_sees_rotations() -> None:
    clean_ND, noisy_ND = features(20, 6), features(20, 6, seed=1)
    noisy_ND[3] = 0
    expected = reference.mean_cosine(clean_ND.numpy(), noisy_ND.numpy())
    assert mean_cosine(clean_ND, noisy_ND) == pytest.approx(expected, rel=1e-12)
    assert mean_cosine(clean_ND, clean_ND * 1e-9) == pytest.approx(1.0)
    assert mean_cosine(clean_ND, clean_ND @ rotation(6)) < 0.9


def test_maps_are_pooled_side_by_side() -> None:
    maps = [features(2, 3, 4, 4), features(2, 5, 2, 2, seed=1).bfloat16()]
    found_BD = pooled(maps)
    assert found_BD.shape == (2, 8)
    assert found_BD.dtype == torch.float32
    torch.testing.assert_close(found_BD[1, 2], maps[0][1, 2].mean().float())


def test_what_cannot_be_compared() -> None:
    assert math.isnan(linear_cka(features(5, 3), torch.ones(5, 3)))
    with pytest.raises(ValueError, match=r"of the same images, but got \(5, 3\) and \(4, 3\)"):
        linear_cka(features(5, 3), features(4, 3))
    with pytest.raises(ValueError, match="got 1 image"):
        linear_cka(features(1, 3), features(1, 3))
    with pytest.raises(ValueError, match="as many features on both sides, but got 3 and 2"):
        mean_cosine(features(5, 3), features(5, 2))
    with pytest.raises(ValueError, match=r"\(images, features\)"):
        mean_cosine(features(5), features(5))
