"""Augmentation: keyed to the image, so that neither its batch nor its place matters."""

import pytest
import torch

from noise.keyed import image_keys
from study.config_train import AugmentConfig
from study.data.augment import augment

ALL = AugmentConfig(crop_padding=3, flip=0.5, colour=0.4)


@pytest.fixture
def images():
    return torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def keys(count=12, epoch=0):
    return image_keys(torch.arange(count), seed=0, salt=f"augment {epoch}")


def test_the_batch_does_not_matter(images):
    whole = augment(images, keys(), settings=ALL)
    part = torch.cat([augment(images[i : i + 1], keys()[i : i + 1], settings=ALL) for i in (5, 2, 9)])
    torch.testing.assert_close(part, whole[[5, 2, 9]], rtol=0, atol=1e-6)


def test_the_key_decides_and_the_global_state_is_left_alone(images):
    state = torch.get_rng_state()
    first = augment(images, keys(), settings=ALL)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, augment(images, keys(), settings=ALL))
    assert not torch.equal(first, augment(images, keys(epoch=1), settings=ALL))
    assert first.shape == images.shape
    assert 0 <= first.min() <= first.max() <= 1


def test_nothing_on_changes_nothing(images):
    assert torch.equal(augment(images, keys(), settings=AugmentConfig(crop_padding=0, flip=0, colour=0)), images)


def test_flip_is_a_mirror_with_the_given_probability(images):
    certain = AugmentConfig(crop_padding=0, flip=1.0)
    assert torch.equal(augment(images, keys(), settings=certain), images.flip(-1))
    many = images[:1].expand(2000, -1, -1, -1)
    flipped = augment(many, keys(2000), settings=AugmentConfig(crop_padding=0, flip=0.3))
    share = (flipped != many).flatten(1).any(dim=1).float().mean()
    assert abs(float(share) - 0.3) < 0.04


def test_a_crop_is_a_window_of_the_padded_image(images):
    padding = 2
    cropped = augment(images, keys(), settings=AugmentConfig(crop_padding=padding, flip=0))
    padded = torch.nn.functional.pad(images, (padding,) * 4, mode="reflect")
    found = set()
    for index in range(len(images)):
        places = [
            (y, x)
            for y in range(2 * padding + 1)
            for x in range(2 * padding + 1)
            if torch.equal(padded[index, :, y : y + 16, x : x + 16], cropped[index])
        ]
        assert len(places) == 1
        found.add(places[0])
    assert len(found) > 4


def test_padding_wider_than_the_image_is_cut(images):
    assert augment(images, keys(), settings=AugmentConfig(crop_padding=64)).shape == images.shape


def test_colour_keeps_grey_grey_and_scales_brightness_by_at_most_its_strength():
    grey = torch.full((64, 3, 4, 4), 0.5)
    result = augment(grey, keys(64), settings=AugmentConfig(crop_padding=0, flip=0, colour=0.2))
    torch.testing.assert_close(result[:, 0], result[:, 2], rtol=0, atol=1e-5)
    assert 0.4 - 1e-3 <= result.min() < 0.45
    assert 0.55 < result.max() <= 0.6 + 1e-3
