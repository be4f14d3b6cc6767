"""Effect curves, interactions, sharpness and likeness of features: against closed forms and made data."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats as sps
from statsmodels.formula.api import ols

from analysis.effects import EFFECT_COLUMNS, effect_curve, effect_table, effects, value_means
from analysis.fidelity import rank_agreement
from analysis.interactions import arm_interaction, interaction, interaction_table, two_way
from analysis.load import read_study
from analysis.sharpness import sharpness_ranks, sharpness_table
from analysis.similarity import linear_cka, mean_cosine, similarity_by_stage, similarity_table
from analysis.stats import crossed
from analysis.trialframe import noise_strength, trial_frame
from noise.training import NoiseType, TrainingNoise
from study.config import StudyConfig


def made_trials(rng: np.random.Generator, count: int = 120, *, extra: float = 0.0) -> pd.DataFrame:
    """Accuracy rises with stages and with log rho; `extra` is what both together add."""
    stages, rho = rng.integers(1, 4, count).astype(float), 10 ** rng.uniform(-2, -0.3, count)
    is_high = rho > 0.1
    value = 0.5 + 0.03 * stages + 0.05 * is_high + extra * (stages == 3) * is_high + rng.normal(0, 0.01, count)
    return pd.DataFrame({"trial": [str(n) for n in range(count)], "method": "pmal", "stages": stages, "rho": rho,
                         "dose": is_high.astype(float), "noise_strength": 0.0, "acc/noise": value})  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- effects
def test_a_line_is_a_line_and_its_band_holds_it() -> None:
    rng, hits, runs = np.random.default_rng(0), 0, 60
    x = np.linspace(0, 1, 60)
    assert effect_curve(x, 2 * x + 1)["value"].tolist() == pytest.approx((2 * np.linspace(0, 1, 25) + 1).tolist())
    for _ in range(runs):
        found = effect_curve(x, 2 * x + rng.normal(0, 0.3, 60), resamples=200, num_points=3)
        hits += found["value_low"].iloc[1] <= 1.0 <= found["value_high"].iloc[1]
    assert hits / runs >= 0.85


def test_a_log_curve_is_the_curve_of_the_logarithm_and_few_trials_give_none() -> None:
    rng = np.random.default_rng(1)
    x, y = 10 ** rng.uniform(-3, 0, 40), rng.normal(size=40)
    logged, plain = effect_curve(x, y, is_log=True), effect_curve(np.log(x), y)
    assert np.log(logged["x"]).tolist() == pytest.approx(plain["x"].tolist())
    assert logged["value_low"].tolist() == plain["value_low"].tolist()
    assert effect_curve(x[:5], y[:5]).empty
    with pytest.raises(ValueError, match="x must be positive on a log scale, but its least value is 0"):
        effect_curve([0.0, *x], [0.0, *y], is_log=True)


def test_means_of_values_have_the_t_interval() -> None:
    found = value_means([1, 1, 1, 2], [0.1, 0.2, 0.6, 0.5])
    low, high = sps.ttest_1samp([0.1, 0.2, 0.6], 0).confidence_interval()
    assert found.iloc[0][["value", "value_low", "value_high"]].tolist() == pytest.approx([0.3, low, high])
    assert found.iloc[1]["n_trials"] == 1
    assert math.isnan(found.iloc[1]["value_low"])


def test_each_setting_gets_what_fits_it() -> None:
    trials = made_trials(np.random.default_rng(2))
    off = trials.head(6).assign(rho=0.0)
    found = effects(pd.concat([trials, off]), "acc/noise")
    assert list(found.columns) == list(EFFECT_COLUMNS)
    kinds = found.groupby(["setting", "kind"]).size().to_dict()
    assert kinds == {("rho", "mean"): 1, ("rho", "curve"): 25, ("stages", "mean"): 3}, "strength does not vary"
    stages = found[found["setting"] == "stages"]["value"].to_numpy()
    assert np.diff(stages) == pytest.approx([0.03, 0.03], abs=0.015)
    assert "went together" in effect_table(trials, "acc/noise").markdown()
    with pytest.raises(ValueError, match="'acc/best' is none"):
        effects(trials, "acc/best")


def test_points_in_a_gap_between_trials_are_left_out() -> None:
    x = np.concatenate([np.linspace(0, 0.01, 20), [1.0, 1.0]])
    found = effect_curve(x, np.sin(x), bandwidth=0.005)
    assert 1 <= len(found) < 25
    assert found.notna().all().all()
    assert found["x"].max() < 0.5, "at the far end there is one place only, and no line"


# --------------------------------------------------------------------------------------------------------- interactions
def test_the_double_difference_is_that_of_a_linear_model() -> None:
    trials = made_trials(np.random.default_rng(3), extra=0.04)
    pair = trials[trials["stages"] != 2].rename(columns={"acc/noise": "y"})
    model = ols("y ~ C(stages) * C(dose)", pair).fit()
    found, name = interaction(pair, "stages", "dose", "y"), "C(stages)[T.3.0]:C(dose)[T.1.0]"
    assert found.estimate == pytest.approx(model.params[name])
    assert (found.low, found.high) == pytest.approx(tuple(model.conf_int().loc[name]))
    assert found.low > 0
    assert interaction(made_trials(np.random.default_rng(4)), "stages", "dose", "acc/noise").low < 0


def test_cells_pool_their_spread_and_ranges_are_cut() -> None:
    trials = made_trials(np.random.default_rng(5))
    cells = two_way(trials, "stages", "rho", "acc/noise")
    assert len(cells) == 9
    assert cells["n_trials"].sum() == 120
    assert (cells["value_low"] < cells["value"]).all()
    single = two_way(trials.head(4).assign(stages=[1, 1, 2, 3]), "stages", "dose", "acc/noise")
    assert single["value_low"].notna().all() == (single["n_trials"].max() > 1)
    text = interaction_table(trials, "acc/noise").markdown()
    assert "Interaction of stages and rho: " in text
    assert "95 % interval" in text
    with pytest.raises(ValueError, match="depth are none"):
        two_way(trials, "depth", "rho", "acc/noise")


def test_an_empty_corner_is_said_to_be_empty() -> None:
    trials = made_trials(np.random.default_rng(6))
    part = trials[(trials["stages"] < 3) | (trials["dose"] == 0)]
    assert math.isnan(interaction(part, "stages", "dose", "acc/noise").estimate)
    table = interaction_table(part, "acc/noise", second="dose")
    assert "not all four corners have trials" in table.markdown()


def test_levels_stand_in_the_order_of_their_numbers() -> None:
    trials = made_trials(np.random.default_rng(7)).assign(width=lambda frame: frame["stages"] * 4 - 2)
    assert list(two_way(trials, "width", "dose", "acc/noise")["first"].cat.categories) == ["2", "6", "10"]
    assert interaction(trials, "width", "dose", "acc/noise") == interaction(trials, "stages", "dose", "acc/noise")


def test_levels_that_are_close_have_names_of_their_own() -> None:
    rng = np.random.default_rng(20)
    trials = made_trials(rng).assign(rho=0.5 + rng.uniform(0, 3e-4, 120))
    cells = two_way(trials, "stages", "rho", "acc/noise")
    names = list(cells["second"].cat.categories)
    assert len(set(names)) == 3
    assert all(" to " in name for name in names)
    few = trials.assign(rho=rng.choice([0.50000001, 0.50000002], 120))
    assert len(two_way(few, "stages", "rho", "acc/noise")) == 6, "two values are two levels"


def test_four_arms_interact_by_image() -> None:
    rng = np.random.default_rng(8)
    scores = {place: rng.random((3, 40)) for place in ((1, 0.1), (1, 0.5), (3, 0.1), (3, 0.5))}
    signs = {(1, 0.1): 1.0, (1, 0.5): -1.0, (3, 0.1): -1.0, (3, 0.5): 1.0}
    found, expected = arm_interaction(scores), crossed([(signs[place], arm) for place, arm in scores.items()])
    assert (found.estimate, found.low, found.high) == pytest.approx((expected.estimate, expected.low, expected.high))
    with pytest.raises(ValueError, match="four arms of two levels each"):
        arm_interaction({place: scores[place] for place in list(scores)[:3]})


# ------------------------------------------------------------------------------------------------------------ sharpness
def test_sharpness_is_ranked_within_methods_too() -> None:
    """Between methods the sharper one is better, within each the flatter trial is: the two must not be mixed up."""
    rng = np.random.default_rng(9)
    sharp = rng.random(40)
    method = np.repeat(["plain", "pmal"], 20)
    shift = np.where(method == "pmal", 5.0, 0.0)
    trials = pd.DataFrame({"method": method, "sharpness/m": sharp + shift,
                           "acc/noise": -sharp + 10 * shift + rng.normal(0, 0.01, 40)})  # fmt: skip
    found = sharpness_ranks(trials, "acc/noise").set_index("within")
    assert found.index.tolist() == ["all trials", "plain", "pmal", "within all"]
    assert found.loc["all trials", "rho"] > 0
    assert found.loc["within all", "rho_high"] < -0.8
    own = trials[trials["method"] == "pmal"]
    assert found.loc["pmal", "rho"] == rank_agreement(own["sharpness/m"], own["acc/noise"]).rho
    assert "| within all | -" in sharpness_table(trials).markdown()


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[1] * 6 + [2] * 4 + [12], [3] * 4 + [4] * 2 + [12]])
def test_noise_in_methods_of_few_trials_is_no_correlation(sizes: list[int]) -> None:
    rng, runs = np.random.default_rng(21), 100
    method = np.repeat([f"m{n}" for n in range(len(sizes))], sizes)
    found = []
    for _ in range(runs):
        trials = pd.DataFrame({"method": method, "sharpness/m": rng.random(len(method)),
                               "acc/noise": rng.random(len(method))})  # fmt: skip
        found.append(sharpness_ranks(trials, "acc/noise").set_index("within").loc["within all"])
    frame = pd.DataFrame(found)
    assert (frame["n_trials"] == sum(size for size in sizes if size >= 3)).all()
    assert abs(frame["rho"].mean()) < 3 * frame["rho"].std() / math.sqrt(runs)
    assert ((frame["rho_low"] > 0) | (frame["rho_high"] < 0)).mean() <= 0.12


def test_no_method_of_three_trials_leaves_nothing_within_all() -> None:
    trials = pd.DataFrame({"method": list("aabb"), "sharpness/m": [1.0, 2, 3, 4], "acc/noise": [1.0, 2, 3, 4]})
    row = sharpness_ranks(trials, "acc/noise").set_index("within").loc["within all"]
    assert math.isnan(row["rho"])
    assert row["n_trials"] == 0


def test_trials_without_sharpness_have_no_table() -> None:
    trials = made_trials(np.random.default_rng(10))
    assert sharpness_table(trials).frame.empty
    with pytest.raises(ValueError, match="sharpness/m are missing; trials must report it"):
        sharpness_ranks(trials, "acc/noise")


# ------------------------------------------------------------------------------------------------- likeness of features
def test_cka_and_cosine_are_what_they_are_defined_as() -> None:
    rng = np.random.default_rng(11)
    clean, noisy = rng.normal(size=(30, 7)), rng.normal(size=(30, 5))
    centre = np.eye(30) - 1 / 30
    one, two = centre @ clean @ clean.T @ centre, centre @ noisy @ noisy.T @ centre
    hsic = np.trace(one @ two) / math.sqrt(np.trace(one @ one) * np.trace(two @ two))
    assert linear_cka(clean, noisy) == pytest.approx(hsic)
    wide = rng.normal(size=(30, 50))
    rotation = np.linalg.qr(rng.normal(size=(50, 50)))[0]
    assert linear_cka(wide, 3 * wide @ rotation + 5) == pytest.approx(1.0)
    assert linear_cka(clean, np.ones((30, 2))) != linear_cka(clean, np.ones((30, 2))), "nothing varies: NaN"
    assert mean_cosine(np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[1.0, 1.0], [1.0, 1.0]])) == pytest.approx(
        math.sqrt(0.5) / 2
    )
    with pytest.raises(ValueError, match="of the same images"):
        linear_cka(clean, noisy[:9])
    with pytest.raises(ValueError, match=r"\(30, 7\) and \(30, 5\)"):
        mean_cosine(clean, noisy)


def likeness_rows() -> pd.DataFrame:
    rows = [
        {"trial": f"{method}{seed}", "method": method, "stage": stage, "corruption": noise, "severity": 1, "n": 64,
         "cosine": 0.5 + 0.1 * stage + 0.01 * seed + (0.1 if noise == "fog" else 0.0), "cka": 0.9}
        for method in ("plain", "pmal") for seed in range(3) for stage in (1, 2) for noise in ("fog", "snow")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_likeness_is_meant_over_noise_with_the_seeds_interval() -> None:
    found = similarity_by_stage(likeness_rows()).set_index(["method", "stage"])
    row = found.loc[("pmal", 2)]
    low, high = sps.ttest_1samp([0.75, 0.76, 0.77], 0).confidence_interval()
    assert (row["cosine"], row["cosine_low"], row["cosine_high"]) == pytest.approx((0.76, low, high))
    assert row["n_trials"] == 3
    assert "linear CKA" in similarity_table(likeness_rows()).markdown()
    with pytest.raises(ValueError, match=r"rows are over \[32, 64\]"):
        similarity_by_stage(pd.concat([likeness_rows(), likeness_rows().assign(n=32)]))
    with pytest.raises(ValueError, match="lack cka"):
        similarity_by_stage(likeness_rows().drop(columns="cka"))


# --------------------------------------------------------------------------------------------------------------- trials
def test_trials_of_a_study_have_their_settings_and_figures(study_folder) -> None:
    frame = trial_frame(read_study(study_folder))
    assert len(frame) == 5, "pruned and failed trials have no figures"
    assert set(frame["rho"]) == {0.0, 0.05, 0.1}
    assert frame.set_index("number").loc[3, "stages"] == 3
    assert frame["acc/noise"].notna().all()
    assert "param/optim.lr" in frame
    assert len(effects(frame, "acc/noise"))


def test_a_drawn_null_is_a_choice_and_what_was_not_drawn_is_missing(tmp_path, write_ledger) -> None:
    folder = write_ledger(tmp_path, num_images=20, confirm=False)
    keys = [record.key for record in read_study(folder).trials if record.status == "finished"]
    drawn = [{"noise.train": None}, {"noise.train": ["fog"]}, {"noise.train": None}, {"noise.train": ["fog"]}, {}]
    for key, params in zip(keys, drawn, strict=True):
        path = folder / "trials" / key / "trial.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"params": params}))
    frame = trial_frame(read_study(folder)).set_index("trial")
    assert frame["param/noise.train"].isna()[keys].tolist() == [False] * 4 + [True]
    found = effects(frame, "acc/noise", settings=["param/noise.train"])
    assert found[["category", "n_trials"]].to_numpy().tolist() == [["fog", 2], ["none", 2]]


def _resolved(train: list | None, method: str = "plain") -> dict:
    """A configuration as the records hold it, every default written out."""
    study = StudyConfig.model_validate({"name": "s", "method": {"name": method}, "noise": {"train": train}})
    return study.trial().model_dump(mode="json")


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ([], 0.0),
        (None, 0.0),
        ([{"name": "fog", "severities": [1, 3], "probability": 0.5}], 1.0),
        ([{"name": "fog"}], 1.0),
        ([{"name": "fog", "strength": [4, 5]}], 2.25),
        ([{"name": "fog", "strength": [0, 0.5]}], 0.125),
        ([{"name": "fog", "strength": [0, 0]}], 0.0),
        ([{"name": "fog", "probability": 0.0}], 0.0),
        ([{"name": "fog", "probability": 0.5}, {"name": "pmal_pair", "probability": 0.0}], 1.0),
        (["fog", "snow"], 1.0),
        (["fog"], 1.0),
        ([{"name": "fog", "severities": [5], "probability": 0.8}, {"name": "snow", "probability": 0.2}], 4.4),
    ],
)
def test_the_strength_of_training_noise_is_the_mean_dose_of_an_image(train, expected) -> None:
    assert noise_strength(_resolved(train)) == pytest.approx(expected)


def test_two_noises_that_share_the_images_are_the_dose_of_one() -> None:
    halves = [{"name": name, "probability": 0.25} for name in ("fog", "snow")]
    assert noise_strength(_resolved(halves)) == noise_strength(_resolved([{"name": "fog", "probability": 0.5}]))


def test_a_strength_in_other_units_is_missing() -> None:
    assert math.isnan(noise_strength(_resolved([{"name": "pmal_pair"}])))
    assert math.isnan(noise_strength(_resolved([{"name": "fog"}, {"name": "pmal_pair", "probability": 0.1}])))
    assert math.isnan(noise_strength(_resolved(None, "pmal"))), "its own noise is pmal_pair"
    assert math.isnan(noise_strength({"noise": {"train": ["fog"]}})), "the earliest records name no strength"


def test_the_strength_is_what_training_draws_on_average() -> None:
    config = _resolved([{"name": "speckle_noise", "strength": [1, 4], "probability": 0.25},
                        {"name": "fog", "severities": [2, 4], "probability": 0.5}])  # fmt: skip
    types = [NoiseType(item["name"], tuple(item["severities"]), item["probability"], item["strength"])
             for item in config["noise"]["train"]]  # fmt: skip
    pair = TrainingNoise(types)(torch.full((2000, 3, 8, 8), 0.5), torch.arange(2000))
    assert float(pair.record["strength"].mean()) == pytest.approx(noise_strength(config), abs=0.1)
