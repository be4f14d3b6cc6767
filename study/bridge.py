"""Between Ray Tune and a study: trials go out from a source, ends are settled in the ledger, ASHA knows the past.

Tune tells a searcher "done" for trials that finished, that a scheduler stopped, that failed and that were interrupted
alike. The ledger tells them apart, so every end is looked up there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from study import checkpoint
from study.again import Again
from study.config_search import Scheduler
from study.ledger import Ledger, Status, TrialSpec
from study.progress import Board
from study.rungs import Rungs
from study.runtime import StopRequest
from study.storage import StudyLostError
from study.trialsource import Source
from study.watchdog import hang_of

_NO_PROCESS = (
    "the trial's process was lost (killed, out of memory, or its machine went away) and all retries are used, or"
    " no machine took it for ten minutes"
)
_NO_END = "the trial ended without its last report"


class TuneSearcher(Searcher):
    """Hands a source's trials to Tune and settles how each of them ended.

    Args:
        source: Where trials come from and who wants to know how they end.
        count: Trials to hand out; one that is handed out again is not counted twice.
        job: What every trial is handed besides its own spec (see `study.worker.TrialJob`).
        pruned: Keys of trials that the scheduler stopped; the scheduler adds to it.
        again: Trials to hand out once more.
    """

    def __init__(
        self,
        source: Source,
        count: int,
        *,
        ledger: Ledger,
        board: Board,
        stop: StopRequest,
        job: Mapping[str, Any],
        pruned: set[str],
        again: Again,
    ) -> None:
        super().__init__(metric=source.metric, mode="max" if source.maximise else "min")
        self._source = source
        self._left = count
        self._again = again
        self._ledger = ledger
        self._board = board
        self._stop = stop
        self._job = dict(job)
        self._pruned = pruned
        self._keys: dict[str, str] = {}
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The next trial's config; None where one may come later, as after the loss of a process; or that all is done.

        Tune asks no more once it is told that all is done.
        """
        if self._stop.requested:
            return Searcher.FINISHED
        spec = self._again.take() or self._next_of_source()
        if spec is None:
            return None if self._keys or not self._again.is_empty else Searcher.FINISHED
        self._keys[trial_id] = spec.key
        self._numbers[spec.key] = spec.number
        done = int(self._ledger.metrics(spec.key).get("epoch", 0))
        train = spec.config["train"]
        epochs = 0 if train.get("budget") else train["epochs"]  # what a budget buys, its first report says
        self._board.start(spec.key, number=spec.number, epochs=epochs, epoch=done)
        return {**self._job, "spec": spec.as_dict()}

    def _next_of_source(self) -> TrialSpec | None:
        try:
            spec = self._source.next_spec() if self._left > 0 else None
        except StudyLostError:  # from now on `stop` says so, and trials under way are asked to save
            spec = None
        self._left = 0 if spec is None else self._left - 1
        if spec is not None:
            self._again.hand_out(spec)
        return spec

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass on a trial's figures after an epoch; its last report waits for its end."""
        key = self._keys[trial_id]
        if "epoch" in result and not result.get("final"):
            planned = result.get("train/epochs")
            self._board.reach(key, int(result["epoch"]), epochs=None if planned is None else math.ceil(planned))
            self._source.on_epoch(key, int(result["epoch"]), result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Settle a trial that Tune is done with.

        Args:
            error: The trial's process was lost, once more than `resources.retries` or with no place for the next one.
        """
        key = self._keys.pop(trial_id)
        if self._goes_out_again(key):  # also one that ended itself, as it could not reach the flag that stops it
            self._board.end(key, "running", number=self._numbers[key])
            self._board.note(f"trial {self._numbers[key]} ({key}) lost its process or its place; it goes on elsewhere")
            return
        self._again.end(key)
        if result and key in self._pruned and "epoch" in result:
            self._source.on_epoch(key, int(result["epoch"]), result)  # Tune does not hand on a result that it stops at
        status = self._settled(key, is_lost=error)
        metrics = self._ledger.metrics(key)
        value = self._source.figure(metrics)
        self._board.end(key, status, number=self._numbers[key], value=value)
        if status == "failed":
            self._board.note(f"trial {self._numbers[key]} ({key}) failed: {failure(self._ledger, key)}")
        self._source.on_end(key, status, metrics)

    def _goes_out_again(self, key: str) -> bool:
        is_wanted = key not in self._pruned and not self._stop.requested and self._ledger.status(key) == "running"
        return is_wanted and self._again.lose(key)

    def _settled(self, key: str, *, is_lost: bool) -> Status:
        is_pruned, is_stopping = key in self._pruned, self._stop.requested
        try:
            return settle(self._ledger, key, is_lost=is_lost, is_pruned=is_pruned, is_stopping=is_stopping)
        except StudyLostError:  # its end is for the driver that has the study now
            return "running"

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger is the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Refused: the ledger is the record.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("a study goes on from its ledger, never from Ray's own files: use `murk resume`")

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher into files that nobody reads: nothing of ours goes there."""
        return {}


def settle(ledger: Ledger, key: str, *, is_lost: bool, is_pruned: bool, is_stopping: bool) -> Status:
    """Give a trial that Tune is done with its end in the ledger, where the trial did not write one itself.

    Args:
        is_lost: Its process was lost for good.
        is_pruned: The scheduler stopped it.
        is_stopping: Someone asked to stop: a trial without an end is only interrupted.
    """
    status = ledger.status(key)
    if status in ("finished", "failed"):
        return status
    metrics = ledger.metrics(key)
    epoch = int(metrics.pop("epoch", 0))
    if is_pruned:
        if status != "pruned":
            ledger.append(key, "pruned", epoch=epoch, step=0, metrics=metrics, final=True)
        checkpoint.remove(ledger, key)
        return "pruned"
    if is_stopping:
        return "running"
    reason = _lost(hang_of(ledger, key)) if is_lost else _NO_END
    ledger.append(key, "failed", epoch=epoch, final=True, error=reason)
    return "failed"


def _lost(hang: str | None) -> str:
    return _NO_PROCESS if hang is None else f"{hang}; its process was ended and all retries are used"


def failure(ledger: Ledger, key: str) -> str:
    """The first line of a failed trial's error."""
    errors = [event.get("error") or "" for event in ledger.events(key) if event["event"] == "failed"]
    return (errors[-1].splitlines() or [""])[0] if errors else ""


class SilentProgress(TrialProgressCallback):
    """In place of Tune's own, which prints a line for a trial without a report however quiet it is to be."""

    def on_trial_result(self, *args: Any, **info: Any) -> None:
        """Say nothing."""

    def on_trial_error(self, *args: Any, **info: Any) -> None:
        """Say nothing."""

    def on_trial_complete(self, *args: Any, **info: Any) -> None:
        """Say nothing."""


class LedgerAsha(FIFOScheduler):
    """ASHA that knows trials by key, so that those of earlier launches count, and that ends no trial that is complete.

    Args:
        pruned: Takes the keys of trials that are stopped.
        num_images: Training images, by which gradient passes are counted.
        recorded: Gives the epochs that the ledger has of a trial, figures by number. A process that was lost between a
            checkpoint and its report leaves an epoch that is recorded later and never reported.
    """

    def __init__(
        self,
        settings: Scheduler,
        *,
        metric: str,
        maximise: bool,
        pruned: set[str],
        num_images: int = 1,
        recorded: Callable[[str], Mapping[int, Mapping[str, Any]]] | None = None,
    ) -> None:
        super().__init__()
        self._recorded = recorded
        self._judged: dict[str, int] = {}
        self._rungs = Rungs(settings, maximise=maximise, num_images=num_images)
        self._pruned = pruned
        self._objective = metric
        self._ask: Callable[[str], None] | None = None

    def leave_stopping_to(self, ask: Callable[[str], None]) -> None:
        """Have trials asked to end themselves, where Tune would kill their process.

        A killed process leaves the worker group it started, with the CPUs and GPUs that the next trial waits for.

        Args:
            ask: Takes a trial's key.
        """
        self._ask = ask

    def learn(
        self, key: str, metrics: Mapping[str, Any], *, method: str = "", epochs: float | None = None
    ) -> bool:  # fmt: skip
        """Take the figures of an epoch of an earlier launch, with its number as `epoch`; whether they stop the trial.

        Args:
            epochs: Of the whole trial, which is not stopped once all are done.
        """
        self._judged[key] = max(self._judged.get(key, 0), int(metrics["epoch"]))
        is_worse = self._rungs.judge(key, metrics, metrics.get(self._objective), method=method)
        return is_worse and (epochs is None or metrics["epoch"] < epochs)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Stop a trial that is not among the best at its rung, unless all its epochs are done."""
        del tune_controller
        config, key = trial.config["spec"]["config"], _key(trial)
        epochs = result.get("train/epochs", config["train"]["epochs"])  # a budget's are known by the report alone
        if result.get("final") or "epoch" not in result or key in self._pruned:
            return TrialScheduler.CONTINUE
        method = config.get("method", {}).get("name", "")
        unreported = self._unreported(key, before=int(result["epoch"]))
        if not any(self.learn(key, metrics, method=method, epochs=epochs) for metrics in [*unreported, result]):
            return TrialScheduler.CONTINUE
        self._pruned.add(key)
        if self._ask is None:
            return TrialScheduler.STOP
        self._ask(key)
        return TrialScheduler.CONTINUE

    def _unreported(self, key: str, *, before: int) -> list[dict[str, Any]]:
        first = self._judged.get(key, 0) + 1
        if self._recorded is None or first >= before:
            return []
        known = self._recorded(key)
        return [{**known[epoch], "epoch": epoch} for epoch in range(first, before) if epoch in known]

    def __getstate__(self) -> dict[str, Any]:
        """Nothing of ours goes into Ray's files."""
        return {}


def _key(trial: Any) -> str:
    return trial.config["spec"]["key"]
