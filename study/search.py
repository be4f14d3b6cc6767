"""The phases' way to Ray Tune: a search, or a fixed list of trials, each launch anew from the ledger."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from study.again import Again
from study.config_search import SearchConfig
from study.ledger import Ledger, TrialSpec
from study.progress import Board, ProgressLine
from study.runtime import Interrupted, Runtime, StopRequest, catch_signals, start_ray, stop_ray
from study.searcher import FactsOf, OptunaSource
from study.trialsource import ListSource, PastTrial, Source, Space, SpecOf

if TYPE_CHECKING:
    from study.bridge import LedgerAsha

__all__ = ["Interrupted", "PhaseSummary", "Runtime", "run_list", "run_search", "start_ray", "stop_ray", "summary_of"]

Trainable = Callable[[dict[str, Any]], None]

_TUNE_SETTINGS = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours lets running trials save
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a report without the objective is a failed trial, not a failed study
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
}
_QUIET_OUTPUT = {"RAY_AIR_NEW_OUTPUT": "0"}  # the new output prints a table even when it is to be silent
_WATCH_INTERVAL_S = 0.2


@dataclass(frozen=True)
class PhaseSummary:
    """How a phase stands.

    Args:
        keys: All its trials by number; `done`, `failed` and `pruned` are parts of it.
        exhausted: A search that ended early, because its space gives no more new trials.
        gave_up: One that ended so because too many suggestions in a row broke a constraint before training.
        refusals: Messages of suggestions whose keys did not go together.
        skipped: Suggestions of this launch that broke a constraint before training.
    """

    keys: list[str]
    done: list[str]
    failed: list[str]
    pruned: list[str]
    exhausted: bool = False
    gave_up: bool = False
    refusals: tuple[str, ...] = ()
    skipped: int = 0


def run_search(
    search: SearchConfig,
    *,
    space: Space,
    spec_of: SpecOf,
    phase: str,
    ledger: Ledger,
    runtime: Runtime,
    trainable: Trainable | None = None,
    facts_of: FactsOf | None = None,
    num_images: int = 1,
    past: Sequence[PastTrial] = (),
) -> PhaseSummary:
    """Run a search phase from where the ledger stands to its number of trials.

    Args:
        spec_of: Makes the trial of (sampled dotted keys, number); raises ValueError where they do not go together.
        trainable: What Tune runs for a trial; `study.worker.tune_trial` if left out.
        facts_of: A trial's metrics that its configuration alone decides; suggestions that break a constraint by them
            are not trained.
        num_images: Training images, by which a scheduler in gradient passes counts.
        past: Trials of earlier studies that the sampler is told of.

    Raises:
        Interrupted: Someone asked to stop; trials under way have saved.
        ValueError: No suggestion gives a valid trial, or none keeps the constraints.
    """

    def fed() -> OptunaSource:
        source = OptunaSource(space, search, spec_of=spec_of, ledger=ledger, phase=phase, facts_of=facts_of, past=past)
        source.feed()
        return source

    source, pruned, scheduler = fed(), set[str](), None
    if _num_ended(source) < search.trials:
        scheduler, stopped = _asha(search, ledger, source, pruned, num_images)
        if stopped:
            _settle_stopped(ledger, stopped)
            source = fed()
    board = _board(source, ledger, runtime, phase=phase, total=search.trials, known=list(source.known))
    if _num_ended(source) < search.trials:
        _run(source, search.trials - _num_ended(source), ledger=ledger, board=board, runtime=runtime, pruned=pruned,
             scheduler=scheduler, trainable=trainable)  # fmt: skip
    return summary_of(ledger, list(source.known), exhausted=source.exhausted, gave_up=source.gave_up,
                    refusals=tuple(source.refusals), skipped=source.skipped)  # fmt: skip


def run_list(
    specs: Sequence[TrialSpec],
    *,
    phase: str,
    ledger: Ledger,
    runtime: Runtime,
    trainable: Trainable | None = None,
) -> PhaseSummary:
    """Run a fixed list of trials, except those that are finished; failed ones are tried again.

    Raises:
        Interrupted: Someone asked to stop; trials under way have saved.
    """
    by_key = {spec.key: spec for spec in specs}
    left = [spec for key, spec in by_key.items() if ledger.status(key) != "finished"]
    source = ListSource(left, ledger)
    finished = [key for key in by_key if ledger.status(key) == "finished"]
    board = _board(source, ledger, runtime, phase=phase, total=len(by_key), known=finished)
    if left:
        _run(source, len(left), ledger=ledger, board=board, runtime=runtime, pruned=set(), scheduler=None,
             trainable=trainable)  # fmt: skip
    return summary_of(ledger, list(by_key))


def _board(
    source: Source, ledger: Ledger, runtime: Runtime, *, phase: str, total: int, known: Sequence[str]
) -> Board:  # fmt: skip
    board = Board(phase, total, source.metric, source.maximise, runtime.capacity.max_concurrent)
    for key in known:
        status = ledger.status(key)
        if status != "running":
            value = source.figure(ledger.metrics(key))
            board.end(key, status, number=ledger.trial(key)["number"], value=value)
    return board


def summary_of(ledger: Ledger, keys: list[str], **more: Any) -> PhaseSummary:
    """How trials stand in the ledger, finished or not."""
    of: dict[str, list[str]] = {"finished": [], "failed": [], "pruned": [], "running": []}
    for key in keys:
        of[ledger.status(key)].append(key)
    return PhaseSummary(keys, of["finished"], of["failed"], of["pruned"], **more)


def _asha(
    search: SearchConfig, ledger: Ledger, source: OptunaSource, pruned: set[str], num_images: int
) -> tuple[LedgerAsha | None, list[str]]:
    """The scheduler of a search, told of the epochs of earlier launches; and trials that it had stopped at the end.

    Epochs are told in the order of their times, so that each is judged by those that came before it. A trial without an
    end whose last epoch stops it was cut off between that decision and its record. What a stopped trial still did
    before it ended is not judged.
    """
    if search.scheduler is None:
        return None, []
    from study.bridge import LedgerAsha

    scheduler = LedgerAsha(
        search.scheduler, metric=source.metric, maximise=source.maximise, pruned=pruned, num_images=num_images,
        recorded=lambda key: {event["epoch"]: event["metrics"] for event in ledger.events(key)
                              if event["event"] == "epoch"},
    )  # fmt: skip
    configs = {key: ledger.trial(key)["config"] for key in source.known}
    reports = [(event["time"], key, event) for key in configs for event in ledger.events(key)
               if event["event"] == "epoch"]  # fmt: skip
    stops: dict[str, bool] = {}
    for _, key, event in sorted(reports, key=lambda report: report[0]):
        if stops.get(key) and source.known[key] == "pruned":
            continue
        method, metrics = configs[key].get("method", {}).get("name", ""), event["metrics"]
        epochs = metrics.get("train/epochs", configs[key].get("train", {}).get("epochs"))
        stops[key] = scheduler.learn(key, {**metrics, "epoch": event["epoch"]}, method=method, epochs=epochs)
    return scheduler, [key for key, status in source.known.items() if status == "running" and stops.get(key)]


def _settle_stopped(ledger: Ledger, keys: Sequence[str]) -> None:
    from study.bridge import settle

    for key in keys:
        settle(ledger, key, is_lost=False, is_pruned=True, is_stopping=False)


def _num_ended(source: OptunaSource) -> int:
    return sum(status != "running" for status in source.known.values())


def _run(
    source: Source,
    count: int,
    *,
    ledger: Ledger,
    board: Board,
    runtime: Runtime,
    pruned: set[str],
    scheduler: LedgerAsha | None,
    trainable: Trainable | None,
) -> None:
    """Run `count` trials of a source by a fresh Tuner."""
    from ray import tune

    from study.bridge import SilentProgress, TuneSearcher
    from study.worker import tune_trial

    capacity, resources = runtime.capacity, runtime.resources
    with (
        tempfile.TemporaryDirectory(prefix="murk-ray-") as scratch,
        _environment(_TUNE_SETTINGS | ({} if runtime.verbose else _QUIET_OUTPUT)),
        _credentials_stay(),
        catch_signals(ledger.is_lost) as stop,
        _stop_flag(stop) as flag,
        _quiet_log(is_quiet=not runtime.verbose),
        ProgressLine(board),
    ):
        job = {
            "executor": capacity.executor,
            "workers": (resources.min_workers, resources.max_workers),
            "cpus_per_worker": resources.cpus_per_worker,
            "gpus_per_worker": resources.gpus_per_worker,
            "retries": resources.retries,
            "on_out_of_memory": resources.on_out_of_memory,
            "hang_timeout_s": resources.hang_timeout_s,
            "stop_flag": flag.name,
            "scratch": scratch,
        }
        if scheduler is not None and capacity.executor == "ray_train":
            scheduler.leave_stopping_to(flag.stop)
        again = Again(flag.begun, resources.retries)
        searcher = TuneSearcher(
            source, count, ledger=ledger, board=board, stop=stop, job=job, pruned=pruned, again=again
        )
        tune.Tuner(
            tune.with_resources(trainable or tune_trial, capacity.per_trial),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=-1,  # the searcher counts: a trial may go out again
                max_concurrent_trials=capacity.max_concurrent,
                reuse_actors=capacity.executor == "inline",
                trial_name_creator=trial_name,
                trial_dirname_creator=trial_folder,
            ),
            run_config=tune.RunConfig(
                name=board.phase,
                storage_path=scratch,
                failure_config=tune.FailureConfig(max_failures=resources.retries),
                verbose=1 if runtime.verbose else 0,
                callbacks=None if runtime.verbose else [SilentProgress()],
            ),
        ).fit()
        if stop.requested:
            raise Interrupted


def trial_name(trial: Any) -> str:
    """A trial's name in Tune: its key."""
    return trial.config["spec"]["key"]


