"""The benchmark suite against the public package imagecorruptions, on 32 photographs at 224 px.

The figures stand in docs/noise-agreement.md, which `python tests/reference/write_agreement.py` makes.
"""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from noise.filters import line_filter
from tests.reference.agreement import DEPARTURES, DETERMINISTIC, DRAWS, agreement, photographs
from tests.reference.corruptions import COMMON, EXTRA, line_blurred

pytestmark = pytest.mark.integration

NUM_IMAGES = {"glass_blur": 4}  # the reference takes over a second for one image


@pytest.fixture(scope="module")
def images():
    folder = os.environ.get("MURK_TEST_DATA")
    if not folder:
        pytest.skip("needs photos-256.parquet in the folder that MURK_TEST_DATA names")
    return photographs(Path(folder))


@pytest.mark.parametrize("name", COMMON + EXTRA)
def test_changes_as_much_as_the_reference(images, name):
    """Within 10 % in mean absolute change and 0.5 dB in PSNR, or within what is said where we differ on purpose."""
    ratio, decibels = DEPARTURES.get(name, (0.10, 0.5))
    for severity in range(1, 6):
        found = agreement(images[: NUM_IMAGES.get(name)], name, severity, draws=DRAWS.get(name, 1))
        assert abs(found.change / found.change_reference - 1) < ratio, found
        assert abs(found.psnr - found.psnr_reference) < decibels, found
        if name in DETERMINISTIC:
            assert found.between < 3, found
            assert name != "jpeg_compression" or found.between < 1, found
        elif name not in DEPARTURES:
            assert found.histogram < 0.06, found
            assert found.spectrum < 1.0, found


@pytest.mark.parametrize("angle", [-44.0, -10.0, 0.0, 31.0, 44.0, -90.0, -119.0])
def test_a_line_at_the_same_angle_gives_the_same_pixels(images, angle):
    # No angle whose steps end on halves, which fall to one side or the other by the last digit.
    image = images[0].astype(np.float32) / 255
    ours = line_filter(
        torch.from_numpy(image).permute(2, 0, 1)[None].contiguous(), torch.tensor([math.radians(angle)]), radius=15,
        sigma=8.0,
    )[0].permute(1, 2, 0).numpy()  # fmt: skip
    assert np.abs(ours - line_blurred(image, radius=15, sigma=8, angle=angle)).mean() * 255 < 0.3
