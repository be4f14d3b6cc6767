"""`murk check`: what a study would do, what it costs, what is refused before anything starts."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from study import plan as plan_module
from study.config import TrialConfig
from study.config_search import ResourcesConfig
from study.data.prepare import prepare_data
from study.estimate import Cost, Sizes, measure, trial_seconds
from study.grids import grid_of_validation
from study.override import apply
from study.plan import count_images, fit, machine, make_plan
from study.plantext import duration
from study.possible import Network, network_problems, networks, refuse_what_cannot_run
from study.problems import ProblemsError
from study.studyfile import StudyFileError, load_study

PRESETS = Path(__file__).parents[3] / "study" / "presets"
SMALL = ["model.backbone=test_resnet", "data.num_classes=4", "data.train_per_class=10", "data.test_per_class=6"]
MACHINE = {"CPU": 2.0, "GPU": 0.0}


@pytest.fixture
def fixed_cost(monkeypatch):
    """Half a second for every training image, so that no test waits or depends on the clock."""
    measured = []

    def cost(config, *, num_classes, device, threads, teacher=None):
        measured.append((config.method.name, num_classes, device, threads))
        passes = 2.0 if config.method.name == "plain" else 2.0 + 4.0 * config.method.stages
        return Cost(passes=passes, train_s=0.5, evaluate_s=0.01, parameters=2_000, deployed=1_000)

    monkeypatch.setattr(plan_module, "measure", cost)
    return measured


@pytest.fixture
def cars(tmp_path):
    """A parquet file of 22 classes; the plan decodes no image, so there is none."""
    rows = [(b"jpeg", label, f"car {label}", split) for label in range(22) for split in ["train"] * 5 + ["test"] * 2]
    path = tmp_path / "cars.parquet"
    pd.DataFrame(rows, columns=["jpeg", "class_id", "class_name", "split"]).to_parquet(path)
    return path


def quickstart(*sets):
    return load_study(PRESETS / "quickstart.yaml", [*SMALL, *sets])


def refusal(*sets):
    with pytest.raises(ProblemsError) as caught:
        refuse_what_cannot_run(quickstart(*sets).config)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------------------- plan
def test_plan_of_quickstart(fixed_cost):
    plan = make_plan(quickstart("search.trials=6"), available=MACHINE)
    search, confirm = plan.phases
    assert (search.trials, confirm.trials, plan.trials) == (6, 6, 12)
    assert plan.sizes == Sizes(num_classes=4, train=32, validation=8, test=24)
    assert (plan.at_once, plan.lacks) == (2, ())
    assert [item.method for item in search.estimates] == ["plain", "pmal"]
    assert [item.passes for item in search.estimates] == [(2.0, 2.0), (6.0, 10.0)]
    assert [item.trials for item in confirm.estimates] == [3.0, 3.0]
    assert plan.seconds == pytest.approx((search.seconds + confirm.seconds) / 2)
    assert plan.measured == len(fixed_cost) == 4  # plain with and without noise, pmal with one and two stages
    assert set(fixed_cost) == {("plain", 4, "cpu", 1), ("pmal", 4, "cpu", 1)}


def test_text_of_quickstart_says_what_a_person_asks(fixed_cost):
    text = make_plan(quickstart("search.trials=6"), available=MACHINE).text()
    lines = text.splitlines()
    assert lines[0].startswith("Study quickstart (")
    for part in (
        "4 classes", "32 to train on, 8 to choose by, 24 to test on", "test_resnet: ", "to choose by: gaussian_noise",
        "held out of all else: contrast, jpeg_compression", "6 trials by tpe in search of the highest acc/noise",
        "method.name plain | pmal", "on a log scale", "if method.name is pmal",
        "the best of each method.name in search, 3 seeds each; then the test split is read",
        "estimated on this machine",
        "2 CPUs and no GPU; a trial takes 1 CPU: 2 trials at a time",
    ):  # fmt: skip
        assert part in " ".join(text.split()) or part in text, part
    assert max(map(len, lines)) <= 120
    assert lines.index("    searched:") < next(i for i, line in enumerate(lines) if "method.head_widths" in line)


def test_constraints_and_the_front_are_told(fixed_cost):
    sets = ("search.constraints=[clean_accuracy >= 0.9, params <= 25e6]", "search.trials=4",
            "search.objectives=[{metric: acc/noise}, {metric: cost/params}]", "search.algorithm=nsga2")  # fmt: skip
    text = make_plan(quickstart(*sets), available=MACHINE).text()
    for part in (
        "4 trials by nsga2 in search of the highest acc/noise and the lowest cost/params",
        "    chosen only if clean_accuracy >= 0.9 and params <= 25e6",
        "the best of each method.name on the Pareto front of search, 3 seeds each",
        "nsga2 draws its first 20 trials at random, so this is a random search",
        "nsga2 inherits only keys that every trial has; it draws method.stages and noise.train at random",
    ):  # fmt: skip
        assert part in text, part


def test_plan_of_real_cars(fixed_cost, cars):
    study = load_study(PRESETS / "real-cars.yaml", [f"data.path={cars}"])
    plan = make_plan(study, available=MACHINE)
    assert study.config.search.trials >= 8
    assert {"method.name", "method.stages", "optim.sam.rho", "noise.train"} <= study.config.search.space.keys()
    assert plan.sizes == Sizes(num_classes=20, train=80, validation=20, test=40)
    assert plan.class_names[:2] == ("car 0", "car 1")
    assert plan.phases[1].trials == 6
    text = plan.text()
    assert "to train on: searched" in text
    assert "[shot_noise, gaussian_blur]" in text
    assert "asha stops poor trials early" in text


def test_what_is_lacking_is_said(fixed_cost):
    plan = make_plan(quickstart("resources.gpus_per_worker=1", "resources.workers_per_trial=4"), available=MACHINE)
    assert plan.at_once == 0
    assert len(plan.lacks) == 1
    assert "no node has 1 GPU" in plan.lacks[0]
    assert "It cannot run here:" in plan.text()
    assert "one after the other" in plan.text()


def test_phase_of_one_trial(fixed_cost):
    plan = make_plan(quickstart("phases=[{kind: train, name: only, set: {train.epochs: 2}}]"), available=MACHINE)
    (phase,) = plan.phases
    assert (phase.trials, phase.config.train.epochs) == (1, 2)
    assert "1 trial: the settings as they stand, 1 seed; then the test split is read" in plan.text()
    assert "with train.epochs: 2" in plan.text()


def test_notes_on_spaces(fixed_cost):
    few = make_plan(quickstart("search.space={method.name: {choice: [plain, pmal]}}"), available=MACHINE)
    assert "the space has only 2 different configurations, so the search ends with those" in few.text()
    assert "tpe draws its first 10 trials at random" in few.text()
    none = make_plan(quickstart("search.space={}", "phases=[{kind: search, name: s}]"), available=MACHINE)
    assert "search.space is empty" in none.text()


def test_limit_on_trials_at_once():
    resources = ResourcesConfig(cpus_per_worker=2, max_concurrent=3)
    assert fit(resources, {"CPU": 16}) == (3, ())
    assert fit(resources, {"CPU": 4}) == (2, ())
    assert fit(resources, {"CPU": 1})[0] == 0
    assert machine()["CPU"] >= 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "less than 1 s"),
        (42.4, "about 42 s"),
        (89, "about 89 s"),
        (120, "about 2 min"),
        (150, "about 2.5 min"),
        (3000, "about 50 min"),
        (9000, "about 2.5 h"),
        (200_000, "about 2.3 days"),
    ],
)
def test_durations_are_rounded_as_estimates(seconds, text):
    assert duration(seconds) == text


def test_real_cost_of_a_method():
    config = apply(TrialConfig(), {"model.backbone": "test_resnet", "data.image_size": 32, "train.batch_size": 4})
    state = torch.random.get_rng_state()
    threads = torch.get_num_threads()
    cost = measure(config, num_classes=3, device="cpu")
    assert cost.passes == pytest.approx(2.0)  # a plain step, doubled by SAM
    assert cost.train_s > 0
    assert cost.evaluate_s > 0
    assert cost.deployed == cost.parameters > 1_000
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_seconds_of_a_trial_by_hand():
    config = apply(TrialConfig(), {"train.epochs": 3})
    cost = Cost(passes=1, train_s=0.1, evaluate_s=0.01, parameters=1, deployed=1)
    sizes = Sizes(num_classes=2, train=100, validation=500, test=40)
    searched = 100 * 3 * 0.1 + 256 * 5 * 4 * 0.01
    assert trial_seconds(config, cost, sizes, tested=False) == pytest.approx(searched)
    assert trial_seconds(config, cost, sizes, tested=True) == pytest.approx(searched + 40 * 31 * 0.01)
    assert trial_seconds(config, cost, sizes, tested=False, workers=2) == pytest.approx(searched / 2)


SMALL_GRID = ["noise.validation_images=40", "search.fidelity={images: 5, severities: [4], finalists: 2}"]


@pytest.mark.slow
def test_a_search_by_a_small_grid_is_estimated_by_it_and_finalists_by_the_whole(fixed_cost):
    whole, small = (make_plan(quickstart(*sets)).phases for sets in (SMALL_GRID[:1], SMALL_GRID))
    config, sizes = quickstart(*SMALL_GRID).config, make_plan(quickstart()).sizes
    cells, images = len(grid_of_validation(config.trial())), min(40, sizes.validation)
    few = 1 + len(config.noise.validation)
    assert cells > few
    assert images > 5
    looks = config.train.epochs + 1
    for before, after in zip(whole[0].estimates, small[0].estimates, strict=True):
        saved = (images * cells - 5 * few) * 0.01 * looks
        assert before.mean_seconds - after.mean_seconds == pytest.approx(saved)
    trials = sum(item.trials * item.mean_seconds for item in small[0].estimates)
    assert small[0].seconds == pytest.approx(trials + 4 * images * cells * 0.01), "2 of each of 2 methods"
    assert [item.mean_seconds for item in small[1].estimates] == [item.mean_seconds for item in whole[1].estimates]


@pytest.mark.parametrize("sets", [[], ["data.max_per_class=4"], ["data.max_classes=3", "data.validation_share=0.4"]])
def test_counts_are_those_of_the_prepared_images(sets, tmp_path):
    config = quickstart("data.image_size=16", *sets).config
    sizes, names = count_images(config)
    splits = prepare_data(config.data, cache_dir=tmp_path)
    assert sizes == Sizes(len(splits.class_names), len(splits.train), len(splits.validation), len(splits.test))
    assert names == splits.class_names


# ------------------------------------------------------------------------------------------------------------ refusals
def test_what_can_run_is_not_refused():
    refuse_what_cannot_run(quickstart().config)


def test_networks_are_those_of_every_phase():
    study = quickstart("phases=[{kind: search, name: s}, {kind: train, name: t, set: {model.backbone: resnet10t}}]")
    assert {(item.backbone, item.stages) for item in networks(study.config)} == {
        ("test_resnet", 1), ("test_resnet", 2), ("resnet10t", 1),
    }  # fmt: skip


def test_unknown_backbone():
    text = refusal("model.backbone=resnt10t")
    assert text.startswith("model.backbone: must be the name of a timm model, but got 'resnt10t'")
    assert "resnet10t" in text


def test_searched_backbone_that_cannot_take_the_images():
    text = refusal("search.space.model.backbone={choice: [test_resnet, test_vit]}", "data.image_size=33")
    assert text.startswith("model.backbone: 'test_vit' cannot take images of 33 pixels")


def test_more_stages_than_the_backbone_has():
    (problem,) = network_problems(Network("test_vit", 32, 5, pretrained=False))
    assert str(problem).startswith("method.stages: must be between 1 and 4 for backbone 'test_vit'")


def test_frozen_statistics_of_a_backbone_without_any():
    (problem,) = network_problems(Network("test_vit", 32, 1, pretrained=True, batch_norm="frozen"))
    assert str(problem).startswith("model.batch_norm: frozen has no effect on backbone 'test_vit'")
    assert not list(network_problems(Network("test_resnet", 32, 1, pretrained=True, batch_norm="frozen")))


ASHA = (
    "phases=[{kind: search, name: search}]", "search.space={optim.sam.rho: {log_uniform: [0.01, 0.05]}}",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train", "most"),
    [("train.epochs=3", 6), ("train={batch_size: 8, budget: {passes: 320}}", 10)],
    ids=["epochs of SAM", "a budget of 32 images"],
)
def test_a_grace_that_no_trial_comes_to_the_end_of(train, most):
    grace = "search.scheduler={{name: asha, grace_passes_per_image: {}}}"
    text = refusal(*ASHA, train, grace.format(most))
    assert text.startswith(
        f"search.scheduler.grace_passes_per_image: must be below the {most} gradient passes for each training image "
        "that the longest trial takes"
    )
    assert f"but got {most}; lower it, or take the scheduler out" in text
    refuse_what_cannot_run(quickstart(*ASHA, train, grace.format(most - 0.1)).config)


def test_images_that_are_not_there(tmp_path):
    assert refusal("data.source=parquet", f"data.path={tmp_path}/none.parquet").startswith(
        "data.path: must be a parquet"
    )


def test_weights_that_are_not_there(tmp_path):
    text = refusal(f"model.pretrained={tmp_path}/none.safetensors")
    assert text.startswith("model.pretrained: must be true, false or a .safetensors file, but there is no such file")


def test_weights_of_another_backbone(tmp_path):
    save_file({"stem.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    text = refusal(f"model.pretrained={tmp_path}/other.safetensors")
    assert text.startswith("model.pretrained: ")
    assert "missing" in text


def test_weights_that_nobody_published():
    text = refusal("model.backbone=seresnet18", "model.pretrained=true")
    assert text == (
        "model.pretrained: true needs published weights, but timm has none for 'seresnet18'; give a .safetensors file, "
        "or false"
    )


def test_the_plan_says_where_the_wrong_setting_was_written(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("name: a\nmodel:\n  backbone: resnt10t\n", encoding="utf-8")
    with pytest.raises(StudyFileError, match=r"study\.yaml:3: model\.backbone: must be the name of a timm model"):
        make_plan(load_study(path), available=MACHINE)


# ---------------------------------------------------------------------------------- real noisy images, the normaliser
def drawn(folder, *places):
    """Files of drawn pictures below a folder."""
    for number, place in enumerate(places):
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 24, 3), 10 * number, dtype=np.uint8)).save(path)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "users"),
    [("resnet50-pmal", ["data.path"]), ("tresnet-l-pmal", ["data.path", "model.pretrained"])],
)
def test_the_papers_presets_lack_only_what_is_the_users(preset, users, tmp_path):
    with pytest.raises(ProblemsError) as caught:
        refuse_what_cannot_run(load_study(PRESETS / f"{preset}.yaml").config)
    assert [".".join(map(str, problem.path)) for problem in caught.value.problems] == users
    folder = drawn(tmp_path / "cars", *(f"{name}/{number}.png" for name in ("one", "two") for number in range(4)))
    given = load_study(PRESETS / f"{preset}.yaml", [f"data.path={folder}", "model.pretrained=false"])
    refuse_what_cannot_run(given.config)
    assert {(item.backbone.partition(".")[0], item.stages) for item in networks(given.config)} == {
        ("resnet50" if preset == "resnet50-pmal" else "tresnet_v2_l", 3)
    }


@pytest.mark.slow
def test_real_images_are_counted_and_told(fixed_cost, tmp_path):
    folder = drawn(tmp_path / "camera", "Alda saloon/a.png", "Alda saloon/b.png", "Alda hatchback/c.png")
    plan = make_plan(quickstart(f"noise.real.camera={folder}"), available=MACHINE)
    assert plan.sizes.real == 3
    assert "real noisy images, with the test: camera (3 images)" in plan.text()
    assert plan.sizes == count_images(plan.study.config)[0]


def test_real_images_that_do_not_fit_are_refused_with_their_key_and_line(tmp_path):
    drawn(tmp_path / "camera", "Alda saloon/a.png", "tram/b.png")
    text = (PRESETS / "quickstart.yaml").read_text(encoding="utf-8")
    path = tmp_path / "study.yaml"
    path.write_text(
        text.replace("noise:\n", "noise:\n  real:\n    near: camera\n    far: nothing\n", 1), encoding="utf-8"
    )
    lines = path.read_text(encoding="utf-8").splitlines()
    with pytest.raises(StudyFileError) as caught:
        make_plan(load_study(path), available=MACHINE)
    near, far = str(caught.value).splitlines()
    assert near.startswith(
        f"{path}:{lines.index('    near: camera') + 1}: noise.real.near: must hold classes of the study"
    )
    assert "'tram'" in near
    assert far.startswith(f"{path}:{lines.index('    far: nothing') + 1}: noise.real.far: must be a class folder or a")


def test_real_images_take_their_time_once():
    config = apply(TrialConfig(), {"train.epochs": 3})
    cost = Cost(passes=1, train_s=0.1, evaluate_s=0.01, parameters=1, deployed=1)
    without, with_real = (Sizes(2, 100, 500, 40, real) for real in (0, 25))
    gap = trial_seconds(config, cost, with_real, tested=True) - trial_seconds(config, cost, without, tested=True)
    assert gap == pytest.approx(25 * 0.01)
    assert trial_seconds(config, cost, with_real, tested=False) == trial_seconds(config, cost, without, tested=False)


def test_alexnet_needs_a_thousand_classes(cars):
    sets = ["data.image_size=224", "data.max_classes=22", "report.normaliser=alexnet", f"data.path={cars}",
            "noise.test=[contrast]", "noise.held_out=[]", "noise.test_severities=[1, 2, 3, 4, 5]"]  # fmt: skip
    with pytest.raises(ProblemsError, match=r"report\.normaliser: alexnet is for ImageNet's 1,000 classes.*have 22"):
        refuse_what_cannot_run(load_study(PRESETS / "real-cars.yaml", sets).config)