def trial_folder(trial: Any) -> str:
    """Its folder among Ray's own files, another one each time that it goes out."""
    return f"{trial_name(trial)}-{trial.trial_id}"


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the block."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _credentials_stay() -> Iterator[None]:
    """Keep Tune from copying AWS's credentials into each actor's runtime environment, which Ray writes into its logs.

    Processes of a Ray that Murk starts have the driver's environment anyway; those of another have their machine's.
    """
    from ray.tune.execution import class_cache

    before = class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in before if not name.startswith("AWS_")}
    try:
        yield
    finally:
        class_cache.ENV_VARS_TO_PROPAGATE = before


@contextmanager
def _quiet_log(*, is_quiet: bool) -> Iterator[None]:
    """Keep Tune's log from the terminal: failed trials have their line, and errors of Tune itself are raised."""
    log = logging.getLogger("ray.tune")
    before = log.level
    if is_quiet:
        log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


class _Flag(NamedTuple):
    """The flag that all trials of a launch look at."""

    name: str
    actor: Any

    def stop(self, key: str) -> None:
        """Ask one trial to stop."""
        self.actor.stop.remote(key)

    def begun(self, key: str) -> int:
        """How many processes of a trial have begun in this launch."""
        import ray

        return int(ray.get(self.actor.begun.remote(key)))


@contextmanager
def _stop_flag(stop: StopRequest) -> Iterator[_Flag]:
    """An actor that shows the request to stop to trials on any machine.

    A signal handler cannot talk to Ray, which may be in the middle of a call: a thread does. The actor lives beside the
    driver: on any other node it would die with that, and all trials would take the driver for gone.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from study.stopflag import StopFlag

    name = f"murk-stop-{uuid.uuid4().hex}"
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    flag: Any = StopFlag.options(name=name, scheduling_strategy=here).remote()
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            if stop.wait(_WATCH_INTERVAL_S):
                flag.up.remote()
                return

    watcher = threading.Thread(target=watch, name="murk-stop", daemon=True)
    watcher.start()
    try:
        yield _Flag(name, flag)
    finally:
        ended.set()
        watcher.join()
