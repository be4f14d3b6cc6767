"""The watchdog: it sees a call that waits for ever, leaves work alone, and ends a process that cannot be asked."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from study.ledger import Ledger
from study.trial import run_trial
from study.watchdog import Watchdog, beat_with, hang_of
from tests.unit.study.trials import ledger_of, tiny_spec

ROOT = Path(__file__).parents[3]


def hang_here(event: threading.Event) -> bool:
    return event.wait(30.0)


def test_a_hang_is_told_with_its_place() -> None:
    told = threading.Event()
    found: list[tuple[float, str]] = []

    def on_hang(seconds: float, where: str) -> None:
        found.append((seconds, where))
        told.set()

    with Watchdog(0.2, on_hang) as watchdog:
        watchdog.beat()
        assert hang_here(told), "nothing was told"
    ((seconds, where),) = found
    assert seconds >= 0.2
    assert "hang_here" in where


@pytest.mark.slow
def test_steps_keep_it_quiet_and_it_waits_for_the_first() -> None:
    found: list[float] = []
    ended = threading.Event()
    with Watchdog(0.5, lambda seconds, _: found.append(seconds)):
        ended.wait(0.8)  # reads and builds
    with Watchdog(0.5, lambda seconds, _: found.append(seconds)) as watchdog:
        for _ in range(40):
            watchdog.beat()
            ended.wait(0.02)
    assert not found


def test_no_time_out_starts_no_thread() -> None:
    before = threading.active_count()
    with Watchdog(None, lambda *_: None) as watchdog:
        watchdog.beat()
        assert threading.active_count() == before


def test_each_pass_is_a_step() -> None:
    beats: list[int] = []
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3))
    beat_with(network, lambda: beats.append(1))
    for mode in (True, False):
        network.train(mode)(torch.zeros(2, 3, 8, 8))
    assert len(beats) == 2


def test_a_trial_beats_while_it_trains_and_while_it_evaluates(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path)
    at: list[int] = []
    ledger = ledger_of(spec)
    run_trial(spec, beat=lambda: at.append(len(ledger.events(spec.key))))
    assert at[0] == 0, "watched from when all is built"
    assert {1, 2, 3} <= set(at), "in each epoch and after the last"


END = """
import ctypes, sys, time
from study.ledger import Ledger
from study.watchdog import Watchdog, end_process
ledger = Ledger({place!r}, "study")
with Watchdog({timeout}, end_process(ledger, "key"), frozen_s=1.0) as watchdog:
    watchdog.beat()
    {hang}
print("went on")
"""


def _run(tmp_path: Path, hang: str, timeout: float) -> subprocess.CompletedProcess[str]:
    code = END.format(place=str(tmp_path), timeout=timeout, hang=hang)
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120,
                          check=False)  # fmt: skip


@pytest.mark.slow
def test_a_process_that_hangs_records_it_and_ends(tmp_path: Path) -> None:
    done = _run(tmp_path, "time.sleep(100)", 1.0)
    assert done.returncode == 70
    assert "made no step for 1 s" in done.stderr
    ledger = Ledger(str(tmp_path), "study")
    (event,) = ledger.events("key")
    assert (event["event"], event["rank"]) == ("hung", 0)
    assert (hang_of(ledger, "key") or "").startswith("the trial made no step for 1 s (resources.hang_timeout_s), in ")
    ledger.append("key", "resume", epoch=0)
    assert hang_of(ledger, "key") is None


@pytest.mark.slow
def test_a_call_that_holds_pythons_lock_is_ended_too(tmp_path: Path) -> None:
    done = _run(tmp_path, "ctypes.PyDLL(None).sleep((time.sleep(0.5), 100)[1])", 1.0)
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert "went on" not in done.stdout
