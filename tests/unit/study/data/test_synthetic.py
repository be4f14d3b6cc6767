"""Drawn vehicles: pure functions of seed and index, the same scene at every size, no two classes alike."""

import numpy as np
import pytest

from study.config_data import SyntheticVehicles
from study.data.sources import open_source
from study.data.synthetic import draw_vehicle
from study.data.vehicle_shapes import MAX_CLASSES, vehicle_shape


def test_the_same_seed_and_index_draw_the_same_picture():
    first = draw_vehicle(3, 5, image_size=32, seed=1)
    assert first.shape == (32, 32, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, draw_vehicle(3, 5, image_size=32, seed=1))


@pytest.mark.parametrize("other", [{"seed": 2}, {"number": 6}, {"label": 4}, {"split": "test"}])
def test_any_other_coordinate_draws_another_picture(other):
    place = {"label": 3, "number": 5, "seed": 1, "split": "train"}

    def drawn(label, number, seed, split):
        return draw_vehicle(label, number, image_size=32, seed=seed, split=split)

    assert np.abs(drawn(**place).astype(int) - drawn(**place | other)).mean() > 2


@pytest.mark.parametrize("image_size", [16, 64, 129, 512])
def test_every_size_shows_the_same_scene(image_size):
    small = draw_vehicle(0, 0, image_size=16, seed=0).astype(float)
    whole = draw_vehicle(0, 0, image_size=image_size, seed=0).astype(float)
    side = image_size // 16
    block = whole[: side * 16, : side * 16].reshape(16, side, 16, side, 3).mean(axis=(1, 3))
    assert np.corrcoef(small.ravel(), block.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("image_size", [15, 513])
def test_a_size_out_of_bounds_is_refused(image_size):
    with pytest.raises(ValueError, match=f"must be from 16 to 512, but got {image_size}"):
        draw_vehicle(0, 0, image_size=image_size, seed=0)


def test_all_classes_differ_in_shape_and_name():
    shapes = [vehicle_shape(index) for index in range(MAX_CLASSES)]
    assert len({shape.name for shape in shapes}) == MAX_CLASSES
    assert len({shape.size for shape in shapes}) == MAX_CLASSES
    assert len({(shape.style, shape.wheel, shape.lamp) for shape in shapes}) == MAX_CLASSES
    with pytest.raises(ValueError, match="must be from 0 to 199, but got 200"):
        vehicle_shape(200)


def test_all_styles_can_be_drawn():
    for label in range(20):
        assert draw_vehicle(label, 0, image_size=16, seed=0).std() > 5


def test_a_larger_set_holds_the_smaller_one():
    small = open_source(SyntheticVehicles(num_classes=2, train_per_class=4, test_per_class=1, image_size=16))
    large = open_source(SyntheticVehicles(num_classes=3, train_per_class=6, test_per_class=2, image_size=16))
    pictures = {raw.content: raw.pixels for raw in large.read(np.arange(24), image_size=16)}
    for raw in small.read(np.arange(10), image_size=16):
        np.testing.assert_array_equal(pictures[raw.content], raw.pixels)
