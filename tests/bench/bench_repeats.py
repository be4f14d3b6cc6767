"""Does the rule of adaptive seeds keep its error? Studies whose contenders are alike, made and followed to their end.

    python -m tests.bench.bench_repeats [STUDIES]

Seeds and images are crossed as in real studies: an image is hard for all networks, a seed good on all images, and some
luck is of both. A network has one quality, which validation (where the rule looks) and test (which the report judges at
the end, by its simultaneous intervals) both see, on images of their own: what stopping does to the report is in it.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from analysis.repeats import Decision, Rule, decide
from analysis.stats import simultaneous, wilson

IMAGES, CELLS = (256, 512), 8
"""Validation and test images, and the noisy cells of each."""
SETTINGS = (
    (2, Rule(3, 1, 8)),
    (3, Rule(3, 1, 8)),
    (5, Rule(3, 1, 8)),
    (3, Rule(2, 1, 8)),
)


def made(rng: np.random.Generator, contenders: int, seeds: int, gain: float = 0.0) -> list[list[np.ndarray]]:
    """[validation, test] -> contender -> scores_SI; the last contender is worse by `gain` logits."""
    quality = rng.normal(0, 0.1, (contenders, seeds, 1))
    parts = []
    for count in IMAGES:
        image_I = rng.normal(0.8, 1.5, count)
        luck = rng.normal(0, 0.6, (contenders, seeds, count))
        lower = gain * (np.arange(contenders) == contenders - 1)[:, None, None]
        right = 1 / (1 + np.exp(-(image_I + quality + luck - lower)))
        parts.append(list(rng.binomial(CELLS, right) / CELLS))
    return parts


def follow(scores: Sequence[np.ndarray], rule: Rule) -> list[Decision]:
    """All looks of one study."""
    names = [str(place) for place in range(len(scores))]
    counts, looks, number = dict.fromkeys(names, rule.first), [], 0
    while True:
        was_open = [name for name in names if not looks or name in (looks[-1].leader, *looks[-1].open)]
        seen = {name: scores[int(name)][: counts[name]] for name in names}
        looks.append(decide(seen, rule, look=number, was_open=was_open))
        number += 1
        if not looks[-1].open or rule.planned(number) == rule.planned(number - 1):
            return looks
        counts.update(dict.fromkeys((looks[-1].leader, *looks[-1].open), rule.planned(number)))


def claimed(scores: Sequence[np.ndarray], counts: Sequence[int]) -> bool:
    """Whether the report, on test images and with so many seeds of each, says "better" or "worse" of any pair."""
    used = [scores_SI[:count] for scores_SI, count in zip(scores, counts, strict=True)]
    contrasts = [[(1.0, one), (-1.0, other)] for one, other in combinations(used, 2)]
    return any(joint.low > 0 or joint.high < 0 for _, joint in simultaneous(contrasts))


def main(studies: int) -> None:
    """Print the share of studies in error, and what the rule finds where there is something to find."""
    print(f"{time.strftime('%Y-%m-%d')} {platform.machine()} numpy {np.__version__}, {studies} studies a row")
    print("contenders  first step most | parted though alike (95 %)  told apart on test, fixed seeds | worse one found,"
          " its seeds")  # fmt: skip
    for contenders, rule in SETTINGS:
        rng = np.random.default_rng(20260101)
        parted = better = fixed = found = 0
        spent = []
        for _ in range(studies):
            validation, test = made(rng, contenders, rule.most)
            looks = follow(validation, rule)
            parted += len(looks[-1].open) < contenders - 1
            better += claimed(test, [looks[-1].seeds[str(place)] for place in range(contenders)])
            fixed += claimed(test, [rule.most] * contenders)
        for _ in range(studies // 4):
            validation, _ = made(rng, contenders, rule.most, gain=0.4)
            last = follow(validation, rule)[-1]
            found += str(contenders - 1) not in (last.leader, *last.open)
            spent.append(last.seeds[str(contenders - 1)])
        interval = wilson(parted, studies)
        print(
            f"{contenders:10d} {rule.first:6d} {rule.step:4d} {rule.most:4d} | {parted / studies:6.1%} "
            f"({interval.low:.1%} to {interval.high:.1%})       {better / studies:6.1%} {fixed / studies:6.1%}"
            f"          | {found / max(studies // 4, 1):6.0%} {np.mean(spent):6.1f}", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
