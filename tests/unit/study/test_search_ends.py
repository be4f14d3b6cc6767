"""How a trial's failure is recorded, what signals do, and what Ray is not to write down."""

import os
import signal
import threading
import traceback

import pytest
from ray.exceptions import RayActorError
from ray.train import WorkerGroupError

from study import search
from study.ledger import Ledger
from study.loop import Stopped
from study.runtime import catch_signals
from study.worker import RecordFailure, cause_of, is_loss


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(str(tmp_path), "study")


def test_error_becomes_a_failed_event_and_ends_there(ledger):
    with RecordFailure(ledger, "k"):
        raise ValueError("lr must be positive, but got -1")
    (event,) = ledger.events("k")
    assert event["error"] == "ValueError: lr must be positive, but got -1"
    assert "Traceback" in event["traceback"]
    assert ledger.status("k") == "failed"


def test_stopping_is_no_failure(ledger):
    with RecordFailure(ledger, "k"):
        raise Stopped
    assert ledger.events("k") == []


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_ends_a_process_passes(ledger, kind):
    with pytest.raises(kind), RecordFailure(ledger, "k"):
        raise kind
    assert ledger.events("k") == []


class WorkerLost(Exception):
    """As Ray Train says that a worker no longer answers."""

    health_check_failure = RayActorError()


def test_lost_worker_comes_before_the_errors_it_causes():
    broken, lost = RuntimeError("Connection closed by peer"), WorkerLost()
    assert cause_of(WorkerGroupError("", {0: broken, 1: lost})) is lost
    assert is_loss(lost)
    assert not is_loss(ValueError("the worker's own"))


def test_error_of_the_lowest_rank_is_the_cause_and_carries_the_text_of_all():
    errors: dict[int, Exception] = {1: ValueError("second"), 0: ValueError("first")}
    cause = cause_of(WorkerGroupError("in run_trial", errors))
    assert cause is errors[0]
    assert "in run_trial" in "".join(traceback.format_exception(cause))


def test_first_signal_asks_and_the_second_ends(capfd):
    before = signal.getsignal(signal.SIGINT)
    with catch_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert "running trials save" in capfd.readouterr().err


def test_signals_are_left_alone_outside_the_main_thread():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def inside() -> None:
        with catch_signals():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [before]


def test_credentials_stay_out_of_what_ray_writes_down(monkeypatch):
    from ray.tune.execution.class_cache import _ActorClassCache

    class Trainable:
        pass

    def passed_on() -> dict[str, str]:
        return _ActorClassCache().get(Trainable)._default_options["runtime_env"]["env_vars"]

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("RAY_CHDIR_TO_TRIAL_DIR", "0")
    assert passed_on()["AWS_SECRET_ACCESS_KEY"] == "hidden", "Ray does not do that any more: the guard may go"
    with search._credentials_stay():
        kept = passed_on()
    assert kept["RAY_CHDIR_TO_TRIAL_DIR"] == "0"
    assert "AWS_SECRET_ACCESS_KEY" not in kept
    assert "AWS_SECRET_ACCESS_KEY" in passed_on()
