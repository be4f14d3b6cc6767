"""The studies that pages of the documentation read: made records in the ledger's layout, nothing in them was trained.

`results/vehicles` searches with two objectives and confirms three configurations; its trials measured all that a trial
can (families, heads, likeness of features, adapted batch norms, a folder of real images). `results/parts` is judged by
retrieval. `results/again` has the images of `vehicles` and was trained anew.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.embeddings import COLUMNS
from tests.unit.analysis.conftest import (
    CLASSES,
    SEARCH,
    VALIDATION_NOISE,
    _count_again,
    _evaluate,
    _events,
    add_measures,
    trial_config,
    write_study,
)  # fmt: skip

NUM_MORE = 32
_HEADS = {"stage1": (150_000, 40_000_000, 0.80), "stage2": (620_000, 110_000_000, 0.93),
          "backbone": (4_900_000, 230_000_000, 0.98), "sum": (5_300_000, 236_000_000, 1.0)}  # fmt: skip
"""Head -> parameters, multiply-accumulates, and the share of the sum's right answers that it has too."""
_SPACE = {
    "method.name": {"choice": ["plain", "pmal"]},
    "method.stages": {"int": [1, 4], "when": {"method.name": "pmal"}},
    "optim.lr": {"log_uniform": [0.005, 1.0]},
    "optim.sam.rho": {"log_uniform": [0.005, 0.2]},
}


def write_studies(root: Path) -> None:
    """Put the three studies under `root/results`."""
    vehicles = add_measures(write_study(root / "results", name="vehicles"), real={"night": 30})
    _search_more(vehicles)
    for place in sorted(vehicles.glob("trials/*/predictions.parquet")):
        _add_heads(place)
        _add_similarity(place)
        _add_adapted(place.with_name("cells.parquet"))
    _train_anew(write_study(root / "results", name="again"))
    _add_retrieval(write_study(root / "results", name="parts", num_images=60))


def _search_more(folder: Path) -> None:
    """Further trials of the search, in which rho matters and the rate does not; two objectives."""
    rng, path = np.random.default_rng(3), folder / "study.json"
    study = json.loads(path.read_text())
    study["config"]["search"] |= {"trials": len(SEARCH) + NUM_MORE, "space": _SPACE}
    study["config"]["search"]["objectives"].append({"metric": "cost/passes", "goal": "minimise"})
    for number, (_, stages, rho, _, _) in enumerate(SEARCH):
        place = folder / "trials" / f"{number + 1:016x}" / "trial.json"
        info = json.loads(place.read_text())
        info["params"] |= {"optim.sam.rho": rho} | ({} if stages is None else {"method.stages": stages})
        place.write_text(json.dumps(info))
    for number in range(len(SEARCH), len(SEARCH) + NUM_MORE):
        key = f"{number + 1:016x}"
        _write_search_trial(folder / "trials" / key, key, number, rng)
        study["phases"][0]["trials"].append(key)
    path.write_text(json.dumps(study))


