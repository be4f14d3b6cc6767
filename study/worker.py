"""What Tune runs for a trial: `run_trial` in the trial's own process, or a group of Ray Train workers that each run it.

Both executors run the same function, write the same records and give the same numbers.
"""

from __future__ import annotations

import contextlib
import gc
import traceback
from types import TracebackType
from typing import Any, Literal, TypedDict

import ray.train
import ray.train.torch
import ray.tune
import torch
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from study.halving import halve
from study.ledger import Ledger, TrialSpec
from study.loop import Stopped
from study.memory import OutOfMemory
from study.preflight import Executor
from study.ranks import Ranks
from study.stopflag import StopPoll
from study.trial import run_trial
from study.watchdog import Watchdog, end_process, hang_of

_MAX_ERROR_CHARACTERS = 2000
# Of gloo and NCCL, to the workers that are left.
_BROKEN = (
    "Connection closed by peer",
    "Connection reset by peer",
    "remote process exited or there was a network error",
)
_MAX_WAITS = 30  # of a minute each for workers to find a place; Ray's default is to wait for ever


class TrialJob(TypedDict):
    """The config that Tune hands to a trial.

    Args:
        spec: `TrialSpec.as_dict()`.
        retries: Of a trial that lost a process.
        hang_timeout_s: As in `study.watchdog.Watchdog`.
        stop_flag: Name of the actor that says when to stop.
        workers: Fewest and most; Ray Train starts as many as there is room for, and resizes the group by itself.
        scratch: Folder for Ray Train's own files, on whichever machine the trial runs; nothing of value lies there.
    """

    spec: dict[str, Any]
    executor: Executor
    workers: tuple[int, int]
    cpus_per_worker: float
    gpus_per_worker: float
    retries: int
    on_out_of_memory: Literal["fail", "halve"]
    hang_timeout_s: float | None
    stop_flag: str
    scratch: str


class TuneReporter:
    """Reports to Tune from the trial's own process."""

    def report(self, metrics: dict[str, float], *, epoch: int, final: bool) -> None:
        """Hand the figures over; a trial that the scheduler ends is left by SystemExit here."""
        ray.tune.report({**metrics, "epoch": epoch, "final": final})


class TrainReporter:
    """Reports from a Ray Train worker; every worker must report equally often."""

    def report(self, metrics: dict[str, float], *, epoch: int, final: bool) -> None:
        """Hand the figures over and wait for the other workers."""
        ray.train.report({**metrics, "epoch": epoch, "final": final})


class RecordFailure:
    """Records an error of the `with` block as the trial's `failed` event and ends it there.

    Tune sees such a trial end like any other, so it is not tried again: the same settings fail again. A process that is
    lost raises nothing here; Tune starts that trial anew. `Stopped` is no failure.
    """

    def __init__(self, ledger: Ledger, key: str) -> None:
        self._ledger = ledger
        self._key = key

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, Stopped):
            return True
        if not isinstance(error, Exception):
            return False
        self._ledger.append(
            self._key, "failed", error=describe_error(error), final=True,
            traceback="".join(traceback.format_exception(error))[-4 * _MAX_ERROR_CHARACTERS :],
        )  # fmt: skip
        return True


def describe_error(error: BaseException) -> str:
    """An error in one line or few, as the ledger keeps it."""
    return f"{type(error).__name__}: {error}"[:_MAX_ERROR_CHARACTERS]


def tune_trial(config: dict[str, Any]) -> None:
    """Run one trial for Tune.

    Args:
        config: A `TrialJob`.
    """
    spec = TrialSpec(**config["spec"])
    poll = StopPoll(config["stop_flag"], spec.key)
    if poll.begin():
        return
    with RecordFailure(Ledger(spec.storage, spec.study), spec.key):
        if config["executor"] == "inline":
            _run_inline(spec, poll, config)
        else:
            _run_workers(spec, config)


def _run_inline(spec: TrialSpec, poll: StopPoll, config: dict[str, Any]) -> None:
    """Run a trial in this process, again with a smaller micro-batch where it ran out of memory and may."""
    _take_threads(config["cpus_per_worker"])
    ledger = Ledger(spec.storage, spec.study)
    while True:
        try:
            with Watchdog(config["hang_timeout_s"], end_process(ledger, spec.key)) as watchdog:
                run_trial(spec, TuneReporter(), should_stop=poll, beat=watchdog.beat)
            return
        except OutOfMemory as error:
            if config["on_out_of_memory"] == "fail":
                raise
            halve(ledger, spec, error)
        finally:
            # The process is used again for the next trial.
            gc.collect()
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()


