"""How well do small validation grids rank trials? Spearman's correlation with the whole grid, by the grid's size.

    python -m tests.bench.bench_fidelity STUDY [--storage PLACE]
    python -m tests.bench.bench_fidelity STUDY.yaml --set data.path=... [--storage PLACE]

Takes a finished search (of a study file it first runs the trials itself, one after the other, without Ray), measures
every finished trial's model on the whole validation grid once, image by image, and scores each small grid from those
same rows, as the same images under the same noise have the same answers in it.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from analysis.fidelity import bootstrap_agreement
from study.config import TrialConfig
from study.config_phases import SearchPhase
from study.config_search import Fidelity
from study.data.prepare import prepare_data
from study.evaluate import share_by_class, subset
from study.finalists import agreement_line, measure_finalists
from study.grids import grid_of_validation, part_of, small_grid
from study.ledger import Ledger, TrialSpec
from study.override import apply
from study.places import resolve_places
from study.preflight import Capacity
from study.ranks import Ranks
from study.runtime import Runtime
from study.searcher import OptunaSource
from study.space import parse
from study.studyfile import LoadedStudy, load_study
from study.studyrecord import open_study, record_phase
from study.studyrun import StudyRun
from study.tasks import evaluate_task
from study.trained import read_model
from study.trial import run_trial

SIZES = (
    (16, 1, 1), (64, 1, 1), (256, 1, 1), (16, 2, 1), (64, 2, 1), (256, 2, 1), (32, 4, 1), (16, 4, 5), (64, 4, 2),
    (64, 4, 5), (256, 4, 5),
)  # fmt: skip
"""Images, corruptions from the start of the list, severities spread over the list."""


def make(loaded: LoadedStudy, storage: str) -> str:
    """Run the trials of a study's search phase in this process and measure its finalists; returns its name."""
    config = loaded.config
    phase, ledger = config.phases[0], Ledger(storage, config.name)
    assert isinstance(phase, SearchPhase)
    places = resolve_places(config.tracking, cwd=Path.cwd(), storage=storage)
    data = prepare_data(config.data, cache_dir=places.cache_dir)
    open_study(ledger, loaded, data, tracking_uri=None, again=False)
    capacity = Capacity(executor="inline", max_concurrent=1, per_trial={"CPU": 1.0})
    run = StudyRun(config, ledger, places, data.fingerprint, Runtime(config.resources, capacity, is_ours=False))

    def spec_of(params: dict[str, Any], number: int) -> TrialSpec:
        return run.spec(apply(config.trial(), params), phase, number=number, params=params)

    space = parse(config.search.space, config)
    source = OptunaSource(space, config.search, spec_of=spec_of, ledger=ledger, phase=phase.name)
    source.feed()
    while sum(status == "finished" for status in source.known.values()) < config.search.trials:
        spec = source.next_spec()
        if spec is None:
            break
        metrics = run_trial(spec)
        source.on_end(spec.key, "finished", metrics)
        print(f"trial {spec.number}: acc/noise {metrics['acc/noise']:.3f}", flush=True)
    record_phase(ledger, phase, status="running", trials=list(source.known))
    finalists = measure_finalists(run, phase, config.search, list(source.known))
    record_phase(ledger, phase, status="finished", trials=list(source.known), finalists=finalists)
    print(agreement_line(ledger, phase, config.search))
    return config.name


def rows_of(ledger: Ledger, key: str, cache_dir: Path) -> pd.DataFrame:
    """Which validation images a trial's model gets right under each cell of the whole grid."""
    model = read_model(f"{ledger.root}/trials/{key}")
    images = prepare_data(model.config.data, cache_dir=cache_dir).validation
    model.method.network.to(Ranks().torch_device())
    found = evaluate_task(
        model.config, model.method, images, grid_of_validation(model.config), split="validation", ranks=Ranks(),
        keep_predictions=True,
    )  # fmt: skip
    return pd.DataFrame({name: found.predictions[name] for name in ("image_id", "corruption", "severity", "correct")})


def noise_accuracy(rows: pd.DataFrame, config: TrialConfig, part: Fidelity, ids: np.ndarray) -> float:
    """`acc/noise` on a part of the grid."""
    cells = {(cell.name, cell.severity) for cell in small_grid(config, part_of(part, config)) if cell.severity}
    inside = [(name, level) in cells for name, level in zip(rows["corruption"], rows["severity"], strict=True)]
    kept = rows[np.asarray(inside) & np.isin(rows["image_id"], ids)]
    return float(kept.groupby(["corruption", "severity"])["correct"].mean().mean())


def main(name: str, storage: str | None) -> None:
    """Print a line for each size."""
    places = resolve_places(None, cwd=Path.cwd(), storage=storage)
    ledger = Ledger(str(places.storage), name)
    keys = [key for key in ledger.keys() if ledger.status(key) == "finished" and ledger.trial(key)["role"] == "search"]
    config = TrialConfig.model_validate(ledger.trial(keys[0])["config"])
    images, noise = prepare_data(config.data, cache_dir=places.cache_dir).validation, config.noise
    base = subset(images, noise.validation_images, seed=config.data.split_seed)
    tables = {key: rows_of(ledger, key, places.cache_dir) for key in keys}
    whole = [float(t[t["corruption"] != "clean"].groupby(["corruption", "severity"])["correct"].mean().mean())
             for t in tables.values()]  # fmt: skip
    cells = len(grid_of_validation(config))
    print(f"{time.strftime('%Y-%m-%d')} {platform.machine()} torch {torch.__version__}: {len(keys)} trials of {name}; "
          f"whole grid {len(base)} images x {cells} cells, acc/noise {min(whole):.3f} to {max(whole):.3f}")  # fmt: skip
    print("images corruptions severities | share of the whole grid | Spearman, 95 % bootstrap interval")
    levels = noise.validation_severities
    for count, corruptions, severities in SIZES:
        if count > len(base) or corruptions > len(noise.validation) or severities > len(levels):
            continue
        spread = np.linspace(0, len(levels) - 1, severities + 2 if severities < len(levels) else severities)
        places_of = spread[1:-1] if severities < len(levels) else spread
        chosen = tuple(levels[round(float(place))] for place in places_of)
        part = Fidelity(images=count, corruptions=corruptions, severities=chosen)
        ids = np.asarray(images.ids)[share_by_class(images, base, count, seed=config.data.split_seed)]
        small = [noise_accuracy(table, config, part, ids) for table in tables.values()]
        found = bootstrap_agreement(small, whole)
        share = count * (1 + corruptions * severities) / (len(base) * cells)
        print(f"{count:6d} {corruptions:11d} {severities:10d} | {share:8.1%} | {found.rho:+.2f} ({found.low:+.2f} to "
              f"{found.high:+.2f})", flush=True)  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("study")
    parser.add_argument("--storage", default="results")
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    place, chosen = str(Path(arguments.storage).absolute()), arguments.study
    if chosen.endswith(".yaml"):
        chosen = make(load_study(chosen, arguments.set), place)
    main(chosen, place)
