"""A study before its first trial: what a trial of each of its phases is, and which teacher it learns from."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from study import phases, studyrecord, studyrun
from study.config import TrialConfig
from study.config_phases import ConfirmPhase
from study.ledger import Ledger, TrialSpec
from study.override import apply
from study.places import resolve_places
from study.preflight import Capacity
from study.runtime import Runtime
from study.space import for_phase
from study.studyfile import load_study_text
from study.trial import run_trial
from tests.unit.study.test_teachers import loaded
from tests.unit.study.trials import prepare_data


@pytest.fixture
def run(tmp_path: Path) -> studyrun.StudyRun:
    """The two-phase study before its first trial."""
    study = loaded(tmp_path)
    ledger = Ledger(str(tmp_path / "results"), "two")
    data = prepare_data(study.config.data, cache_dir=tmp_path.parent / "cache")
    studyrecord.open_study(ledger, study, data, tracking_uri=None, again=False)
    capacity = Capacity(executor="inline", per_trial={"CPU": 1.0}, max_concurrent=1)  # pyright: ignore[reportCallIssue, reportArgumentType]
    places = dataclasses.replace(
        resolve_places(study.config.tracking, cwd=tmp_path), cache_dir=tmp_path.parent / "cache"
    )
    runtime = Runtime(study.config.resources, capacity, is_ours=False)
    return studyrun.StudyRun(study.config, ledger, places, data.fingerprint, runtime, class_names=data.class_names)


def student_of(run: studyrun.StudyRun, **changes: Any) -> TrialSpec:
    phase = run.config.phases[2]
    (spec,) = phases._specs(run, phase, for_phase(run.config, phase))  # type: ignore[arg-type]
    return dataclasses.replace(spec, **changes)


def train_pmal(run: studyrun.StudyRun, number: int, *, phase: int = 0, **changes: Any) -> TrialSpec:
    config = for_phase(run.config, run.config.phases[0]).trial()
    tree = config.model_dump(mode="json")
    tree["train"] |= {"epochs": 1, **changes}
    spec = run.spec(TrialConfig.model_validate(tree), run.config.phases[phase], number=number, params={})
    run_trial(spec)
    return spec


@pytest.mark.slow
def test_a_pmal_teacher_and_its_pmd_student_as_a_two_phase_study(run: studyrun.StudyRun) -> None:
    low, best = (train_pmal(run, number, seed=number) for number in (0, 1))
    for spec, accuracy in ((low, 0.1), (best, 0.9)):
        run.ledger.append(spec.key, "final", epoch=1, step=0, metrics={"acc/noise": accuracy}, final=True)
    studyrecord.record_phase(run.ledger, run.config.phases[0], status="finished", trials=[low.key, best.key])
    spec = student_of(run)
    assert spec.teacher["place"] == run.ledger.path(best.key)
    assert "test/noise" in run_trial(TrialSpec(**json.loads(json.dumps(spec.as_dict()))))
    # The same at the next launch, also when figures changed, and the file alone is enough to go on.
    run.ledger.append(low.key, "final", epoch=1, step=0, metrics={"acc/noise": 1.0}, final=True)
    record = run.ledger.read_json("study.json") or {}
    assert record["teachers"]["pmal"] == {"key": best.key, "digest": spec.teacher["digest"]}
    again = dataclasses.replace(run, config=load_study_text(record["config"]).config, teachers={})
    assert student_of(again).key == spec.key
    # The teacher may not change under a study.
    weights = Path(run.ledger.path(best.key, "model.safetensors"))
    weights.write_bytes(Path(run.ledger.path(low.key, "model.safetensors")).read_bytes())
    with pytest.raises(ValueError, match=r"method\.teacher: the weights of pmal are not those that the study began"):
        student_of(dataclasses.replace(run, teachers={}))


@pytest.mark.slow
def test_a_student_can_learn_from_the_teacher_of_its_own_seed(run: studyrun.StudyRun) -> None:
    specs = {seed: train_pmal(run, seed, seed=seed) for seed in (0, 1)}
    for spec, accuracy in zip(specs.values(), (0.1, 0.9), strict=True):
        run.ledger.append(spec.key, "final", epoch=1, step=0, metrics={"acc/noise": accuracy}, final=True)
    keys = [spec.key for spec in specs.values()]
    studyrecord.record_phase(run.ledger, run.config.phases[0], status="finished", trials=keys)
    phase = run.config.phases[2]
    config = for_phase(run.config, phase.model_copy(update={"set": {**phase.set, "method.teacher": "pmal@seed"}}))

    def student(seed: int) -> TrialSpec:
        tree = config.trial().model_dump(mode="json")
        tree["train"]["seed"] = seed
        return run.spec(TrialConfig.model_validate(tree), phase, number=seed, params={})

    for seed, spec in specs.items():
        assert student(seed).teacher["place"] == run.ledger.path(spec.key)
    with pytest.raises(ValueError, match="no trial of 'pmal' of seed 7 finished, so nobody can teach"):
        student(7)


@pytest.mark.slow
def test_of_a_confirm_phase_the_first_chosen_teaches(run: studyrun.StudyRun) -> None:
    later, first = (train_pmal(run, number, phase=1, seed=100 + number) for number in (1, 0))
    studyrecord.record_phase(run.ledger, run.config.phases[1], status="finished", trials=[later.key, first.key])
    assert isinstance(run.config.phases[1], ConfirmPhase)
    assert studyrun._best_of(run, "chosen") == first.key


def test_where_the_first_choice_failed_the_second_does_not_teach(run: studyrun.StudyRun) -> None:
    search, confirm = run.config.phases[:2]
    config = for_phase(run.config, search).trial()
    chosen = [apply(config, {"optim.lr": rate}) for rate in (0.1, 0.2)]
    searched = [run.spec(setting, search, number=place, params={}) for place, setting in enumerate(chosen)]
    tested = {
        (place, seed): run.spec(apply(chosen[place], {"train.seed": seed}), confirm, number=2 * place + turn, params={})
        for place in (1, 0) for turn, seed in enumerate((101, 102))
    }  # fmt: skip
    for spec in [*searched, *tested.values()]:
        run.ledger.create_trial(spec)
    for (place, _), spec in tested.items():
        if place == 0:
            run.ledger.append(spec.key, "final", epoch=1, step=0, metrics={"acc/noise": 0.5}, final=True)
    studyrecord.record_phase(
        run.ledger, confirm, status="finished", trials=[spec.key for spec in tested.values()],
        selected=[searched[1].key, searched[0].key],
    )  # fmt: skip
    for seed in ("", "@102"):
        with pytest.raises(ValueError, match=r"no trial of the first choice of 'chosen'.* finished, so"):
            studyrun._best_of(run, f"chosen{seed}")
    late = tested[1, 102]  # its number is above that of the second choice's first seed, as after --again
    run.ledger.append(late.key, "final", epoch=1, step=0, metrics={"acc/noise": 0.1}, final=True)
    assert studyrun._best_of(run, "chosen") == studyrun._best_of(run, "chosen@102") == late.key
    with pytest.raises(ValueError, match="no trial of the first choice of 'chosen' of seed 101 finished"):
        studyrun._best_of(run, "chosen@101")


def test_a_phase_in_which_no_trial_finished_cannot_teach(run: studyrun.StudyRun) -> None:
    studyrecord.record_phase(run.ledger, run.config.phases[0], status="finished", trials=[])
    with pytest.raises(ValueError, match=r"method\.teacher: no trial of 'pmal' finished, so nobody can teach"):
        student_of(run)


def test_where_and_how_a_trial_runs_is_no_part_of_its_key(run: studyrun.StudyRun) -> None:
    phase = run.config.phases[0]
    config = for_phase(run.config, phase).trial()
    tracking = run.config.tracking.model_copy(update={"checkpoints_kept": 5, "system_metrics": True})
    changed = dataclasses.replace(run, config=run.config.model_copy(update={"tracking": tracking}))
    before, after = (some.spec(config, phase, number=0, params={}) for some in (run, changed))
    assert (before.checkpoints_kept, after.checkpoints_kept) == (2, 5)
    assert (before.system_metrics, after.system_metrics) == (False, True)
    assert before.key == after.key
