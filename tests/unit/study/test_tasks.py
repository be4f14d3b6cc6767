"""Trials that are judged by their embeddings: their files agree, are read by the report, and bad input ends early."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

import study.tasks
from analysis.embeddings import load_embeddings
from analysis.load import load
from analysis.records import config_id
from analysis.report import write_report
from study.config import TrialConfig
from study.config_task import Retrieval, Verification
from study.data.prepare import prepare_data
from study.ledger import TrialSpec, trial_key
from study.ranks import Ranks
from study.spaceread import key_problem
from study.studyfile import StudyFileError, load_study
from study.tasks import prepare_task
from study.trial import prepare_run, run_trial
from study.trialrun import NoReporter
from study.validation_pairs import MadePairs, validation_pairs
from tests.unit.study.trials import PMAL, ledger_of, tiny_config, tiny_spec

RETRIEVAL = {"name": "retrieval", "at": [1, 3]}
VERIFICATION = {"name": "verification", "pairs": "pairs.txt", "validation_pairs": 20}
ONE_EPOCH = {"epochs": 1}


@dataclass(frozen=True)
class Faces(MadePairs):
    fingerprint: str = "faces"
    persons: tuple[str, ...] = ()

    def known(self, class_names: Sequence[str]) -> tuple[str, ...]:
        return tuple(sorted(set(self.persons) & set(class_names)))


def tiny_pairs_spec(tmp_path: Path, config: TrialConfig) -> TrialSpec:
    """As a study plans it whose pairs have the fingerprint "faces"."""
    spec = tiny_spec(tmp_path, config, role="train")
    key = trial_key(config, fingerprint=spec.fingerprint, role="train", pairs="faces")
    return replace(spec, key=key, pairs="faces")


def _frame(spec: TrialSpec, name: str) -> pd.DataFrame | None:
    content = ledger_of(spec).read_bytes(spec.key, name)
    return None if content is None else pd.read_parquet(io.BytesIO(content))


def _with_study(spec: TrialSpec, config: TrialConfig) -> Path:
    """The study's folder, with the record that its report reads."""
    ledger = ledger_of(spec)
    phases = [{"name": spec.phase, "kind": spec.role, "status": "finished", "trials": [spec.key]}]
    ledger.write_json("study.json", {"study": spec.study, "config": config.model_dump(mode="json"), "phases": phases,
                                     "baseline": {"method.name": config.method.name}})  # fmt: skip
    return Path(ledger.root)


def _pairs_of(config: TrialConfig, cache: Path) -> Faces:
    """Pairs of the tiny trial's test images, each with the name of a person that nobody trains on."""
    images = prepare_data(config.data, cache_dir=cache).test
    made = validation_pairs(images, count=24, folds=3, seed=9)
    return Faces(**vars(made), persons=tuple(f"person {label}" for label in images.labels))


@pytest.fixture
def faces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Faces:
    pairs = _pairs_of(tiny_config(), tmp_path.parent / "cache")
    monkeypatch.setattr(study.tasks, "read_pairs", lambda *_, **__: pairs)
    return pairs


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.report.draw", lambda *_: [])


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_a_retrieval_trial_counts_recall_and_the_report_shows_it(tmp_path: Path) -> None:
    config = tiny_config(task=RETRIEVAL, train=ONE_EPOCH)
    spec = tiny_spec(tmp_path, config, role="train")
    metrics = run_trial(spec)
    cells, rows, recall = (_frame(spec, f"{name}.parquet") for name in ("cells", "predictions", "retrieval"))
    assert cells is not None
    assert rows is not None
    assert recall is not None
    tested = cells[cells["split"] == "test"]
    assert tested["n"].tolist() == [12] * 3
    counted = rows.groupby(["corruption", "severity"])["correct"].sum()
    assert [counted[c, s] for c, s in zip(tested["corruption"], tested["severity"], strict=True)] == list(
        tested["correct"]
    )
    first = recall[recall["k"] == 1].reset_index(drop=True)
    columns = ["split", "corruption", "group", "family", "severity", "n", "correct", "bn"]
    pd.testing.assert_frame_equal(first[columns], cells[columns])
    assert (recall[recall["k"] == 3]["recall"].to_numpy() >= first["recall"].to_numpy()).all()
    assert metrics["test/clean"] == tested["accuracy"].iloc[0]
    assert _frame(spec, "heads.parquet") is None
    assert ledger_of(spec).read_bytes(spec.key, "examples.npz") is None
    folder = _with_study(spec, config)
    assert sorted(load(folder)["accuracy"]) == sorted(cells["accuracy"])
    html = write_report(folder).html.read_text()
    assert "Recall@K" in html
    assert "Accuracy everywhere else in this report is Recall@1" in html
    table = pd.read_parquet(folder / "tables" / "retrieval.parquet").iloc[0]
    tested_recall = recall[recall["split"] == "test"]
    assert table["clean_at_3"] == tested_recall[(tested_recall["k"] == 3)]["recall"].iloc[0]
    assert table["noise_mean_at_1"] == pytest.approx(metrics["test/noise"])


