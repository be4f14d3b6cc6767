"""Low resolution: sides, kernels, noise at the small size, and that nothing depends on the batch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from noise.families import CORRUPTIONS
from noise.keyed import image_keys
from noise.low_resolution import KERNELS, Lens, LowResolution, enlarge, shrink
from noise.training import NoiseType, TrainingNoise


@pytest.fixture
def images_BCHW() -> Tensor:
    return torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def keys_B() -> Tensor:
    return image_keys(torch.arange(12), seed=0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_constant_image_stays_constant(kernel: str, keys_B: Tensor) -> None:
    grey_BCHW = torch.full((12, 3, 32, 32), 0.3)
    small_BCHW = shrink(grey_BCHW, 12, keys_B=keys_B, kernel=kernel)
    assert small_BCHW.shape == (12, 3, 12, 12)
    torch.testing.assert_close(enlarge(small_BCHW, 32), grey_BCHW, atol=1e-5, rtol=0)


def test_area_is_the_mean_of_cells(images_BCHW: Tensor, keys_B: Tensor) -> None:
    small_BCHW = shrink(images_BCHW, 16, keys_B=keys_B, kernel="area")
    torch.testing.assert_close(small_BCHW, images_BCHW.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2)))


def test_bicubic_is_pillows() -> None:
    from PIL import Image

    pixels = torch.randint(0, 256, (32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    theirs = Image.fromarray(pixels.numpy()).resize((12, 12), Image.Resampling.BICUBIC)
    ours = shrink(pixels[None, None].float() / 255, 12, keys_B=torch.zeros(1, dtype=torch.int64))[0, 0]
    theirs_HW = torch.from_numpy(np.array(theirs, dtype=np.float32)) / 255
    assert float((ours - theirs_HW).abs().max()) < 1.01 / 255


def test_a_random_kernel_is_each_images_own(images_BCHW: Tensor, keys_B: Tensor) -> None:
    mixed_BCHW = shrink(images_BCHW, 16, keys_B=keys_B, kernel="random")
    by_kernel = torch.stack([shrink(images_BCHW, 16, keys_B=keys_B, kernel=name) for name in KERNELS])
    same_KB = (by_kernel == mixed_BCHW).flatten(2).all(2)
    assert same_KB.any(0).all()
    assert same_KB.any(1).all()  # each kernel was drawn for some image
    torch.testing.assert_close(shrink(images_BCHW[3:5], 16, keys_B=keys_B[3:5], kernel="random"), mixed_BCHW[3:5])


def test_sides_are_drawn_for_each_image_and_the_target_stays(images_BCHW: Tensor, keys_B: Tensor) -> None:
    sampler = LowResolution((8, 16, 32), lens=Lens("area"))
    pair = sampler(images_BCHW, keys_B)
    assert torch.equal(pair.target_BCHW, images_BCHW)
    assert set(pair.record["side"].tolist()) == {8, 16, 32}
    for index, side in enumerate(pair.record["side"].tolist()):
        own_BCHW = images_BCHW[index : index + 1]
        if side < 32:
            own_BCHW = enlarge(F.interpolate(own_BCHW, size=(side, side), mode="area"), 32)
        torch.testing.assert_close(pair.input_BCHW[index], own_BCHW[0])
    again = sampler(images_BCHW[5:9], keys_B[5:9])
    torch.testing.assert_close(again.input_BCHW, pair.input_BCHW[5:9])
    assert not torch.equal(sampler(images_BCHW, keys_B, draw=1).record["side"], pair.record["side"])


def test_kept_small_they_have_the_side(images_BCHW: Tensor, keys_B: Tensor) -> None:
    pair = LowResolution((12,), lens=Lens("area", small=True))(images_BCHW, keys_B)
    assert pair.input_BCHW.shape == (12, 3, 12, 12)
    assert pair.target_BCHW.shape == (12, 3, 32, 32)
    with pytest.raises(ValueError, match=r"a batch of small images has one side.*\[8, 16\]"):
        LowResolution((8, 16), lens=Lens(small=True))


def test_noise_is_the_small_images(images_BCHW: Tensor, keys_B: Tensor) -> None:
    """A sensor's noise is in its own pixels; bringing them up smooths it."""
    noise = TrainingNoise([NoiseType("gaussian_noise", (3,), 1.0)])
    pair = LowResolution((16,), lens=Lens("area"), noise=noise)(images_BCHW, keys_B)
    small_BCHW = noise(shrink(images_BCHW, 16, keys_B=keys_B, kernel="area"), keys_B).input_BCHW
    torch.testing.assert_close(pair.input_BCHW, enlarge(small_BCHW, 32))
    assert torch.equal(pair.target_BCHW, images_BCHW)


def test_pmals_pair_moves_its_target_too(images_BCHW: Tensor, keys_B: Tensor) -> None:
    noise = TrainingNoise([NoiseType("pmal_pair", probability=1.0)])
    whole = noise(images_BCHW, keys_B)
    pair = LowResolution((16,), lens=Lens("area"), noise=noise)(images_BCHW, keys_B)
    assert torch.equal(pair.target_BCHW, whole.target_BCHW)
    assert pair.input_BCHW.shape == images_BCHW.shape


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_every_corruption_goes_with_the_smallest_side(name: str, images_BCHW: Tensor, keys_B: Tensor) -> None:
    noise = TrainingNoise([NoiseType(name, (3,), 1.0)])
    seen_BCHW = LowResolution((8,), lens=Lens(), noise=noise)(images_BCHW[:2], keys_B[:2]).input_BCHW
    assert seen_BCHW.isfinite().all()
    assert 0 <= float(seen_BCHW.min()) <= float(seen_BCHW.max()) <= 1


def test_what_cannot_be_is_refused(images_BCHW: Tensor, keys_B: Tensor) -> None:
    with pytest.raises(ValueError, match=r"below the images' 32 pixels, but got 32"):
        shrink(images_BCHW, 32, keys_B=keys_B)
    with pytest.raises(ValueError, match="kernel must be one of area, bilinear, bicubic, random, but got 'cubic'"):
        shrink(images_BCHW, 16, keys_B=keys_B, kernel="cubic")
    with pytest.raises(ValueError, match="one or more, but got"):
        LowResolution((), lens=Lens())
