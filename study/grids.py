"""The cells that a trial's settings ask for: what validation chooses by, and what the test reads once."""

from __future__ import annotations

from study.config import TrialConfig
from study.evaluate import Cell, grid


def grid_of_validation(config: TrialConfig) -> list[Cell]:
    """Clean, the validation noise at its severities, and both at lower sides where asked."""
    noise, resolution = config.noise, config.resolution
    return grid(
        noise.validation, noise.validation_severities, sides=resolution.validation, noise_at_sides=resolution.with_noise
    )


def grid_of_test(config: TrialConfig) -> list[Cell]:
    """The same of the test; folders of real images are no part of it."""
    noise, resolution = config.noise, config.resolution
    return grid(noise.test, noise.test_severities, sides=resolution.test, noise_at_sides=resolution.with_noise)
