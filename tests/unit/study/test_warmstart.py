"""Searches that start warm, and the database that a search is written to."""

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest

from study import optunastore, phases, searcher
from study.config_phases import SearchPhase
from study.config_search import SearchConfig
from study.ledger import Ledger
from study.optunamirror import Mirror
from study.optunastore import project, resolve_storage, study_name, targets_of
from study.override import apply
from study.space import parse
from study.studyrecord import record_phase
from study.studyrun import StudyRun
from study.warmstart import take_trials, taken_trials
from tests.unit.study.test_phases import loaded, open_study, study_run

RHOS = (0.02, 0.05, 0.4)


def run_of(tmp_path: Path, name: str, *sets: str) -> StudyRun:
    study = loaded(tmp_path, *sets)
    study = dataclasses.replace(study, config=study.config.model_copy(update={"name": name}))
    ledger = Ledger(str(tmp_path / "results"), name)
    open_study(ledger, study, tmp_path)
    return study_run(ledger, study, tmp_path)


def add(run: StudyRun, rho: float, *, number: int, accuracy: float, end: str = "final") -> str:
    params = {"optim.sam.rho": rho}
    spec = run.spec(apply(run.config.trial(), params), run.config.phases[0], number=number, params=params)
    run.ledger.create_trial(spec)
    run.ledger.append(spec.key, "start")
    for epoch in (1, 2):
        run.ledger.append(spec.key, "epoch", epoch=epoch, step=0, metrics={"acc/noise": accuracy * epoch / 2})
    if end != "running":
        run.ledger.append(spec.key, end, epoch=2, step=0, metrics={"acc/noise": accuracy}, final=True)
    return spec.key


def earlier(tmp_path: Path, *sets: str, name: str = "earlier") -> StudyRun:
    run = run_of(tmp_path, name, *sets)
    keys = [add(run, rho, number=i, accuracy=0.5 + rho) for i, rho in enumerate(RHOS)]
    keys += [add(run, 0.3, number=3, accuracy=0.4, end="pruned"), add(run, 0.31, number=4, accuracy=0.4, end="failed")]
    record_phase(run.ledger, run.config.phases[0], status="finished", trials=keys)
    return run


def take(run: StudyRun, tmp_path: Path) -> list[searcher.PastTrial]:
    phase = run.config.phases[0]
    assert isinstance(phase, SearchPhase)
    take_trials(run.ledger, phase, run.config, storage=str(tmp_path / "results"))
    return taken_trials(run.ledger, phase)


def source_of(
    run: StudyRun, past: list[searcher.PastTrial], facts_of: searcher.FactsOf | None = None
) -> searcher.OptunaSource:
    def spec_of(params: dict[str, Any], number: int) -> Any:
        return run.spec(apply(run.config.trial(), params), run.config.phases[0], number=number, params=params)

    search: SearchConfig = run.config.search
    space = parse(search.space, run.config)
    return searcher.OptunaSource(
        space, search, spec_of=spec_of, ledger=run.ledger, phase="search", past=past, facts_of=facts_of
    )


def test_trials_of_an_earlier_study_are_told_and_never_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = earlier(tmp_path)
    run = run_of(tmp_path, "later", "search.warm_start=[earlier/search]", "optim.lr=0.07")
    past = take(run, tmp_path)
    assert [trial.params["optim.sam.rho"] for trial in past] == [*RHOS, 0.3]
    said = capsys.readouterr().err
    assert "told of 4 trials" in said
    assert "1 left out: failed" in said
    assert "other settings than here: optim.lr" in said
    source = source_of(run, past)
    source.feed()
    told = source._study.trials
    assert [trial.user_attrs["murk.warm"].partition("/")[0] for trial in told] == ["earlier"] * 4
    assert [trial.value for trial in told[:3]] == [pytest.approx(0.5 + rho) for rho in RHOS]
    assert (told[3].state.name, told[3].intermediate_values) == ("PRUNED", {1: 0.2, 2: 0.4})
    assert source.known == {}
    spec = source.next_spec()
    assert spec is not None
    assert spec.number == 0
    record_phase(run.ledger, run.config.phases[0], status="running", trials=[spec.key])
    assert phases.candidates_of(run, "search", "acc/noise") == []
    add(before, 0.07, number=5, accuracy=0.99)  # the other study goes on
    assert take(run, tmp_path) == past
    assert source_of(run, take(run, tmp_path)).next_spec() is not None


