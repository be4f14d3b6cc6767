"""The benchmark of searches on a table of made-up trials, of which the answer is known."""

import numpy as np
import pandas as pd
import pytest

from tests.bench.search_quality import STEPS, compare, picture, read_table, simulate, summary

EPOCHS, PASSES = 4, 100.0


def made_up() -> pd.DataFrame:
    """48 configurations; the best by far is near one corner, which a model can learn."""
    rows = []
    for method in ("plain", "pmal"):
        for lr in (0.01, 0.02, 0.04, 0.08, 0.16, 0.32):
            for strength in (0.0, 1.0, 2.0, 3.0):
                skill = 0.9 - 0.1 * abs(np.log2(lr / 0.16)) - 0.05 * abs(strength - 2) - 0.1 * (method == "plain")
                rows += [
                    {"method.name": method, "optim.lr": lr, "stages": 1 + strength if method == "pmal" else np.nan,
                     "noise": strength, "epoch": epoch, "passes": PASSES * epoch, "metric": skill * epoch / EPOCHS}
                    for epoch in range(1, EPOCHS + 1)
                ]  # fmt: skip
    return pd.DataFrame(rows)


def test_regret_falls_to_nothing_and_passes_add_up():
    table = read_table(made_up())
    assert len(table.curves) == 48
    assert table.passes == 48 * EPOCHS * PASSES
    points = simulate(table, "random", seed=0, budget=table.passes, grace=PASSES, reduction_factor=2)
    regrets = [point.regret for point in points]
    assert regrets == sorted(regrets, reverse=True)
    assert regrets[0] == table.best - table.worst
    assert regrets[-1] == 0.0
    assert 0.9 * table.passes <= points[-1].passes <= table.passes, "random draws miss the last few"


def test_stopping_early_buys_more_trials_for_the_same_passes():
    table, budget = read_table(made_up()), 12 * EPOCHS * PASSES
    plain = simulate(table, "TPE", seed=1, budget=budget, grace=PASSES, reduction_factor=2)
    halved = simulate(table, "TPE + ASHA", seed=1, budget=budget, grace=PASSES, reduction_factor=2)
    assert len(plain) == 13
    assert len(halved) > 16


@pytest.mark.slow
def test_three_searches_are_compared_and_drawn(tmp_path):
    table = read_table(made_up())
    budget = 0.3 * table.passes
    found = compare(table, seeds=3, budget=budget, grace=PASSES, reduction_factor=2)
    assert {regrets.shape for regrets in found.values()} == {(3, STEPS)}
    rows = summary(found, budget=budget, whole=table.passes)
    assert set(rows["search"]) == {"TPE + ASHA", "TPE", "random"}
    assert (rows["low"] <= rows["regret"]).all()
    picture(found, budget=budget, whole=table.passes).savefig(tmp_path / "quality.png")
    assert (tmp_path / "quality.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda frame: frame.drop(columns="passes"), "must have drawn keys and epoch, passes, metric"),
        (lambda frame: pd.concat([frame, frame]), "each epoch of a configuration once"),
        (lambda frame: frame.assign(metric=np.nan), "must be finite in every row"),
    ],
)
def test_a_table_that_says_too_little_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        read_table(change(made_up()))
