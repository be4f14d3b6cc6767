"""One trial, one plain function: `run_trial` trains, evaluates and records; it resumes by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from analysis.metrics import headline
from models.batchnorm import synchronise
from study import checkpoint
from study.build import build_method, loop_settings
from study.codestate import code_state
from study.config import TrialConfig
from study.data.image_set import DataSplits, ImageSet
from study.data.prepare import prepare_data
from study.data.real import prepare_all_real
from study.halving import micro_batch_of
from study.ledger import Ledger, TrialSpec
from study.loop import make_optimizer, train_epochs
from study.machine import hardware, versions
from study.ranks import Ranks
from study.tasks import fingerprint_of, prepare_task
from study.teachers import load_teacher
from study.trialend import finish, validate
from study.trialrun import NoReporter, Reporter, Run
from study.usage import SAMPLE_S, Usage
from study.watchdog import beat_with


def never() -> bool:
    """Never asks to stop."""
    return False


def unwatched() -> None:
    """A step that nobody waits for."""


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
        return finish(run, progress)
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
                            progress=state, shares=shares, kept=run.spec.checkpoints_kept)  # fmt: skip
        run.ranks.barrier()

    recorded = {event["epoch"] for event in run.ledger.events(run.spec.key) if event["event"] == "epoch"}
    for metrics in train_epochs(
        run.method, run.optimizer, run.data.train, run.settings,
        progress=progress, ranks=run.ranks, save=save, should_stop=run.should_stop,
    ):  # fmt: skip
        metrics |= headline(validate(run).cells)
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
