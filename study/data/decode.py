"""Encoded image bytes to a square RGB array."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from study.data.source import Box, Raw

CHUNK = 256
"""Images decoded ahead of the one that is written."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "PPM", "TIFF", "JPEG2000", "AVIF")
"""What is read. Pillow knows more, some of which start a program (EPS) or raise whatever they like on broken bytes."""

MAX_PIXELS = 89_478_485
"""Of one image, Pillow's own bound for a warning: a few bytes may claim any size, and eight are decoded at once."""

UNREADABLE = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError,
    MemoryError, struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
"""What Pillow raises on broken files; SyntaxError is its word for a broken PNG, TypeError comes of mutated TIFFs."""


class CorruptImageError(ValueError):
    """An image cannot be decoded; the message is the reason."""


def decode_square(content: bytes, *, image_size: int, box: Box | None = None) -> tuple[np.ndarray, tuple[int, int]]:
    """Decodes, scales the image so that it just covers the square, and cuts the middle out.

    Resampling is bicubic with antialiasing; an image of the working size passes unchanged.

    Args:
        box: The part to keep, as far as it lies in the image.

    Returns:
        uint8 (image_size, image_size, 3) and the size (width, height) before, of the box where there is one.

    Raises:
        CorruptImageError: The bytes are no image that can be read whole, or the box lies outside of it.
    """
    if not content:
        raise CorruptImageError("there are no bytes")
    try:
        with open_image(io.BytesIO(content)) as opened:
            image = ImageOps.exif_transpose(opened if box is None else _cut(opened, box))
            image.load()
            rgb = to_rgb(image)
    except UnidentifiedImageError as error:  # its own text holds the address of a buffer
        raise CorruptImageError("the bytes are no image of a known format") from error
    except CorruptImageError:
        raise
    except UNREADABLE as error:
        raise CorruptImageError(f"{type(error).__name__}: {error}") from error
    return np.asarray(cover_square(rgb, image_size)), rgb.size


def open_image(file: io.BytesIO | Path) -> Image.Image:
    """The image of a file, not decoded yet, of a known format and size.

    Raises:
        CorruptImageError: It claims more than `MAX_PIXELS`. What `UNREADABLE` holds goes through.
    """
    image = Image.open(file, formats=_formats())
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height}"
        image.close()
        raise CorruptImageError(f"it says to be of {size} pixels, above {MAX_PIXELS:,}; make it smaller")
    return image


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this build of Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _cut(image: Image.Image, box: Box) -> Image.Image:
    left, top, right, bottom = max(box[0], 0), max(box[1], 0), min(box[2], image.width), min(box[3], image.height)
    if right <= left or bottom <= top:
        size = f"{image.width} x {image.height}"
        raise CorruptImageError(f"the box {','.join(map(str, box))} lies outside of the image of {size}")
    return image.crop((left, top, right, bottom))


def cover_square(image: Image.Image, image_size: int) -> Image.Image:
    """The middle square of an image at the working size, in one resampling."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    if side == image_size:
        return image.crop(box)
    return image.resize((image_size, image_size), Image.Resampling.BICUBIC, box=box)


def to_rgb(image: Image.Image) -> Image.Image:
    """Of any mode: 16 bits become 8, transparency is dropped."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


class Decoded(NamedTuple):
    """An image at the working size, or the reason why there is none.

    Attributes:
        row: Its row in the source.
        content: What its id is hashed from.
        pixels: uint8 (size, size, 3), or None where it cannot be read.
        source_size: Width and height before resizing.
        reason: Why it cannot be read.
    """

    row: int
    content: bytes
    pixels: np.ndarray | None
    source_size: tuple[int, int] = (0, 0)
    reason: str = ""


def decode_all(raws: Iterable[Raw], *, image_size: int) -> Iterator[Decoded]:
    """Decodes in threads (Pillow lets go of the interpreter lock), a bounded number ahead, in the order given."""
    waiting = iter(raws)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while chunk := list(islice(waiting, CHUNK)):
            yield from pool.map(partial(_decode, image_size=image_size), chunk)


def _decode(raw: Raw, *, image_size: int) -> Decoded:
    if raw.pixels is not None:
        height, width, _ = raw.pixels.shape
        pixels = np.asarray(cover_square(Image.fromarray(raw.pixels), image_size))
        return Decoded(raw.row, raw.identity(), pixels, (width, height))
    try:
        pixels, source_size = decode_square(raw.content, image_size=image_size, box=raw.box)
    except CorruptImageError as error:
        return Decoded(raw.row, raw.identity(), None, reason=str(error))
    return Decoded(raw.row, raw.identity(), pixels, source_size)