def test_what_does_not_fit_is_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    earlier(tmp_path)
    for name, sets, reason in (
        ("narrow", ["search.space.optim.sam.rho={log_uniform: [0.1, 0.5]}"], "2 left out: a value lies outside"),
        ("other", ["search.space={optim.lr: {log_uniform: [0.01, 0.1]}}"], "4 left out: search.space has no optim.sam"),
        ("noise", ["noise.validation_severities=[5]"], "4 left out: measured by other validation noise"),
        ("part", ["search.fidelity={images: 4}"], "4 left out: measured by other validation noise, images or grid"),
        ("goal", ["search.objectives=[{metric: acc/clean}]"], "4 left out: has no acc/clean"),
    ):
        take(run_of(tmp_path, name, "search.warm_start=[earlier]", *sets), tmp_path)
        assert reason in capsys.readouterr().err, name


def test_a_study_of_other_images_is_refused(tmp_path: Path) -> None:
    earlier(tmp_path, "data.train_per_class=11")
    with pytest.raises(ValueError, match=r"search\.warm_start\.0: must be of the same images"):
        take(run_of(tmp_path, "later", "search.warm_start=[earlier]"), tmp_path)


def test_an_earlier_study_that_is_not_there_is_told_before_anything_starts(tmp_path: Path) -> None:
    from study.origins import warm_problems

    earlier(tmp_path)
    storage = str(tmp_path / "results")
    for reference, text in (
        ("nowhere", "but there is none at"),
        ("earlier/confirm", r"must name a search, but 'earlier' has no search phase 'confirm'"),
        (str(tmp_path / "results" / "earlier"), ""),
        ("earlier/search", ""),
    ):
        config = loaded(tmp_path, f"search.warm_start=[{reference}]").config
        found = [str(problem) for problem in warm_problems(config, storage=storage)]
        assert len(found) == bool(text), found
        assert not text or text.replace("\\", "") in found[0]


def test_a_study_goes_on_when_the_one_that_it_learnt_of_is_gone(tmp_path: Path) -> None:
    from study.origins import warm_problems

    earlier(tmp_path)
    run, storage = run_of(tmp_path, "later", "search.warm_start=[earlier]"), str(tmp_path / "results")
    past = take(run, tmp_path)
    shutil.rmtree(tmp_path / "results" / "earlier")
    assert list(warm_problems(run.config, storage=storage)) == []
    assert take(run, tmp_path) == past
    other = run.config.model_copy(update={"name": "another"})
    assert "there is none at" in str(next(warm_problems(other, storage=storage)))


def test_earlier_trials_keep_constraints_by_what_their_settings_decide_here(tmp_path: Path) -> None:
    earlier(tmp_path)
    run = run_of(tmp_path, "later", "search.warm_start=[earlier]", "search.constraints=[params <= 100]")
    past = take(run, tmp_path)
    source = source_of(run, past, facts_of=lambda spec: {"cost/params": 50.0})
    source.feed()
    told = source._study.trials
    assert [trial.constraints for trial in told] == [{"params <= 100": -0.5}] * 4

    def refuse(params: dict[str, Any], number: int) -> Any:
        raise ValueError("they do not go together")

    source = source_of(run, past, facts_of=lambda spec: {"cost/params": 50.0})
    source._spec_of = refuse
    source.feed()
    assert len(source._study.trials) == 4


def test_a_grid_does_not_take_earlier_trials_for_its_own(tmp_path: Path) -> None:
    grid = ("search.algorithm=grid", "search.space={optim.sam.rho: {choice: [0.02, 0.05, 0.4]}}")
    earlier(tmp_path)
    run = run_of(tmp_path, "later", *grid)
    past = [
        searcher.PastTrial(f"earlier/{rho}", {"optim.sam.rho": rho}, "finished", {"acc/noise": 0.5}, {}) for rho in RHOS
    ]
    source = source_of(run, past)
    source.feed()
    drawn = []
    while (spec := source.next_spec()) is not None:
        drawn.append(spec.params["optim.sam.rho"])
    assert drawn == list(RHOS)


@pytest.mark.parametrize("algorithm", ["random", "qmc", "grid", "nsga2", "nsga3"])
def test_a_warm_start_is_refused_where_nothing_is_learnt_from_it(tmp_path: Path, algorithm: str) -> None:
    space = "search.space={optim.sam.rho: {choice: [0.02, 0.05, 0.4]}}"
    with pytest.raises(ValueError, match=rf"search\.warm_start: has no effect on {algorithm}.*take tpe or gp"):
        loaded(tmp_path, "search.warm_start=[earlier]", space, f"search.algorithm={algorithm}")
    loaded(tmp_path, "search.warm_start=[earlier]", space, "search.algorithm=gp")


def open_optuna(url: str, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=url)


