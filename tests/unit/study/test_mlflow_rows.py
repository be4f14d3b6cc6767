"""What a trial looks like in MLflow: its datasets, machine, use and samples, and how much goes into one call."""

import json
from typing import Any

import pandas as pd
import pytest

from study.mlflow_inputs import MAX_DIGEST_CHARACTERS, dataset_rows
from study.mlflow_rows import batches, cell_rows, machine_tags, metric_rows, sortable, start_facts

SIZES = {"data": {"num_train": 70, "num_validation": 20, "num_test": 10, "num_classes": 3}}


def info(role: str = "confirm", **data: Any) -> dict[str, Any]:
    return {"role": role, "fingerprint": "f" * 40, "config": {"data": {"source": "image-folder", **data}, "noise": {}}}


def test_each_split_that_a_trial_reads_is_a_dataset_with_its_size():
    rows = dataset_rows(info(path="/data/cars", image_size=64), SIZES)
    assert [(row.name, row.context) for row in rows] == [
        ("image-folder/train", "train"), ("image-folder/validation", "validation"), ("image-folder/test", "test"),
    ]  # fmt: skip
    assert {row.digest for row in rows} == {"f" * MAX_DIGEST_CHARACTERS}
    assert json.loads(rows[0].profile) == {
        "num_rows": 70, "image_size": 64, "num_classes": 3, "fingerprint": "f" * 40,
    }  # fmt: skip
    assert (rows[0].source_type, json.loads(rows[0].source)) == ("local", {"uri": "/data/cars"})


def test_a_search_reads_no_test_images():
    assert [row.context for row in dataset_rows(info("search"), SIZES)] == ["train", "validation"]


@pytest.mark.parametrize(
    ("path", "kind", "source"),
    [
        ("s3://me:hidden@bucket/cars", "s3", {"uri": "s3://***@bucket/cars"}),
        ("https://host/cars?token=hidden", "http", {"url": "https://host/cars?token=***"}),
        (None, "code", {"tags": {"murk.source": "image-folder"}}),
    ],
)
def test_a_source_holds_no_credentials(path, kind, source):
    row = dataset_rows(info(path=path), {})[0]
    assert (row.source_type, json.loads(row.source)) == (kind, source)
    assert "num_rows" not in row.profile


def test_real_noisy_folders_are_datasets_too():
    trial = info()
    trial["config"]["noise"] = {"real": {"rain": "/data/rain"}}
    trial["real"] = {"rain": "a" * 32}
    row = dataset_rows(trial, {**SIZES, "real": {"rain": {"num_images": 5}}})[-1]
    assert (row.name, row.digest, row.context) == ("real/rain", "a" * 32, "test")
    assert json.loads(row.profile)["num_rows"] == 5


def test_the_machine_of_the_latest_attempt_is_told():
    events = [
        {"event": "start", "hardware": "CPU", "code": {"commit": "a" * 40, "dirty": False}},
        {"event": "resume", "hardware": "GPU", "workers": 2, "versions": {"torch": "2", "ray": "3"},
         "code": {"commit": "b" * 40, "dirty": True}},
        {"event": "epoch"},
    ]  # fmt: skip
    assert machine_tags(start_facts(events)) == {
        "hardware": "GPU", "workers": "2", "murk.versions": "torch=2 ray=3", "murk.commit": "b" * 40,
        "murk.dirty": "true", "mlflow.source.git.commit": "b" * 40, "mlflow.source.git.dirty": "true",
    }  # fmt: skip
    assert machine_tags({"code": {"commit": "unknown", "dirty": None}}) == {"murk.commit": "unknown"}
    assert machine_tags(start_facts([])) == {}


def test_use_and_samples_become_metrics_at_their_own_times():
    event = {"event": "epoch", "time": 10.0, "epoch": 2, "metrics": {"loss/train": 1.0},
             "usage": {"device_seconds": 5.0, "peak_memory_bytes": None},
             "system": [[8.5, {"cpu": 50.0}], [9.5, {"cpu": 60.0, "gpu": None}]]}  # fmt: skip
    rows = [tuple(row) for row in metric_rows([event])]
    assert rows == [
        ("loss/train", 1.0, 10_000, 2), ("usage/device_seconds", 5.0, 10_000, 2),
        ("system/cpu", 50.0, 8500, 2), ("system/cpu", 60.0, 9500, 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("metrics", "params", "tags"), [(0, 0, 0), (5, 3, 2), (2500, 150, 0), (950, 60, 30), (0, 0, 250)]
)
def test_batches_hold_everything_once_and_keep_the_limits(metrics, params, tags):
    parts = list(batches(range(metrics), range(params), range(tags)))
    for name, count, limit in (("metrics", metrics, 1000), ("params", params, 100), ("tags", tags, 100)):
        chunks = [list(getattr(part, name)) for part in parts]
        assert [item for chunk in chunks for item in chunk] == list(range(count))
        assert all(len(chunk) <= limit for chunk in chunks)
    assert all(0 < sum(map(len, part)) <= 1000 for part in parts)


def test_cells_sort_by_corruption_and_severity():
    rows = [("validation", "blur", 2, 0.5, None), ("test", "clean", 0, 0.9, None)]
    rows += [("test", "contrast", at, 0.8 - 0.1 * at, bn) for at in (5, 1, 3) for bn in ("trained", "reestimated")]
    rows += [("test", "blur", 3, 0.25, "adapted")]
    cells = pd.DataFrame(rows, columns=["split", "corruption", "severity", "accuracy", "bn"])
    cells.loc[cells["bn"] == "trained", "accuracy"] = 0.0
    found = cell_rows(cells, 1000, 12)
    single = [row for row in found if "_cell/" in row.key]
    assert [row.key for row in single] == sorted(row.key for row in single) == [
        "test_cell/contrast/1", "test_cell/contrast/3", "test_cell/contrast/5", "validation_cell/blur/2"
    ]  # fmt: skip
    assert {row.step for row in single} == {12}
    curve = [(row.step, round(row.value, 6)) for row in found if row.key == "sev/contrast"]
    assert curve == [(1, 0.7), (3, 0.5), (5, 0.3)], "statistics that were estimated anew count"
    assert not any(row.key == "val_sev/blur" for row in found), "one point is no curve"


def test_lower_sides_sort_by_size():
    names = ["8px", "16px", "128px", "gaussian_noise_8px", "gaussian_noise_16px", "gaussian_noise"]
    cells = pd.DataFrame([("test", name, at, 0.5, None) for name in names[::-1] for at in (1, 2)],
                         columns=["split", "corruption", "severity", "accuracy", "bn"])  # fmt: skip
    found = sorted({row.key for row in cell_rows(cells, 1000, 12)})
    sides = ["008px", "016px", "128px", "gaussian_noise", "gaussian_noise_008px", "gaussian_noise_016px"]
    assert found == [f"sev/{name}" for name in sides] + [f"test_cell/{name}/{at}" for name in sides for at in (1, 2)]


def test_only_a_side_at_the_end_of_a_name_is_padded():
    names = ["8px", "jpeg_8px", "jpeg8px", "jpeg_8", "my_8px_thing", "2048px", "v8px"]
    assert [sortable(name) for name in names] == ["008px", "jpeg_008px", *names[2:]]
