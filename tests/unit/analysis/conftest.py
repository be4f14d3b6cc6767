"""A synthetic ledger in the layout of the contract: a search with pruned and failed trials, then a confirmation.

Whether a network gets an image right follows a simple model: skill of the method + luck of the seed + ease of the image
- hardness of the noise, through a logistic function. Nothing here was trained.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

CLASSES = ("bus", "estate", "hatchback", "lorry", "pickup", "saloon", "tractor", "van")
TEST_NOISE = {
    "shot_noise": ("noise", 0.55),
    "impulse_noise": ("noise", 0.7),
    "gaussian_blur": ("blur", 0.5),
    "contrast": ("digital", 0.35),
    "jpeg_compression": ("digital", 0.2),
    "resolution": ("resolution", 0.45),
}
VALIDATION_NOISE = {"gaussian_noise": ("noise", 0.6), "motion_blur": ("blur", 0.45)}
SEARCH = [  # method, stages, rho, lr, end
    ("plain", None, 0.0, 0.05, "final"),
    ("pmal", 2, 0.05, 0.05, "final"),
    ("plain", None, 0.05, 0.02, "pruned"),
    ("pmal", 3, 0.05, 0.05, "final"),
    ("pmal", 3, 0.1, 0.9, "failed"),
    ("pmal", 3, 0.1, 0.03, "final"),
    ("plain", None, 0.1, 0.03, "final"),
    ("pmal", 2, 0.02, 0.005, "pruned"),
]
CONFIRMED = (5, 3, 6)
SEEDS = (101, 102, 103)
T0 = 1_760_000_000.0
VERSIONS = {"python": "3.11.7", "torch": "2.15.0", "timm": "1.0.31", "optuna": "5.0.0"}


def trial_config(method: str, stages: int | None, rho: float, lr: float, *, seed: int = 0) -> dict[str, Any]:
    """A resolved trial configuration, as `trial.json` holds it."""
    settings = {"name": method} | ({} if stages is None else {"stages": stages, "head_width": 64})
    return {
        "data": {"source": "synthetic-vehicles", "image_size": 64, "num_classes": len(CLASSES), "seed": 0},
        "model": {"backbone": "resnet10t", "pretrained": False},
        "method": settings,
        "noise": {
            "train": None
            if method == "pmal"
            else [{"name": "gaussian_noise", "severities": [1, 2], "probability": 0.5}],
            "validation": list(VALIDATION_NOISE),
            "validation_severities": [2, 4],
            "test": list(TEST_NOISE),
            "test_severities": [1, 2, 3, 4, 5],
        },
        "optim": {"name": "sgd", "lr": lr, "sam": {"rho": rho, "adaptive": False}},
        "train": {"epochs": 6, "batch_size": 64, "seed": seed},
    }


def write_study(
    root: Path,
    *,
    name: str = "vehicles",
    num_images: int = 120,
    confirm: bool = True,
    classes: tuple[str, ...] = CLASSES,
    error: str = "loss is not finite at epoch 1, step 12; lower optim.lr",
) -> Path:
    """Write a whole study under `root` and return its folder."""
    folder = root / name
    rng = np.random.default_rng(7)
    keys = [f"{number:016x}" for number in range(1, len(SEARCH) + 1)]
    for number, (key, spec) in enumerate(zip(keys, SEARCH, strict=True)):
        _write_trial(folder, key, name, "search", number, spec, 0, rng, num_images, classes, error)
    phases = [{"name": "search", "kind": "search", "status": "finished", "trials": keys, "selected": []}]
    reads = []
    if confirm:
        tested = []
        for number, (place, seed) in enumerate((p, s) for p in CONFIRMED for s in SEEDS):
            tested.append(f"{0xC0000 + number:016x}")
            spec = SEARCH[place]
            _write_trial(folder, tested[-1], name, "confirm", number, spec, seed, rng, num_images, classes, error)
        chosen = [keys[place] for place in CONFIRMED]
        phases.append(
            {"name": "confirm", "kind": "confirm", "status": "finished", "trials": tested, "selected": chosen}
        )
        reads = [{"phase": "confirm", "trials": tested, "time": "2026-01-05T12:00:00Z"}]
    (folder / "study.json").write_text(json.dumps(_study_json(name, phases, reads, num_images)))
    return folder


def _study_json(name: str, phases: list[dict], reads: list[dict], num_images: int) -> dict[str, Any]:
    return {
        "study": name,
        "config": trial_config("plain", None, 0.05, 0.05)
        | {
            "name": name,
            "search": {"algorithm": "tpe", "trials": 8, "objectives": [{"metric": "acc/noise", "goal": "maximise"}]},
            "report": {"baseline": {"method.name": "plain"}},
        },
        "fingerprint": "5f0c" * 16,
        "data": {
            "source": "synthetic-vehicles",
            "image_size": 64,
            "num_classes": len(CLASSES),
            "num_train": 480,
            "num_validation": 120,
            "num_test": num_images,
        },
        "skipped": [["bus/17.png", "truncated file"], ["van/3.png", "not an image"]],
        "baseline": {"method.name": "plain"},
        "versions": VERSIONS,
        "phases": phases,
        "created": "2026-01-05T09:00:00Z",
        "test_reads": reads,
    }


def _write_trial(folder, key, study, phase, number, spec, seed, rng, num_images, classes, error) -> None:
    method, stages, rho, lr, end = spec
    place = folder / "trials" / key
    place.mkdir(parents=True)
    info = {
        "key": key,
        "study": study,
        "phase": phase,
        "role": "confirm" if phase == "confirm" else "search",
        "number": number,
        "seed": seed,
        "config": trial_config(method, stages, rho, lr, seed=seed),
        "fingerprint": "5f0c" * 16,
        "params": {"method.name": method, "optim.lr": lr},
        "numerics": 1,
        "created": "2026-01-05T09:00:00Z",
    }
    (place / "trial.json").write_text(json.dumps(info))
    skill = 0.9 + (0.45 + 0.1 * (stages or 0) if method == "pmal" else 0.0) + rng.normal(0, 0.06)
    toughness = 0.72 if method == "pmal" else 1.0
    cells, predictions = _evaluate(skill, toughness, VALIDATION_NOISE, (2, 4), "validation", rng, 100, len(classes))
    if phase == "confirm":
        tested, predictions = _evaluate(
            skill, toughness, TEST_NOISE, (1, 2, 3, 4, 5), "test", rng, num_images, len(classes)
        )
        cells += tested
        predictions.to_parquet(place / "predictions.parquet", index=False)
        (place / "examples.npz").write_bytes(_examples(rng, classes, restored=method == "pmal"))
    events = _events(end, cells, 1.0 if method == "plain" else 2.0 + (stages or 0), rng, error)
    (place / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    if end == "final":
        pd.DataFrame(cells).assign(bn="reestimated").to_parquet(place / "cells.parquet", index=False)


def _evaluate(skill, toughness, noise, severities, split, rng, n, num_classes):
    """Cells and predictions; the ease of the images is the same for every trial."""
    ease = np.random.default_rng(11).normal(0, 1.3, n)
    labels = np.arange(n) % num_classes
    cells, parts = [], []
    grid = [("clean", "clean", 0, 0.0)] + [(c, g, s, h * s) for c, (g, h) in noise.items() for s in severities]
    for corruption, group, severity, hardness in grid:
        chance = 1 / (1 + np.exp(-(skill + ease - toughness * hardness)))
        right = rng.random(n) < chance
        predicted = np.where(right, labels, (labels + rng.integers(1, num_classes, n)) % num_classes)
        accuracy = float(right.mean())
        cells.append(
            {
                "split": split,
                "corruption": corruption,
                "group": group,
                "severity": severity,
                "table": "" if corruption == "clean" else "tiny",
                "n": n,
                "correct": int(right.sum()),
                "accuracy": accuracy,
                "nll": 1.5 - accuracy,
            }
        )
        parts.append(
            pd.DataFrame(
                {
                    "image_id": np.arange(n, dtype=np.int64) + 5000,
                    "label": labels.astype(np.int64),
                    "predicted": predicted.astype(np.int64),
                    "confidence": chance.astype(np.float32),
                    "correct": right,
                    "corruption": corruption,
                    "severity": severity,
                }
            )
        )
    return cells, pd.concat(parts, ignore_index=True)


def _events(end: str, cells: list[dict], price: float, rng, error: str) -> list[dict[str, Any]]:
    noisy = [c["accuracy"] for c in cells if c["corruption"] != "clean" and c["split"] == "validation"]
    clean = next(c["accuracy"] for c in cells if c["split"] == "validation" and c["corruption"] == "clean")
    events: list[dict[str, Any]] = [
        {"event": "start", "time": T0, "hardware": "x86_64 CPU, 1 threads", "versions": VERSIONS, "workers": 1}
    ]
    num_epochs = {"final": 6, "pruned": 2, "failed": 1}[end]
    for epoch in range(1, num_epochs + 1):
        share = 1 - 0.8 * 0.6**epoch
        metrics = {
            "loss/train": 2.0 * 0.8**epoch,
            "lr": 0.05,
            "acc/clean": clean * share,
            "acc/noise": float(np.mean(noisy)) * share,
            "cost/passes": 480 * price * epoch,
            "cost/seconds": 4.1 * price * epoch * float(rng.uniform(0.9, 1.1)),
        }
        events.append({"event": "epoch", "time": T0 + 10 * epoch, "epoch": epoch, "step": 0, "metrics": metrics})
    last = {"event": end, "time": T0 + 100, "epoch": num_epochs, "step": 0}
    if end == "failed":
        return [*events, last | {"error": error}]
    if end == "final":
        metrics = events[-1]["metrics"] | {"acc/clean": clean, "acc/noise": float(np.mean(noisy))}
        return [*events, last | {"metrics": metrics, "final": True}]
    return [*events, last | {"metrics": events[-1]["metrics"]}]


def _examples(rng, classes: tuple[str, ...], *, restored: bool) -> bytes:
    side, count, names = 64, 4, list(TEST_NOISE)
    clean = np.full((count, side, side, 3), 205, dtype=np.float64)
    for i in range(count):
        clean[i, 44:, :, :] = (92, 96, 104)
        clean[i, 24 - 3 * i : 50, 8 + 2 * i : 58 - 2 * i, :] = [
            (196, 60, 52),
            (58, 110, 180),
            (70, 140, 90),
            (230, 170, 50),
        ][i]
        for x in (18, 46):
            clean[i, 46:54, x - 4 : x + 4, :] = 20
    rows: dict[str, list[np.ndarray]] = {}
    for place, corruption in enumerate(names):
        noisy = np.clip(clean + rng.normal(0, 22 + 12 * place, clean.shape), 0, 255)
        found = {
            "clean": clean,
            "noisy": noisy,
            "labels": np.arange(count),
            "predicted_clean": np.arange(count),
            "predicted_noisy": np.where(
                rng.random(count) < 0.6, np.arange(count), (np.arange(count) + 1) % len(classes)
            ),
            "corruption": np.full(count, corruption),
            "severity": np.full(count, 3),
        }
        if restored:
            found["restored"] = 0.8 * clean + 0.2 * noisy
        for column, values in found.items():
            rows.setdefault(column, []).append(values)
    arrays = {name: np.concatenate(values) for name, values in rows.items()}
    images = {name: arrays[name].astype(np.uint8) for name in ("clean", "noisy", "restored") if name in arrays}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **(arrays | images), class_names=np.asarray(classes))
    return buffer.getvalue()


def add_measures(folder: Path, *, real: dict[str, int] | None = None) -> Path:
    """Bring a study to what trials write now: family, calibration error, flips, and folders of real images (name -> n).

    Figures are simple: `ece` is .1 clean and .2 else, `flips` .3 under noise, and every second real image is right.
    """
    for path in sorted(folder.glob("trials/*/cells.parquet")):
        cells = pd.read_parquet(path)
        clean = cells["corruption"] == "clean"
        families = cells["group"].map({"clean": "clean", "resolution": "resolution"}).fillna("imagecorruptions")
        cells = cells.assign(family=families, ece=np.where(clean, 0.1, 0.2), flips=np.where(clean, 0.0, 0.3))
        kept = path.with_name("predictions.parquet")
        if kept.exists():
            for name, count in (real or {}).items():
                rows, row = _real_rows(name, count)
                cells = pd.concat([cells, pd.DataFrame([row])], ignore_index=True)
                pd.concat([pd.read_parquet(kept), rows], ignore_index=True).to_parquet(kept, index=False)
        cells.to_parquet(path, index=False)
    study = json.loads((folder / "study.json").read_text())
    study["real"] = {
        name: {"fingerprint": "f", "num_images": count, "num_known": 2, "num_skipped": 0}
        for name, count in (real or {}).items()
    }
    (folder / "study.json").write_text(json.dumps(study))
    return folder


def _real_rows(name: str, count: int) -> tuple[pd.DataFrame, dict[str, Any]]:
    right = np.arange(count) % 2 == 0
    rows = {"image_id": np.arange(count, dtype=np.int64) + 90_000, "label": np.zeros(count, dtype=np.int64),
            "predicted": (~right).astype(np.int64), "confidence": np.full(count, 0.5, dtype=np.float32),
            "correct": right, "corruption": name, "severity": 0}  # fmt: skip
    cell = {"split": "test", "corruption": name, "group": "real", "family": "real", "severity": 0, "table": "",
            "n": count, "correct": int(right.sum()), "accuracy": float(right.mean()), "nll": 1.0, "ece": 0.4,
            "flips": float("nan"), "bn": "reestimated"}  # fmt: skip
    return pd.DataFrame(rows), cell


def add_sides(
    folder: Path, *, sides: tuple[int, ...] = (8, 16, 32), only: bool = False, with_noise: bool = True
) -> Path:
    """Bring a study to what trials with lower sides write; the smaller the side, the fewer images are right.

    Args:
        only: Take every other noise out, as a study without any has it; full size is 64.
    """
    for path in sorted(folder.glob("trials/*/cells.parquet")):
        path_of_predictions = path.with_name("predictions.parquet")
        for file in (path, path_of_predictions):
            if file.exists():
                rows = pd.read_parquet(file)
                full = rows[rows["corruption"] == "clean"] if only else rows
                lower = [_at_side(rows, side, with_noise=with_noise and not only) for side in sides]
                pd.concat([full, *lower], ignore_index=True).to_parquet(file, index=False)
        if path_of_predictions.exists():
            _count_again(path, pd.read_parquet(path_of_predictions))
    return folder


def _at_side(rows: pd.DataFrame, side: int, *, with_noise: bool) -> pd.DataFrame:
    """Rows of cells or of predictions at a lower side, where the same share of the images is always wrong."""
    lower = rows[rows["corruption"] != "resolution"] if with_noise else rows[rows["corruption"] == "clean"]
    clean = lower["corruption"] == "clean"
    lower = lower.assign(
        corruption=np.where(clean, f"{side}px", lower["corruption"] + f"_{side}px"),
        severity=np.where(clean, 1, lower["severity"]),
    )
    if "group" in lower:
        return lower.assign(group=np.where(clean, "resolution", "resolution-" + lower["group"]))
    is_hard = lower["image_id"] % 64 >= 8 * np.sqrt(side)
    return lower.assign(correct=lower["correct"] & ~is_hard)


def _count_again(path: Path, predictions: pd.DataFrame) -> None:
    """Make the tested cells those that the predictions say."""
    cells = pd.read_parquet(path)
    right = predictions.groupby(["corruption", "severity"])["correct"].sum()
    tested = cells["split"] == "test"
    counts = [int(right[cell]) for cell in zip(cells["corruption"][tested], cells["severity"][tested], strict=True)]
    cells.loc[tested, "correct"] = counts
    cells["accuracy"] = cells["correct"] / cells["n"]
    cells.to_parquet(path, index=False)


def add_adapted(folder: Path, gains: dict[str, int], *, clean_loss: int = 0) -> Path:
    """Beside each tested cell of these trials one with adapted batch norms.

    Args:
        gains: Trial key -> images more that are right in each noisy cell.
        clean_loss: Images fewer that are right in the clean one.
    """
    for key, gain in gains.items():
        path = folder / "trials" / key / "cells.parquet"
        cells = pd.read_parquet(path)
        tested = cells[cells["split"] == "test"]
        correct = tested["correct"] + np.where(tested["corruption"] == "clean", -clean_loss, gain)
        correct = correct.clip(0, tested["n"])
        adapted = tested.assign(bn="adapted", correct=correct, accuracy=correct / tested["n"])
        pd.concat([adapted, cells], ignore_index=True).to_parquet(path, index=False)
    return folder


@pytest.fixture
def with_sides() -> Callable[..., Path]:
    """The function that brings a study to what trials with lower sides write."""
    return add_sides


@pytest.fixture
def with_adapted() -> Callable[..., Path]:
    """The function that adds rows with adapted batch norms."""
    return add_adapted


@pytest.fixture
def with_measures() -> Callable[..., Path]:
    """The function that brings a study to what trials write now."""
    return add_measures


@pytest.fixture
def write_ledger() -> Callable[..., Path]:
    """The function that writes a study's folder."""
    return write_study


@pytest.fixture(scope="session")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One study, read by many tests and changed by none."""
    return write_study(tmp_path_factory.mktemp("storage"))
