"""`murk noise fit`: a camera's noise and blur from a folder of its images, as a table and as a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from PIL import ImageOps
from ruamel.yaml import YAML
from torch import Tensor

from noise.camera import MULTIPLES, camera_levels
from noise.fit import MIN_RESIZED, MIN_SIDE, CameraFit, fit_camera
from study.data.decode import UNREADABLE, open_image
from study.data.image_folder import SUFFIXES
from study.storage import atomic_file
from study.yamlfile import read_yaml

MAX_IMAGES, MAX_SIDE = 64, 768
"""Images measured (evenly spread over the folder) and pixels of their middle that are looked at, for time's sake."""

CAVEATS = """\
Measured on the stored values: gamma, denoising, sharpening, demosaicing and JPEG in the camera are part of what is
measured, and cannot be told apart from the sensor by pictures alone. Blocks with clipped values are left out. Fine,
even texture counts as noise, and what is soft in the scene itself counts as blur where nothing sharp is in view.
Under strong noise (more than about 15 grey levels) blur is found too small. JPEG hides noise (of 7.7 grey levels 2.2
are left at quality 85), so take PNG or raw images where the camera gives them."""


def fit_folder(folder: Path, *, size: int | None, out: Path | None) -> str:
    """Measures the images of a folder; returns a table as text and writes the file where one is named.

    Args:
        folder: Images, at any depth; hidden files are passed over.
        size: Give the values for images made this small, in pixels of the shorter side, as a study does; None gives
            those at full size, where all is measured.
        out: A .yaml file.

    Raises:
        ValueError: No images, one that cannot be read or is too small, or images on which nothing can be measured.
    """
    if out is not None and out.suffix not in {".yaml", ".yml"}:
        raise ValueError(f"--out must end in .yaml, but got {str(out)!r}")
    if size is not None and size < MIN_RESIZED:
        raise ValueError(f"--size must be at least {MIN_RESIZED} pixels, but got {size}")
    whole, num_files = measure_folder(folder)
    fit = whole if size is None else whole.resized(size)
    text = _table(fit, whole.side, folder, num_files)
    if out is not None:
        write_fit(fit, out)
        text += f"\n\nwritten to {out}"
    return text


def measure_folder(folder: Path) -> tuple[CameraFit, int]:
    """The camera's fit and how many images the folder holds; at most 64 of them are measured.

    Raises:
        ValueError: As `fit_folder`.
    """
    files = _files(folder)
    step = max(1.0, len(files) / MAX_IMAGES)
    chosen = [files[int(i * step)] for i in range(min(len(files), MAX_IMAGES))]
    images, sides = [], []
    for file in chosen:
        image, side = _read(file)
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


def _read(file: Path) -> tuple[Tensor, int]:
    """float (1 or 3, H, W) in [0, 1] of the middle, and the whole image's shorter side."""
    try:
        with open_image(file) as opened:
            picture = ImageOps.exif_transpose(opened)
            picture.load()
    except UNREADABLE as error:
        raise ValueError(f"{file} cannot be read as an image ({error}); repair it or take it out") from error
    width, height = picture.size
    if min(width, height) < MIN_SIDE:
        raise ValueError(
            f"{file} must have sides of at least {MIN_SIDE} pixels, but has {width} x {height}; take it out"
        )
    deep = picture.mode.startswith("I;16")
    if not deep:
        picture = picture.convert("L" if picture.mode in {"1", "L", "LA"} else "RGB")
    top, left = max(0, height - MAX_SIDE) // 2, max(0, width - MAX_SIDE) // 2
    middle = np.asarray(picture)[top : top + MAX_SIDE, left : left + MAX_SIDE]
    pixels = torch.from_numpy(middle.astype(np.float32) / (65535 if deep else 255))
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


def _table(fit: CameraFit, measured_side: int, folder: Path, num_files: int) -> str:
    of_all = f"{fit.num_images}" if fit.num_images == num_files else f"{fit.num_images} of {num_files}"
    lines = [
        f"{of_all} images in {folder}, measured at full size (shorter side {measured_side} px):",
        f"noise from {fit.num_blocks} blocks of little texture, blur from {fit.num_blur_images} images with edges",
        f"values for images of {fit.side} px" + (", by calculation" if fit.side != measured_side else ""),
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
