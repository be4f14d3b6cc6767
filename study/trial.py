"""One trial, one plain function: `run_trial` trains, evaluates and records; it resumes by itself."""

from __future__ import annotations

import io
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch.optim import Optimizer

from analysis.metrics import as_test, headline
from models.batchnorm import synchronise
from models.methods.method import Headed, Method, Viewed
from noise.keyed import image_keys
from study import checkpoint
from study.adapt import adapted_cells
from study.artifacts import example_images, export_files, head_table
from study.build import build_method, loop_settings, low_resolution
from study.codestate import code_state
from study.config import TrialConfig
from study.data.image_set import DataSplits, ImageSet
from study.data.prepare import prepare_data
from study.data.real import prepare_all_real
from study.evaluate import Cell, Evaluation, Heads, reestimate_bn, subset
from study.footprint import footprint, latency_ms
from study.grids import grid_of_test, grid_of_validation, small_grid
from study.halving import micro_batch_of
from study.ledger import Ledger, TrialSpec
from study.loop import LoopSettings, device_images, make_optimizer, train_epochs
from study.ranks import Ranks
from study.similarity import similarity_cells, similarity_rows
from study.tasks import evaluate_task, fingerprint_of, prepare_task
from study.teachers import load_teacher
from study.usage import SAMPLE_S, Usage
from study.verification import PairSet
from study.watchdog import beat_with

_BN_IMAGES = 1024


_BN_BATCH = 128


_EXAMPLES = 4


_VERSIONS = ("torch", "timm", "kornia", "numpy", "ray", "optuna", "mlflow")


class Reporter(Protocol):
    """Where a trial's figures go while it runs; every worker reports equally often."""

    def report(self, metrics: dict[str, float], *, epoch: int, final: bool) -> None:
        """Take the metrics after an epoch; `final` on a trial's last report."""
        ...


class NoReporter:
    """Reports to nobody."""

    def report(self, metrics: dict[str, float], *, epoch: int, final: bool) -> None:
        """Do nothing."""


def never() -> bool:
    """Never asks to stop."""
    return False


def unwatched() -> None:
    """A step that nobody waits for."""


@dataclass(frozen=True)
class Run:
    """The parts of a trial under way; `real` holds the folders of real noisy images, empty in a search.

    `pairs` are those that a trial of the task `verification` is tested on.
    """

    spec: TrialSpec
    config: TrialConfig
    ledger: Ledger
    data: DataSplits
    method: Method
    optimizer: Optimizer
    settings: LoopSettings
    ranks: Ranks
    reporter: Reporter
    should_stop: Callable[[], bool]
    real: Mapping[str, ImageSet] = field(default_factory=dict)
    pairs: PairSet | None = None
    usage: Usage = field(default_factory=Usage)


def run_trial(
    spec: TrialSpec,
    reporter: Reporter | None = None,
    *,
    ranks: Ranks | None = None,
    should_stop: Callable[[], bool] = never,
    beat: Callable[[], None] = unwatched,
) -> dict[str, float]:
    """Run a trial to its end, from its checkpoint where it has one.

    A finished trial is not run again: its figures are reported and returned.

    Args:
        should_stop: Asked after each batch; when true the trial saves where it stands and raises `study.loop.Stopped`.
        beat: Called with each forward pass, the first time when all is read and built.

    Returns:
        The last metrics; accuracies in [0, 1].

    Raises:
        ValueError: The data are not those the study was planned with, or the loss is not finite.
        OutOfMemory: An update does not fit the device.
    """
    ranks = ranks or Ranks()
    reporter = reporter or NoReporter()
    ledger = Ledger(spec.storage, spec.study)
    if ledger.status(spec.key) == "finished":
        if ranks.is_first:
            checkpoint.remove(ledger, spec.key)  # the process may have died before it did
        metrics = ledger.metrics(spec.key)
        epoch = int(metrics.pop("epoch", 0))
        reporter.report(metrics, epoch=epoch, final=True)
        return metrics
    if ranks.is_first:
        ledger.create_trial(spec)
    usage = _usage(spec, ledger, ranks)
    try:
        run = prepare_run(spec, ledger, reporter=reporter, ranks=ranks, should_stop=should_stop)
        run = replace(run, usage=usage)
        beat_with(run.method.network, beat)
        ranks.barrier()  # a worker that is ready waits for those that still read, and is not watched meanwhile
        beat()
        progress = _start(run)
        _train(run, progress)
        return _finish(run, progress)
    finally:
        usage.close()


