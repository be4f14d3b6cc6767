"""A PMAL teacher and its PMD student: how a study names the teacher, what is refused, and the student's trial."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
from safetensors.torch import load_file

from study import checkpoint, phases
from study.build import build_method
from study.config import StudyConfig
from study.config_method import teacher_kind
from study.estimate import measure
from study.ledger import TrialSpec, trial_key
from study.loop import Stopped
from study.plan import make_plan
from study.possible import refuse_what_cannot_run
from study.problems import ProblemsError
from study.space import for_phase
from study.studyfile import LoadedStudy, load_study
from study.teachers import FoundTeacher, check_teacher, find_teacher, load_teacher, look_at
from study.trained import load_model
from study.trial import run_trial
from tests.unit.study.test_trial import StopAfter, _same, _state
from tests.unit.study.trials import PMAL, ledger_of, prepare_data, tiny_config, tiny_spec

STUDY = """
name: two
data: {source: synthetic-vehicles, num_classes: 3, train_per_class: 10, test_per_class: 4, image_size: 32,
       validation_share: 0.3}
model: {backbone: test_resnet}
noise: {validation: [gaussian_noise], validation_severities: [3], test: [contrast], test_severities: [2, 4]}
train: {epochs: 2, batch_size: 8}
method: {name: pmal, stages: 2, head_widths: [8, 8], classifier_width: 8, decoder_widths: [8, 8, 8]}
phases:
  - {kind: search, name: pmal, search: {trials: 2, space: {optim.sam.rho: {log_uniform: [0.01, 0.5]}}}}
  - {kind: confirm, name: chosen, of: pmal, seeds: [101, 102]}
  - {kind: train, name: student, set: {method.name: pmd, method.teacher: pmal, method.feature_weight: 1.0}}
"""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> TrialSpec:
    """A trained tiny PMAL trial."""
    spec = tiny_spec(tmp_path_factory.mktemp("teacher"), tiny_config(method=PMAL), study="school")
    run_trial(spec)
    return spec


def place_of(spec: TrialSpec) -> Path:
    return Path(ledger_of(spec).path(spec.key))


def pmd(reference: Any, **settings: Any) -> dict[str, Any]:
    return {"name": "pmd", "teacher": str(reference), "stages": 2, "feature_weight": 1.0, **settings}


def student_spec(
    tmp_path: Path, teacher: TrialSpec, *, study: str = "tiny", train: dict[str, Any] | None = None, **settings: Any
) -> TrialSpec:
    """A student's trial as a study plans it."""
    config = tiny_config(method=pmd(place_of(teacher), **settings), train=train or {})
    found = look_at(str(place_of(teacher)))
    spec = tiny_spec(tmp_path, config, study=study)
    key = trial_key(config, fingerprint=spec.fingerprint, role=spec.role, teacher=found.digest)
    return dataclasses.replace(spec, key=key, teacher=found.as_spec())


# --------------------------------------------------------------------------------------------------------- the trial
@pytest.mark.slow
def test_a_student_distils_half_of_its_epochs_and_leaves_timms_model(tmp_path: Path, teacher: TrialSpec) -> None:
    spec = student_spec(tmp_path, teacher, train={"epochs": 4})
    metrics = run_trial(spec)
    ledger = ledger_of(spec)
    losses = [
        {name for name in event["metrics"] if name.startswith("loss/")} - {"loss/train"}
        for event in ledger.events(spec.key)
        if event["event"] == "epoch"
    ]
    assert losses == [{"loss/stage1", "loss/stage2", "loss/distil"}] * 2 + [{"loss/classify"}] * 2
    weights = load_file(ledger.path(spec.key, "model.safetensors"))
    model = timm.create_model("test_resnet", num_classes=3)
    model.load_state_dict(weights)
    assert ledger.trial(spec.key)["teacher"] == spec.teacher
    loaded = load_model(ledger.path(spec.key))
    assert sum(item.numel() for item in loaded.method.deployed.parameters()) == sum(
        item.numel() for item in model.parameters()
    )
    method = build_method(tiny_config(method=pmd("x"), train={"epochs": 4}), num_classes=3,
                          teacher=load_teacher(spec.teacher, loaded.config, loaded.class_names))  # fmt: skip
    images = 4 * len(prepare_data(loaded.config.data, cache_dir=Path(spec.cache_dir)).train)
    assert metrics["cost/passes"] == pytest.approx(2 * images * method.passes_per_image())  # twice for SAM


@pytest.mark.slow
def test_interrupted_at_the_switch_of_halves_equals_uninterrupted_to_the_bit(
    tmp_path: Path, teacher: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "remove", lambda *_: None)
    whole, broken = (student_spec(tmp_path, teacher, study=name) for name in ("whole", "broken"))
    expected = run_trial(whole)
    for batches in (2, 1, 1):  # within the distilling epoch, at its last batch, at the first of the labels alone
        with pytest.raises(Stopped):
            run_trial(broken, should_stop=StopAfter(batches))
    found = run_trial(broken)
    for name in ("cost/seconds", "cost/latency_ms"):
        expected.pop(name), found.pop(name)
    assert found == expected
    assert _same(_state(whole)[:2], _state(broken)[:2])