def test_a_search_is_scored_by_the_task_and_tests_nothing(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path, tiny_config(task=RETRIEVAL, train=ONE_EPOCH))
    metrics = run_trial(spec)
    recall = _frame(spec, "retrieval.parquet")
    assert recall is not None
    assert set(recall["split"]) == {"validation"}
    assert recall[(recall["k"] == 1) & (recall["severity"] == 3)]["recall"].tolist() == [metrics["acc/noise"]]
    assert _frame(spec, "predictions.parquet") is None


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_a_verification_trial_is_tested_on_its_pairs(tmp_path: Path, faces: Faces) -> None:
    config = tiny_config(task={**VERIFICATION, "reference": "clean"}, method=PMAL, train=ONE_EPOCH)
    spec = tiny_pairs_spec(tmp_path, config)
    metrics = run_trial(spec)
    cells, rows, curves = (_frame(spec, f"{name}.parquet") for name in ("cells", "predictions", "verification"))
    assert cells is not None
    assert rows is not None
    assert curves is not None
    assert cells.groupby("split")["n"].unique().apply(list).to_dict() == {"test": [24], "validation": [18]}
    assert curves[["correct", "accuracy"]].equals(cells[["correct", "accuracy"]])
    assert curves["folds"].tolist() == [9, 9, 3, 3, 3]
    assert rows["label"].mean() == faces.same.mean() == 0.5
    assert _frame(spec, "heads.parquet") is None
    folder = _with_study(spec, config)
    assert load_embeddings(folder, task="verification")["trial"].tolist() == [spec.key] * 5
    html = write_report(folder).html.read_text()
    assert '<h2 id="embeddings">Verification</h2>' in html
    table = pd.read_parquet(folder / "tables" / "verification.parquet").iloc[0]
    assert (table["n"], table["clean"]) == (24, pytest.approx(metrics["test/clean"]))
    assert table["noise_mean_auc"] == pytest.approx(curves["auc"].iloc[3:].mean())


