"""The sections of distil and HORKD: losses as nested settings, wherever dotted keys are written, and two teachers."""

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from models.distillation.registry import LOSSES
from models.methods.distil import DistilSettings
from study.cli import app
from study.config import StudyConfig, TrialConfig
from study.config_method import is_decomposable, method_settings, teachers_of
from study.keys import places
from study.ledger import trial_key
from study.override import apply, written
from study.problems import ProblemsError
from study.space import for_phase, parse
from study.studyfile import load_study
from tests.unit.study.trials import tiny_config

DISTIL: dict[str, Any] = {"name": "distil", "teacher": "some/trial", "losses": {"kd": 0.9}}
HORKD: dict[str, Any] = {"name": "horkd", "teacher": "some/trial"}
STUDY = """
name: two
model: {backbone: test_resnet}
resolution: {train: [16], validation: [16]}
search:
  space:
    method.name: {choice: [plain, distil]}
    method.teacher: {fixed: teacher, when: {method.name: distil}}
    method.losses.kd: {uniform: [0.1, 1.0], when: {method.name: distil}}
    method.losses.rkd: {choice: [0.0, 1.0], when: {method.name: distil}}
    method.rkd_angle: {uniform: [1.0, 3.0], when: {method.losses.rkd: 1.0}}
phases:
  - {kind: train, name: teacher, set: {resolution.train: []}}
  - {kind: search, name: students}
  - kind: train
    name: student
    set: {method.name: distil, method.teacher: teacher, method.losses.crd: 0.8, method.losses.kd: 1}
"""


def losses_of(config: TrialConfig) -> dict[str, float]:
    settings = method_settings(config.method)
    assert isinstance(settings, DistilSettings)
    return settings.weights()


def refused(method: dict[str, Any], **sections: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        tiny_config(method=method, **sections)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------------- refused
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"losses": {}}, "method.losses must give one or more a weight above 0, such as {kd: 0.9}, but none has one"),
        ({"losses": {"kd": 0}}, "method.losses must give one or more a weight above 0"),
        ({"losses": {"rkd": 1}, "kd_temperature": 2}, "method.kd_temperature has no effect without kd among the loss"),
        ({"gather": True}, "method.gather has no effect, as no loss here compares images with each other"),
        ({"losses": {"kd": -1}}, "greater than or equal to 0"),
        ({"losses": {"kdd": 1}}, "Extra inputs are not permitted"),
        ({"direct_teacher": "some/other"}, "Extra inputs are not permitted"),
    ],
)
def test_losses_that_do_not_go_together_are_refused(settings: dict[str, Any], message: str) -> None:
    assert message in refused(DISTIL | settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"first_order": 0, "second_order": 0, "third_order": 0},
            "method.first_order must be above 0, or second_order",
        ),
        ({"direct_weight": 0.5}, "method.direct_teacher is required with direct_weight 0.5, but is not there; name it"),
        ({"direct_teacher": "some/other"}, "method.direct_teacher has no effect with direct_weight: 0; raise that"),
        ({"kd_temperature": 2}, "method.kd_temperature has no effect without kd among the losses"),
        ({"losses": {"kd": 1}}, "Extra inputs are not permitted"),
    ],
)
def test_orders_and_second_teachers_that_do_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    assert message in refused(HORKD | settings)


def test_who_teaches() -> None:
    two = tiny_config(method=HORKD | {"direct_weight": 0.5, "direct_teacher": "some/other"})
    assert teachers_of(two.method) == {"teacher": "some/trial", "direct_teacher": "some/other"}
    assert teachers_of(tiny_config(method=HORKD).method) == {"teacher": "some/trial"}
    assert teachers_of(tiny_config(method=DISTIL).method) == {"teacher": "some/trial"}
    assert teachers_of(tiny_config().method) == {}


def test_losses_between_images_are_not_taken_in_slices() -> None:
    train = {"micro_batch": 4}
    assert tiny_config(method=DISTIL, train=train).train.micro_batch == 4
    both = DISTIL | {"losses": {"kd": 0.9, "rkd": 1.0}}
    for method in (both, HORKD):
        assert not is_decomposable(tiny_config(method=method).method)
        assert "train.micro_batch must be left out with method.name" in refused(method, train=train)


# ------------------------------------------------------------------------------------------------- dotted keys anywhere
def test_every_loss_is_a_dotted_key_of_distil_alone() -> None:
    found = {key.rpartition(".")[2] for key in places() if key.startswith("method.losses.")}
    assert found == set(LOSSES)
    assert {place.branch for place in places()["method.losses.kd"]} == {(("method.name", "distil"),)}


