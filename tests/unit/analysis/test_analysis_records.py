"""The contract of the rows: types, order, status, relation to the training noise, labels, and what is refused."""

import pandas as pd
import pytest

from analysis.labels import label_configs, short
from analysis.load import load, load_history, load_predictions, load_study, parse_events, read_study
from analysis.records import (
    COLUMNS,
    TRAIN_GROUPS,
    config_id,
    final_metrics,
    known_groups,
    relation,
    training_noise,
    trial_status,
    ungrouped,
    validate,
)


def test_load_keeps_the_contract(study_folder):
    frame = load(study_folder)
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == COLUMNS
    assert len(frame) == 5 * 5 + 3 + 9 * (5 + 31)
    assert frame["phase"].drop_duplicates().tolist() == ["search", "confirm"]
    first = frame[frame["trial"] == frame["trial"].iloc[0]]
    assert first["corruption"].tolist() == ["clean", *["gaussian_noise"] * 2, *["motion_blur"] * 2]
    assert first["severity"].tolist() == [0, 2, 4, 2, 4]


def test_records_of_earlier_versions_lack_measures(study_folder):
    frame = load(study_folder)
    assert frame[["family", "ece", "flips"]].isna().all(axis=None)


@pytest.mark.slow
def test_measures_and_real_images_load(tmp_path, write_ledger, with_measures):
    frame = load(with_measures(write_ledger(tmp_path, num_images=20), real={"camera": 7}))
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == COLUMNS
    own = frame[frame["corruption"] == "camera"]
    assert len(own) == 9
    assert set(own["relation"]) == {"unseen"}
    assert set(own["family"]) == {"real"}
    assert own["flips"].isna().all()
    assert frame.loc[frame["corruption"] == "resolution", "family"].unique().tolist() == ["resolution"]
    first = frame[(frame["trial"] == own["trial"].iloc[0]) & (frame["split"] == "test")]
    assert first["corruption"].iloc[-1] == "camera"


def test_a_configuration_is_the_same_wherever_its_real_images_lie():
    here, there = ({"noise": {"real": {"camera": place}}} for place in ("/a", "/b"))
    assert config_id(here) == config_id(there)
    assert config_id({"noise": {"real": {}}}) == config_id({"noise": {}}) != config_id(here)


def test_trials_that_did_not_finish_are_one_row_each(study_folder):
    frame = load(study_folder)
    lost = frame[frame["split"].isna()]
    assert lost["status"].tolist() == ["pruned", "failed", "pruned"]
    assert lost["accuracy"].isna().all()
    assert lost["cost_passes"].notna().all()


def test_seeds_of_one_configuration_share_an_id(study_folder):
    frame = load(study_folder)
    confirmed = frame[frame["role"] == "confirm"].drop_duplicates("trial")
    assert confirmed.groupby("config_id")["seed"].apply(sorted).tolist() == [[101, 102, 103]] * 3
    assert set(confirmed["config_id"]) < set(frame[frame["role"] == "search"]["config_id"])


@pytest.mark.parametrize(
    ("events", "status"),
    [
        (["start", "epoch", "final"], "finished"),
        (["start", "epoch", "pruned"], "pruned"),
        (["start", "failed"], "failed"),
        (["start", "failed", "resume", "epoch"], "running"),
        (["start", "failed", "resume", "final"], "finished"),
        ([], "running"),
    ],
)
def test_status_follows_the_events(events, status):
    assert trial_status([{"event": event} for event in events]) == status


def test_null_metrics_are_missing():
    found = final_metrics([{"event": "final", "metrics": {"acc/noise": None, "acc/clean": 0.5}}])
    assert found["acc/noise"] != found["acc/noise"]
    assert found["acc/clean"] == 0.5