def _usage(spec: TrialSpec, ledger: Ledger, ranks: Ranks) -> Usage:
    """What measures this attempt, on top of those before it."""
    events = ledger.events(spec.key) if ranks.is_first else []
    earlier = next((event["usage"] for event in reversed(events) if event.get("usage")), None)
    return Usage(ranks, earlier=earlier, sample_s=SAMPLE_S if spec.system_metrics else None)


def prepare_run(
    spec: TrialSpec, ledger: Ledger, *, reporter: Reporter, ranks: Ranks, should_stop: Callable[[], bool] = never
) -> Run:
    """Build a trial's data, method and optimiser; nothing is trained or written."""
    config = TrialConfig.model_validate(spec.config)
    data = prepare_data(config.data, cache_dir=Path(spec.cache_dir))
    if data.fingerprint != spec.fingerprint:
        raise ValueError(
            f"data: the images are not those that the study was planned with (fingerprint {data.fingerprint[:12]}, "
            f"planned {spec.fingerprint[:12]}); restore them, or start a study under another name"
        )
    real = _real_images(spec, config, data)
    pairs = prepare_task(config, data, cache_dir=Path(spec.cache_dir), tested=spec.role != "search")
    if fingerprint_of(pairs) != spec.pairs:
        raise ValueError(
            "task.pairs: the pairs are not those that the study was planned with; restore them, or start a study under "
            "another name"
        )
    settings = loop_settings(config, ranks.torch_device())
    settings = replace(settings, micro_batch=micro_batch_of(ledger, spec.key) or settings.micro_batch)
    class_names = data.train.class_names
    teachers = [
        load_teacher(spec.teacher, config, class_names, prefix=prefix) if f"{prefix}place" in spec.teacher else None
        for prefix in ("", "direct_")
    ]
    method = build_method(
        config, num_classes=len(class_names), teacher=teachers[0], direct_teacher=teachers[1], train=data.train
    )
    method.network.to(ranks.torch_device())
    if config.model.batch_norm == "sync":
        synchronise(method.network, device_type=ranks.torch_device().type)
    return Run(spec, config, ledger, data, method, make_optimizer(method, settings), settings, ranks, reporter,
               should_stop, real, pairs)  # fmt: skip


def _real_images(spec: TrialSpec, config: TrialConfig, data: DataSplits) -> dict[str, ImageSet]:
    """The folders of real noisy images that this trial reads after training; looked at now, as it may last days."""
    if spec.role == "search":
        return {}
    found = prepare_all_real(
        config.noise.real, data=data, image_size=config.data.image_size,
        refuse=config.data.on_corrupt == "refuse", cache_dir=Path(spec.cache_dir),
    )  # fmt: skip
    for name, real in found.items():
        if real.fingerprint != spec.real.get(name):
            raise ValueError(
                f"noise.real.{name}: the images are not those that the study was planned with; restore them, or start "
                "a study under another name"
            )
    return {name: real.images for name, real in found.items()}


def _start(run: Run) -> checkpoint.Progress:
    run.ranks.barrier()
    progress = checkpoint.restore(
        run.ledger, run.spec.key, network=run.method.network, optimizer=run.optimizer, ranks=run.ranks
    )
    if run.ranks.is_first:
        facts = {"hardware": hardware(run.ranks.torch_device()), "versions": versions(), "workers": run.ranks.world,
                 "code": code_state().as_dict()}  # fmt: skip
        if progress is None:
            run.ledger.append(run.spec.key, "start", **facts)
        else:
            run.ledger.append(run.spec.key, "resume", epoch=progress.epoch, step=progress.step, **facts)
            _catch_up(run, progress)
    run.ranks.barrier()
    return progress or checkpoint.Progress()


def _catch_up(run: Run, progress: checkpoint.Progress) -> None:
    """Write the event of an epoch that was saved but not yet recorded when the process died."""
    recorded = {event["epoch"] for event in run.ledger.events(run.spec.key) if event["event"] == "epoch"}
    for number, metrics in enumerate(progress.history, start=1):
        if number not in recorded:
            run.ledger.append(run.spec.key, "epoch", epoch=number, step=0, metrics=metrics, final=False)


