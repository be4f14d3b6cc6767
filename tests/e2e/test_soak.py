"""A soak: many short real trials whose processes are killed at random; every trial is accounted for once.

MURK_SOAK_TRIALS sets their number, `make test-all` to 300, a quarter of an hour on two busy cores; without it none run.
"""

import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.e2e import faults
from tests.unit.study.trials import tiny_config

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(2400),
    pytest.mark.skipif("MURK_SOAK_TRIALS" not in os.environ, reason="MURK_SOAK_TRIALS=300 runs the soak"),
]
TRIALS = int(os.environ.get("MURK_SOAK_TRIALS", "300"))
EPOCHS = 2
INTERVAL_S = (10.0, 20.0)  # above the start of a process, or nothing ever finishes
SHORT = tiny_config(
    data={"train_per_class": 6, "test_per_class": 2, "num_classes": 2}, optim={"sam": {"rho": 0.0}},
    noise={"validation": ["brightness"]}, train={"epochs": EPOCHS, "batch_size": 8, "reestimate_bn": False},
)  # fmt: skip


def test_random_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    specs = faults.specs_of(tmp_path, TRIALS, SHORT)
    folder = Path(specs[0].storage) / "faults"
    ended = threading.Event()
    dice = random.Random(0)
    kills: list[int] = []

    def kill_now_and_then() -> None:
        while not ended.wait(dice.uniform(*INTERVAL_S)):
            running = sorted(folder.glob("*.pid"))
            if not running:
                continue
            place = dice.choice(running)
            try:
                pid = int(place.read_text())
                os.kill(pid, signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError):
                continue  # the trial has just ended
            place.unlink(missing_ok=True)
            kills.append(pid)

    killer = threading.Thread(target=kill_now_and_then)
    started = time.monotonic()
    with faults.small_ray():
        killer.start()
        try:
            ledger, summary = faults.run_with(specs, faults.runtime_of(retries=20))
        finally:
            ended.set()
            killer.join()
    seconds = time.monotonic() - started
    assert summary.failed == [], [ledger.events(key)[-1] for key in summary.failed]
    assert kills, "nothing was killed"
    faults.expect_once(faults.count(ledger), specs, epochs=EPOCHS)
    starts = sum(name in {"start", "resume"} for spec in specs for name in faults.names_of(ledger, spec.key))
    assert len(specs) <= starts <= len(specs) + len(kills)
    print(f"{len(specs)} trials in {seconds:.0f} s, {len(kills)} kills, {starts - len(specs)} started again")