@pytest.mark.parametrize(
    ("corruption", "group", "trained", "expected"),
    [
        ("clean", "clean", ["gaussian_noise"], "clean"),
        ("gaussian_noise", "noise", ["gaussian_noise"], "seen"),
        ("shot_noise", "noise", ["gaussian_noise"], "similar"),
        ("motion_blur", "blur", ["gaussian_noise"], "unseen"),
        ("motion_blur", "blur", ["pmal_pair"], "similar"),
        ("shot_noise", "noise", ["pmal_pair"], "similar"),
        ("pmal", "pmal", ["pmal_pair"], "similar"),
        ("pmal", "pmal", ["shot_noise"], "similar"),
        ("fog", "weather", ["pmal_pair"], "unseen"),
        ("fog", "weather", [], "unseen"),
        ("16px", "resolution", ["16px"], "seen"),
        ("8px", "resolution", ["16px"], "similar"),
        ("resolution_bicubic", "resolution", ["16px"], "similar"),
        ("16px", "resolution", ["resolution"], "similar"),
        ("16px", "resolution", ["gaussian_noise"], "unseen"),
        ("gaussian_noise", "noise", ["16px"], "unseen"),
        ("gaussian_noise_16px", "resolution-noise", ["16px", "gaussian_noise"], "seen"),
        ("gaussian_noise_8px", "resolution-noise", ["16px", "gaussian_noise"], "similar"),
        ("shot_noise_16px", "resolution-noise", ["16px", "pmal_pair"], "similar"),
        ("fog_16px", "resolution-weather", ["16px", "gaussian_noise"], "unseen"),
        ("gaussian_noise_16px", "resolution-noise", ["16px"], "unseen"),
        ("gaussian_noise_16px", "resolution-noise", ["gaussian_noise"], "unseen"),
    ],
)
def test_relation_to_the_training_noise(corruption, group, trained, expected):
    assert relation(corruption, group, trained, TRAIN_GROUPS) == expected


def test_groups_of_own_noise_are_declared_or_named(study_folder):
    records = read_study(study_folder).trials
    assert ungrouped(["my_rain"], known_groups(records, {})) == ["my_rain"]
    groups = known_groups(records, {"groups": {"my_rain": "weather"}})
    assert relation("fog", "weather", ["my_rain"], groups) == "similar"


def test_noise_left_out_is_the_methods_own():
    assert training_noise({"method": {"name": "pmal"}, "noise": {"train": None}}) == ("pmal_pair",)
    assert training_noise({"method": {"name": "plain"}, "noise": {"train": None}}) == ()
    assert training_noise({"noise": {"train": [{"name": "fog"}, "frost"]}}) == ("fog", "frost")


def test_sides_are_among_the_training_noise_but_not_full_size_and_need_no_group():
    config = {"data": {"image_size": 32}, "resolution": {"train": [32, 16]}, "noise": {"train": ["fog"]}}
    assert training_noise(config) == ("16px", "fog")
    assert training_noise({"data": {"image_size": 32}, "resolution": {"train": [32]}}) == ()
    assert ungrouped(training_noise(config), TRAIN_GROUPS) == []


def test_config_id_ignores_the_training_seed_only():
    config = {"train": {"seed": 1, "epochs": 3}, "data": {"seed": 0}}
    assert config_id(config) == config_id({"train": {"seed": 2, "epochs": 3}, "data": {"seed": 0}})
    assert config_id(config) != config_id({"train": {"seed": 1, "epochs": 4}, "data": {"seed": 0}})
    assert config_id(config) != config_id({"train": {"seed": 1, "epochs": 3}, "data": {"seed": 5}})


@pytest.mark.parametrize(
    ("value", "text"),
    [("results/cars/trials/teacher-a", "results/cars/trials/teacher-a"), ("", ""), (["a/b", 0.12345], "a/b+0.123"),
     ("/runs/of/others/vit/model.safetensors", "/runs/of…s/vit/model.safetensors"), ({"name": "fog"}, "fog"),
     (True, "true")],
)  # fmt: skip
def test_values_in_labels_are_short(value, text):
    assert short(value) == text


