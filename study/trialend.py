"""What a trial measures, and the files it leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from analysis.metrics import as_test, headline
from models.methods.method import Headed, Viewed
from noise.keyed import image_keys
from study import checkpoint
from study.adapt import adapted_cells
from study.artifacts import example_images, export_files, head_table, parquet_bytes
from study.build import low_resolution
from study.evaluate import Cell, Evaluation, Heads, reestimate_bn, subset
from study.footprint import footprint, latency_ms
from study.grids import grid_of_test, grid_of_validation, small_grid
from study.loop import device_images
from study.similarity import similarity_cells, similarity_rows
from study.tasks import evaluate_task
from study.trialrun import Run

_BN_IMAGES = 1024
_BN_BATCH = 128
_EXAMPLES = 4


def validate(run: Run, *, heads: Heads | None = None) -> Evaluation:
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


def finish(run: Run, progress: checkpoint.Progress) -> dict[str, float]:
    """Measure the trained network on validation and, outside a search, once on test, and write the trial's files."""
    before = dict(progress.history[-1])
    done = run.config.train.reestimate_bn and reestimate_bn(
        run.method.network, run.method.predict, clean_batches(run), run.ranks
    )
    run.method.network.eval()
    heads = _heads(run)
    validation = validate(run, heads=heads)
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


def clean_batches(run: Run) -> list[torch.Tensor]:
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
