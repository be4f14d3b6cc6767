"""Decoding: every kind of image becomes a square of RGB, and broken bytes a reason."""

import io

import numpy as np
import pytest
from PIL import Image

from study.data.decode import CorruptImageError, decode_square


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width, height):
    return Image.fromarray(np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1)))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1", "CMYK"])
@pytest.mark.parametrize("size", [(30, 20), (20, 30), (8, 8), (5, 40)])
def test_every_mode_and_size_becomes_a_square(mode, size):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    pixels, before = decode_square(encoded(gradient(*size).convert("RGB").convert(mode), kind), image_size=8)
    assert pixels.shape == (8, 8, 3)
    assert pixels.dtype == np.uint8
    assert before == size


def test_an_image_of_the_working_size_passes_unchanged():
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode_square(encoded(Image.fromarray(noise)), image_size=9)[0], noise)


def test_the_middle_is_kept():
    wide = np.zeros((10, 30, 3), dtype=np.uint8)
    wide[:, 10:20] = 255
    assert decode_square(encoded(Image.fromarray(wide)), image_size=10)[0].min() == 255


def test_stripes_below_the_new_resolution_average_out():
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    pixels, _ = decode_square(encoded(Image.fromarray(stripes)), image_size=8)
    assert np.abs(pixels.astype(int) - 127).max() <= 12


def test_sixteen_bit_grey_keeps_its_range():
    deep = Image.fromarray(np.full((8, 8), 128 << 8, dtype=np.uint16))
    assert decode_square(encoded(deep), image_size=8)[0].tolist() == np.full((8, 8, 3), 128).tolist()


def test_the_camera_orientation_is_followed():
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    pixels, _ = decode_square(encoded(gradient(8, 8), "JPEG", exif=exif, quality=95), image_size=8)
    assert pixels[0, 0, 0] > 200 > 50 > pixels[0, -1, 0]


@pytest.mark.parametrize("content", [b"", b"no image at all", encoded(gradient(64, 64))[:80]])
def test_broken_bytes_are_a_reason(content):
    with pytest.raises(CorruptImageError):
        decode_square(content, image_size=8)


def test_a_box_is_cut_from_the_stored_picture_before_it_is_turned():
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    pixels[2:12, 4:14] = 255
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    content = encoded(Image.fromarray(pixels), exif=turned)
    square, before = decode_square(content, image_size=10, box=(4, 2, 14, 12))
    assert before == (10, 10)
    assert square.min() == 255
    half, before = decode_square(content, image_size=10, box=(4, 2, 14, 32))
    assert before == (18, 10)
    assert half.min() == 0


def test_a_box_outside_of_the_image_is_corrupt():
    with pytest.raises(CorruptImageError, match="the box 30,0,40,9 lies outside of the image of 30 x 20"):
        decode_square(encoded(gradient(30, 20)), image_size=8, box=(30, 0, 40, 9))
