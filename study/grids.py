"""The cells that a trial's settings ask for: what validation chooses by, and what the test reads once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from study.config import TrialConfig
from study.config_search import Fidelity
from study.evaluate import Cell, grid


def grid_of_validation(config: TrialConfig) -> list[Cell]:
    """Clean, the validation noise at its severities, and both at lower sides where asked."""
    noise, resolution = config.noise, config.resolution
    return grid(
        noise.validation, noise.validation_severities, sides=resolution.validation, noise_at_sides=resolution.with_noise
    )


def part_of(fidelity: Fidelity | None, config: TrialConfig) -> dict[str, Any]:
    """What a fidelity comes to for a trial, names spelled out; empty where it is the whole validation grid.

    It decides the trial's figures, so it is part of its identity.
    """
    if fidelity is None:
        return {}
    noise, wanted = config.noise, fidelity.corruptions
    names = noise.validation if wanted is None else wanted
    names = noise.validation[:names] if isinstance(names, int) else [name for name in noise.validation if name in names]
    levels = noise.validation_severities if fidelity.severities is None else fidelity.severities
    levels = [level for level in noise.validation_severities if level in levels]
    whole = (list(noise.validation), list(noise.validation_severities), noise.validation_images)
    part = (list(names), levels, min(fidelity.images, noise.validation_images))
    return {} if part == whole else dict(zip(("corruptions", "severities", "images"), part, strict=True))


def small_grid(config: TrialConfig, part: Mapping[str, Any]) -> list[Cell]:
    """The cells of the validation grid that a part (see `part_of`) keeps: clean ones, and its noise."""
    return [
        cell
        for cell in grid_of_validation(config)
        if not cell.severity or (cell.corruption in part["corruptions"] and cell.severity in part["severities"])
    ]


def grid_of_test(config: TrialConfig) -> list[Cell]:
    """The same of the test; folders of real images are no part of it."""
    noise, resolution = config.noise, config.resolution
    return grid(noise.test, noise.test_severities, sides=resolution.test, noise_at_sides=resolution.with_noise)