@pytest.mark.slow
def test_another_backbone_and_kl_and_noise_run(tmp_path: Path, teacher: TrialSpec) -> None:
    config = tiny_config(
        method=pmd(place_of(teacher), logit_loss="kl", temperature=2.0, student_input="noisy"),
        noise={"train": ["pmal_pair"]}, model={"backbone": "test_vit"}, train={"epochs": 1},
    )  # fmt: skip
    spec = tiny_spec(tmp_path, config)
    assert run_trial(dataclasses.replace(spec, teacher=look_at(str(place_of(teacher))).as_spec()))["acc/clean"] >= 0


def test_a_teacher_is_loaded_once_in_a_process(teacher: TrialSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    found = look_at(str(place_of(teacher)))
    config = tiny_config(method=pmd(place_of(teacher)))
    first = load_teacher(found.as_spec(), config, found.class_names)
    monkeypatch.setattr("study.teachers.read_model", lambda _: pytest.fail("it must not be read again"))
    assert load_teacher(found.as_spec(), config, found.class_names) is first


def test_other_weights_than_planned_are_refused_before_training(tmp_path: Path, teacher: TrialSpec) -> None:
    spec = student_spec(tmp_path, teacher)
    other = dataclasses.replace(spec, teacher={**spec.teacher, "digest": "0" * 64})
    with pytest.raises(
        ValueError, match=r"method\.teacher: the weights in .* are not those that the trial was planned"
    ):
        run_trial(other)
    assert ledger_of(spec).events(spec.key) == []


def test_the_teacher_enters_a_trials_identity_by_its_weights() -> None:
    def key(reference: str, digest: str) -> str:
        return trial_key(tiny_config(method=pmd(reference)), fingerprint="f", role="search", teacher=digest)

    assert key("a/b/c", "1") == key("phase", "1") != key("phase", "2")


# ------------------------------------------------------------------------------------------------------ the reference
@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ("pmal", "phase"), ("cars/0123456789abcdef", "trial"), ("./cars", "place"), ("s3://b/cars/trials/1", "place"),
        ("model.safetensors", "place"), ("cars/trials/0123456789abcdef", "place"), ("cars/0123", "place"),
    ],
)  # fmt: skip
def test_kinds_of_references(reference: str, kind: str) -> None:
    assert teacher_kind(reference) == kind


def test_a_relative_place_counts_from_the_file_and_names_stay(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(STUDY.replace("method.teacher: pmal", "method.teacher: ../old/model.safetensors"))
    assert load_study(path).config.phases[2].set["method.teacher"] == str(tmp_path.parent / "old/model.safetensors")
    for name in ("pmal", "cars/0123456789abcdef", "s3://bucket/cars"):
        path.write_text(STUDY.replace("method.teacher: pmal", f"method.teacher: {name}"))
        assert load_study(path).config.phases[2].set["method.teacher"] == name


def test_every_way_to_name_a_trial_finds_the_same_teacher(teacher: TrialSpec) -> None:
    place = place_of(teacher)
    names = [f"school/{teacher.key}", str(place), f"{place}/model.safetensors", f"file://{place}"]
    assert {find_teacher(name, storage=teacher.storage).digest for name in names} == {look_at(str(place)).digest}


def refusal(reference: Any, storage: str = "/nowhere") -> str:
    with pytest.raises(ValueError, match=r"\w") as caught:
        find_teacher(str(reference), storage=storage)
    return str(caught.value)


def test_a_missing_unfinished_or_damaged_teacher_is_explained(tmp_path: Path, teacher: TrialSpec) -> None:
    assert "there is no /nowhere/at/all" in refusal("/nowhere/at/all")
    assert f"there is no school/{'0' * 16}" in refusal(f"school/{'0' * 16}", teacher.storage)
    assert f"there is {teacher.key}" in refusal(f"school/{'0' * 16}", teacher.storage)
    unfinished = tiny_spec(tmp_path, tiny_config(method=PMAL), study="open")
    with pytest.raises(Stopped):
        run_trial(unfinished, should_stop=StopAfter(1))
    assert f"open/{unfinished.key} is running; finish it" in refusal(f"open/{unfinished.key}", unfinished.storage)
    assert "holds no trained model" in refusal(ledger_of(unfinished).path(unfinished.key))
    copy = tmp_path / "copy"
    shutil.copytree(place_of(teacher), copy)
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:-5])
    assert "is damaged or of another version" in refusal(copy)
    (copy / "model.json").write_text("{}")
    assert "is damaged or of another version" in refusal(copy)


