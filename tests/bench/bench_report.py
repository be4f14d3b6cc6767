"""What reading a large study and writing its whole report cost: time, processor time and peak memory.

    python tests/bench/bench_report.py [--trials 5000] [--rows 10000000] [--folder FOLDER] [--mlflow sqlite | server]

The study is made up, in the layout of the records: a search of so many trials with 8 noisy cells each, and 10 confirmed
trials (two configurations, five seeds) that share the rows of predictions. Each step runs in a fresh process. With
`--mlflow` the records are written into an MLflow of its own first (a database, or a server that keeps the artifacts
too) and read from there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from tests.unit.analysis import conftest as small  # noqa: E402

NAME = "large"
SEEDS = (101, 102, 103, 104, 105)
STEPS = ("load", "history", "predictions", "report")
MLFLOW_STEPS = ("load", "history", "predictions", "pull")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--rows", type=int, default=10_000_000, help="of predictions, over all confirmed trials")
    parser.add_argument("--folder", type=Path, help="where to keep the study; a temporary folder if left out")
    parser.add_argument("--mlflow", choices=("sqlite", "server"), help="read from an MLflow in place of the folder")
    parser.add_argument("--step", choices={*STEPS, *MLFLOW_STEPS}, help="one step in this process, of a study there")
    parser.add_argument("--uri", help="of the MLflow that the step reads from")
    given = parser.parse_args()
    if given.step:
        print(json.dumps(measured(given.step, given.folder / NAME, given.uri)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        if not (folder / NAME / "study.json").exists():
            write_large(folder / NAME, given.trials, given.rows)
        from tests.bench.step_setups import heading

        print(heading(f"A study of {given.trials} trials and {given.rows:,} rows of predictions"))
        with mlflow_of(given.mlflow, folder) as uri:
            if uri:
                print_written(folder, uri)
            print("\n| step | wall s | CPU s | peak memory, GB | |\n|---|---:|---:|---:|---|")
            for step in MLFLOW_STEPS if uri else STEPS:
                print_step(step, folder, uri)


def print_step(step: str, folder: Path, uri: str | None) -> None:
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder), *(["--uri", uri] if uri else [])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"| {step} | {found['wall_s']:.1f} | {found['cpu_s']:.1f} | {found['peak_bytes'] / 1e9:.2f} "
          f"| {found['what']} |", flush=True)  # fmt: skip


@contextmanager
def mlflow_of(kind: str | None, folder: Path) -> Iterator[str | None]:
    """Where the study is written to and read from; None for the folder alone."""
    if kind == "server":
        from tests.e2e.heads import BIN, free_port, process, wait_for
        from tests.e2e.studies import environment

        address, log = f"http://127.0.0.1:{(port := free_port())}", folder / "mlflow.log"
        command = [
            str(BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "served"),
        ]  # fmt: skip
        with process(command, log, environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")) as server:
            wait_for(f"{address}/health", server, log)
            yield address
    else:
        yield f"sqlite:///{folder}/mlflow.db" if kind else None


def print_written(folder: Path, uri: str) -> None:
    """Write the study's records into MLflow and say what that took."""
    from study.ledger import Ledger
    from study.tracking import sync

    begin, cpu = time.perf_counter(), time.process_time()
    said = str(sync(Ledger(str(folder), NAME), uri)).splitlines()[0].rpartition(": ")[2]
    print(f"\nWritten into MLflow in {time.perf_counter() - begin:.0f} s, {time.process_time() - cpu:.0f} s of them "
          f"processor time here: {said}", flush=True)  # fmt: skip


def measured(step: str, study: Path, uri: str | None) -> dict[str, Any]:
    """One step, with imports apart; peak memory is the whole process's."""
    from analysis.load import load, load_history, load_predictions
    from analysis.report import write_report
    from study.pull import pull_study

    if uri:
        import mlflow.tracking  # noqa: F401 - imports are not what is measured
    named = study.name if uri else study
    begin, cpu = time.perf_counter(), time.process_time()
    if step == "load":
        what = f"{len(load(named, tracking_uri=uri)):,} rows of cells"
    elif step == "history":
        what = f"{len(load_history(named, tracking_uri=uri)):,} events"
    elif step == "predictions":
        what = f"{len(load_predictions(named, tracking_uri=uri)):,} rows"
    elif step == "pull":
        with tempfile.TemporaryDirectory() as out:
            pull_study(study.name, storage=None, tracking=uri, out=Path(out))
            what = f"{sum(path.is_file() for path in Path(out).rglob('*')):,} files"
    else:
        paths = write_report(study)
        what = f"a page of {Path(str(paths.html)).stat().st_size / 1e6:.1f} MB"
    return {
        "wall_s": time.perf_counter() - begin,
        "cpu_s": time.process_time() - cpu,
        "peak_bytes": peak_bytes(),
        "what": what,
    }