def _write_search_trial(place: Path, key: str, number: int, rng: np.random.Generator) -> None:
    method = ("plain", "pmal")[int(rng.integers(2))]
    stages = int(rng.integers(1, 5)) if method == "pmal" else None
    rho, lr = (round(float(np.exp(rng.uniform(math.log(low), math.log(high)))), 4) for low, high in
               ((0.005, 0.2), (0.005, 1.0)))  # fmt: skip
    params: dict[str, Any] = {"method.name": method, "optim.lr": lr, "optim.sam.rho": rho}
    skill = 0.9 + 0.2 * (stages or 0) - 0.4 * abs(math.log(rho / 0.06))
    toughness = 0.72 if method == "pmal" else 1.0
    cells, _ = _evaluate(skill, toughness, VALIDATION_NOISE, (2, 4), "validation", rng, 100, len(CLASSES))
    events = _events("final", cells, 1.0 + (stages or 0), rng, "")
    events[-1]["metrics"]["sharpness/m"] = round(0.5 - 0.15 * skill + float(rng.normal(0, 0.05)), 4)
    info = {
        "key": key, "study": "vehicles", "phase": "search", "role": "search", "number": number, "seed": 0,
        "config": trial_config(method, stages, rho, lr), "fingerprint": "5f0c" * 16, "numerics": 1,
        "params": params | ({} if stages is None else {"method.stages": stages}), "created": "2026-01-05T09:00:00Z",
    }  # fmt: skip
    place.mkdir()
    (place / "trial.json").write_text(json.dumps(info))
    (place / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    frame = pd.DataFrame(cells).assign(bn="reestimated", family=lambda rows: rows["group"])
    frame.to_parquet(place / "cells.parquet", index=False)


def _add_heads(place: Path) -> None:
    """What a PMAL trial writes of its heads: each is right in a share of what their sum is right in."""
    if json.loads(place.with_name("trial.json").read_text())["config"]["method"]["name"] != "pmal":
        return
    rows, cells = pd.read_parquet(place), pd.read_parquet(place.with_name("cells.parquet"))
    order, parts = np.random.default_rng(5).random(len(rows)), []
    for head, (parameters, macs, share) in _HEADS.items():
        right = rows["correct"] & (order < share)
        if head != "sum":
            rows[f"correct_{head}"] = right
        counts = right.groupby([rows["corruption"], rows["severity"]]).sum()
        own = cells.assign(head=head, parameters=parameters, macs=macs)
        names = zip(own["corruption"], own["severity"], strict=True)
        tested = [int(counts[name]) if name in counts else -1 for name in names]
        guess = (own["correct"] * share).round().astype(int)
        own["correct"] = np.where(own["split"] == "test", tested, guess if head != "sum" else own["correct"])
        parts.append(own.assign(accuracy=own["correct"] / own["n"]))
    rows.to_parquet(place, index=False)
    columns = ["head", "split", "corruption", "group", "family", "severity", "n", "correct", "accuracy", "parameters",
               "macs", "bn"]  # fmt: skip
    pd.concat(parts)[columns].to_parquet(place.with_name("heads.parquet"), index=False)


def _add_similarity(place: Path) -> None:
    info = json.loads(place.with_name("trial.json").read_text())
    gain = 0.04 if info["config"]["method"]["name"] == "pmal" else 0.0
    rng = np.random.default_rng(info["seed"])
    rows = [
        {"stage": stage, "corruption": name, "severity": severity, "n": 120,
         "cosine": 0.99 - 0.03 * stage - 0.02 * severity + gain + float(rng.normal(0, 0.004)),
         "cka": 0.98 - 0.06 * stage - 0.03 * severity + gain + float(rng.normal(0, 0.006))}
        for stage in (1, 2, 3, 4) for name in ("shot_noise", "contrast") for severity in (1, 3, 5)
    ]  # fmt: skip
    pd.DataFrame(rows).to_parquet(place.with_name("similarity.parquet"), index=False)


def _add_adapted(place: Path) -> None:
    """A second row for each noisy test cell, where a fifth of the wrong answers is mended."""
    cells = pd.read_parquet(place)
    second = cells[(cells["split"] == "test") & (cells["group"] != "real")].assign(bn="adapted")
    correct = second["correct"] + np.where(second["corruption"] == "clean", 0, (second["n"] - second["correct"]) // 5)
    second = second.assign(correct=correct, accuracy=correct / second["n"])
    pd.concat([cells, second], ignore_index=True).to_parquet(place, index=False)


def _train_anew(folder: Path) -> None:
    """Other answers of the same study on the same images, as new networks give them: one in twenty is turned."""
    rng = np.random.default_rng(17)
    for place in sorted(folder.glob("trials/*/predictions.parquet")):
        rows = pd.read_parquet(place)
        right = rows["correct"] ^ (rng.random(len(rows)) < 0.05)
        rows = rows.assign(correct=right, predicted=np.where(right, rows["label"], (rows["label"] + 1) % len(CLASSES)))
        rows.to_parquet(place, index=False)
        _count_again(place.with_name("cells.parquet"), rows)


def _add_retrieval(folder: Path) -> None:
    path = folder / "study.json"
    study = json.loads(path.read_text())
    study["config"]["task"] = {"name": "retrieval"}
    path.write_text(json.dumps(study))
    for place in sorted(folder.glob("trials/*/cells.parquet")):
        cells = pd.read_parquet(place).assign(family="any", nll=float("nan"), ece=float("nan"))
        cells.to_parquet(place, index=False)
        parts = [
            cells.assign(left_out=2, k=k, recall=1 - (1 - cells["accuracy"]) / k**0.5, correct=cells["correct"])
            for k in (1, 2, 4)
        ]
        rows = pd.concat(parts)
        rows[[name for name in COLUMNS["retrieval"] if name in rows]].to_parquet(
            place.with_name("retrieval.parquet"), index=False
        )
