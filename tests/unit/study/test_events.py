"""The event log is read once and only as far as needed; what it says is always what reading it anew says."""

import json
import multiprocessing
import pickle
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from study import events as module
from study.events import EventLog
from study.ledger import Ledger, Status


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else f"memory://{uuid4().hex}"


def _anew(ledger: Ledger, key: str) -> dict[str, Any]:
    """Events, status and metrics as the simplest reader has them."""
    events, status, metrics = [], "running", {}
    for line in (ledger.read_bytes(key, "events.jsonl") or b"").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if not isinstance(event, dict) or "event" not in event:
            continue
        events.append(event)
        ends: dict[str, Status] = {"final": "finished", "pruned": "pruned", "failed": "failed"}
        status = ends.get(event["event"], "running" if event["event"] in {"start", "resume"} else status)
        if event.get("metrics"):
            metrics = {**event["metrics"], "epoch": event.get("epoch", 0)}
    return {"events": events, "status": status, "metrics": metrics}


def _asked(ledger: Ledger, key: str) -> dict[str, Any]:
    found = {"status": ledger.status(key), "metrics": ledger.metrics(key), "events": ledger.events(key)}
    assert list(ledger.events_backwards(key)) == found["events"][::-1]
    return found


STEPS = [
    ("start", {}), ("epoch", {"epoch": 1, "metrics": {"acc/noise": 0.1}}), ("failed", {"error": "e"}), ("resume", {}),
    ("epoch", {"epoch": 2, "metrics": {"acc/noise": 0.2}}), ("epoch", {"epoch": 3, "metrics": {}}),
    ("pruned", {"epoch": 3, "metrics": {}}), ("start", {}), ("final", {"epoch": 4, "metrics": {"acc/noise": 0.3}}),
]  # fmt: skip


def test_each_state_is_what_reading_anew_gives_also_when_another_ledger_appends(storage: str) -> None:
    reader, writer = Ledger(storage, "s"), Ledger(storage, "s")
    assert _asked(reader, "k") == {"events": [], "status": "running", "metrics": {}}
    for event, fields in STEPS:
        writer.append("k", event, **fields)
        assert _asked(reader, "k") == _anew(reader, "k") == _asked(reader, "k")
    assert [event["event"] for event in reader.events("k")] == [name for name, _ in STEPS]


def test_what_another_process_appends_is_seen(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), "s")
    ledger.append("k", "start")
    assert ledger.status("k") == "running"
    process = multiprocessing.get_context("fork").Process(target=ledger.append, args=("k", "final"))
    process.start()
    process.join()
    assert ledger.status("k") == "finished"


def test_a_line_counts_when_it_is_whole(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), "s")
    ledger.append("k", "start")
    place = Path(ledger.path("k", "events.jsonl"))
    whole = b'{"event": "final", "metrics": {"acc/noise": 0.5}, "epoch": 7}\n'
    for cut in range(1, len(whole) + 1):  # as a writer's bytes may arrive on a network mount
        with place.open("ab") as handle:
            handle.write(whole[cut - 1 : cut])
        assert _asked(ledger, "k") == _anew(ledger, "k")
    assert ledger.status("k") == "finished"


@pytest.mark.parametrize("torn", [b'{"event": "fin', b"\xff\xfe\n", b"[1]\n", b"{}\n", b"null\n", b"\n", b"7"])
def test_what_is_no_event_is_passed_over_by_all_readers(tmp_path: Path, torn: bytes) -> None:
    ledger = Ledger(str(tmp_path), "s")
    ledger.append("k", "final", epoch=1, metrics={"acc/noise": 0.5})
    place = Path(ledger.path("k", "events.jsonl"))
    place.write_bytes(place.read_bytes() + torn)
    assert _asked(ledger, "k") == _anew(ledger, "k")
    assert ledger.status("k") == "finished"


def test_a_file_put_in_place_whole_is_read_anew(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), "s")
    ledger.append("k", "final")
    line = Path(ledger.path("k", "events.jsonl")).read_bytes()
    assert ledger.status("k") == "finished"
    ledger.write_bytes("k", "events.jsonl", line.replace(b"final", b"start"))  # of the same length
    assert ledger.status("k") == "running"
    ledger.remove("k", "events.jsonl")
    assert ledger.events("k") == []


def test_many_trials_are_told_apart_and_few_are_kept(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), "s")
    keys = [f"k{number}" for number in range(30)]
    for key in keys:
        ledger.append(key, "epoch", epoch=int(key[1:]), metrics={"acc/noise": 0.5})
    for _ in range(2):
        assert [ledger.metrics(key)["epoch"] for key in keys] == list(range(30))
        assert len(ledger._recent._logs) <= module._KEPT


def test_a_line_is_parsed_once_and_only_when_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    parsed: list[bytes] = []
    parse = module.parse_event
    monkeypatch.setattr(module, "parse_event", lambda line: parsed.append(line) or parse(line))
    ledger = Ledger(str(tmp_path), "s")
    for event, fields in STEPS:
        ledger.append("k", event, **fields)
    assert (ledger.status("k"), ledger.metrics("k")["epoch"]) == ("finished", 4)
    assert len(parsed) == 1
    assert len(ledger.events("k")) == len(parsed) == len(STEPS)


def test_a_ledger_can_be_pickled(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), "s")
    ledger.append("k", "final")
    assert ledger.status("k") == "finished"
    assert pickle.loads(pickle.dumps(ledger)).status("k") == "finished"


def test_a_log_is_changed_by_no_reader() -> None:
    log = EventLog(b'{"event": "start"}\n')
    log.events().clear()
    assert len(log.events()) == 1
