"""Likeness of clean and noisy features as trials record it, and as the analysis reads it."""

import copy
import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from analysis import similarity as analysis
from analysis.records import config_id
from models.methods.method import Viewed
from study.build import build_method
from study.config import TrialConfig
from study.data.image_set import ImageSet
from study.data.prepare import prepare_data
from study.evaluate import Cell, noisy
from study.ledger import trial_key
from study.loop import device_images
from study.ranks import Ranks
from study.similarity import similarity_cells, similarity_rows
from study.trial import run_trial
from tests.unit.study.trials import PMAL, ledger_of, tiny_config, tiny_spec
from tests.unit.study.workers import run_workers

CELLS = [Cell("clean", 0), Cell("contrast", 4), Cell("clean", 0, 16)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return prepare_data(tiny_config().data, cache_dir=tmp_path_factory.mktemp("cache")).test


def method_of(**sections: Any) -> Viewed:
    method = build_method(tiny_config(**sections), num_classes=3)
    method.network.eval()
    assert isinstance(method, Viewed)
    return method


def rows_of(method: Viewed, images: ImageSet, *, ranks: Ranks | None = None, **named: Any) -> list[dict[str, Any]]:
    settings = {"seed": 3, "scale": "nearest", "batch_size": 5} | named
    return similarity_rows(method, images, CELLS, ranks=ranks or Ranks(device="cpu"), **settings)


def test_rows_are_of_each_stages_pooled_maps(images: ImageSet) -> None:
    method = method_of(method=PMAL)
    found = pd.DataFrame(rows_of(method, images))
    stages = method.backbone.num_stages
    assert found["stage"].tolist() == [*range(1, stages + 1)] * 2
    assert found["corruption"].tolist() == ["contrast"] * stages + ["16px"] * stages
    assert found["severity"].tolist() == [4] * stages + [1] * stages
    assert set(found["n"]) == {12}
    raw = torch.from_numpy(images.images.copy()).permute(0, 3, 1, 2)
    clean_BCHW = device_images(raw, torch.device("cpu"))
    seen_BCHW = noisy(clean_BCHW, CELLS[1], ids_B=torch.from_numpy(images.ids.copy()), seed=3, scale="nearest")
    with torch.no_grad():
        one, other = (method.view(each_BCHW).maps for each_BCHW in (clean_BCHW, seen_BCHW))
    for stage in range(stages):
        clean, after = (maps[stage].mean((2, 3)).numpy() for maps in (one, other))
        row = found.iloc[stage]
        assert row["cosine"] == pytest.approx(analysis.mean_cosine(clean, after), rel=1e-5)
        assert row["cka"] == pytest.approx(analysis.linear_cka(clean, after), rel=1e-4)
    assert (found["cka"] < 1 - 1e-6).all()


@pytest.mark.parametrize("most", [512, 2])
def test_workers_do_not_matter(images: ImageSet, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    method = method_of()
    alone = pd.DataFrame(rows_of(method, images, most=most))
    assert set(alone["n"]) == {min(most, 12)}
    own = [copy.deepcopy(method) for _ in range(3)]  # a view hooks into its network
    for found in run_workers(3, lambda ranks: rows_of(own[ranks.rank], images, ranks=ranks, most=most), monkeypatch):
        pd.testing.assert_frame_equal(pd.DataFrame(found), alone, rtol=1e-4)


@pytest.mark.parametrize(("levels", "level"), [((1, 2, 3, 4, 5), 3), ((2, 4), 2), ((5, 4, 1), 4), ((5,), 5)])
def test_one_severity_stands_for_all(levels: tuple[int, ...], level: int) -> None:
    config = tiny_config(noise={"test": ["contrast", "fog"], "test_severities": levels}, resolution={"test": [16]})
    assert similarity_cells(config) == [
        Cell("clean", 0), Cell("contrast", level), Cell("fog", level), Cell("clean", 0, 16),
    ]  # fmt: skip


@pytest.mark.slow
def test_a_trial_that_was_asked_leaves_a_table_that_the_analysis_reads(tmp_path: Path) -> None:
    config = tiny_config(noise={"similarity": True}, train={"epochs": 1})
    spec, plain = tiny_spec(tmp_path, config, role="train"), tiny_spec(tmp_path, role="train")
    searched = tiny_spec(tmp_path, config)
    ledger = ledger_of(spec)
    for one in (spec, plain, searched):
        ledger.create_trial(one)
        run_trial(one)
    for other in (plain, searched):
        assert ledger.read_bytes(other.key, "similarity.parquet") is None
    rows = pd.read_parquet(io.BytesIO(ledger.read_bytes(spec.key, "similarity.parquet") or b""))
    assert {*rows} | {"trial", "method"} == set(analysis.SIMILARITY_COLUMNS)
    loaded = analysis.load_similarity(tmp_path / "results" / "tiny")
    assert {name: str(kind) for name, kind in loaded.dtypes.items()} == analysis.STUDY_SIMILARITY_COLUMNS
    assert set(loaded["trial"]) == {spec.key}
    pd.testing.assert_frame_equal(loaded[[*rows]], rows, check_dtype=False)
    table = analysis.similarity_table(loaded)
    assert table.frame[["method", "stage", "n_trials"]].to_numpy().tolist() == [
        ["plain", stage, 1] for stage in sorted(set(rows["stage"]))
    ]


def test_it_says_nothing_while_it_is_off_and_nothing_in_a_search() -> None:
    on, off = TrialConfig.model_validate({"noise": {"similarity": True}}), TrialConfig()

    def key(config: TrialConfig, role: Any) -> str:
        return trial_key(config, fingerprint="x", role=role)

    assert key(on, "search") == key(off, "search")
    assert key(on, "train") != key(off, "train") == "27292be4f278bad6"
    assert config_id(on.model_dump(mode="json")) != config_id(off.model_dump(mode="json")) == "abaa1a59051a"


def test_verification_has_no_images_for_it() -> None:
    with pytest.raises(ValidationError, match=r"noise\.similarity must be left out with task\.name: verification"):
        tiny_config(noise={"similarity": True}, task={"name": "verification", "pairs": "pairs.txt"})
