"""What Murk costs besides training: each trial, the driver, MLflow, a resume, and how all that grows with the trials.

python tests/bench/bench_orchestration.py [--parts resume,loop,load,mlflow,growth] [--trials N ...] [--at-once N]

Trials only play at training: they wait, write what a trial of a search writes and report 20 times. Wall time and the
driver's processor time stand side by side, since other work on the machine delays the first. `loop` compares with the
same functions called in a loop, `mlflow` with Ray's own callback on the same trials.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])  # of workers

import optuna  # noqa: E402
import ray  # noqa: E402

from study.config_search import ResourcesConfig  # noqa: E402
from study.ledger import Ledger  # noqa: E402
from study.preflight import check_fit  # noqa: E402
from study.projection import Projection  # noqa: E402
from study.runtime import Runtime, cluster_settings, local_settings  # noqa: E402
from study.search import Trainable, run_search  # noqa: E402
from study.searcher import OptunaSource  # noqa: E402
from study.tracking import Tracker, connect  # noqa: E402
from tests.bench import orchestration_mlflow as mlflow_calls  # noqa: E402
from tests.bench.orchestration_study import (  # noqa: E402
    NUM_REPORTS,
    PACE_S,
    PHASE,
    SHORT_S,
    SimulatedStudy,
    add_past,
    at_once,
    paced,
    play,
    short,
    simulated_study,
)
from tests.bench.step_setups import heading  # noqa: E402

NUM_CPUS = 2
NUM_SHORT = 50
NUM_PACED = 40
PARTS = ("resume", "loop", "load", "mlflow", "growth")


class Mark(NamedTuple):
    """Clocks and memory when a trial was made."""

    wall_s: float
    cpu_s: float
    rss_bytes: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="which to run, with commas")
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 300], help="trials for `resume` and `growth`")
    parser.add_argument("--algorithm", default="tpe", help="the search's, for `growth`")
    parser.add_argument("--at-once", type=int, default=NUM_CPUS, help="trials at once, whatever the cores")
    parser.add_argument("--address", help="a Ray that is up, in place of one of its own")
    given = parser.parse_args()
    parts = given.parts.split(",")
    print(heading(f"Cost of orchestration; Ray {ray.__version__}, Optuna {optuna.__version__}"))
    print(f"load of the machine at the start: {os.getloadavg()[0]:.1f}\n", flush=True)
    if "resume" in parts:
        resume(given.trials)
    if {"loop", "load", "mlflow", "growth"} & set(parts):
        with ray_of(given.address, given.at_once) as runtime:
            if "loop" in parts:
                loop(runtime)
            if "load" in parts:
                load(runtime)
            if "mlflow" in parts:
                mlflow_beside(runtime)
            for number in given.trials if "growth" in parts else ():
                growth(runtime, number, given.algorithm)


def resume(numbers: list[int]) -> None:
    """A study all of whose trials are finished, launched again; the next suggestion; a pass of MLflow's thread."""
    print("| finished trials | resume, wall s | CPU s | ms a trial | next suggestion, CPU ms | first pass, CPU s "
          "| later pass, CPU ms |\n|---:|---:|---:|---:|---:|---:|---:|")  # fmt: skip
    runtime = Runtime(ResourcesConfig(), check_fit(ResourcesConfig(), [{"CPU": float(NUM_CPUS)}]), is_ours=False)
    for number in numbers:
        with study_of(number) as study:
            add_past(study, number)
            before = mark()
            search(study, runtime, at_once)
            whole = since(before)
            source = OptunaSource(
                study.space, study.config.search, spec_of=study.spec_of, ledger=study.ledger, phase=PHASE
            )
            source.feed()
            before = mark()
            for _ in range(5):
                source.next_spec()
            ask = since(before)
            projection = Projection(study.ledger, mlflow_calls.NoRuns())  # pyright: ignore[reportArgumentType]
            projection.advance()  # makes the runs
            before = mark()
            projection = Projection(study.ledger, mlflow_calls.NoRuns())  # pyright: ignore[reportArgumentType]
            projection.advance()
            first = since(before)
            before = mark()
            projection.advance()
            later = since(before)
        print(f"| {number} | {whole.wall_s:.1f} | {whole.cpu_s:.1f} | {whole.cpu_s / number * 1e3:.2f} "
              f"| {ask.cpu_s / 5 * 1e3:.0f} | {first.cpu_s:.1f} | {later.cpu_s * 1e3:.0f} |", flush=True)  # fmt: skip
    print()


