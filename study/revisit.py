"""A second look of stored models at validation images: finalists on the whole grid, contenders image by image.

Each look is written once, beside the trial's other files, and is not made again. Test images are never read here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from analysis.fidelity import FULL_CELLS, FULL_PREFIX
from analysis.metrics import headline
from study.artifacts import parquet_bytes
from study.data.prepare import prepare_data
from study.evaluate import Evaluation
from study.grids import grid_of_validation
from study.ledger import FULL_EVENT, Ledger
from study.preflight import worker_needs
from study.ranks import Ranks
from study.runtime import Interrupted, Runtime, catch_signals
from study.tasks import evaluate_task
from study.trained import read_model

VALIDATION_ROWS = "validation.parquet"
_POLL_S = 0.5

Look = Callable[[str, str, str, str], None]
"""(storage, study, key, folder for decoded images): looks at one trial and writes what it found."""


def look_at_whole_grid(storage: str, study: str, key: str, cache_dir: str) -> None:
    """Measure a finished trial's model on the whole validation grid: `cells-full.parquet`, then an event `full`.

    Raises:
        ValueError: The model is damaged, or the images are not those that it was trained with.
    """
    ledger = Ledger(storage, study)
    if any(event["event"] == FULL_EVENT for event in ledger.events(key)):
        return
    found = _validated(ledger, key, cache_dir, rows=False)
    cells = pd.DataFrame(found.cells).assign(grid="full")
    ledger.write_bytes(key, FULL_CELLS, parquet_bytes(cells))
    metrics = {f"{FULL_PREFIX}{name}": value for name, value in headline(found.cells).items()}
    epoch = int(ledger.metrics(key).get("epoch", 0))
    ledger.append(key, FULL_EVENT, epoch=epoch, step=0, metrics=metrics)


def look_at_each_image(storage: str, study: str, key: str, cache_dir: str) -> None:
    """Write which validation images a finished trial's model gets right under each cell: `validation.parquet`.

    Raises:
        ValueError: As in `look_at_whole_grid`.
    """
    ledger = Ledger(storage, study)
    if not ledger.files.exists("trials", key, VALIDATION_ROWS):
        found = _validated(ledger, key, cache_dir, rows=True)
        columns = ("image_id", "corruption", "severity", "correct")
        table = pd.DataFrame({name: found.predictions[name] for name in columns})
        ledger.write_bytes(key, VALIDATION_ROWS, parquet_bytes(table))


def _validated(ledger: Ledger, key: str, cache_dir: str, *, rows: bool) -> Evaluation:
    model = read_model(f"{ledger.root}/trials/{key}")
    data = prepare_data(model.config.data, cache_dir=Path(cache_dir))
    if data.fingerprint != model.fingerprint:
        raise ValueError(f"trial {key}: the images are not those that its model was trained with; restore them")
    ranks = Ranks()
    model.method.network.to(ranks.torch_device())
    return evaluate_task(
        model.config, model.method, data.validation, grid_of_validation(model.config), split="validation", ranks=ranks,
        keep_predictions=rows,
    )  # fmt: skip


def look_at_all(
    look: Look, keys: Sequence[str], *, ledger: Ledger, cache_dir: Path, runtime: Runtime
) -> dict[str, str]:
    """Look at several trials, each where a worker of a trial would run; here, where no Ray is up.

    Returns:
        Key -> why a trial could not be looked at; the next launch tries it again.

    Raises:
        Interrupted: Someone asked to stop; what was looked at is kept.
    """
    ray = sys.modules.get("ray")
    works = {key: (ledger.storage, ledger.study, key, str(cache_dir)) for key in keys}
    if ray is None or not ray.is_initialized():
        return {key: text for key, work in works.items() if (text := _told(look, *work))}
    needs = worker_needs(runtime.resources)
    remote = ray.remote(_told).options(
        num_cpus=needs["CPU"], num_gpus=needs.get("GPU", 0), max_retries=runtime.resources.retries
    )
    with catch_signals(ledger.is_lost) as stop:
        waiting = {remote.remote(look, *work): key for key, work in works.items()}
        problems: dict[str, str] = {}
        while waiting and not stop.requested:
            done, _ = ray.wait(list(waiting), num_returns=1, timeout=_POLL_S)
            for reference in done:
                key = waiting.pop(reference)
                problems[key] = _result(ray, reference)
        for reference in waiting:
            ray.cancel(reference)
        if stop.requested:
            raise Interrupted
    return {key: text for key, text in problems.items() if text}


def _result(ray: object, reference: object) -> str:
    """What a look said; a process that was lost is a problem of its trial, not of the study."""
    errors = ray.exceptions.RayError  # pyright: ignore[reportAttributeAccessIssue]
    try:
        return ray.get(reference)  # pyright: ignore[reportAttributeAccessIssue]
    except errors as error:
        return str(error).splitlines()[0]


def _told(look: Look, storage: str, study: str, key: str, cache_dir: str) -> str:
    """Why a look failed; empty where it did not."""
    try:
        look(storage, study, key, cache_dir)
    except (ValueError, OSError) as error:
        return str(error) or type(error).__name__
    return ""