@pytest.mark.slow
def test_a_search_is_written_once_under_a_name_of_its_own_and_a_lost_database_anew(tmp_path: Path) -> None:
    run = earlier(tmp_path)
    url = f"sqlite:///{tmp_path}/optuna/all.db"
    (target,) = targets_of(run.config, cwd=tmp_path, url=url)
    assert [project(run.ledger, target), project(run.ledger, target)] == [5, 0]
    record = run.ledger.read_json("study.json") or {}
    name = study_name(record, "search")
    assert name.startswith("earlier/search ")
    assert study_name({**record, "created": "2020-01-01T00:00:00Z"}, "search") != name
    study = open_optuna(url, name)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3 + ["PRUNED", "FAIL"]
    assert study.best_trial.params == {"optim.sam.rho": 0.4}
    assert {trial.user_attrs["murk.trial"] for trial in study.trials} == set(record["phases"][0]["trials"])
    assert study.trials[0].intermediate_values == {1: pytest.approx(0.26), 2: pytest.approx(0.52)}
    first = [(trial.datetime_start, trial.datetime_complete) for trial in study.trials]
    del study
    (tmp_path / "optuna" / "all.db").unlink()
    assert project(run.ledger, target) == 5
    again = open_optuna(url, name).trials
    assert [(trial.datetime_start, trial.datetime_complete) for trial in again] == first
    other = earlier(tmp_path, "optim.lr=0.05", name="another")
    (second,) = targets_of(other.config, cwd=tmp_path, url=url)
    assert project(other.ledger, second) == 5
    assert len(optuna.get_all_study_names(url)) == 2


@pytest.mark.slow
def test_a_pruned_trial_is_written_with_the_size_that_its_settings_decide(tmp_path: Path) -> None:
    run = earlier(tmp_path, "search.constraints=[params <= 25e6]")
    for name, sizes in (("known", {}), ("unknown", {"num_classes": None})):
        record = run.ledger.read_json("study.json") or {}
        run.ledger.write_json("study.json", {**record, "data": {**record["data"], **sizes}})
        (target,) = targets_of(run.config, cwd=tmp_path, url=f"sqlite:///{tmp_path}/{name}.db")
        project(run.ledger, target)
        pruned = open_optuna(target.url, study_name(record, "search")).trials[3]
        assert pruned.state.name == "PRUNED"
        assert {text: excess < 0 for text, excess in pruned.constraints.items()} == (
            {"params <= 2.5e+07": True} if name == "known" else {}
        )


def test_a_trial_under_way_is_written_when_it_has_ended(tmp_path: Path) -> None:
    run = run_of(tmp_path, "live", f"search.optuna_storage=sqlite:///{tmp_path}/live.db")
    key = add(run, 0.1, number=0, accuracy=0.5, end="running")
    (target,) = targets_of(run.config, cwd=tmp_path)
    assert project(run.ledger, target) == 0
    run.ledger.append(key, "final", epoch=2, step=0, metrics={"acc/noise": 0.6}, final=True)
    mirror = Mirror(run.ledger, run.config, poll_s=0.01)
    mirror.start()
    mirror.close()
    record = run.ledger.read_json("study.json") or {}
    assert open_optuna(target.url, study_name(record, "search")).best_value == 0.6
    assert project(run.ledger, target) == 0


def test_a_database_that_cannot_be_written_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    run = run_of(tmp_path, "away", f"search.optuna_storage=sqlite:///{tmp_path}/file/no.db")
    mirror = Mirror(run.ledger, run.config, poll_s=0.01)
    with caplog.at_level(logging.WARNING, "murk.optuna"):
        mirror.start()
        mirror.close()
    assert "the search goes on without it" in caplog.text
    assert "catch up with: murk optuna away" in caplog.text
    with pytest.raises(ValueError, match="cannot be written"):
        optunastore.write_study("away", url=None, storage=str(tmp_path / "results"))


def test_a_database_is_named_without_secrets(tmp_path: Path) -> None:
    assert resolve_storage("sqlite:///o.db", cwd=tmp_path) == f"sqlite:///{tmp_path}/o.db"
    assert resolve_storage("postgresql://host/db", cwd=tmp_path) == "postgresql+psycopg://host/db"
    for url, text in (
        ("postgresql://me:secret@host/db", r"must hold no user.*\*\*\*@host/db.*PGPASSWORD"),
        ("o.db", r"must be a database \(sqlite, postgresql, mysql\)"),
        ("sqlite://", "must name a database file"),
    ):
        with pytest.raises(ValueError, match=text) as refused:
            resolve_storage(url, cwd=tmp_path)
        assert "secret" not in str(refused.value)
