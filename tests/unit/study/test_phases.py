"""What a study remembers between launches: its settings, who was chosen, and how often the test split was read."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from analysis.identity import study_id
from study import phases, reporting, studyrecord, studyrun
from study.config_phases import ConfirmPhase
from study.lease import lease
from study.ledger import Ledger
from study.places import resolve_places
from study.preflight import Capacity
from study.runtime import Interrupted, Runtime, catch_signals
from study.storage import StudyLostError
from study.studyfile import LoadedStudy, load_study
from tests.unit.study.trials import prepare_data, tiny_config

STUDY = """
name: tiny
data: {source: synthetic-vehicles, num_classes: 3, train_per_class: 10, test_per_class: 4, image_size: 32,
       validation_share: 0.3}
model: {backbone: test_resnet}
noise: {validation: [gaussian_noise], validation_severities: [3], test: [contrast], test_severities: [2, 4]}
train: {epochs: 2, batch_size: 8}
search: {trials: 3, space: {optim.sam.rho: {log_uniform: [0.01, 0.5]}}}
phases:
  - {kind: search, name: search}
  - {kind: confirm, name: confirm, of: search, seeds: [101]}
"""
CAPACITY = Capacity(executor="inline", per_trial={"CPU": 1.0}, max_concurrent=1)  # pyright: ignore[reportCallIssue, reportArgumentType]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(str(tmp_path / "results"), "tiny")


def loaded(tmp_path: Path, *sets: str) -> LoadedStudy:
    path = tmp_path / "tiny.yaml"
    path.write_text(STUDY)
    return load_study(path, sets)


def open_study(ledger: Ledger, study: LoadedStudy, tmp_path: Path, *, again: bool = False) -> dict[str, Any]:
    data = prepare_data(study.config.data, cache_dir=tmp_path.parent / "cache")
    studyrecord.open_study(ledger, study, data, tracking_uri=None, again=again)
    record = ledger.read_json("study.json")
    assert record is not None
    return record


def study_run(ledger: Ledger, study: LoadedStudy, tmp_path: Path) -> studyrun.StudyRun:
    places = resolve_places(study.config.tracking, cwd=tmp_path)
    return studyrun.StudyRun(
        study.config, ledger, places, "f" * 64, Runtime(study.config.resources, CAPACITY, is_ours=False)
    )


def add_trial(
    run: studyrun.StudyRun, phase: int, *, number: int, accuracy: float, passes: float = 1.0, **optim: Any
) -> str:
    config = tiny_config(optim=optim)
    spec = run.spec(config, run.config.phases[phase], number=number, params={})
    run.ledger.create_trial(spec)
    metrics = {"acc/noise": accuracy, "cost/passes": passes}
    run.ledger.append(spec.key, "final", epoch=2, step=0, metrics=metrics, final=True)
    return spec.key


def test_a_study_with_other_settings_is_refused_and_again_lets_it_on(tmp_path: Path, ledger: Ledger) -> None:
    open_study(ledger, loaded(tmp_path), tmp_path)
    changed = loaded(tmp_path, "train.epochs=3")
    with pytest.raises(ValueError, match=r"other settings \(train\.epochs\).*--again"):
        open_study(ledger, changed, tmp_path)
    assert open_study(ledger, changed, tmp_path, again=True)["config"]["train"]["epochs"] == 3


def test_folders_of_real_images_are_recorded_and_may_move_but_not_change(tmp_path: Path, ledger: Ledger) -> None:
    def camera(place: str, *, shade: int) -> str:
        path = tmp_path / place / "Alda saloon" / "0.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 40, 3), shade, dtype=np.uint8)).save(path)
        return f"noise.real.camera={tmp_path / place}"

    def opened(study: LoadedStudy) -> dict[str, Any]:
        data = prepare_data(study.config.data, cache_dir=tmp_path.parent / "cache")
        places = dataclasses.replace(resolve_places(None, cwd=tmp_path), cache_dir=tmp_path.parent / "cache")
        real = phases._real_images(study.config, data, places)
        studyrecord.open_study(ledger, study, data, tracking_uri=None, again=False, real=real)
        return (ledger.read_json("study.json") or {})["real"]

    found = opened(loaded(tmp_path, camera("here", shade=9)))
    assert (found["camera"]["num_images"], found["camera"]["num_known"]) == (1, 0)
    assert opened(loaded(tmp_path, camera("there", shade=9))) == found
    with pytest.raises(ValueError, match=r"other settings \(noise\.real\.camera\).*--again"):
        opened(loaded(tmp_path, camera("there", shade=8)))
    with pytest.raises(ValueError, match=r"other settings \(noise\.real\.camera\)"):
        opened(loaded(tmp_path))


def test_real_images_are_part_of_trials_that_test_and_not_read_for_a_search_alone(
    tmp_path: Path, ledger: Ledger
) -> None:
    study = loaded(tmp_path, "noise.real.camera=nowhere")
    run = dataclasses.replace(study_run(ledger, study, tmp_path), real={"camera": "1" * 32})
    search, confirm = (run.spec(tiny_config(), phase, number=0, params={}) for phase in study.config.phases)
    assert (search.real, confirm.real) == ({}, {"camera": "1" * 32})
    other = dataclasses.replace(run, real={"camera": "2" * 32})
    again, changed = (other.spec(tiny_config(), phase, number=0, params={}) for phase in study.config.phases)
    assert again.key == search.key
    assert changed.key != confirm.key
    data = prepare_data(study.config.data, cache_dir=tmp_path.parent / "cache")
    alone = study.config.model_copy(update={"phases": study.config.phases[:1]})
    assert phases._real_images(alone, data, run.places) == {}
    with pytest.raises(ValueError, match=r"noise\.real\.camera: must be a class folder"):
        phases._real_images(study.config, data, run.places)


def test_a_search_can_be_made_longer_until_something_was_chosen_from_it(tmp_path: Path, ledger: Ledger) -> None:
    open_study(ledger, loaded(tmp_path), tmp_path)
    longer = loaded(tmp_path, "search.trials=5")
    assert open_study(ledger, longer, tmp_path)["config"]["search"]["trials"] == 5
    studyrecord.record_phase(ledger, longer.config.phases[1], status="running", selected=["a"])
    with pytest.raises(ValueError, match=r"other settings \(search\.trials\)"):
        open_study(ledger, loaded(tmp_path, "search.trials=7"), tmp_path)


def test_other_means_are_taken_over_and_what_was_done_stays(tmp_path: Path, ledger: Ledger) -> None:
    record = open_study(ledger, loaded(tmp_path), tmp_path)
    studyrecord.record_phase(ledger, loaded(tmp_path).config.phases[0], status="finished", trials=["a"])
    studyrecord.record_test_read(ledger, "confirm", ["a"])
    changed = loaded(tmp_path, "resources.max_concurrent=1", "report.baseline={method.name: pmal}")
    found = open_study(ledger, changed, tmp_path)
    assert found["config"]["resources"]["max_concurrent"] == 1
    assert found["baseline"] == {"method.name": "pmal"}
    assert [phase["trials"] for phase in found["phases"]] == [["a"]]
    assert [read["trials"] for read in found["test_reads"]] == [["a"]]
    assert found["created"] == record["created"]


def test_the_test_split_of_the_same_trials_is_read_once_and_of_others_again(tmp_path: Path, ledger: Ledger) -> None:
    open_study(ledger, loaded(tmp_path), tmp_path)
    for trials in (["a", "b"], ["b", "a"], ["c"]):
        studyrecord.record_test_read(ledger, "confirm", trials)
    reads = (ledger.read_json("study.json") or {})["test_reads"]
    assert [(read["trials"], read["again"]) for read in reads] == [(["a", "b"], False), (["c"], True)]


def test_a_confirmation_that_was_cut_off_has_read_the_test_split_too(tmp_path: Path, ledger: Ledger) -> None:
    study = loaded(tmp_path)
    open_study(ledger, study, tmp_path)
    studyrecord.record_phase(ledger, study.config.phases[1], status="running")
    key = add_trial(study_run(ledger, study, tmp_path), 1, number=0, accuracy=0.5)
    found = open_study(ledger, loaded(tmp_path, "train.epochs=3"), tmp_path, again=True)
    assert [read["trials"] for read in found["test_reads"]] == [[key]]


def test_a_study_keeps_its_identity_and_another_of_its_name_has_its_own(tmp_path: Path, ledger: Ledger) -> None:
    first = open_study(ledger, loaded(tmp_path), tmp_path)
    resumed = open_study(ledger, loaded(tmp_path), tmp_path)
    changed = open_study(ledger, loaded(tmp_path, "train.epochs=3"), tmp_path, again=True)
    assert [study_id(record) for record in (resumed, changed)] == [first["study_id"]] * 2
    other = Ledger(str(tmp_path / "elsewhere"), ledger.study)
    assert study_id(open_study(other, loaded(tmp_path), tmp_path)) != first["study_id"]


@pytest.mark.parametrize("sets", [(), ("train.epochs=3",)])
def test_a_record_of_before_there_were_identities_gets_one_that_stays(
    tmp_path: Path, ledger: Ledger, sets: tuple[str, ...]
) -> None:
    record = open_study(ledger, loaded(tmp_path), tmp_path)
    del record["study_id"]
    record["created"] = "2020-01-01T00:00:00Z"
    ledger.write_json("study.json", record)
    known = study_id(record)
    assert open_study(ledger, loaded(tmp_path, *sets), tmp_path, again=bool(sets))["study_id"] == known
    assert study_id({**record, "created": "2020-01-01T00:00:01Z"}) != known


def test_only_trials_of_the_present_settings_are_chosen_and_the_choice_stays(tmp_path: Path, ledger: Ledger) -> None:
    study = loaded(tmp_path)
    open_study(ledger, study, tmp_path)
    run = study_run(ledger, study, tmp_path)
    stale = add_trial(run, 0, number=0, accuracy=0.9, lr=0.3)
    low, high = (add_trial(run, 0, number=i, accuracy=value, lr=value) for i, value in ((1, 0.1), (2, 0.2)))
    studyrecord.record_phase(ledger, study.config.phases[0], status="finished", trials=[low, high])
    confirm = study.config.phases[1]
    assert isinstance(confirm, ConfirmPhase)
    assert stale in ledger.keys("search")
    assert phases._chosen(run, confirm) == [high]
    ledger.append(low, "final", epoch=2, step=0, metrics={"acc/noise": 0.8}, final=True)
    assert phases._chosen(run, confirm) == [high]  # the same at every launch


def searched(tmp_path: Path, ledger: Ledger, *sets: str) -> tuple[studyrun.StudyRun, list[str], ConfirmPhase]:
    """A search of four trials that cost the more the better they are, but for the last, which is beaten."""
    study = loaded(tmp_path, *sets)
    open_study(ledger, study, tmp_path)
    run = study_run(ledger, study, tmp_path)
    figures = [(0.5, 1.0), (0.7, 2.0), (0.9, 4.0), (0.6, 3.0)]
    keys = [
        add_trial(run, 0, number=place, accuracy=accuracy, passes=passes, lr=(place + 1) / 10)
        for place, (accuracy, passes) in enumerate(figures)
    ]
    studyrecord.record_phase(ledger, study.config.phases[0], status="finished", trials=keys)
    confirm = study.config.phases[1]
    assert isinstance(confirm, ConfirmPhase)
    return run, keys, confirm


def test_a_trial_that_breaks_a_constraint_is_neither_chosen_nor_teaches(tmp_path: Path, ledger: Ledger) -> None:
    run, keys, confirm = searched(tmp_path, ledger, "search.constraints=[passes <= 3]")
    assert phases._chosen(run, confirm) == [keys[1]]
    assert studyrun._best_of(run, "search") == keys[1]
    assert "number 1" in reporting.best_line(ledger, run.config)


def test_without_a_trial_that_keeps_the_constraints_the_nearest_is_named(tmp_path: Path, ledger: Ledger) -> None:
    run, keys, confirm = searched(tmp_path, ledger, "search.constraints=[noise_accuracy >= 0.95, passes <= 3.5]")
    words = f"none of the 4 finished trials of 'search' keeps its constraints; the nearest, number 2 \\({keys[2]}\\), "
    with pytest.raises(ValueError, match=words + r"breaks noise_accuracy >= 0.95 \(it has 0.9\) and passes"):
        phases._chosen(run, confirm)
    with pytest.raises(ValueError, match="the nearest, number 2"):
        studyrun._best_of(run, "search")
    assert "none of the 4 finished trials of the search keeps" in reporting.best_line(ledger, run.config)


@pytest.mark.parametrize(("top", "places"), [(1, [2]), (2, [2, 1]), (50, [2, 1, 0])])
def test_of_several_objectives_the_front_is_confirmed(
    tmp_path: Path, ledger: Ledger, top: int, places: list[int]
) -> None:
    objectives = "search.objectives=[{metric: acc/noise}, {metric: cost/passes}]"
    run, keys, confirm = searched(tmp_path, ledger, objectives)
    assert phases._chosen(run, confirm.model_copy(update={"top": top})) == [keys[place] for place in places]


def test_the_way_to_go_on_names_the_storage_unless_it_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    default = resolve_places(None, cwd=tmp_path)
    assert phases._storage_hint(default) == ""
    named = dataclasses.replace(default, storage="/elsewhere/murk")
    assert phases._storage_hint(named) == " --storage /elsewhere/murk"


def test_contrasts_changed_after_the_test_split_was_read_are_no_longer_stated_beforehand(
    ledger: Ledger, tmp_path: Path
) -> None:
    two = "phases=[{kind: train, name: A}, {kind: train, name: B, set: {optim.lr: 0.3}}]"
    first, second = (
        loaded(tmp_path, two, f"report.contrasts=[{{arm: A, against: B, margin_points: {margin}}}]")
        for margin in (1, 2)
    )
    assert open_study(ledger, first, tmp_path)["restated"] is False
    assert open_study(ledger, second, tmp_path)["restated"] is False
    studyrecord.record_phase(ledger, second.config.phases[0], status="running")
    studyrecord.record_test_read(ledger, "A", ["a"])
    assert open_study(ledger, second, tmp_path)["restated"] is False
    assert open_study(ledger, first, tmp_path)["restated"] is True
    assert open_study(ledger, second, tmp_path)["restated"] is True


def test_a_study_that_another_driver_took_over_ends_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("study.storage.lease", lambda file: lease(file, renew_s=0.05, dead_s=60.0))
    monkeypatch.setattr(phases, "start_ray", lambda resources, **_: Runtime(resources, CAPACITY, is_ours=False))
    written: list[bytes | None] = []

    def lose(*_: Any, ledger: Ledger, **__: Any) -> None:
        other = Ledger(ledger.storage, ledger.study)
        other.files.write_bytes(b"other 1 process 7 on elsewhere\n", "driver.lock")
        with catch_signals(ledger.is_lost) as stop:
            assert stop.wait(0.0) or _until(lambda: stop.requested)
        written.append(other.files.read_bytes("study.json"))
        raise Interrupted

    monkeypatch.setattr(phases, "run_list", lose)
    study = loaded(tmp_path, "phases=[{kind: train, name: train}]", "tracking.enabled=false")
    storage = f"memory://{tmp_path.name}"
    with pytest.raises(StudyLostError, match=r"taken over by process 7 on elsewhere.*stop it, then `murk resume`"):
        phases.run_study(study, storage=storage, address=None)
    files = Ledger(storage, "tiny").files
    assert files.read_bytes("study.json") == written[0]
    assert files.read_bytes("driver.lock") == b"other 1 process 7 on elsewhere\n"
    assert not files.exists("report")


def _until(is_so: Callable[[], bool]) -> bool:
    end = time.monotonic() + 30
    while not is_so() and time.monotonic() < end:
        time.sleep(0.01)
    return is_so()
