"""The ledger: events are the truth, a state is what follows from them."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from study.config import TrialConfig
from study.ledger import Ledger, Role, TrialSpec, trial_key


def _spec(tmp_path: Path, **changes: object) -> TrialSpec:
    config = TrialConfig().model_dump(mode="json")
    spec = TrialSpec(key="k" * 16, study="s", phase="search", role="search", number=0, seed=0, config=config,
                     fingerprint="f", storage=str(tmp_path), cache_dir=str(tmp_path / "cache"))  # fmt: skip
    return replace(spec, **changes)  # type: ignore[arg-type]


def test_a_trial_is_written_once(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), "s")
    assert ledger.create_trial(_spec(tmp_path))
    assert not ledger.create_trial(_spec(tmp_path, number=7))
    assert ledger.trial("k" * 16)["number"] == 0
    assert "storage" not in ledger.trial("k" * 16)
    with pytest.raises(ValueError, match="no trial 'missing'"):
        ledger.trial("missing")


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ([], "running"),
        (["start", "epoch"], "running"),
        (["start", "epoch", "final"], "finished"),
        (["start", "pruned"], "pruned"),
        (["start", "failed"], "failed"),
        (["start", "failed", "resume", "epoch"], "running"),
        (["start", "failed", "resume", "final"], "finished"),
        (["start", "failed", "start", "epoch"], "running"),
    ],
)
def test_the_state_follows_from_the_events(tmp_path: Path, events: list[str], status: str) -> None:
    ledger = Ledger(str(tmp_path), "s")
    for event in events:
        ledger.append("k", event)
    assert ledger.status("k") == status


def test_a_torn_last_line_is_passed_over_and_the_next_one_is_kept(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), "s")
    ledger.append("k", "epoch", epoch=1, metrics={"acc/clean": 0.5})
    with Path(ledger.path("k", "events.jsonl")).open("ab") as handle:
        handle.write(b'{"event": "epoch", "ep')
    assert ledger.metrics("k") == {"acc/clean": 0.5, "epoch": 1}
    ledger.append("k", "epoch", epoch=2, metrics={"acc/clean": 0.6})
    assert [event["epoch"] for event in ledger.events("k")] == [1, 2]


def test_a_figure_that_is_not_finite_is_written_as_null(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), "s")
    ledger.append("k", "epoch", epoch=1, metrics={"loss/train": math.nan})
    line = Path(ledger.path("k", "events.jsonl")).read_text()
    assert json.loads(line)["metrics"] == {"loss/train": None}


def test_keys_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), "s")
    for number, key in enumerate(["ff", "aa", "bb"]):
        ledger.create_trial(_spec(tmp_path, key=key, number=number, phase="confirm" if key == "bb" else "search"))
    assert ledger.keys("search") == ["ff", "aa"]
    assert ledger.keys() == ["bb", "ff", "aa"]


def _key(changes: dict | None = None, role: str = "search", fingerprint: str = "f") -> str:
    tree = TrialConfig().model_dump(mode="json")
    for section, values in (changes or {}).items():
        tree[section] |= values
    return trial_key(tree, fingerprint=fingerprint, role=role)  # type: ignore[arg-type]


def test_the_key_is_stable_and_follows_what_decides_the_numbers() -> None:
    assert _key() == _key()
    assert trial_key(TrialConfig(), fingerprint="f", role="search") == _key()
    others = [
        _key({"train": {"seed": 1}}), _key({"optim": {"lr": 0.1}}), _key({"noise": {"seed": 1}}),
        _key(role="confirm"), _key(fingerprint="g"), _key({"noise": {"validation": ["contrast"]}}),
    ]  # fmt: skip
    assert len({_key(), *others}) == len(others) + 1


def test_the_key_does_not_follow_where_images_lie_nor_noise_that_a_search_never_reads() -> None:
    assert _key({"data": {"path": "/a"}}) == _key({"data": {"path": "/b"}})
    assert _key({"noise": {"test": ["contrast"]}}) == _key()
    assert _key({"noise": {"test": ["contrast"]}}, role="confirm") != _key(role="confirm")


def test_real_images_enter_by_their_content_and_in_no_search() -> None:
    def key(role: Role, real: dict[str, str] | None, path: str = "/a") -> str:
        tree = TrialConfig().model_dump(mode="json")
        tree["noise"]["real"] = dict.fromkeys(real or {}, path)
        return trial_key(tree, fingerprint="f", role=role, real=real)

    assert key("search", {"camera": "1"}) == key("search", None) == _key()
    assert key("train", None) == _key(role="train")
    assert key("train", {"camera": "1"}) == key("train", {"camera": "1"}, path="/b")
    assert len({key("train", real) for real in (None, {"camera": "1"}, {"camera": "2"}, {"other": "1"})}) == 4


def test_weights_enter_by_their_content(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("a.safetensors", "b.safetensors", "c.safetensors"))
    one.write_bytes(b"1"), same.write_bytes(b"1"), other.write_bytes(b"22")
    keys = [_key({"model": {"pretrained": str(path)}}) for path in (one, same, other)]
    assert keys[0] == keys[1] != keys[2]