def peak_bytes() -> int:
    """The most that this process's memory held; getrusage would count what its parent held before."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024


def write_large(folder: Path, trials: int, rows: int) -> None:
    """Write the study: its search, then what was confirmed of it."""
    rng = np.random.default_rng(7)
    keys = [f"{number:016x}" for number in range(1, trials + 1)]
    specs = [drawn(rng) for _ in keys]
    for number, (key, spec) in enumerate(zip(keys, specs, strict=True)):
        write_trial(folder, key, "search", number, spec, 0, rng, num_images=0)
    num_cells = 1 + 5 * len(small.TEST_NOISE)
    chosen = [
        next(i for i, spec in enumerate(specs) if spec[0] == name and spec[4] == "final") for name in ("plain", "pmal")
    ]
    tested = []
    for number, (place, seed) in enumerate((p, s) for p in chosen for s in SEEDS):
        tested.append(f"{0xC00000 + number:016x}")
        images = rows // num_cells // len(SEEDS) // len(chosen)
        write_trial(folder, tested[-1], "confirm", number, specs[place], seed, rng, num_images=images)
    phases = [
        {"name": "search", "kind": "search", "status": "finished", "trials": keys, "selected": []},
        {"name": "confirm", "kind": "confirm", "status": "finished", "trials": tested,
         "selected": [keys[place] for place in chosen]},
    ]  # fmt: skip
    reads = [{"phase": "confirm", "trials": tested, "time": "2026-01-05T12:00:00Z"}]
    (folder / "study.json").write_text(json.dumps(small._study_json(NAME, phases, reads, rows // num_cells // 10)))


def drawn(rng: np.random.Generator) -> tuple[str, int | None, float, float, str]:
    """A configuration as a search draws it, and how it ends."""
    method = str(rng.choice(["plain", "pmal"]))
    stages = int(rng.integers(1, 4)) if method == "pmal" else None
    end = str(rng.choice(["final", "pruned", "failed"], p=[0.97, 0.02, 0.01]))
    return method, stages, float(np.exp(rng.uniform(-4.6, -0.7))), float(np.exp(rng.uniform(-6, -1))), end


def write_trial(folder, key, phase, number, spec, seed, rng, *, num_images: int) -> None:
    """One trial; one that read the test split has predictions of so many images."""
    method, stages, rho, lr, end = spec
    place = folder / "trials" / key
    place.mkdir(parents=True)
    params = {"method.name": method, "optim.lr": lr, "optim.sam.rho": rho}
    info = {
        "key": key, "study": NAME, "phase": phase, "role": phase, "number": number, "seed": seed,
        "config": small.trial_config(method, stages, rho, lr, seed=seed), "fingerprint": "5f0c" * 16,
        "params": params | ({} if stages is None else {"method.stages": stages}), "numerics": 1,
        "created": "2026-01-05T09:00:00Z",
    }  # fmt: skip
    (place / "trial.json").write_text(json.dumps(info))
    classes = len(small.CLASSES)
    skill = 0.9 + (0.5 if method == "pmal" else 0.0) - abs(np.log(lr) + 3.5) / 4 + rng.normal(0, 0.06)
    cells, _ = small._evaluate(skill, 1.0, small.VALIDATION_NOISE, (1, 2, 3, 4), "validation", rng, 100, classes)
    if num_images:
        tested, predictions = small._evaluate(
            skill, 1.0, small.TEST_NOISE, (1, 2, 3, 4, 5), "test", rng, num_images, classes
        )
        cells += tested
        predictions.to_parquet(place / "predictions.parquet", index=False)
        (place / "examples.npz").write_bytes(small._examples(rng, small.CLASSES, restored=method == "pmal"))
    price = 1.0 if method == "plain" else 2.0 + (stages or 0)
    events = small._events(end, cells, price, rng, "loss is not finite at epoch 1, step 12; lower optim.lr")
    (place / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    if end == "final":
        pd.DataFrame(cells).assign(bn="reestimated").to_parquet(place / "cells.parquet", index=False)


if __name__ == "__main__":
    main()