def _train(run: Run, progress: checkpoint.Progress) -> None:
    def save(state: checkpoint.Progress) -> None:
        shares = checkpoint.shares_of(run.method.network, state, run.ranks)
        if run.ranks.is_first:
            checkpoint.save(run.ledger, run.spec.key, network=run.method.network, optimizer=run.optimizer,
                            progress=state, shares=shares)  # fmt: skip
        run.ranks.barrier()

    recorded = {event["epoch"] for event in run.ledger.events(run.spec.key) if event["event"] == "epoch"}
    for metrics in train_epochs(
        run.method, run.optimizer, run.data.train, run.settings,
        progress=progress, ranks=run.ranks, save=save, should_stop=run.should_stop,
    ):  # fmt: skip
        metrics |= headline(_validate(run).cells)
        metrics |= {"cost/passes": _total_passes(run, progress), "cost/seconds": progress.seconds}
        if run.settings.micro_batch != run.config.train.micro_batch:  # halved: no part of the trial's settings
            metrics["train/micro_batch"] = float(run.settings.micro_batch or 0)
        progress.history.append(metrics)
        save(progress)
        used = run.usage.measure()
        if run.ranks.is_first and progress.epoch not in recorded:  # it is, after a fall-back to an older checkpoint
            run.ledger.append(run.spec.key, "epoch", epoch=progress.epoch, step=0, metrics=metrics, final=False, **used)
        run.reporter.report(metrics, epoch=progress.epoch, final=False)


def _total_passes(run: Run, progress: checkpoint.Progress) -> float:
    return float(run.ranks.sum(torch.tensor(progress.passes, dtype=torch.float64)).item())


def _validate(run: Run, *, heads: Heads | None = None) -> Evaluation:
    """On the validation grid, or on the part of it that scores this trial."""
    run.method.network.eval()
    part = run.spec.fidelity
    cells = small_grid(run.config, part) if part else grid_of_validation(run.config)
    return evaluate_task(
        run.config, run.method, run.data.validation, cells, split="validation",
        ranks=run.ranks, heads=heads, most=part.get("images"),
    )  # fmt: skip


def _heads(run: Run) -> Heads | None:
    """What gives each head alone, where the method has several; a search asks for none, nor does one by embeddings."""
    wanted = run.spec.role != "search" and run.config.task.name == "classification"
    return run.method.heads if wanted and isinstance(run.method, Headed) else None


def _test(run: Run, *, heads: Heads | None) -> Evaluation:
    """The test grid, then each folder of real noisy images as a cell of its own at severity 0."""
    sets = [(run.data.test, grid_of_test(run.config))]
    sets += [(images, [Cell(name, 0)]) for name, images in run.real.items()]
    parts = [
        evaluate_task(
            run.config, run.method, images, cells, split="test", ranks=run.ranks, heads=heads, pairs=run.pairs
        )
        for images, cells in sets
    ]  # fmt: skip
    columns = parts[0].predictions
    predictions = {name: np.concatenate([part.predictions[name] for part in parts]) for name in columns}
    cells, rows = [cell for part in parts for cell in part.cells], [row for part in parts for row in part.heads]
    return Evaluation(cells, predictions, rows, [row for part in parts for row in part.extra])


def _finish(run: Run, progress: checkpoint.Progress) -> dict[str, float]:
    before = dict(progress.history[-1])
    done = run.config.train.reestimate_bn and reestimate_bn(
        run.method.network, run.method.predict, _clean_batches(run), run.ranks
    )
    run.method.network.eval()
    heads = _heads(run)
    validation = _validate(run, heads=heads)
    metrics = before | headline(validation.cells) | _deployed_cost(run)
    if done:
        metrics |= {f"{name}_trained_bn": before[name] for name in ("acc/clean", "acc/noise") if name in before}
    whole, adapted, alike = validation, [], []
    if run.spec.role != "search":
        test = _test(run, heads=heads)
        whole = Evaluation(validation.cells + test.cells, test.predictions, [*validation.heads, *test.heads],
                           [*validation.extra, *test.extra])  # fmt: skip
        metrics |= as_test(headline(test.cells))
        adapted, alike = _adapted(run), _similarity(run)
    used = run.usage.measure()
    if run.ranks.is_first:
        bn = "reestimated" if done else "trained"
        own = {"bn": bn, **({"grid": "small"} if run.spec.fidelity else {})}
        whole = whole._replace(cells=[*({**row, **own} for row in whole.cells), *adapted])
        _write(run, metrics, whole, bn=bn, epoch=progress.epoch, used=used, alike=alike)
    run.ranks.barrier()
    run.reporter.report(metrics, epoch=progress.epoch, final=True)
    return metrics