def loop(runtime: Runtime) -> None:
    """Trials of a second each through Murk and in a loop."""
    with study_of(NUM_SHORT) as study:
        specs = [study.spec_of(params, number) for number, params in enumerate(study.space.draws(NUM_SHORT))]
        before = mark()
        for spec in specs:
            study.ledger.create_trial(spec)
            play(spec, study.ledger, lambda *_: None, wait_s=SHORT_S / NUM_REPORTS)
        plain = since(before)
    with study_of(NUM_SHORT) as study:
        search(study, runtime, at_once, trials=NUM_CPUS)  # the first processes start here
    with study_of(NUM_SHORT) as study:
        before = mark()
        search(study, runtime, short)
        ours = since(before)
    slots = runtime.capacity.max_concurrent
    overhead_s = ours.wall_s * slots / NUM_SHORT - plain.wall_s / NUM_SHORT
    print(f"{NUM_SHORT} trials of {SHORT_S:g} s and what they write, {slots} at once through Murk:\n\n"
          "| | wall s | s a trial | driver's CPU s |\n|---|---:|---:|---:|\n"
          f"| in a loop | {plain.wall_s:.1f} | {plain.wall_s / NUM_SHORT:.2f} | {plain.cpu_s:.1f} |\n"
          f"| Murk | {ours.wall_s:.1f} | {ours.wall_s / NUM_SHORT:.2f} | {ours.cpu_s:.1f} |\n\n"
          f"wall time, loop / Murk {plain.wall_s / ours.wall_s:.2f}; a trial holds its slot {overhead_s * 1e3:.0f} ms "
          "longer than in the loop\n", flush=True)  # fmt: skip


def load(runtime: Runtime) -> None:
    """The driver's share of a core while two trials report five times a second each, with MLflow and without.

    What is there once, the first processes, MLflow's import and its new database, is apart.
    """
    number = NUM_PACED
    with study_of(NUM_CPUS) as study:
        search(study, runtime, at_once)
    print(f"{number} trials with a report every {PACE_S:g} s, {runtime.capacity.max_concurrent} at once:\n\n"
          "| | reports a second | driver, % of a core | CPU ms a report |\n|---|---:|---:|---:|")  # fmt: skip
    for label, is_tracked in (("ledger only", False), ("with MLflow (SQLite)", True)):
        opened_s = 0.0
        with study_of(number) as study:
            if is_tracked:
                before = mark()
                connect(database_of(study.ledger)).search_experiments()
                opened_s = since(before).cpu_s
            before = mark()
            with tracked(study, is_on=is_tracked):
                search(study, runtime, paced)
            cost = since(before)
        reports = number * (NUM_REPORTS + 1)
        print(f"| {label} | {reports / cost.wall_s:.1f} | {100 * cost.cpu_s / cost.wall_s:.1f} "
              f"| {cost.cpu_s / reports * 1e3:.1f} |", flush=True)  # fmt: skip
        if opened_s:
            print(f"\nopening MLflow: {opened_s:.1f} s of processor time, once")
    print()