def test_labels_are_short_and_apart_within_a_phase():
    def config(lr, depth=1):
        return {"method": {"name": "plain", "depth": depth}, "optim": {"lr": lr}, "train": {"seed": 1}}

    labels = label_configs({("s", "aaaa1"): config(0.1), ("s", "bbbb2"): config(0.25), ("c", "aaaa1"): config(0.1)})
    assert labels == {("s", "aaaa1"): "plain lr=0.1", ("s", "bbbb2"): "plain lr=0.25", ("c", "aaaa1"): "plain"}
    close = label_configs({("s", "aaaa1"): config(0.10001), ("s", "bbbb2"): config(0.10002)})
    assert sorted(close.values()) == ["plain lr=0.1 #aaaa", "plain lr=0.1 #bbbb"]


def _broken(frame, **values):
    frame = frame.copy()
    for column, value in values.items():
        frame.loc[0, column] = value
    return frame


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"status": "odd"}, "status must be one of"),
        ({"correct": 1000}, "0 <= correct <= n"),
        ({"accuracy": 0.123}, "accuracy must be correct / n"),
        ({"severity": 3}, "severity 0 must mean clean"),
        ({"ece": 1.2}, r"ece must be in \[0, 1\]"),
        ({"flips": -0.1}, r"flips must be in \[0, 1\]"),
    ],
)
def test_rows_that_break_the_contract_are_refused(study_folder, values, message):
    with pytest.raises(ValueError, match=message):
        validate(_broken(load(study_folder), **values))


def test_columns_types_and_double_cells_are_refused(study_folder):
    frame = load(study_folder)
    with pytest.raises(ValueError, match="columns must be"):
        validate(frame.drop(columns="n"))
    with pytest.raises(ValueError, match="types must be"):
        validate(frame.astype({"n": "float64"}))
    with pytest.raises(ValueError, match="stands twice"):
        validate(pd.concat([frame, frame.iloc[:1]], ignore_index=True))


def test_history_has_every_event_and_the_error(study_folder):
    rows = load_history(study_folder)
    assert rows.groupby("trial")["event"].last().value_counts().to_dict() == {"final": 14, "pruned": 2, "failed": 1}
    assert "lower optim.lr" in rows.loc[rows["event"] == "failed", "error"].item()
    assert str(rows["acc/noise"].dtype) == "float64"
    assert rows[rows["trial"] == rows["trial"].iloc[0]]["time"].is_monotonic_increasing


def test_predictions_and_study(study_folder):
    rows = load_predictions(study_folder)
    assert len(rows) == 9 * 31 * 120
    assert load_study(study_folder)["baseline"] == {"method.name": "plain"}
    one = load_predictions(study_folder, trials=[rows["trial"].iloc[0]])
    assert len(one) == 31 * 120


def test_torn_events_are_passed_over_and_counted():
    events, torn = parse_events(b'{"event": "start"}\n{"event": "ep\n{"event": "resume"}\n{"eve')
    assert [event["event"] for event in events] == ["start", "resume"]
    assert torn == 2


@pytest.mark.slow
def test_missing_study_and_missing_files_are_said(tmp_path, write_ledger):
    with pytest.raises(FileNotFoundError, match="a study is a folder"):
        load(tmp_path / "nothing")
    folder = write_ledger(tmp_path, num_images=20)
    (folder / "study.json").unlink()
    (folder / "trials" / "empty").mkdir()
    notes = read_study(folder).notes
    assert any("study.json is missing" in note for note in notes)
    assert any("trial empty has no trial.json" in note for note in notes)
    assert len(load(folder)) == 5 * 5 + 3 + 9 * (5 + 31)


def test_a_study_without_trials_is_an_empty_frame(tmp_path):
    (tmp_path / "new" / "trials").mkdir(parents=True)
    frame = load(tmp_path / "new")
    assert len(frame) == 0
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == COLUMNS


def test_an_fsspec_url_gives_the_same_rows(study_folder):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(study_folder), "/bucket/", recursive=True)
    pd.testing.assert_frame_equal(load("memory://bucket/vehicles"), load(study_folder))
