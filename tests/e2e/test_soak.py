"""A soak: many short real trials whose processes are killed at random; every trial is accounted for once.

Ledger and MLflow are counted before each kill; what was there must be there in the end.

MURK_SOAK_TRIALS sets their number, `make test-all` to 300, a quarter of an hour on two busy cores; without it none run.
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.e2e import counts, drive, faults
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
    dice = random.Random(0)
    kills: list[int] = []

    def kill_now_and_then(watch: drive.Watch) -> None:
        while not watch.ended.wait(dice.uniform(*INTERVAL_S)):
            watch.count()
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

    started = time.monotonic()
    with drive.small_ray():
        ran = drive.run_with(specs, drive.runtime_of(retries=20), kill_now_and_then, poll_s=5.0)
    seconds = time.monotonic() - started
    ledger = ran.ledger
    assert ran.summary.failed == [], [ledger.events(key)[-1] for key in ran.summary.failed]
    assert kills, "nothing was killed"
    drive.expect_once(ran, specs, epochs=EPOCHS)
    starts = sum(name in {"start", "resume"} for spec in specs for name in faults.names_of(ledger, spec.key))
    assert len(specs) <= starts <= len(specs) + len(kills)
    again = sum(sum(counts.trained_again(ledger, spec.key)) for spec in specs)
    print(f"{len(specs)} trials in {seconds:.0f} s, {len(kills)} kills, {starts - len(specs)} started again, "
          f"{again} recorded epochs trained again, counted {len(ran.before)} times")  # fmt: skip
