"""The resolution section: what is refused and why, what a trial makes of it, and what enters a trial's identity."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from noise.low_resolution import Lens, LowResolution
from study.build import low_resolution, training_sampler
from study.config import StudyConfig, TrialConfig
from study.config_resolution import ResolutionConfig
from study.evaluate import Cell
from study.grids import grid_of_test, grid_of_validation
from study.ledger import Role, trial_key
from study.override import apply, written
from study.plantext import _sides
from study.possible import Network, network_problems, networks
from tests.unit.study.trials import tiny_config

PMD = {"name": "pmd", "teacher": "some/trial"}


def refused(**sections: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        tiny_config(**sections)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------------- refused
@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"train": [16, 16]}, "train must not name a side twice, but got [16, 16]"),
        ({"validation": [8, 16, 8]}, "validation must not name a side twice, but got [8, 16, 8]"),
        ({"test": [8, 8]}, "test must not name a side twice, but got [8, 8]"),
        ({"train": [8, 16], "view": "small"}, "train must be one side with view: small, as a batch has one side"),
        ({"train": [16], "with_noise": True}, "with_noise has no effect without sides in validation or test"),
        ({"test": [16], "kernel": "area"}, "kernel has no effect without sides in train, but got area"),
        ({"train": [16], "test_kernel": "area"}, "test_kernel has no effect without sides in validation or test"),
        ({"view": "small"}, "view has no effect without sides in train, validation or test, but got small"),
        ({"train": [33]}, "resolution.train must be at most data.image_size (32), but got 33; leave it out, or raise"),
        ({"validation": [32]}, "resolution.validation must be below data.image_size (32), but got 32"),
        ({"test": [16, 40]}, "resolution.test must be below data.image_size (32), but got 40"),
        ({"train": [32], "view": "small"}, "resolution.view must be up with train: [32], which is data.image_size"),
        ({"train": [7]}, "greater than or equal to 8"),
        ({"validation": [8, 12, 16, 24]}, "at most 3 items"),
        ({"test_kernel": "random"}, "'area', 'bilinear' or 'bicubic'"),
    ],
)
def test_sides_that_do_not_go_together_are_refused(section: dict[str, Any], message: str) -> None:
    assert message in refused(resolution=section)


def test_a_method_that_restores_images_sees_them_at_their_size() -> None:
    text = refused(method={"name": "pmal"}, resolution={"train": [16], "view": "small"})
    assert "resolution.view must be up with method.name: pmal, which restores images at their size" in text
    assert tiny_config(method={"name": "pmal"}, resolution={"train": [16]}).method.name == "pmal"


def test_a_clean_student_of_pmd_sees_no_lower_resolution() -> None:
    text = refused(method=PMD, resolution={"train": [16]})
    assert "resolution.train has no effect with method.name: pmd and method.student_input: clean" in text
    assert "set: {resolution.train: []}" in text
    noisy = {**PMD, "student_input": "noisy"}
    assert tiny_config(method=noisy, resolution={"train": [16]}).resolution.train == (16,)
    assert "student_input must be clean where no training noise is named" in refused(method=noisy)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_what_is_chosen_and_tested_by_is_noise_or_a_side(split: str) -> None:
    assert f"noise.{split} must name a corruption, or resolution.{split} a side" in refused(noise={split: []})
    config = tiny_config(noise={split: []}, resolution={split: [16]})
    cells = {"validation": grid_of_validation, "test": grid_of_test}[split](config)
    assert cells == [Cell("clean", 0), Cell("clean", 0, 16)]


# ------------------------------------------------------------------------------------------------------- what it means
def test_without_sides_nothing_changes() -> None:
    config = tiny_config()
    assert (training_sampler(config), low_resolution(config)) == (None, None)
    assert config.resolution.input_size(32) == 32
    assert config.resolution.evaluation_lens == Lens("bicubic", small=False)
    assert "resolution" not in written(config)
    assert all(cell.side == 0 for cell in [*grid_of_validation(config), *grid_of_test(config)])


def test_the_sampler_has_the_sides_the_kernel_and_the_noise() -> None:
    section = {"train": [32, 16], "kernel": "random", "test": [8], "test_kernel": "area"}
    config = tiny_config(resolution=section, noise={"train": ["speckle_noise"]})
    sampler = training_sampler(config)
    assert isinstance(sampler, LowResolution)
    assert (sampler.sides, sampler.lens) == ((32, 16), Lens("random", small=False))
    assert sampler.noise is not None
    assert [kind.name for kind in sampler.noise.types] == ["speckle_noise"]
    assert config.resolution.evaluation_lens == Lens("area", small=False)
    statistics = low_resolution(config)
    assert statistics is not None
    assert statistics.noise is None


@pytest.mark.parametrize(
    ("section", "size"),
    [({"train": [16]}, 32), ({"train": [16], "view": "small"}, 16), ({"test": [16], "view": "small"}, 32)],
)
def test_the_networks_own_size(section: dict[str, Any], size: int) -> None:
    assert ResolutionConfig(**section).input_size(32) == size


def test_grids_have_sides_after_full_size_and_noise_there_if_asked() -> None:
    section = {"validation": [16], "test": [16, 8], "with_noise": True}
    config = tiny_config(resolution=section)
    assert [cell.name for cell in grid_of_validation(config)] == [
        "clean", "gaussian_noise", "16px", "gaussian_noise_16px",
    ]  # fmt: skip
    test = grid_of_test(config)
    assert test[3:6] == [Cell("clean", 0, 16), Cell("contrast", 2, 16), Cell("contrast", 4, 16)]
    assert [cell.side for cell in test] == [0] * 3 + [16] * 3 + [8] * 3
    without = grid_of_test(tiny_config(resolution=section | {"with_noise": False}))
    assert [cell.name for cell in without] == ["clean", "contrast", "contrast", "16px", "8px"]


def test_a_backbone_of_one_size_has_no_small_view() -> None:
    tree = {
        **written(tiny_config(model={"backbone": "test_vit"})),
        "name": "a",
        "phases": [{"kind": "train", "name": "t"}],
    }
    small = StudyConfig.model_validate({**tree, "resolution": {"train": [16], "view": "small"}})
    problems = [str(problem) for network in networks(small) for problem in network_problems(network)]
    assert problems[0] == (
        "resolution.view: must be up with backbone 'test_vit', which takes images of one size only, but got small"
    )
    up = StudyConfig.model_validate({**tree, "resolution": {"train": [16]}})
    assert networks(up) == [Network("test_vit", 32, 1, pretrained=False)]
    assert not list(network_problems(networks(up)[0]))


# ------------------------------------------------------------------------------------------------------ trial identity
def key(section: dict[str, Any], role: Role) -> str:
    return trial_key(tiny_config(resolution=section), fingerprint="f", role=role)


def test_sides_of_the_test_are_no_part_of_a_search_trials_identity() -> None:
    base = {"train": [16], "validation": [16]}
    assert key(base, "search") == key(base | {"test": [8]}, "search") == key(base | {"test": [8, 16]}, "search")
    assert key(base | {"test": [8]}, "train") != key(base | {"test": [16]}, "train")
    for other in ({"train": [8]}, {"validation": [8]}, {"kernel": "area"}, {"view": "small"}, {"test_kernel": "area"}):
        assert key(base | other, "search") != key(base, "search"), other


def test_a_trial_read_back_from_its_record_has_the_same_key() -> None:
    config = tiny_config(resolution={"train": [16, 32], "kernel": "random", "validation": [16]})
    back = TrialConfig.model_validate(json.loads(json.dumps(config.model_dump(mode="json"))))
    assert back == config
    assert trial_key(back, fingerprint="f", role="search") == trial_key(config, fingerprint="f", role="search")
    assert apply(config, written(config)) == config
    assert written(config)["resolution"] == {"train": [16, 32], "kernel": "random", "validation": [16]}


# ---------------------------------------------------------------------------------------------------------- in words
@pytest.mark.parametrize(
    ("section", "searched", "lines"),
    [
        ({}, False, []),
        ({"test": [16]}, False, []),
        ({"train": [16, 32], "kernel": "random"}, False, ["Sides     to train on: 16, 32 px, random, brought back up"]),
        ({"train": [16], "view": "small"}, False, ["Sides     to train on: 16 px, bicubic, kept small"]),
        ({}, True, ["Sides     to train on: searched, brought back up"]),
        (
            {"train": [16], "test": [8], "with_noise": True},
            False,
            [
                "Sides     to train on: 16 px, bicubic, brought back up",
                "          the noise to choose and to test by is measured at the lower sides too",
            ],
        ),
    ],
)
def test_a_plan_says_the_sides_in_a_column_of_their_own(
    section: dict[str, Any], searched: bool, lines: list[str]
) -> None:
    assert _sides(ResolutionConfig(**section), searched=searched) == lines