def test_a_file_its_phases_and_set_name_losses(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(STUDY)
    study = load_study(path).config
    student = for_phase(study, study.phases[2])
    assert losses_of(student) == {"kd": 1.0, "crd": 0.8}
    sets = ["method={name: distil, teacher: some/trial}", "method.losses.at=1000", "method.losses.kd=0.5",
            "phases=[{kind: train, name: t}]", "search.space={}"]  # fmt: skip
    assert losses_of(load_study(path, sets).config) == {"kd": 0.5, "at": 1000.0}
    again = load_study(path, ["phases.student.set.method.losses.kd=0.25"]).config
    assert losses_of(for_phase(again, again.phases[2])) == {"kd": 0.25, "crd": 0.8}


def test_a_search_draws_weights_and_what_depends_on_them(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(STUDY)
    study = load_study(path).config
    config = for_phase(study, study.phases[1])
    space, seen = parse(config.search.space, config), set()
    asked = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(30):
        params = space.suggest(asked.ask())
        drawn = apply(config.trial(), params)
        seen.add((drawn.method.name, "method.rkd_angle" in params))
        if drawn.method.name == "distil":
            assert losses_of(drawn).get("kd") == params["method.losses.kd"]
            assert losses_of(drawn).get("rkd", 0.0) == params["method.losses.rkd"]
            assert getattr(drawn.method, "rkd_angle") == params.get("method.rkd_angle", 50.0)  # noqa: B009
    assert seen == {("plain", False), ("distil", False), ("distil", True)}


def test_a_loss_of_every_method_is_refused_in_a_space() -> None:
    space = {"method.name": {"choice": ["plain", "distil"]}, "method.losses.kd": {"uniform": [0.1, 1.0]}}
    with pytest.raises(ProblemsError, match=r"is a setting of method\.name: distil only; add when"):
        parse(space, StudyConfig(name="a"))


# ----------------------------------------------------------------------------------------------- there and back again
def test_what_is_written_of_losses_reads_back_the_same() -> None:
    config = tiny_config(method=DISTIL | {"losses": {"kd": 0.9, "rkd": 1.0}, "kd_temperature": 2.0, "start": "teacher"})
    assert written(config)["method"] == {
        "name": "distil", "teacher": "some/trial", "losses": {"kd": 0.9, "rkd": 1.0}, "kd_temperature": 2.0,
        "start": "teacher",
    }  # fmt: skip
    assert TrialConfig.model_validate(written(config)) == config
    assert TrialConfig.model_validate(json.loads(json.dumps(config.model_dump(mode="json")))) == config


def test_losses_are_changed_added_and_taken_out_one_by_one() -> None:
    config = tiny_config(method=DISTIL | {"losses": {"kd": 0.9, "at": 1000.0}})
    assert losses_of(apply(config, {"method.losses.kd": 0.5})) == {"kd": 0.5, "at": 1000.0}
    assert losses_of(apply(config, {"method.losses.at": 0, "method.losses.sp": 3000})) == {"kd": 0.9, "sp": 3000.0}
    assert losses_of(apply(config, {"method.losses": {"sp": 1}})) == {"sp": 1.0}
    horkd = apply(config, {"method.name": "horkd"})
    assert horkd.method == tiny_config(method=HORKD).method  # its losses are dropped, its teacher stays
    with pytest.raises(ProblemsError, match=r"method\.losses"):
        apply(horkd, {"method.name": "distil"})
    assert losses_of(apply(horkd, {"method.name": "distil", "method.losses.kd": 1})) == {"kd": 1.0}


def test_losses_and_digests_are_of_a_trials_identity_and_names_of_teachers_are_not() -> None:
    def key(method: dict[str, Any], digest: str = "1") -> str:
        return trial_key(tiny_config(method=method), fingerprint="f", role="search", teacher=digest)

    assert key(DISTIL) == key(DISTIL | {"teacher": "a_phase"}) != key(DISTIL, "2")
    assert key(DISTIL) != key(DISTIL | {"losses": {"kd": 0.8}})
    two = HORKD | {"direct_weight": 0.5, "direct_teacher": "some/other"}
    assert key(two) == key(two | {"direct_teacher": "a_phase"})
    assert key(two) != key(two | {"direct_weight": 0.25})


# ------------------------------------------------------------------------------------------------------------- schema
def test_the_schema_has_each_loss_with_its_line_and_both_teachers() -> None:
    schema = json.loads(CliRunner().invoke(app, ["schema"]).stdout)
    parts = schema["$defs"]
    losses = parts["LossWeights"]
    assert set(losses["properties"]) == set(LOSSES)
    assert losses["additionalProperties"] is False
    kd = losses["properties"]["kd"]
    assert (kd["default"], kd["minimum"]) == (0.0, 0)
    assert "published weight" in kd["description"]
    assert parts["DistilMethod"]["properties"]["losses"]["$ref"].endswith("LossWeights")
    assert "teacher" in parts["DistilMethod"]["required"]
    assert "direct_teacher" in parts["HorkdMethod"]["properties"]
    assert "direct_teacher" not in parts["HorkdMethod"]["required"] + list(parts["DistilMethod"]["properties"])
    resolution = parts["ResolutionConfig"]["properties"]
    assert resolution["view"]["enum"] == ["up", "small"]
    assert all("description" in item for item in resolution.values())
