"""`murk noise preview`: a contact sheet of one image, from a file or out of an image set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from noise.families import catalogue
from noise.keyed import image_keys
from noise.preview import contact_sheet
from study.data.decode import UNREADABLE, CorruptImageError, decode_square, open_image, to_rgb
from study.data.sources import open_source
from study.reevaluate import data_config
from study.storage import atomic_file
from study.studyfile import load_study

_SIZE = 224


def preview_noise(
    source: str,
    *,
    row: int | None,
    families: Sequence[str] | None,
    severities: str,
    diff: bool,
    size: int | None,
    out: Path,
) -> str:
    """Draw the contact sheet of one image; returns where it lies.

    Args:
        source: An image file, a class folder, a parquet file or a study file.
        row: Which image of an image set, from 0, which None means too.
        families: Names of corruptions, groups or families, also with commas between; all when None.
        size: Shorter side to work at, in pixels; None for a study's own, else 224.

    Raises:
        ValueError: The image cannot be read, a name is unknown, or a severity is not 1 to 5.
    """
    words = [word for item in families or () for word in item.replace(",", " ").split()]
    names = list(dict.fromkeys(entry.name for entry in catalogue(words)))
    levels = _severities(severities)
    if size is not None and size < 8:
        raise ValueError(f"--size must be 8 pixels or more, but got {size}")
    pixels, shown = _image(source, row=row, size=size)
    sheet = contact_sheet(pixels, names, levels, key=image_keys([0], seed=0), diff=diff)
    with atomic_file(out.resolve()) as temporary:
        sheet.save(temporary, format="PNG")
    return f"wrote {out}: {len(names)} corruptions of {shown} at {min(pixels.shape[-2:])} px"


def _image(source: str, *, row: int | None, size: int | None) -> tuple[Tensor, str]:
    place = Path(source)
    if place.suffix in {".yaml", ".yml"} or place.suffix == ".parquet" or place.is_dir():
        return _image_of_set(source, row=row or 0, size=size)
    if row is not None:
        raise ValueError(f"--row goes with an image set, but {place} is one image")
    try:
        with open_image(place) as opened:
            picture = to_rgb(ImageOps.exif_transpose(opened))
    except UNREADABLE as error:
        raise ValueError(f"{place} cannot be read as an image: {error}") from error
    scale = (size or _SIZE) / min(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
    return _tensor(np.asarray(picture)), place.name


def _image_of_set(source: str, *, row: int, size: int | None) -> tuple[Tensor, str]:
    """One image of a set, square as a study sees it."""
    is_study = Path(source).suffix in {".yaml", ".yml"}
    config = load_study(source).config.data if is_study else data_config(Path(source), image_size=size or _SIZE)
    opened = open_source(config)
    count = len(opened.listing().labels)
    if not 0 <= row < count:
        raise ValueError(f"--row must be 0 to {count - 1}, but got {row}")
    side = size or config.image_size
    raw = next(opened.read(np.array([row]), image_size=side))
    try:
        pixels = raw.pixels if raw.pixels is not None else decode_square(raw.content, image_size=side)[0]
    except CorruptImageError as error:
        raise ValueError(f"{opened.place(row)} cannot be read as an image: {error}") from error
    return _tensor(pixels), opened.place(row)


def _tensor(pixels_HWC: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels_HWC.copy()).permute(2, 0, 1)[None].float() / 255


def _severities(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and 1 <= int(part) <= 5 for part in parts):
        raise ValueError(f"severities must be numbers from 1 to 5 with commas between, but got {text!r}")
    return [int(part) for part in parts]
