"""When contenders have enough seeds: what looks spend, and that alike ones are seldom parted."""

import numpy as np
import pandas as pd
import pytest

from analysis.repeats import Decision, Rule, decide, image_scores

SEEDS, IMAGES, CELLS = 8, 96, 4


def scores_of(rng: np.random.Generator, *gains: float, seed_sd: float = 0.25) -> dict[str, np.ndarray]:
    """Made studies: images, seeds and their interaction on the scale of logits, some cells of each image."""
    image_I = rng.normal(0.5, 1.2, IMAGES)
    found = {}
    for place, gain in enumerate(gains):
        logit_SI = gain + image_I + rng.normal(0, seed_sd, (SEEDS, 1)) + rng.normal(0, 0.5, (SEEDS, IMAGES))
        found[f"c{place}"] = rng.binomial(CELLS, 1 / (1 + np.exp(-logit_SI))) / CELLS
    return found


def follow(scores: dict[str, np.ndarray], rule: Rule) -> list[Decision]:
    """All looks of a study whose every seed is known."""
    looks: list[Decision] = []
    counts = dict.fromkeys(scores, rule.first)
    for number in range(SEEDS):
        was_open = [name for name in scores if not looks or name in (looks[-1].leader, *looks[-1].open)]
        looks.append(decide({k: v[: counts[k]] for k, v in scores.items()}, rule, look=number, was_open=was_open))
        if not looks[-1].open or rule.planned(number + 1) == rule.planned(number):
            return looks
        counts.update(dict.fromkeys((looks[-1].leader, *looks[-1].open), rule.planned(number + 1)))
    return looks


def test_all_looks_together_spend_the_error_and_no_more() -> None:
    for rule in (Rule(3, 1, 8), Rule(2, 3, 8, 0.1), Rule(3, 2, 8), Rule(5, 5, 10)):
        looks = [look for look in range(10) if look == 0 or rule.planned(look) > rule.planned(look - 1)]
        assert sum(rule.spent(look) for look in looks) == pytest.approx(rule.error)
        assert rule.planned(looks[-1]) == rule.most


def test_a_poor_contender_is_parted_early_and_gets_no_more_seeds() -> None:
    looks = follow(scores_of(np.random.default_rng(1), 0.0, 0.0, -2.5), Rule(3, 1, 8))
    assert looks[-1].seeds["c2"] < 8
    assert looks[-1].seeds["c0"] == looks[-1].seeds["c1"] == 8
    parted = next(look for look in looks if "c2" not in look.open)
    assert parted.differences["c2"][1] > 0
    assert all("c2" not in look.differences for look in looks[looks.index(parted) + 1 :])


def test_contenders_that_are_alike_are_seldom_parted() -> None:
    rng, parted = np.random.default_rng(2), 0
    for _ in range(120):
        looks = follow(scores_of(rng, 0.0, 0.0, 0.0), Rule(3, 2, 8))
        parted += looks[-1].open == () or len(looks[-1].open) < 2
    assert parted <= 12  # 5 % are allowed; 12 of 120 or more happen by chance once in 100


def test_one_seed_tells_nothing_and_no_seed_is_passed_over() -> None:
    scores = {"a": np.full((1, 20), 0.9), "b": np.zeros((3, 20)), "c": np.zeros((0, 0))}
    found = decide(scores, Rule(3, 1, 8), look=0, was_open=("a", "b", "c"))
    assert (found.leader, found.open, found.differences) == ("a", ("b",), {}), "c has no seed that finished"


def test_scores_are_each_images_share_of_right_cells() -> None:
    rows = pd.DataFrame(
        {
            "image_id": [1, 2, 1, 2, 1, 2], "corruption": ["clean", "clean", "fog", "fog", "snow", "snow"],
            "severity": [0, 0, 1, 1, 1, 1], "correct": [True, False, True, False, False, False],
        }
    )  # fmt: skip
    assert image_scores([rows, rows], "acc/noise").tolist() == [[0.5, 0.0], [0.5, 0.0]]
    assert image_scores([rows], "acc/clean").tolist() == [[1.0, 0.0]]
