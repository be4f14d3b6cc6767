"""A small part of tests/bench/bench_statistics.py: intervals hold what is true, alike methods are seldom told apart."""

import math

import numpy as np
import pytest

from analysis.repeats import Rule
from tests.bench.bench_statistics import ARMS, SITUATIONS, Situation, adaptive, made, shares, true_mean

STUDIES = 160
BY_NAME = {situation.name: situation for situation in SITUATIONS}


def bounds(share: float, studies: int = STUDIES) -> tuple[float, float]:
    """Three standard errors around a share."""
    half = 3 * math.sqrt(share * (1 - share) / studies)
    return share - half, share + half


@pytest.mark.parametrize(("name", "seeds"), [("few images", 3), ("seeds weigh ten times images", 3), ("few images", 8)])
def test_coverage_is_near_nominal_and_alike_methods_are_seldom_told_apart(name: str, seeds: int) -> None:
    found = shares(BY_NAME[name]._replace(images=200), seeds, STUDIES)
    for kind in ("mean", "difference", "joint"):
        assert bounds(0.92)[0] <= found[kind] <= min(1.0, bounds(0.98)[1]), (kind, found)
    assert found["claim"] <= bounds(0.05)[1]
    assert found["better"] <= found["claim"]


def test_adaptive_seeds_leave_the_error_where_it_was() -> None:
    found = adaptive(3, Rule(3, 2, 8), 80)
    assert found["claim"] <= bounds(0.05, 80)[1]
    assert found["joint"] >= bounds(0.95, 80)[0]


def test_what_is_true_is_the_mean_of_very_many_networks_and_images() -> None:
    situation = Situation("", 300, 50, 0.3, 1.2, 0.5, gain=0.4, uneven=2.0)
    rng = np.random.default_rng(3)
    means = np.mean([made(rng, situation, 40).mean(axis=(1, 2)) for _ in range(30)], axis=0)
    assert means == pytest.approx([true_mean(situation, arm) for arm in range(ARMS)], abs=0.01)
