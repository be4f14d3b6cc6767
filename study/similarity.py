"""What noise does to a network's features, stage by stage: a table of their likeness to those of the clean images.

Shape suffixes: P positions in a set of images, D features of all stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from models.distillation.loss import View
from models.methods.method import Viewed
from models.similarity import linear_cka, mean_cosine, pooled
from noise.low_resolution import Lens
from study.config import TrialConfig
from study.data.image_set import ImageSet
from study.embeddings import embed
from study.evaluate import CLEAN, FULL, Cell, grid, level_of, subset
from study.ranks import Ranks

MAX_IMAGES = 512
_SEVERITY = 3


def similarity_cells(config: TrialConfig) -> list[Cell]:
    """Clean, each test corruption at one severity (3, or the middle one of those there are), and the lower sides."""
    levels = sorted(config.noise.test_severities)
    level = _SEVERITY if _SEVERITY in levels else levels[(len(levels) - 1) // 2]
    return grid(config.noise.test, [level], sides=config.resolution.test)


def similarity_rows(
    method: Viewed,
    images: ImageSet,
    cells: Sequence[Cell],
    *,
    seed: int,
    scale: str,
    ranks: Ranks,
    batch_size: int,
    lens: Lens = FULL,
    most: int = MAX_IMAGES,
) -> list[dict[str, Any]]:
    """Likeness of the pooled feature maps of each stage of the backbone, clean images against the same ones noisy.

    Every worker must call it; it takes its share of the images and returns the whole table.

    Args:
        method: Its network is in evaluation mode already.
        cells: Clean ones are left out of the table.
        seed: Key of the noise and of the choice of images, so that all trials of a study compare the same pixels.
        lens: How cells of a lower side are made.
        most: Images to take at most, chosen by their keys.

    Returns:
        A row for each noisy cell x stage (from 1, the shallowest): `stage`, `corruption`, `severity`, `n` images, and
        `cosine` and `cka` as in `models.similarity`.
    """
    positions = subset(images, most, seed=seed)

    def look(images_BCHW: Tensor) -> View:
        view = method.view(images_BCHW)
        return view._replace(embedding_BD=pooled(view.maps))

    def features(cell: Cell) -> Sequence[Tensor]:
        whole_PD = embed(
            look, images, cell, positions=positions, seed=seed, ranks=ranks, scale=scale, batch_size=batch_size,
            lens=lens,
        )  # fmt: skip
        return whole_PD.split(method.backbone.channels, dim=1)

    clean = features(Cell(CLEAN, 0))
    return [
        {"stage": stage, "corruption": cell.name, "severity": level_of(cell), "n": len(positions),
         "cosine": mean_cosine(before, after), "cka": linear_cka(before, after)}
        for cell in cells if cell.name != CLEAN
        for stage, (before, after) in enumerate(zip(clean, features(cell), strict=True), start=1)
    ]  # fmt: skip