def mlflow_beside(runtime: Runtime) -> None:
    """MLflow calls for each trial: Murk's projection, and Ray's own callback on the same trials."""
    number = 20
    rows = []
    with study_of(number) as study, mlflow_calls.counted() as calls:
        before = mark()
        with tracked(study, is_on=True):
            search(study, runtime, at_once)
        rows.append(("Murk's projection", since(before), dict(calls)))
    with study_of(number) as study, mlflow_calls.counted() as calls:
        before = mark()
        mlflow_calls.run_with_rays_callback(study, number, uri=database_of(study.ledger))
        rows.append(("Ray's callback", since(before), dict(calls)))
    print(f"{number} trials that report at once, into SQLite:\n\n"
          "| | MLflow calls a trial | wall s a trial | driver's CPU s a trial | which calls |\n"
          "|---|---:|---:|---:|---|")  # fmt: skip
    for label, cost, calls in rows:
        which = ", ".join(f"{name} {count / number:.1f}" for name, count in sorted(calls.items(), key=lambda x: -x[1]))
        print(f"| {label} | {sum(calls.values()) / number:.1f} | {cost.wall_s / number:.2f} "
              f"| {cost.cpu_s / number:.2f} | {which} |", flush=True)  # fmt: skip
    print()


def growth(runtime: Runtime, number: int, algorithm: str) -> None:
    """Trials that report at once: how wall time, the driver's time and its memory grow with their number."""
    print(f"{number} trials, {runtime.capacity.max_concurrent} at once, {algorithm}, no MLflow:\n\n"
          "| trials so far | wall ms a trial | driver's CPU ms a trial | driver's memory, MB |\n"
          "|---:|---:|---:|---:|", flush=True)  # fmt: skip
    marks: list[Mark] = []
    step = max(50, number // 10)

    def note() -> None:
        marks.append(mark())
        if len(marks) > step and len(marks) % step == 1:
            print_growth(marks, step)

    with study_of(number, algorithm) as study:
        search(study, runtime, at_once, note=note)
        note()  # a row is of the trials before one that is made, so the last has none else
    print()


def print_growth(marks: list[Mark], step: int) -> None:
    """The mean over the last trials."""
    now, then = marks[-1], marks[-1 - step]
    print(f"| {len(marks) - 1} | {(now.wall_s - then.wall_s) / step * 1e3:.0f} "
          f"| {(now.cpu_s - then.cpu_s) / step * 1e3:.1f} | {now.rss_bytes / 2**20:.0f} |", flush=True)  # fmt: skip


def search(
    study: SimulatedStudy, runtime: Runtime, trainable: Trainable, *, trials: int | None = None, note: Any = None
) -> None:
    """Run the study's search."""

    def spec_of(params: dict[str, Any], number: int) -> Any:
        if note:
            note()
        return study.spec_of(params, number)

    settings = study.config.search
    if trials is not None:
        settings = settings.model_copy(update={"trials": trials})
    run_search(settings, space=study.space, spec_of=spec_of, phase=PHASE, ledger=study.ledger, runtime=runtime,
               trainable=trainable)  # fmt: skip


@contextmanager
def study_of(trials: int, algorithm: str = "tpe") -> Iterator[SimulatedStudy]:
    with tempfile.TemporaryDirectory(prefix="murk-bench-") as folder:
        yield simulated_study(Path(folder), trials=trials, algorithm=algorithm)


@contextmanager
def tracked(study: SimulatedStudy, *, is_on: bool) -> Iterator[None]:
    """With MLflow's thread beside the study, as `murk run` has it."""
    if not is_on:
        yield
        return
    tracker = Tracker(study.ledger, database_of(study.ledger))
    tracker.start()
    yield
    if not tracker.close(timeout_s=600.0):
        print("MLflow did not catch up")


def database_of(ledger: Ledger) -> str:
    return f"sqlite:///{ledger.root}/mlflow.db"


@contextmanager
def ray_of(address: str | None, at_once: int) -> Iterator[Runtime]:
    ray.init(**(cluster_settings(address) if address else {"num_cpus": at_once, **local_settings()}))
    try:
        yield Runtime(ResourcesConfig(), check_fit(ResourcesConfig(), [{"CPU": float(at_once)}]), is_ours=False)
    finally:
        ray.shutdown()


def mark() -> Mark:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return Mark(time.perf_counter(), time.process_time(), pages * os.sysconf("SC_PAGE_SIZE"))


def since(before: Mark) -> Mark:
    """What went by."""
    now = mark()
    return Mark(now.wall_s - before.wall_s, now.cpu_s - before.cpu_s, now.rss_bytes - before.rss_bytes)


if __name__ == "__main__":
    main()
