"""Checkpoints that cannot be written or read: the last good one stays, and what is lost is said."""

import dataclasses
import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD

from study import checkpoint
from study.ledger import Ledger, TrialSpec
from study.loop import Stopped
from study.storage import Storage
from study.trial import run_trial
from tests.unit.study.trials import ledger_of, tiny_config, tiny_spec

NAMES = ("checkpoint.pt", "checkpoint-before.pt")


def stop_after(count: int):
    calls = iter(range(1, count + 1))
    return lambda: next(calls) == count


def damage(ledger: Ledger, key: str, name: str, *, way: str) -> None:
    data = bytearray(ledger.read_bytes(key, name) or b"")
    assert data
    if way == "bit":
        data[len(data) // 2] ^= 0x10
    Path(ledger.path(key, name)).write_bytes({"cut": data[: len(data) // 3], "empty": b"", "bit": data}[way])


def full_disk(monkeypatch: pytest.MonkeyPatch, *names: str) -> list[str]:
    """Writing these files fails half-way, as on a full disk; gives what was tried."""
    tried: list[str] = []
    write = Path.write_bytes

    def fail(self: Path, data: Any) -> int:
        if any(self.name.startswith(f".{name}.") for name in names):
            tried.append(self.name)
            write(self, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", fail)
    return tried


def without_time(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in ("cost/seconds", "cost/latency_ms")}


@pytest.mark.slow
@pytest.mark.parametrize("way", ["cut", "empty", "bit"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_is_not_kept(
    tmp_path: Path, way: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, whole = tiny_spec(tmp_path), tiny_spec(tmp_path, study="whole")
    expected = run_trial(whole)
    with pytest.raises(Stopped):
        run_trial(spec, should_stop=stop_after(4))
    ledger = ledger_of(spec)
    good = ledger.read_bytes(spec.key, NAMES[1])
    damage(ledger, spec.key, NAMES[0], way=way)
    with monkeypatch.context() as patch:
        full_disk(patch, NAMES[0])
        with pytest.raises(Stopped):
            run_trial(spec, should_stop=stop_after(1))
    assert f"{NAMES[0]} of trial {spec.key} is damaged (its checksum does not fit)" in caplog.text
    assert ledger.read_bytes(spec.key, NAMES[1]) == good, "the damaged one took the good one's place"
    assert without_time(run_trial(spec)) == without_time(expected)


@pytest.mark.slow
def test_a_trial_whose_checkpoints_are_all_damaged_starts_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec, whole = tiny_spec(tmp_path), tiny_spec(tmp_path, study="whole")
    expected = run_trial(whole)
    with pytest.raises(Stopped):
        run_trial(spec, should_stop=stop_after(4))
    ledger = ledger_of(spec)
    for name in NAMES:
        damage(ledger, spec.key, name, way="bit")
    assert without_time(run_trial(spec)) == without_time(expected)
    assert "no checkpoint that can be read, so it starts anew" in caplog.text
    names = [event["event"] for event in ledger.events(spec.key)]
    assert names == ["start", "epoch", "start", "epoch", "final"], "each epoch is recorded once"


@pytest.mark.slow
def test_a_full_disk_costs_the_checkpoint_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first checkpoint is written, then the disk is full; the process is lost and the trial goes on from it."""
    config = tiny_config(train={"epochs": 3})
    spec, whole = tiny_spec(tmp_path, config), tiny_spec(tmp_path, config, study="whole")
    expected = run_trial(whole)
    with pytest.raises(Stopped):
        run_trial(spec, should_stop=stop_after(3))  # one epoch
    ledger = ledger_of(spec)
    good = ledger.read_bytes(spec.key, NAMES[0])
    with monkeypatch.context() as patch:
        tried = full_disk(patch, *NAMES)
        with pytest.raises(Stopped):
            run_trial(spec, should_stop=stop_after(5))
    assert len(tried) == 3, "after each of two epochs and at the stop"
    assert "No space left on device" in caplog.text
    assert ledger.read_bytes(spec.key, NAMES[0]) == good
    assert not [path.name for path in Path(ledger.path(spec.key)).iterdir() if path.name.startswith(".")]
    names = [event["event"] for event in ledger.events(spec.key)]
    assert names.count("unsaved") >= 1
    assert ledger.status(spec.key) == "running"
    assert without_time(run_trial(spec)) == without_time(expected)
    epochs = [event["epoch"] for event in ledger.events(spec.key) if event["event"] == "epoch"]
    assert epochs == [1, 2, 3]


def test_a_line_that_does_not_fit_the_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(str(tmp_path))
    storage.append_line("whole", "events.jsonl")
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda handle, data: write(handle, data[:3]))
        with pytest.raises(OSError, match="No space left"):
            storage.append_line("torn line", "events.jsonl")
    storage.append_line("next", "events.jsonl")
    assert storage.read_bytes("events.jsonl") == b"whole\ntor\nnext\n"


def saved(spec: TrialSpec, epochs: int, *, kept: int) -> tuple[torch.nn.Linear, SGD]:
    """A network whose weight is its epoch, saved after each."""
    network = torch.nn.Linear(1, 1)
    optimizer = SGD(network.parameters(), lr=0.1)
    for epoch in range(1, epochs + 1):
        with torch.no_grad():
            network.weight.fill_(epoch)
        checkpoint.save(ledger_of(spec), spec.key, network=network, optimizer=optimizer,
                        progress=checkpoint.Progress(epoch=epoch), kept=kept)  # fmt: skip
    return network, optimizer


@pytest.mark.parametrize("kept", [1, 2, 4])
def test_so_many_checkpoints_are_kept_as_the_setting_says(tmp_path: Path, kept: int) -> None:
    spec = tiny_spec(tmp_path)
    network, optimizer = saved(spec, 6, kept=kept)
    ledger, folder = ledger_of(spec), Path(ledger_of(spec).path(spec.key))
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == kept, names
    found = []
    for number in range(kept):
        progress = checkpoint.restore(ledger, spec.key, network=network, optimizer=optimizer)
        assert progress is not None
        assert network.weight.item() == progress.epoch
        found.append(progress.epoch)
        name = "checkpoint.pt" if number == 0 else f"checkpoint-before{'' if number == 1 else f'-{number}'}.pt"
        damage(ledger, spec.key, name, way="bit")
    assert found == [6, 5, 4, 3][:kept]
    assert checkpoint.restore(ledger, spec.key, network=network, optimizer=optimizer) is None
    checkpoint.remove(ledger, spec.key)
    assert list(folder.iterdir()) == []


def test_a_damaged_checkpoint_moves_no_good_one_along(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path)
    network, optimizer = saved(spec, 3, kept=3)
    damage(ledger_of(spec), spec.key, NAMES[0], way="bit")
    checkpoint.save(ledger_of(spec), spec.key, network=network, optimizer=optimizer,
                    progress=checkpoint.Progress(epoch=9), kept=3)  # fmt: skip
    found = []
    for name in (*NAMES, "checkpoint-before-2.pt"):
        progress = checkpoint.restore(ledger_of(spec), spec.key, network=network, optimizer=optimizer)
        found.append(progress.epoch if progress else None)
        damage(ledger_of(spec), spec.key, name, way="cut")
    assert found == [9, 2, 1]


@pytest.mark.slow
@pytest.mark.parametrize("kept", [1, 3])
def test_a_trial_keeps_what_its_study_asks_for(tmp_path: Path, kept: int) -> None:
    spec = dataclasses.replace(tiny_spec(tmp_path), checkpoints_kept=kept)
    with pytest.raises(Stopped):
        run_trial(spec, should_stop=stop_after(4))
    ledger = ledger_of(spec)
    assert len(list(Path(ledger.path(spec.key)).glob("checkpoint*.pt"))) == min(kept, 2)
    assert "checkpoints_kept" not in ledger.trial(spec.key), "how it runs is no part of what it is"
    run_trial(spec)
    assert list(Path(ledger.path(spec.key)).glob("checkpoint*.pt")) == []


def names_of(spec: TrialSpec) -> list[str]:
    return sorted(path.name for path in Path(ledger_of(spec).path(spec.key)).glob("checkpoint*.pt"))


def test_a_disk_without_room_for_old_ones_keeps_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tiny_spec(tmp_path)
    full_disk(monkeypatch, "checkpoint-before-3.pt")
    network, optimizer = saved(spec, 8, kept=5)
    progress = checkpoint.restore(ledger_of(spec), spec.key, network=network, optimizer=optimizer)
    assert progress is not None
    assert progress.epoch == 8


def test_fewer_are_kept_from_the_next_one_on(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path)
    saved(spec, 6, kept=5)
    assert len(names_of(spec)) == 5
    saved(spec, 1, kept=2)
    assert names_of(spec) == ["checkpoint-before.pt", "checkpoint.pt"]


def test_old_ones_that_cannot_be_removed_make_no_checkpoint_unsaved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny_spec(tmp_path)
    saved(spec, 6, kept=5)

    def refuse(self: Ledger, key: str, name: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), name)

    monkeypatch.setattr(Ledger, "remove", refuse)
    saved(spec, 1, kept=2)
    assert ledger_of(spec).events(spec.key) == []


def test_a_removal_that_is_cut_off_can_be_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tiny_spec(tmp_path)
    saved(spec, 6, kept=5)
    ledger, removed = ledger_of(spec), []

    def remove(self: Ledger, key: str, name: str) -> None:
        if len(removed) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO), name)
        removed.append(name)
        self.files.remove("trials", key, name)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "remove", remove)
        checkpoint.remove(ledger, spec.key)
    assert len(names_of(spec)) == 3
    checkpoint.remove(ledger, spec.key)
    assert names_of(spec) == []
