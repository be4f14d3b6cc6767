"""Searches scored by a part of the validation grid: the part, the finalists' whole grid, and what is never read."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.fidelity import agreement_of, bootstrap_agreement, rank_agreement
from analysis.load import read_study
from analysis.searches import searched
from study import phases, tasks, trial
from study.champion import Finished, champion_of, metrics_of
from study.config_phases import SearchPhase
from study.config_search import Fidelity
from study.data import prepare
from study.data.image_set import DataSplits, ImageSet
from study.evaluate import share_by_class
from study.finalists import choose_finalists
from study.grids import part_of, small_grid
from study.ledger import Ledger, trial_key
from study.reporting import best_line
from study.revisit import look_at_whole_grid
from study.search import PhaseSummary
from study.trial import run_trial
from tests.unit.study.test_phases import add_trial, loaded, open_study, study_run
from tests.unit.study.trials import ledger_of, prepare_data, tiny_config, tiny_spec

NOISE = {"validation": ["gaussian_noise", "contrast"], "validation_severities": [2, 4], "test": ["shot_noise"]}
SMALL = Fidelity(images=6, corruptions=1, severities=(4,))
EPOCH = {"train": {"epochs": 1}}


def images_of(*counts: int) -> ImageSet:
    labels = np.repeat(np.arange(len(counts)), counts)
    pixels = np.zeros((len(labels), 4, 4, 3), dtype=np.uint8)
    return ImageSet(pixels, labels, np.arange(len(labels)) * 977 + 5, tuple(map(str, range(len(counts)))))


def test_a_part_has_of_each_class_its_share_and_smaller_parts_lie_in_larger_ones() -> None:
    images, everything = images_of(40, 20, 4), np.arange(64)
    part = share_by_class(images, everything, 16, seed=3)
    assert np.bincount(images.labels[part]).tolist() == [10, 5, 1]
    assert set(share_by_class(images, everything, 32, seed=3)) >= set(part)
    assert share_by_class(images, everything, 16, seed=3).tolist() == part.tolist()
    assert share_by_class(images, everything, 16, seed=4).tolist() != part.tolist()
    assert len(share_by_class(images, everything, 15, seed=3)) == 15
    assert share_by_class(images, everything, 64, seed=3).tolist() == everything.tolist()


def test_a_part_is_told_by_what_it_keeps_and_the_whole_grid_by_nothing() -> None:
    config = tiny_config(noise=NOISE)
    part = part_of(SMALL, config)
    assert part == {"corruptions": ["gaussian_noise"], "severities": [4], "images": 6}
    assert [(cell.name, cell.severity) for cell in small_grid(config, part)] == [("clean", 0), ("gaussian_noise", 4)]
    assert part_of(None, config) == part_of(Fidelity(images=1000), config) == {}
    plain = trial_key(config, fingerprint="x", role="search")
    assert plain == trial_key(config, fingerprint="x", role="search", fidelity={})
    assert plain != trial_key(config, fingerprint="x", role="search", fidelity=part)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fidelity")


def spec_in(folder: Path, *, part: dict[str, Any], **noise: Any):
    config = tiny_config(noise={**NOISE, **noise}, **EPOCH)
    spec = tiny_spec(folder, config)
    key = trial_key(config, fingerprint=spec.fingerprint, role="search", fidelity=part)
    return dataclasses.replace(spec, key=key, fidelity=part)


@pytest.mark.slow
def test_a_finalists_whole_grid_is_that_of_the_same_trial_without_a_part(folder: Path) -> None:
    part = part_of(SMALL, tiny_config(noise=NOISE))
    small, whole = spec_in(folder, part=part), spec_in(folder, part={})
    found, expected = run_trial(small), run_trial(whole)
    ledger = ledger_of(small)
    cells = pd.read_parquet(io.BytesIO(ledger.read_bytes(small.key, "cells.parquet") or b""))
    assert set(cells["grid"]) == {"small"}
    assert set(cells["n"]) == {6}
    assert len(cells) == 2
    for _ in range(2):
        look_at_whole_grid(small.storage, small.study, small.key, small.cache_dir)
    assert [event["event"] for event in ledger.events(small.key)].count("full") == 1
    assert ledger.status(small.key) == "finished"
    metrics = ledger.metrics(small.key)
    assert metrics["acc/noise"] == found["acc/noise"]
    assert metrics["full/acc/noise"] == pytest.approx(expected["acc/noise"])
    assert metrics["full/acc/clean"] == pytest.approx(expected["acc/clean"])
    full = pd.read_parquet(io.BytesIO(ledger.read_bytes(small.key, "cells-full.parquet") or b""))
    plain = pd.read_parquet(io.BytesIO(ledger.read_bytes(whole.key, "cells.parquet") or b""))
    assert "grid" not in plain
    assert set(full["grid"]) == {"full"}
    assert full["correct"].tolist() == plain["correct"].tolist()
    again = run_trial(small)  # finished: its figures only
    assert again["acc/noise"] == found["acc/noise"]


class Poison:
    """Test images that nobody may look at; how many there are is no secret."""

    class_names = ()

    def __len__(self) -> int:
        return 12

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a search must not read the test images, but asked for {name}")


@pytest.mark.slow
def test_neither_test_images_nor_test_noise_reach_the_objective(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    part = part_of(SMALL, tiny_config(noise=NOISE))
    plain = spec_in(folder, part=part)
    expected = run_trial(plain)
    seen: list[tuple[str, tuple[str, ...], set[int]]] = []
    real_evaluate, real_prepare = tasks.evaluate, prepare.prepare_data

    def spy(predict: Any, images: ImageSet, cells: Any, **settings: Any) -> Any:
        chosen = settings["positions"] if settings["positions"] is not None else slice(None)
        names = tuple(cell.corruption for cell in cells)
        seen.append((settings["split"], names, set(np.asarray(images.ids)[chosen].tolist())))
        return real_evaluate(predict, images, cells, **settings)

    def poisoned(*args: Any, **settings: Any) -> DataSplits:
        return dataclasses.replace(real_prepare(*args, **settings), test=Poison())

    monkeypatch.setattr(tasks, "evaluate", spy)
    monkeypatch.setattr(trial, "prepare_data", poisoned)
    monkeypatch.setattr("study.revisit.prepare_data", poisoned)
    other = spec_in(tmp_path, part=part, test=["jpeg_compression"], test_severities=[1])
    assert other.key == plain.key  # which test noise is named is no part of a search
    found = run_trial(other)
    look_at_whole_grid(other.storage, other.study, other.key, other.cache_dir)
    same = [name for name in found if name not in ("cost/seconds", "cost/latency_ms")]
    assert {name: found[name] for name in same} == {name: expected[name] for name in same}
    weights = [ledger_of(spec).read_bytes(spec.key, "model.safetensors") for spec in (plain, other)]
    assert weights[0] == weights[1]
    own = prepare_data(tiny_config().data, cache_dir=Path(other.cache_dir))
    assert len(seen) == 3  # after the epoch, at the end, on the whole grid
    assert {split for split, _, _ in seen} == {"validation"}
    assert {name for _, names, _ in seen for name in names} <= {"clean", *NOISE["validation"]}
    assert set().union(*(ids for _, _, ids in seen)) <= set(own.validation.ids.tolist())
    assert not set().union(*(ids for _, _, ids in seen)) & set(own.test.ids.tolist())
    with pytest.raises(AssertionError, match="must not read the test images"):
        run_trial(dataclasses.replace(other, key="f" * 16, role="train", fidelity={}))


@pytest.mark.parametrize("per", ["", ", per: optim.sam.rho"])
def test_finalists_of_several_objectives_are_those_of_the_front(tmp_path: Path, per: str) -> None:
    sets = (
        "search.fidelity={images: 4, finalists: 3}",
        "search.objectives=[{metric: acc/noise}, {metric: cost/passes, goal: minimise}]",
        f"phases.confirm={{kind: confirm, name: confirm, of: search, seeds: [101]{per}}}",
    )
    study = loaded(tmp_path, *sets)
    ledger = Ledger(str(tmp_path / "results"), "tiny")
    open_study(ledger, study, tmp_path)
    run, search = study_run(ledger, study, tmp_path), study.config.search
    figures = [(0.9, 5.0), (0.89, 6.0), (0.88, 6.0), (0.5, 1.0), (0.4, 9.0)]
    keys = [
        add_trial(run, 0, number=i, accuracy=accuracy, passes=passes, momentum=0.1 * i)
        for i, (accuracy, passes) in enumerate(figures)
    ]
    phase = study.config.phases[0]
    assert isinstance(phase, SearchPhase)
    assert choose_finalists(ledger, study.config, phase, search, keys) == [keys[0], keys[3], keys[1]]


@pytest.mark.slow
def test_agreement_is_spearmans_and_its_interval_narrows_with_trials() -> None:
    rng = np.random.default_rng(0)
    full = rng.normal(size=200)
    few, many = (rank_agreement((full + rng.normal(size=200))[:n], full[:n]) for n in (10, 200))
    assert many.low < many.rho < many.high
    assert few.high - few.low > 2 * (many.high - many.low)
    boot = bootstrap_agreement(full + 0.5, full)
    assert (boot.rho, boot.low, boot.high) == pytest.approx((1.0, 1.0, 1.0))
    assert np.isnan(rank_agreement([1.0, 1.0], [0.1, 0.2]).rho)
    assert str(rank_agreement([1, 2, 3], [1, 2, 3])) == "Spearman rank correlation +1.00 over 3 trials"


def test_agreement_pairs_each_finalists_own_figures() -> None:
    trials = {
        key: [
            {"event": "final", "metrics": {"acc/noise": small}},
            {"event": "full", "metrics": {"full/acc/noise": full}},
        ]
        for key, small, full in (("a", 0.1, 0.9), ("b", 0.2, 0.5), ("c", 0.3, 0.1), ("d", 0.9, 0.95))
    }  # fmt: skip
    assert agreement_of(trials, ["a", "b", "c"], "acc/noise").rho == pytest.approx(-1.0)
    assert agreement_of(trials, ["a", "b", "c", "gone"], "acc/noise").n == 3


OWN = "{trials: 3, space: {optim.sam.rho: {log_uniform: [0.01, 0.5]}}}"
BY_PART = "{trials: 3, space: {optim.sam.rho: {log_uniform: [0.01, 0.5]}}, fidelity: {images: 4, finalists: 2}}"


@pytest.mark.parametrize("is_first", [True, False], ids=["first by a part", "second by a part"])
def test_of_two_searches_each_chooses_by_its_own_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    one, other = (BY_PART, OWN) if is_first else (OWN, BY_PART)
    small, whole = ("one", "other") if is_first else ("other", "one")
    study = loaded(
        tmp_path, f"phases=[{{kind: search, name: one, search: {one}}}, "
        f"{{kind: search, name: other, search: {other}}}, "
        "{kind: confirm, name: confirm-one, of: one, seeds: [101]}, "
        "{kind: confirm, name: confirm-other, of: other, seeds: [101]}]",
    )  # fmt: skip
    ledger = Ledger(str(tmp_path / "results"), "tiny")
    open_study(ledger, study, tmp_path)
    run = study_run(ledger, study, tmp_path)
    parts: dict[str, list[bool]] = {}
    looks: list[str] = []

    def search(settings: Any, *, spec_of: Any, phase: str, **_: Any) -> PhaseSummary:
        keys = []
        for number, accuracy in enumerate((0.5, 0.9, 0.8)):
            spec = spec_of({"optim.sam.rho": 0.1 + 0.1 * number}, number)
            ledger.create_trial(spec)
            ledger.append(spec.key, "final", epoch=2, step=0, metrics={"acc/noise": accuracy}, final=True)
            parts.setdefault(phase, []).append(bool(spec.fidelity))
            keys.append(spec.key)
        return PhaseSummary(keys, keys, [], [])

    def look(work: Any, keys: Any, **_: Any) -> dict[str, str]:
        looks.extend(keys)
        for place, key in enumerate(keys):  # the small grid's best is the whole one's worst
            ledger.append(key, "full", epoch=2, step=0, metrics={"full/acc/noise": 0.4 + 0.1 * place})
        return {}

    def confirm(specs: Any, **_: Any) -> PhaseSummary:
        return PhaseSummary([spec.key for spec in specs], [], [], [])

    monkeypatch.setattr(phases, "run_search", search)
    monkeypatch.setattr(phases, "run_list", confirm)
    monkeypatch.setattr("study.finalists.look_at_all", look)
    for phase in study.config.phases:
        phases._run_phase(run, phase, None)
    record = {item["name"]: item for item in (ledger.read_json("study.json") or {})["phases"]}
    assert parts == {small: [True] * 3, whole: [False] * 3}
    assert record[small]["finalists"] == looks == [record[small]["trials"][number] for number in (1, 2)]
    assert "finalists" not in record[whole]
    assert record[f"confirm-{whole}"]["selected"] == [record[whole]["trials"][1]]
    assert record[f"confirm-{small}"]["selected"] == [record[small]["trials"][2]]
    finished = [
        Finished(key, name, ledger.trial(key)["number"], metrics_of(ledger.events(key)))
        for name in ("one", "other") for key in record[name]["trials"]
    ]  # fmt: skip
    searches = {**(ledger.read_json("study.json") or {}), "phases": [record["one"], record["other"]]}
    searches["config"] = {**searches["config"], "phases": searches["config"]["phases"][:2]}
    champion = champion_of(searches, finished)
    assert champion is not None
    assert champion[::2] == (record["other"]["trials"][1 if is_first else 2], 0.9 if is_first else 0.5)
    assert ("of 2 finalists" in best_line(ledger, study.config)) is not is_first
    snapshot = read_study(ledger.root)
    pools = searched(snapshot.trials, snapshot.study)
    assert list(pools) == ["one", "other"]
    found = {item.key: item.value for pool in pools.values() for item in pool}
    assert [found[key] for key in record[whole]["trials"]] == [0.5, 0.9, 0.8]
    assert [found.get(key) for key in record[small]["trials"]] == [None, 0.4, 0.5]