def _run_workers(spec: TrialSpec, config: dict[str, Any]) -> None:
    """Run a trial on Ray Train workers, again when one of them was lost or may have a smaller micro-batch."""
    ledger = Ledger(spec.storage, spec.study)
    losses = 0
    while (error := _fit(config)) is not None:
        if isinstance(error, OutOfMemory) and config["on_out_of_memory"] == "halve":
            halve(ledger, spec, error)
        elif losses < config["retries"] and is_loss(error):
            losses += 1
        else:
            raise _told(error, hang_of(ledger, spec.key))


def _told(error: Exception, hang: str | None) -> Exception:
    """The error of a lost worker, or that it had hung before."""
    return error if hang is None else TimeoutError(f"{hang}; {describe_error(error)}")


def _fit(config: dict[str, Any]) -> Exception | None:
    """One run of the worker group; gives the error that lies behind Ray's own, if any."""
    gpus, (fewest, most) = config["gpus_per_worker"], config["workers"]
    needs = {"CPU": config["cpus_per_worker"]} | ({"GPU": gpus} if gpus else {})
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(
            num_workers=most if fewest == most else (fewest, most), use_gpu=bool(gpus), resources_per_worker=needs
        ),
        # NCCL refuses two workers on one GPU; gloo takes them.
        torch_config=TorchConfig(backend="nccl" if gpus >= 1 else "gloo"),
        run_config=ray.train.RunConfig(
            name=f"t-{config['spec']['key']}",
            storage_path=config["scratch"],
            callbacks=[TuneReportCallback()],
            failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=_MAX_WAITS),
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        return cause_of(error)
    return None


def train_worker(config: dict[str, Any]) -> None:
    """One worker's part of a trial."""
    context = ray.train.get_context()
    ranks = Ranks(context.get_world_rank(), context.get_world_size(), str(ray.train.torch.get_device()))
    _take_threads(config["cpus_per_worker"])
    spec = TrialSpec(**config["spec"])
    poll = StopPoll(config["stop_flag"], spec.key)
    on_hang = end_process(Ledger(spec.storage, spec.study), spec.key, rank=ranks.rank)
    with contextlib.suppress(Stopped), Watchdog(config["hang_timeout_s"], on_hang) as watchdog:
        # All workers agree on the answer before each acts on it, so one of them asking is enough.
        run_trial(
            spec, TrainReporter(), ranks=ranks, should_stop=poll if ranks.is_first else no, beat=watchdog.beat
        )  # fmt: skip


def no() -> bool:
    """Does not ask to stop."""
    return False


def cause_of(error: Exception) -> Exception:
    """The error that made a worker group fail: a lost worker, then one without memory, then that of the lowest rank.

    When a worker ends, the others fail too, by their broken connection to it, which comes last.
    """
    failures = getattr(error, "worker_failures", None)
    if not failures:
        return error
    ranked = [failures[rank] for rank in sorted(failures)]
    cause = min(ranked, key=_consequence)
    raised = getattr(cause, "_base_exc", cause)
    raised.add_note(str(error))  # the worker's own traceback, which pickling took from the error itself
    return raised


def _consequence(failure: Exception) -> int:
    """How far from the cause a worker's failure is."""
    error = getattr(failure, "_base_exc", failure)
    if _is_broken_connection(error):
        return 3
    return 0 if is_loss(failure) else 1 if isinstance(error, OutOfMemory) else 2


def is_loss(error: BaseException) -> bool:
    """Whether a process was lost, rather than an error raised in it; the others' broken connections say so too."""
    lost = isinstance(getattr(error, "health_check_failure", error), (RayActorError, NodeDiedError, OutOfMemoryError))
    return lost or _is_broken_connection(error)


def _is_broken_connection(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and any(saying in str(error) for saying in _BROKEN)


def _take_threads(cpus: float) -> None:
    torch.set_num_threads(max(1, int(cpus)))