def _deployed_cost(run: Run) -> dict[str, float]:
    """Size of the deployed network, and how fast it answers on this device."""
    side = run.config.resolution.input_size(run.config.data.image_size)
    latency = latency_ms(run.method.predict, side=side, device=run.ranks.torch_device())
    return footprint(run.config, num_classes=len(run.data.class_names)) | {"cost/latency_ms": latency}


def _adapted(run: Run) -> list[dict[str, Any]]:
    """The test grid once more under statistics of its own images, where asked."""
    if not run.config.train.adapt_bn:
        return []
    noise = run.config.noise

    def measure(cell: Cell) -> Evaluation:
        return evaluate_task(run.config, run.method, run.data.test, [cell], split="test", ranks=run.ranks)

    return adapted_cells(
        run.method.network, run.method.predict, run.data.test, grid_of_test(run.config), measure,
        seed=noise.seed, scale=noise.scale, lens=run.config.resolution.evaluation_lens, ranks=run.ranks,
    )  # fmt: skip


def _similarity(run: Run) -> list[dict[str, Any]]:
    """How alike the features of clean and noisy test images are, where asked."""
    noise = run.config.noise
    if not noise.similarity:
        return []
    assert isinstance(run.method, Viewed)
    return similarity_rows(
        run.method, run.data.test, similarity_cells(run.config), seed=noise.seed, scale=noise.scale, ranks=run.ranks,
        lens=run.config.resolution.evaluation_lens, batch_size=run.config.train.eval_batch_size,
    )  # fmt: skip


def _clean_batches(run: Run) -> list[torch.Tensor]:
    """Training images without noise, of the resolution that training has."""
    images, device, seed = run.data.train, run.ranks.torch_device(), run.config.data.split_seed
    chosen = subset(images, _BN_IMAGES, seed=seed)
    number = max(1, len(chosen) // run.ranks.world // _BN_BATCH)  # the same on every worker
    parts = np.array_split(chosen[run.ranks.rank :: run.ranks.world], number)
    lower = low_resolution(run.config)
    found = []
    for part in parts:
        if len(part) > 1:
            raw = torch.from_numpy(np.ascontiguousarray(images.images[part])).permute(0, 3, 1, 2)
            clean_BCHW = device_images(raw, device)
            keys_B = image_keys(torch.from_numpy(np.asarray(images.ids[part])), seed=seed, salt="statistics")
            found.append(clean_BCHW if lower is None else lower(clean_BCHW, keys_B).input_BCHW)
    return found


def _write(
    run: Run, metrics: dict[str, float], found: Evaluation, *, bn: str, epoch: int, used: Mapping[str, Any],
    alike: Sequence[Mapping[str, Any]],
) -> None:  # fmt: skip
    """Write a finished trial's files; the final event comes last, so a trial is finished only when all are there."""
    key = run.spec.key
    exported = export_files(
        run.method, run.config, class_names=run.data.train.class_names, fingerprint=run.data.fingerprint
    )
    for name, data in exported.items():
        run.ledger.write_bytes(key, name, data)
    if run.spec.role != "search":
        run.ledger.write_bytes(key, "predictions.parquet", parquet_bytes(pd.DataFrame(found.predictions)))
    if run.spec.role != "search" and run.config.task.name == "classification":
        run.ledger.write_bytes(key, "examples.npz", example_images(run.method, run.config, run.data.test, _EXAMPLES))
    if found.extra:
        table = parquet_bytes(pd.DataFrame(found.extra).assign(bn=bn))
        run.ledger.write_bytes(key, f"{run.config.task.name}.parquet", table)
    if found.heads:
        run.ledger.write_bytes(key, "heads.parquet", parquet_bytes(head_table(run.method, found.heads).assign(bn=bn)))
    if alike:
        run.ledger.write_bytes(key, "similarity.parquet", parquet_bytes(pd.DataFrame(alike)))
    run.ledger.write_bytes(key, "cells.parquet", parquet_bytes(pd.DataFrame(found.cells)))
    run.ledger.append(key, "final", epoch=epoch, step=0, metrics=metrics, final=True, **used)
    checkpoint.remove(run.ledger, key)


def parquet_bytes(table: pd.DataFrame) -> bytes:
    """A frame as parquet."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()


def hardware(device: torch.device) -> str:
    """What this trial runs on, in words."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (CUDA {torch.version.cuda})"
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in _VERSIONS}
