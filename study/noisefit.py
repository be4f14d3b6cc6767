"""`murk noise fit`: a camera's noise and blur from a folder of its images, as a table and as a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from ruamel.yaml import YAML
from torch import Tensor

from noise.camera import MULTIPLES, camera_levels
from noise.fit import MIN_SIDE, CameraFit, fit_camera
from study.data.decode import UNREADABLE, cover_square
from study.data.image_folder import SUFFIXES
from study.storage import atomic_file
from study.yamlfile import read_yaml

MAX_IMAGES, MAX_SIDE = 64, 768
"""Images measured (evenly spread over the folder) and pixels of their middle that are looked at, for time's sake."""

CAVEATS = """\
Measured on the stored values: gamma, denoising, sharpening, demosaicing and JPEG in the camera are part of what is
measured, and cannot be told apart from the sensor by pictures alone. Blocks with clipped values are left out. Fine,
even texture counts as noise, and what is soft in the scene itself counts as blur where nothing sharp is in view.
Under strong noise (more than about 15 grey levels) blur is found too small."""


def fit_folder(folder: Path, *, size: int | None, out: Path | None) -> str:
    """Measures the images of a folder; returns a table as text and writes the file where one is named.

    Args:
        folder: Images, at any depth; hidden files are passed over.
        size: Side that each image's middle square is scaled down to first, as a study does; None measures full size.
        out: A .yaml file.

    Raises:
        ValueError: No images, one that cannot be read or is too small, or images on which nothing can be measured.
    """
    if out is not None and out.suffix not in {".yaml", ".yml"}:
        raise ValueError(f"--out must end in .yaml, but got {str(out)!r}")
    if size is not None and size < MIN_SIDE:
        raise ValueError(f"--size must be at least {MIN_SIDE} pixels, but got {size}")
    fit, num_files = measure_folder(folder, size=size)
    text = _table(fit, folder, num_files)
    if out is not None:
        write_fit(fit, out)
        text += f"\n\nwritten to {out}"
    return text


def measure_folder(folder: Path, *, size: int | None = None) -> tuple[CameraFit, int]:
    """The camera's fit and how many images the folder holds; at most 64 of them are measured.

    Raises:
        ValueError: As `fit_folder`.
    """
    files = _files(folder)
    step = max(1.0, len(files) / MAX_IMAGES)
    chosen = [files[int(i * step)] for i in range(min(len(files), MAX_IMAGES))]
    images, sides = [], []
    for file in chosen:
        image, side = _read(file, size)
        images.append(image)
        sides.append(side)
    try:
        fit = fit_camera(images, names=[str(file) for file in chosen], side=sorted(sides)[len(sides) // 2])
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    return fit, len(files)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"the camera's images must lie in a folder, but {str(folder)!r} is none")
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    files = sorted(
        path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )  # fmt: skip
    if not files:
        raise ValueError(f"{folder} holds no images; put some of the camera's there ({', '.join(sorted(SUFFIXES))})")
    return files


def _read(file: Path, size: int | None) -> tuple[Tensor, int]:
    """float (1 or 3, H, W) in [0, 1] and the whole image's shorter side after scaling."""
    try:
        with Image.open(file) as opened:
            picture = ImageOps.exif_transpose(opened)
            picture.load()
    except UNREADABLE as error:
        raise ValueError(f"{file} cannot be read as an image ({error}); repair it or take it out") from error
    if picture.mode.startswith("I;16"):
        return _cropped(np.asarray(picture).astype(np.float32) / 65535, file, size)
    grey = picture.mode in {"1", "L", "LA"}
    picture = picture.convert("L" if grey else "RGB")
    if size is not None:
        _require_side(file, picture.size, size)
        picture = cover_square(picture, size)
    return _cropped(np.asarray(picture).astype(np.float32) / 255, file, None)


def _require_side(file: Path, size: tuple[int, int], least: int) -> None:
    if min(size) < least:
        raise ValueError(
            f"{file} must have sides of at least {least} pixels, but has {size[0]} x {size[1]}; take it out"
            + (" or give a smaller --size" if least > MIN_SIDE else "")
        )


def _cropped(values: np.ndarray, file: Path, size: int | None) -> tuple[Tensor, int]:
    if size is not None:
        raise ValueError(f"{file} has 16 bits a pixel, which are measured at full size only; leave --size out")
    height, width = values.shape[:2]
    _require_side(file, (width, height), MIN_SIDE)
    top, left = max(0, height - MAX_SIDE) // 2, max(0, width - MAX_SIDE) // 2
    middle = values[top : top + MAX_SIDE, left : left + MAX_SIDE]
    pixels = torch.from_numpy(middle.copy())
    return (pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)), min(height, width)


