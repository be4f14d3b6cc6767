"""How near the keyed corruptions are to the public reference, on the same images."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image

from noise.corruption import corrupt
from noise.keyed import image_keys
from tests.reference.corruptions import reference

SIDE = 224
DETERMINISTIC = {
    "brightness", "contrast", "defocus_blur", "gaussian_blur", "jpeg_compression", "pixelate", "saturate", "zoom_blur",
}  # fmt: skip
DRAWS = {"motion_blur": 4, "snow": 2, "frost": 4, "fog": 8, "spatter": 8}
"""Draws for each image where few random numbers decide much."""
DEPARTURES = {"frost": (0.2, 1.5), "glass_blur": (0.15, 1.6)}
"""Those that differ on purpose: drawn crystals for photographs, true swaps for copies; bounds of ratio and dB."""


class Agreement(NamedTuple):
    """One corruption at one severity, means over images (and draws).

    Attributes:
        change: mean absolute change against the clean image, in grey levels of 255, ours and the reference's.
        psnr: against the clean image, in dB.
        between: mean absolute difference of the two noisy images, in grey levels; 0 draws in common make it large.
        histogram: total variation distance between the histograms (51 bins) of all changes.
        spectrum: mean absolute difference of the radial power spectra of the changes, in dB, over 16 rings.
    """

    name: str
    severity: int
    change: float
    change_reference: float
    psnr: float
    psnr_reference: float
    between: float
    histogram: float
    spectrum: float


def photographs(folder: Path, count: int = 32) -> np.ndarray:
    """uint8 (n, 224, 224, 3), the middles of natural photographs."""
    table = pd.read_parquet(folder / "photos-256.parquet")
    images = []
    for data in table["jpeg"][:count]:
        with Image.open(io.BytesIO(data)) as opened:
            picture = opened.convert("RGB")
        left, top = (picture.width - SIDE) // 2, (picture.height - SIDE) // 2
        images.append(np.asarray(picture.crop((left, top, left + SIDE, top + SIDE))))
    return np.stack(images)


def agreement(images_NHWC: np.ndarray, name: str, severity: int, *, draws: int = 1) -> Agreement:
    """Ours and the reference on the same images, each with draws of its own."""
    clean = images_NHWC.astype(np.float32) / 255
    clean_BCHW = torch.from_numpy(clean).permute(0, 3, 1, 2).contiguous()
    rows = []
    for draw in range(draws):
        keys_B = image_keys(range(len(clean)), seed=draw)
        ours = corrupt(clean_BCHW, name, severity, keys=keys_B).permute(0, 2, 3, 1).numpy()
        theirs = np.stack([
            reference(image, name, severity, seed=1000 * draw + number) for number, image in enumerate(images_NHWC)
        ])  # fmt: skip
        rows.append([*_size(ours - clean), *_size(theirs - clean), np.abs(ours - theirs).mean() * 255,
                     _apart(_histogram(ours - clean), _histogram(theirs - clean)),
                     _spectra_apart(ours - clean, theirs - clean)])  # fmt: skip
    change, psnr, change_reference, psnr_reference, *others = np.mean(rows, axis=0).tolist()
    return Agreement(name, severity, change, change_reference, psnr, psnr_reference, *others)


def _size(change_NHWC: np.ndarray) -> tuple[float, float]:
    squares_N = (change_NHWC**2).mean((1, 2, 3)).clip(1e-10)
    return float(np.abs(change_NHWC).mean() * 255), float((-10 * np.log10(squares_N)).mean())


def _histogram(change: np.ndarray) -> np.ndarray:
    counts, _ = np.histogram(change, bins=51, range=(-1, 1))
    return counts / counts.sum()


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).sum() / 2)


def _spectra_apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(_radial_db(one) - _radial_db(other)).mean())


def _radial_db(change_NHWC: np.ndarray, rings: int = 16) -> np.ndarray:
    grey = change_NHWC.mean(3)
    power = (np.abs(np.fft.fft2(grey)) ** 2).mean(0)
    down, right = np.meshgrid(*(np.fft.fftfreq(side) for side in grey.shape[1:]), indexing="ij")
    ring = np.minimum((np.hypot(down, right) * 2 * rings).astype(int), rings)  # the corners beyond 1/2 are left out
    sums, counts = (np.bincount(ring.ravel(), weights, minlength=rings + 1) for weights in (power.ravel(), None))
    return 10 * np.log10(sums[:rings] / counts[:rings] + 1e-12)


def table(found: Sequence[Agreement]) -> pd.DataFrame:
    """Rows of agreements with their relative and dB differences."""
    frame = pd.DataFrame(found)
    frame["change_ratio"] = frame["change"] / frame["change_reference"]
    frame["psnr_difference"] = frame["psnr"] - frame["psnr_reference"]
    return frame
