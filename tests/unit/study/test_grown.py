"""Settings came after studies had been run: those keep their keys, their names and can be resumed."""

from typing import Any

from analysis.records import config_id
from study.config import StudyConfig, TrialConfig
from study.ledger import trial_key
from study.studyrecord import _GROWN, _searches_of_today, changed_keys


def older() -> dict[str, Any]:
    """A record of before lower resolutions, tasks, rates that fall in steps, adapted statistics and likenesses."""
    tree = TrialConfig().model_dump(mode="json")
    del tree["resolution"], tree["task"], tree["train"]["adapt_bn"]
    del tree["optim"]["step_at"], tree["optim"]["step_factor"]
    del tree["noise"]["similarity"]
    return tree


def test_a_trial_keeps_its_key_and_its_configurations_name() -> None:
    new = TrialConfig()
    assert trial_key(new, fingerprint="x", role="train") == "27292be4f278bad6"
    assert config_id(new.model_dump(mode="json")) == config_id(older()) == "abaa1a59051a"
    other = TrialConfig.model_validate({"resolution": {"train": [16]}})
    assert config_id(other.model_dump(mode="json")) != config_id(older())


def test_a_study_is_not_changed_by_settings_that_say_nothing() -> None:
    old, new = older(), TrialConfig().model_dump(mode="json")
    before = old | {name: section.model_dump(mode="json") | old.get(name, {}) for name, section in _GROWN.items()}
    assert changed_keys(before, new) == []
    assert changed_keys(before, new | {"resolution": {**new["resolution"], "train": [16]}}) == ["resolution.train"]


def test_a_search_of_before_constraints_is_not_changed_by_them() -> None:
    scheduler = {"name": "asha", "grace_epochs": 2, "reduction_factor": 3}
    search = {
        "space": {}, "algorithm": "tpe", "objectives": [{"metric": "acc/noise", "goal": "maximise"}], "trials": 8,
        "scheduler": scheduler, "seed": 0,
    }  # fmt: skip
    phases = [{"kind": "search", "name": "search", "set": {}, "search": search}]
    study = StudyConfig.model_validate({"name": "old", "search": search, "phases": phases}).model_dump(mode="json")
    old = study | {"search": search, "phases": phases}
    assert changed_keys(old, study), "the record lacks settings"
    assert changed_keys(old | _searches_of_today(old), study) == []
    other = study | {"search": {**study["search"], "constraints": ["params <= 9"]}}
    assert changed_keys(old | _searches_of_today(old), other) == ["search.constraints"]


def test_what_only_the_test_reads_voids_no_search() -> None:
    def key(**sections: dict[str, Any]) -> str:
        return trial_key(TrialConfig.model_validate(sections), fingerprint="x", role="search")

    assert key() == key(resolution={"test": [8]}) == key(resolution={"test": [8], "with_noise": True})
    assert key() == key(train={"adapt_bn": True})
    assert key() == key(noise={"similarity": True})
    assert key() != key(resolution={"validation": [16]})