def test_persons_that_are_trained_on_are_refused_before_training(
    tmp_path: Path, faces: Faces, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(task=VERIFICATION)
    spec = tiny_pairs_spec(tmp_path, config)
    names = prepare_data(config.data, cache_dir=Path(spec.cache_dir)).class_names
    known = replace(faces, persons=(names[0], names[0], names[2], *faces.persons[3:]))
    monkeypatch.setattr(study.tasks, "read_pairs", lambda *_, **__: known)
    with pytest.raises(ValueError, match=r"task\.pairs: must be of persons .* but 2 of the 3 training classes"):
        run_trial(spec)
    assert ledger_of(spec).events(spec.key) == []
    allowed = tiny_pairs_spec(tmp_path, tiny_config(task={**VERIFICATION, "allow_overlap": True}))
    assert prepare_run(allowed, ledger_of(allowed), reporter=NoReporter(), ranks=Ranks()).pairs is known
    with pytest.raises(ValueError, match=r"task\.pairs: the pairs are not those that the study was planned with"):
        run_trial(replace(allowed, pairs="others"))
    search = tiny_spec(tmp_path, config)
    assert prepare_run(search, ledger_of(search), reporter=NoReporter(), ranks=Ranks()).pairs is None


def test_what_cannot_be_judged_is_refused(tmp_path: Path, faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(task=VERIFICATION)
    cache = tmp_path.parent / "cache"
    data = prepare_data(config.data, cache_dir=cache)
    one_fold = replace(faces, fold=np.zeros_like(faces.fold))
    monkeypatch.setattr(study.tasks, "read_pairs", lambda *_, **__: one_fold)
    with pytest.raises(ValueError, match=r"task\.pairs: pairs must be in two folds"):
        prepare_task(config, data, cache_dir=cache, tested=True)
    alone = replace(data, test=replace(data.test, labels=np.arange(len(data.test))))
    with pytest.raises(ValueError, match="needs a class with two images, but the 12 test images"):
        prepare_task(tiny_config(task=RETRIEVAL), alone, cache_dir=cache, tested=True)


def test_classification_keeps_every_key_and_embeddings_have_their_own() -> None:
    def key(config: Any, role: Any = "train", pairs: str = "") -> str:
        return trial_key(config, fingerprint="f", role=role, pairs=pairs)

    plain = tiny_config()
    before = plain.model_dump(mode="json")
    assert before.pop("task") == {"name": "classification"}
    assert key(before) == key(plain)
    assert config_id(before) == config_id(plain.model_dump(mode="json"))
    here, there = (tiny_config(task={**VERIFICATION, "pairs": place}) for place in ("one/pairs.txt", "two/pairs.txt"))
    assert len({key(plain), key(here), key(tiny_config(task=RETRIEVAL))}) == 3
    assert key(here) == key(there)
    assert config_id(here.model_dump(mode="json")) == config_id(there.model_dump(mode="json"))
    assert key(here, pairs="faces") != key(here, pairs="others")
    assert key(here, "search", pairs="faces") == key(here, "search", pairs="others")  # which reads none of them


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"noise.real must be left out with task.name: retrieval"):
        tiny_config(task=RETRIEVAL, noise={"real": {"camera": "shots"}})
    with pytest.raises(ValidationError, match=r"must rise, each once, but got .*write it as"):
        tiny_config(task={"name": "retrieval", "at": [4, 2, 2]})
    with pytest.raises(ValidationError, match="pairs"):
        tiny_config(task={"name": "verification"})
    assert "must stay the same in a study" in key_problem("task.reference")
    assert tiny_config(task={"name": "retrieval"}).task == Retrieval(name="retrieval")


def test_a_classifier_is_not_tested_on_classes_it_never_saw() -> None:
    config = tiny_config()
    data = config.data.model_copy()
    object.__setattr__(data, "unseen_classes", 0.5)
    with pytest.raises(ValidationError, match=r"task.name must be retrieval or verification with data.unseen_classes"):
        TrialConfig(**{**dict(config), "data": data})
    assert TrialConfig(**{**dict(config), "data": data, "task": Retrieval(name="retrieval")})


def test_paths_count_from_the_study_file_and_must_be_there(tmp_path: Path) -> None:
    from study.possible import refuse_what_cannot_run
    from study.problems import ProblemsError

    place = tmp_path / "faces.yaml"
    text = "name: faces\ntask: {name: verification, pairs: lfw/pairs.txt, images: lfw/faces.parquet}\n"
    place.write_text(text)
    config = load_study(place).config
    assert isinstance(config.task, Verification)
    assert config.task.pairs == str(tmp_path / "lfw" / "pairs.txt")
    with pytest.raises(ProblemsError) as found:
        refuse_what_cannot_run(config)
    assert [problem.path for problem in found.value.problems] == [("task", "pairs"), ("task", "images")]
    place.write_text(text.replace("reference", "x") + "phases:\n  - {kind: train, name: t, set: {task.pairs: b.txt}}\n")
    with pytest.raises(StudyFileError, match=r"task\.pairs: is what all trials of a study are measured by"):
        load_study(place)
    place.write_text("name: faces\ntask: {name: retrival}\n")
    with pytest.raises(StudyFileError, match=r"must be one of classification, retrieval, verification"):
        load_study(place)


def test_classes_that_go_by_numbers_cannot_be_compared_with_persons() -> None:
    class Known:
        def known(self, class_names: tuple[str, ...]) -> tuple[str, ...]:
            raise AssertionError("numbers are no persons")

    with pytest.raises(ValueError, match=r"as the classes go by numbers \(0, \.\.\.\); name their column"):
        study.tasks._refuse_known(Known(), ("0", "1"))  # type: ignore[arg-type]