def write_fit(fit: CameraFit, out: Path) -> None:
    """The measured values and the severities made of them, as YAML; whole or not at all."""
    severities = [
        {"severity": severity, "multiple": multiple, **level._asdict()}
        for severity, (multiple, level) in enumerate(zip(MULTIPLES, camera_levels(fit), strict=True), start=1)
    ]
    with atomic_file(out.resolve()) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("# A camera's noise and blur, from `murk noise fit`. Noise in units of [0, 1], blur in pixels.\n")
        YAML().dump({"measured": dataclasses.asdict(fit), "severities": severities}, file)


def read_fit(place: Path) -> CameraFit:
    """A fit from the file that `write_fit` made, for `noise.camera.camera_corruption`.

    Raises:
        ValueError: The file is not such a file.
    """
    tree, _ = read_yaml(place.read_text(encoding="utf-8"))
    measured = tree.get("measured") if isinstance(tree, dict) else None
    wanted = {field.name for field in dataclasses.fields(CameraFit)}
    if not isinstance(measured, dict) or set(measured) != wanted:
        raise ValueError(f"{place} must hold `measured` with {', '.join(sorted(wanted))}; make it by murk noise fit")
    numbers = {name: value for name, value in measured.items() if name != "separated"}
    wrong = [name for name, value in numbers.items() if type(value) not in (int, float) or value < 0]
    if wrong or not measured["side"]:
        raise ValueError(f"{place}: measured.{(wrong or ['side'])[0]} must be a number from 0 up (side: from 1)")
    return CameraFit(**measured)


def _table(fit: CameraFit, folder: Path, num_files: int) -> str:
    of_all = f"{fit.num_images}" if fit.num_images == num_files else f"{fit.num_images} of {num_files}"
    lines = [
        f"{of_all} images in {folder}, shorter side {fit.side} px; noise from {fit.num_blocks} blocks of little",
        f"texture, blur from {fit.num_blur_images} images with edges",
        "",
        f"{'':<32}{'in [0, 1]':>11}{'spread':>11}{'of 255':>9}{'spread':>9}",
        _row("read noise, sigma", fit.read_sigma, fit.read_sigma_spread),
        _row("shot gain a (variance = a mean)", fit.shot_gain, fit.shot_gain_spread),
        _row("noise at mid grey, sigma", fit.noise_at(0.5), None),
        f"{'blur, sigma of a Gaussian':<32}{fit.blur_sigma:>8.2f} px{fit.blur_sigma_spread:>8.2f} px",
        "",
        f"{'severity':<10}{'times':>6}{'read noise':>12}{'shot gain':>11}{'mid grey':>10}{'blur, px':>10}",
    ]
    for severity, (multiple, level) in enumerate(zip(MULTIPLES, camera_levels(fit), strict=True), start=1):
        lines.append(
            f"{severity:<10}{multiple:>6.1f}{level.read_sigma:>12.5f}{level.shot_gain:>11.6f}"
            f"{fit.noise_at(0.5) * multiple:>10.5f}{level.blur_sigma:>10.2f}"
        )
    if not fit.separated:
        lines += ["", "The images are all about equally bright, so shot and read noise cannot be told apart here: all",
                  "of it is counted as read noise. Add darker and brighter images."]  # fmt: skip
    return "\n".join([*lines, "", "Severity 3 is the camera as measured.", CAVEATS])


def _row(name: str, value: float, spread: float | None) -> str:
    text = f"{name:<32}{value:>11.6f}"
    if spread is None:
        return f"{text}{'':>11}{value * 255:>9.3f}"
    return f"{text}{spread:>11.6f}{value * 255:>9.3f}{spread * 255:>9.3f}"