def found_teacher(**changes: Any) -> FoundTeacher:
    plain = FoundTeacher("/t", "1", "pmal", True, "test_resnet", 32, ("a", "b", "c"))
    return dataclasses.replace(plain, **changes)


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"class_names": ("a", "b")}, {}, r"must know the study's 3 classes, but /t knows 2, .*: \['c'\]"),
        ({"class_names": ("c", "b", "a")}, {}, "and their order differs"),
        ({"can_teach": False, "method": "x"}, {}, "must be of a method that shows its maps, but /t is x"),
        ({"backbone": "test_vit", "image_size": 64}, {}, r"images of 32 pixels \(data\.image_size\).*trained at 64"),
        ({"backbone": "levit_128s"}, {"stages": 4}, r"does not go with method\.stages: .* between 1 and 3 .*but got 4"),
    ],
)  # fmt: skip
def test_a_teacher_that_does_not_fit_is_explained(changes: dict, settings: dict, message: str) -> None:
    config = tiny_config(method=pmd("/t", **settings))
    check_teacher(found_teacher(), config, ("a", "b", "c"))
    check_teacher(found_teacher(image_size=64), config, ("a", "b", "c"))  # convolutions take other sizes
    with pytest.raises(ValueError, match=message):
        check_teacher(found_teacher(**changes), config, ("a", "b", "c"))


# ---------------------------------------------------------------------------------------------------- before the start
def loaded(tmp_path: Path, *sets: str) -> LoadedStudy:
    path = tmp_path / "two.yaml"
    path.write_text(STUDY)
    return load_study(path, sets)


def problems(study: StudyConfig, storage: str = "/nowhere") -> str:
    with pytest.raises(ProblemsError) as caught:
        refuse_what_cannot_run(study, storage=storage)
    return str(caught.value)


def test_what_can_be_known_of_a_teacher_is_checked_before_the_start(tmp_path: Path, teacher: TrialSpec) -> None:
    refuse_what_cannot_run(loaded(tmp_path).config)
    by_key = loaded(tmp_path, f"phases.2.set.method.teacher=school/{teacher.key}").config
    refuse_what_cannot_run(by_key, storage=teacher.storage)
    assert f"method.teacher: must be a finished trial, but there is no school/{teacher.key}" in problems(by_key)
    more = loaded(tmp_path, f"phases.2.set.method.teacher={place_of(teacher)}", "data.num_classes=4")
    assert "method.teacher: must know the study's 4 classes" in problems(more.config)
    alone = phases.single_trial(loaded(tmp_path, "method.name=pmd", "method.teacher=x/y"), named=True).config
    assert "method.teacher: must be the folder of a trained trial" in problems(alone)
    named = apply_teacher(loaded(tmp_path).config, "pmal")
    train = phases.single_trial(LoadedStudy(named, "", ""), named=True).config
    assert "must be the name of a phase before this one, STUDY/KEY" in problems(train)


def apply_teacher(study: StudyConfig, reference: str) -> StudyConfig:
    method = tiny_config(method=pmd(reference)).method
    return study.model_copy(update={"method": method})


@pytest.mark.slow
def test_a_plan_counts_the_students_mean_passes(tmp_path: Path) -> None:
    plan = make_plan(loaded(tmp_path, "train.batch_size=4"), available={"CPU": 2.0, "GPU": 0.0})
    (student,) = plan.phases[2].estimates
    config = for_phase(plan.study.config, plan.study.config.phases[2])
    teacher = build_method(tiny_config(method=PMAL), num_classes=3)
    expected = build_method(config, num_classes=3, teacher=teacher).passes_per_image()  # type: ignore[arg-type]
    assert student.method == "pmd"
    assert student.passes[0] == pytest.approx(2 * expected)
    share = measure(tiny_config(method=pmd("x", distil_share=0.0)), num_classes=3, teacher=teacher)  # type: ignore[arg-type]
    assert share.passes == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("phase", "seeds", "message"),
    [
        ("teacher", "[1, 2]", ""),
        ("teacher", "[2]", ""),
        ("teacher", "[1, 3]", r"must have a trial of each seed of student, but teacher has none of \[3\]"),
        ("teachr", "[1]", "must be the name of a phase before this one.*teacher"),
    ],
)
def test_seeds_that_pair_up_are_checked_before_the_start(tmp_path: Path, phase: str, seeds: str, message: str) -> None:
    text = STUDY[: STUDY.index("phases:")] + (
        "phases:\n"
        "  - {kind: train, name: teacher, seeds: [1, 2]}\n"
        f"  - {{kind: train, name: student, seeds: {seeds}, "
        f"set: {{method.name: pmd, method.teacher: {phase}@seed, method.feature_weight: 1.0}}}}\n"
    )
    file = tmp_path / "pairs.yaml"
    file.write_text(text)
    if not message:
        refuse_what_cannot_run(load_study(file).config)
        return
    with pytest.raises(ValueError, match=message):
        load_study(file)
