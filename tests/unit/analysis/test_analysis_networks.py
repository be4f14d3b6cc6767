"""One network against another: counts by hand, McNemar and Wilson as statsmodels has them, pairing by image."""

import functools

import numpy as np
import pandas as pd
import pytest
from scipy import stats as sps
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.proportion import proportion_confint

from analysis.networks import difference_of_counts, network_rows, network_table
from analysis.stats import holm, mcnemar

CELLS = (("clean", 0), ("fog", 1), ("fog", 2), ("shot_noise", 3))


def predictions(rng: np.random.Generator, skill: float, images: int = 80) -> pd.DataFrame:
    ease = np.random.default_rng(0).normal(0, 1.5, images)
    parts = []
    for name, severity in CELLS:
        right = rng.random(images) < 1 / (1 + np.exp(-(skill + ease - 0.5 * severity)))
        parts.append(pd.DataFrame({"image_id": np.arange(images), "corruption": name, "severity": severity,
                                   "correct": right}))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


@pytest.fixture
def pair() -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(1)
    return predictions(rng, 1.0), predictions(rng, 0.4)


def test_each_cell_is_what_statsmodels_says(pair) -> None:
    first, second = pair
    frame = network_rows(first, second.sample(frac=1, random_state=0))
    assert list(zip(frame["corruption"], frame["severity"].fillna(-1), strict=True)) == [*CELLS, ("noise_mean", -1)]
    for place, (name, severity) in enumerate(CELLS):
        one, two = (f[(f["corruption"] == name) & (f["severity"] == severity)]["correct"].to_numpy() for f in pair)
        row = frame.iloc[place]
        counts = [int((one & ~two).sum()), int((two & ~one).sum())]
        assert [row["only_first"], row["only_second"]] == counts
        low, high = proportion_confint(one.sum(), len(one), method="wilson")
        assert (row["first"], row["first_low"], row["first_high"]) == pytest.approx((one.mean(), low, high))
        if sum(counts) < 25:
            table = [[0, counts[0]], [counts[1], 0]]
            assert row["p"] == pytest.approx(reference_mcnemar(table, exact=True).pvalue)
        assert row["difference"] == pytest.approx(one.mean() - two.mean())
        assert row["difference_low"] < row["difference"] < row["difference_high"]
    assert frame["p_holm"].tolist()[:-1] == pytest.approx(holm(frame["p"].tolist()[:-1]))


def test_the_mean_over_noise_takes_each_image_once(pair) -> None:
    row = network_rows(*pair).iloc[-1]
    means = [f[f["corruption"] != "clean"].groupby("image_id")["correct"].mean() for f in pair]
    reference = sps.ttest_rel(*means)
    assert row["n"] == 80
    assert row["p"] == pytest.approx(reference.pvalue)
    interval = reference.confidence_interval()
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((interval.low, interval.high))


def test_folders_of_real_images_are_cells_of_their_own_and_not_in_the_mean(pair) -> None:
    """Real photographs have no clean version and no severity; their ids may be new ones or those of other images."""
    rng, wide = np.random.default_rng(5), []
    for rows in pair:
        real = pd.DataFrame({"image_id": np.arange(60) + 50, "corruption": "camera", "severity": 0,
                             "correct": rng.random(60) < 0.5})  # fmt: skip
        alone = real.assign(corruption="fog", severity=2, image_id=real["image_id"] + 900)
        wide.append(pd.concat([rows, real, alone], ignore_index=True))
    plain, found = network_rows(*pair), network_rows(*wide)
    assert "camera" in set(found["corruption"])
    pd.testing.assert_series_equal(found.iloc[-1], plain.iloc[-1], check_names=False)
    noisy_only = [rows[rows["corruption"] != "clean"] for rows in pair]
    assert "noise_mean" not in set(network_rows(*noisy_only)["corruption"])


@pytest.mark.slow
def test_alike_networks_are_seldom_told_apart_over_many_cells() -> None:
    rng, images, runs, called = np.random.default_rng(6), 100, 25, 0
    cells = [("clean", 0), *((f"noise{n}", level) for n in range(13) for level in (1, 2, 3))]
    rows = pd.DataFrame([(name, level, i) for name, level in cells for i in range(images)],
                        columns=["corruption", "severity", "image_id"])  # fmt: skip
    for _ in range(runs):
        chance = 1 / (1 + np.exp(-np.tile(rng.normal(0.5, 1.5, images), len(cells))))
        pair = [rows.assign(correct=rng.random(len(rows)) < chance) for _ in range(2)]
        found = network_rows(*pair).iloc[:-1]
        is_called = found["reading"].str.contains("better|worse")
        assert len(found) == 40
        assert (found.loc[is_called, "p_holm"] < 0.05).all()
        called += bool(is_called.any())
    assert called <= 4, "by each cell's own interval nearly all of them would be"


def test_holm_over_the_cells_of_alike_networks_keeps_its_error() -> None:
    """The same rule by counts alone, so that many comparisons can be made: 40 cells, some 35 discordant images each."""
    rng, runs, p_of = np.random.default_rng(7), 1500, functools.cache(mcnemar)
    total = rng.binomial(150, 35 / 150, (runs, 40))
    first = rng.binomial(total, 0.5)
    called = 0
    for one, other in zip(first.tolist(), (total - first).tolist(), strict=True):
        called += min(holm([p_of(*sorted(pair)) for pair in zip(one, other, strict=True)])) < 0.05
    assert 0.01 <= called / runs <= 0.07


def test_rows_that_do_not_pair_are_refused(pair) -> None:
    first, second = pair
    with pytest.raises(ValueError, match="must have the same images in every cell, but of 320 and 319 rows 319"):
        network_rows(first, second.iloc[1:])
    with pytest.raises(ValueError, match="one of the second network's stands twice"):
        network_rows(first, pd.concat([second, second.iloc[:1]]))


def test_the_table_says_whom_it_speaks_of(pair) -> None:
    table = network_table(*pair, names=("trial 3", "trial 4"))
    text = table.markdown()
    assert "only trial 3" in text
    assert "says nothing of the methods" in text
    assert "Intervals are for each cell by itself" in text
    assert table.frame["reading"].str.contains("these networks only|not distinguishable with 1 seed").all()


def test_the_difference_of_counts_covers() -> None:
    """Agresti & Min's interval over binomially drawn discordant pairs, few of them among few images."""
    rng, n, runs = np.random.default_rng(7), 60, 4000
    counts = rng.multinomial(n, [0.10, 0.04, 0.86], size=runs)
    hits = sum(f.low <= 0.06 <= f.high for f in (difference_of_counts(int(b), int(c), n) for b, c, _ in counts))
    assert 0.93 <= hits / runs <= 0.985
    assert difference_of_counts(0, 0, 10).high > 0, "equal networks on few images are not known to be equal"
    with pytest.raises(ValueError, match="at most n"):
        difference_of_counts(3, 3, 5)
