"""The contract of the columns: what one row of a study's results is, in which types, and how it is checked.

A row is one trial x split x corruption x severity x kind of BatchNorm statistics. A trial that has no evaluation
(pruned, failed, interrupted) is one row whose evaluation columns are missing: recorded, never left out.
The ledger and MLflow both carry the files `trial.json`, `events.jsonl` and `cells.parquet`; everything here is computed
from those three, so that the frame is the same from either place.
"""
# pandas ships no stubs, and pyright takes an indexed frame for any of four types:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportReturnType=false

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.labels import label_configs

COLUMNS: dict[str, str] = {
    "study": "str",
    "phase": "str",
    "role": "str",
    "trial": "str",
    "number": "Int64",
    "status": "str",
    "config_id": "str",
    "label": "str",
    "method": "str",
    "backbone": "str",
    "stages": "Int64",
    "rho": "float64",
    "train_noise": "str",
    "seed": "Int64",
    "split": "str",
    "corruption": "str",
    "group": "str",
    "family": "str",
    "severity": "Int64",
    "table": "str",
    "relation": "str",
    "n": "Int64",
    "correct": "Int64",
    "accuracy": "float64",
    "nll": "float64",
    "ece": "float64",
    "flips": "float64",
    "bn": "str",
    "cost_passes": "float64",
    "cost_seconds": "float64",
}
"""Column -> pandas type, in the order of the frame. Missing values are pandas' own.

A lower resolution is a corruption named by its side (`16px`, of severity 1), and noise at one has both names
(`gaussian_noise_16px`, group `resolution-noise`). `group` is what kind of noise it is, `family` the suite the
corruption is of; both are `clean` for clean images and `real` for a folder of real noisy images, whose corruption is
the folder's name and whose severity is 0.
`bn` says which BatchNorm statistics the network had: `trained`, `reestimated` (on clean training images) or `adapted`
(on the images of the very cell, without labels, so that a prediction depends on the other images).
`ece` is the expected calibration error, `flips` the share of images whose prediction is not the one on the clean image.
"""

CORRECT_PREFIX = "correct_"
"""Of the columns in `predictions.parquet` that say whether one head of several was right; `correct` is their sum's."""
ROLES = ("search", "confirm", "train")
STATUSES = ("finished", "pruned", "failed", "running")
SPLITS = ("train", "validation", "test")
RELATIONS = ("clean", "seen", "similar", "unseen")
GROUP_ORDER = (
    "clean", "noise", "blur", "weather", "digital", "resolution",
    *(f"resolution-{group}" for group in ("noise", "blur", "weather", "digital", "resolution", "pmal")), "pmal", "real",
)  # fmt: skip
REAL = "real"
"""Group and family of real noisy images: other images than the clean ones, so that no mean may mix the two."""
ADAPTED = "adapted"
"""`bn` of rows that stand beside a trial's own ones and never in their place."""
LATER_COLUMNS = ("family", "ece", "flips")
"""Columns that records of earlier versions lack; they are missing values there."""
CELL_COLUMNS = (
    "split", "corruption", "group", "severity", "table", "n", "correct", "accuracy", "nll", "bn", *LATER_COLUMNS
)  # fmt: skip
CELL_KEY = ("trial", "split", "corruption", "severity", "bn")

TRAIN_GROUPS: dict[str, frozenset[str]] = {
    **dict.fromkeys(("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "pmal"), frozenset({"noise"})),
    **dict.fromkeys(("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur"), frozenset({"blur"})),
    **dict.fromkeys(("snow", "frost", "fog", "brightness", "spatter"), frozenset({"weather"})),
    **dict.fromkeys(
        ("contrast", "elastic_transform", "pixelate", "jpeg_compression", "saturate"), frozenset({"digital"})
    ),
    "resolution": frozenset({"resolution"}),
    "pmal_pair": frozenset({"noise", "blur"}),
}
"""Training noise -> the groups it counts as. `pmal_pair` blurs its target and adds Gaussian noise: both groups."""

_LOWER = frozenset({"resolution"})
_AT_LOWER = "resolution-"
_ENDS = {"final": "finished", "pruned": "pruned", "failed": "failed"}


@dataclass(frozen=True)
class TrialRecord:
    """What a trial left behind: `trial.json`, the lines of `events.jsonl`, and `cells.parquet` where there is one.

    `whole_cells` is what a finalist got on the whole validation grid, where its `cells` are of a part of it.
    """

    info: Mapping[str, Any]
    events: Sequence[Mapping[str, Any]]
    cells: pd.DataFrame | None = None
    whole_cells: pd.DataFrame | None = None

    @property
    def key(self) -> str:
        return str(self.info["key"])

    @property
    def status(self) -> str:
        return trial_status(self.events)

    @property
    def error(self) -> str | None:
        """The reason of the last failure; None where the trial did not fail."""
        return next((e.get("error") for e in reversed(self.events) if e.get("event") == "failed"), None)


def trial_status(events: Sequence[Mapping[str, Any]]) -> str:
    """Status by the last event that ends or resumes the trial: one that failed and then resumed is running again."""
    for event in reversed(events):
        kind = event.get("event")
        if kind in _ENDS:
            return _ENDS[kind]
        if kind in ("start", "resume"):
            break
    return "running"


def final_metrics(events: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Metrics of the final event, null as NaN; empty for a trial that has none."""
    found: Mapping[str, Any] = next((e.get("metrics") or {} for e in reversed(events) if e.get("event") == "final"), {})
    return {name: float("nan") if value is None else float(value) for name, value in found.items()}


def last_metric(events: Sequence[Mapping[str, Any]], name: str) -> float:
    """The last value a trial reported under this name; NaN where it never did."""
    values = [(e.get("metrics") or {}).get(name) for e in events]
    return next((float(value) for value in reversed(values) if value is not None), float("nan"))


def config_id(config: Mapping[str, Any]) -> str:
    """Twelve hex digits that name a configuration without its training seed: the seeds of one share it.

    Folders of real noisy images go by their names: where they lie may change between two launches. So may the pairs of
    a verification, all trials of which are tested on the same.
    """
    train = {key: value for key, value in config.get("train", {}).items() if key != "seed"}
    bare = {key: value for key, value in config.items() if key != "seed"} | {"train": train}
    if "real" in bare.get("noise", {}):
        noise = {key: value for key, value in bare["noise"].items() if key != "real"}
        bare["noise"] = noise | ({"real": sorted(bare["noise"]["real"])} if bare["noise"]["real"] else {})
    task = {key: value for key, value in bare.pop("task", {}).items() if key not in ("pairs", "images")}
    if task.get("name", "classification") != "classification":  # records are older than tasks
        bare["task"] = task
    text = json.dumps(_as_older(bare), sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _as_older(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without the settings that older records lack, where they say nothing: a configuration keeps its name."""
    bare = {key: dict(value) if isinstance(value, dict) else value for key, value in config.items()}
    if not any(bare.get("resolution", {}).get(name) for name in ("train", "validation", "test")):
        bare.pop("resolution", None)
    if not bare.get("train", {}).get("adapt_bn"):
        bare.get("train", {}).pop("adapt_bn", None)
    if not bare.get("noise", {}).get("similarity"):
        bare.get("noise", {}).pop("similarity", None)
    if bare.get("optim", {}).get("schedule") != "step":
        for name in ("step_at", "step_factor"):
            bare.get("optim", {}).pop(name, None)
    if bare.get("data", {}).get("unseen_classes") is None:
        bare.get("data", {}).pop("unseen_classes", None)
    return bare


def training_noise(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the noise that training drew, lower resolutions (`16px`) among them; left out in the configuration means
    the method's own.
    """
    full = config.get("data", {}).get("image_size")
    sides = [f"{side}px" for side in config.get("resolution", {}).get("train", ()) if side != full]
    named = config.get("noise", {}).get("train")
    if named is None:
        named = ("pmal_pair",) if config.get("method", {}).get("name") == "pmal" else ()
    return tuple(sorted({*sides, *(item if isinstance(item, str) else item["name"] for item in named)}))


def relation(corruption: str, group: str, train_types: Iterable[str], groups: Mapping[str, frozenset[str]]) -> str:
    """How an evaluated corruption stands to the training noise.

    Args:
        corruption: its name; "clean" for the images as they are.
        group: its group. The group `pmal` (the paper's additive Gaussian) counts as `noise`.
        train_types: names of the training noise.
        groups: name -> groups, see `TRAIN_GROUPS`.

    Returns:
        `clean`; `seen` (trained on this very corruption); `similar` (on one of its group); `unseen`. Noise at a lower
        resolution is what the stranger of the two is: seen where both were.
    """
    if corruption == "clean":
        return "clean"
    types = set(train_types)
    if group.startswith(_AT_LOWER):
        noise, _, side = corruption.rpartition("_")
        parts = ((side, "resolution"), (noise, group.removeprefix(_AT_LOWER)))
        return max((relation(*part, types, groups) for part in parts), key=RELATIONS.index)
    if corruption in types:
        return "seen"
    own = "noise" if group == "pmal" else group
    trained = frozenset[str]().union(*(_LOWER if _is_side(name) else groups.get(name, frozenset()) for name in types))
    return "similar" if own in trained else "unseen"


def _is_side(name: str) -> bool:
    """Whether it is a lower resolution, such as `16px`."""
    return name.endswith("px") and name.removesuffix("px").isdecimal()


def side_of(corruption: str, group: str) -> int:
    """Pixels that a cell's images were shrunk to; 0 for images of full size."""
    name = corruption.rpartition("_")[2]
    lower = group.partition("-")[0] in _LOWER and _is_side(name)
    return int(name.removesuffix("px")) if lower else 0


def ungrouped(train_types: Iterable[str], groups: Mapping[str, frozenset[str]]) -> list[str]:
    """Training noise whose group nobody declared, so that `unseen` may say too much; the report names it."""
    return sorted(name for name in set(train_types) - set(groups) if not _is_side(name))


def known_groups(records: Iterable[TrialRecord], study: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """Name -> groups: the table above, what `study.json` declares under `groups`, and what any trial evaluated."""
    found = {name: frozenset({group}) for name, group in (study.get("groups") or {}).items()}
    pairs: set[tuple[str, str]] = set()
    for record in records:
        if record.cells is not None:
            pairs |= set(zip(record.cells["corruption"].tolist(), record.cells["group"].tolist(), strict=True))
    found |= {c: frozenset({"noise" if g == "pmal" else g}) for c, g in sorted(pairs)}
    return found | TRAIN_GROUPS


def to_frame(records: Sequence[TrialRecord], study: Mapping[str, Any]) -> pd.DataFrame:
    """All rows of a study, in the types, the columns and the order of the contract."""
    groups = known_groups(records, study)
    labels = label_configs({(r.info["phase"], config_id(r.info["config"])): r.info["config"] for r in records})
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for record in records:
        _add_rows(columns, record, groups, labels)
    return validate(sort_rows(pd.DataFrame(columns).astype(COLUMNS), study))


def _add_rows(
    columns: dict[str, list[Any]], record: TrialRecord, groups: Mapping[str, frozenset[str]], labels: Mapping[Any, str]
) -> None:
    info, config = record.info, record.info["config"]
    types = training_noise(config)
    stages = config.get("method", {}).get("stages")
    identity = config_id(config)
    if record.cells is None or record.cells.empty:
        own: dict[str, list[Any]] = {name: [None] for name in (*CELL_COLUMNS, "relation")}
    else:
        lacks = {name: [None] * len(record.cells) for name in LATER_COLUMNS if name not in record.cells}
        own = {name: record.cells[name].tolist() for name in CELL_COLUMNS if name not in lacks} | lacks
        pairs = zip(own["corruption"], own["group"], strict=True)
        own["relation"] = [relation(corruption, group, types, groups) for corruption, group in pairs]
    constant = {
        "study": info["study"],
        "phase": info["phase"],
        "role": info["role"],
        "trial": info["key"],
        "number": info.get("number", 0),
        "status": record.status,
        "config_id": identity,
        "label": labels[info["phase"], identity],
        "method": config.get("method", {}).get("name", "unknown"),
        "backbone": config.get("model", {}).get("backbone", "unknown"),
        "stages": len(stages) if isinstance(stages, (list, tuple)) else stages,
        "rho": config.get("optim", {}).get("sam", {}).get("rho"),
        "train_noise": "+".join(types) or "none",
        "seed": info.get("seed"),
        "cost_passes": last_metric(record.events, "cost/passes"),
        "cost_seconds": last_metric(record.events, "cost/seconds"),
    }
    num_rows = len(own["relation"])
    for name, values in columns.items():
        values.extend(own.get(name) or [constant[name]] * num_rows)


def sort_rows(frame: pd.DataFrame, study: Mapping[str, Any]) -> pd.DataFrame:
    """Rows by phase (in the study's order), trial number, split, statistics, group, corruption, severity."""
    phases = {phase["name"]: place for place, phase in enumerate(study.get("phases") or [])}
    groups = {group: place for place, group in enumerate(GROUP_ORDER)}
    order = pd.DataFrame(
        {
            "known_phase": frame.phase.map(phases).fillna(len(phases)).astype("float64"),
            "phase": frame.phase,
            "number": frame.number,
            "trial": frame.trial,
            "split": frame.split.fillna(""),
            "bn": frame.bn.fillna(""),
            "known_group": frame.group.map(groups).fillna(len(groups)).astype("float64"),
            "group": frame.group.fillna(""),
            "corruption": frame.corruption.fillna(""),
            "severity": frame.severity.fillna(0),
        }
    )
    return frame.loc[order.sort_values(list(order.columns), kind="stable").index].reset_index(drop=True)


def validate(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame itself, if it keeps the contract.

    Raises:
        ValueError: columns or types differ, a closed set holds another word, counts disagree, or a cell stands twice.
    """
    if list(frame.columns) != list(COLUMNS):
        raise ValueError(f"columns must be {list(COLUMNS)}, but got {list(frame.columns)}")
    wrong = {c: str(frame[c].dtype) for c, kind in COLUMNS.items() if str(frame[c].dtype) != kind}
    if wrong:
        raise ValueError(f"types must be those of analysis.records.COLUMNS, but got {wrong}; use astype(COLUMNS)")
    for column, allowed in (("role", ROLES), ("status", STATUSES), ("split", SPLITS), ("relation", RELATIONS)):
        stray = sorted(set(frame[column].dropna()) - set(allowed))
        if stray:
            raise ValueError(f"{column} must be one of {list(allowed)}, but got {stray}")
    cells = frame[frame.split.notna()]
    _check_cells(cells)
    twice = cells.duplicated(list(CELL_KEY))
    if twice.any():
        first = cells.loc[twice, list(CELL_KEY)].iloc[0].to_dict()
        raise ValueError(f"a cell must stand once per trial, but {first} stands twice; is its cells.parquet mixed up?")
    return frame


def _check_cells(cells: pd.DataFrame) -> None:
    bad = cells[(cells.n < 1) | (cells.correct < 0) | (cells.correct > cells.n)]
    if len(bad):
        raise ValueError(f"0 <= correct <= n and n >= 1 must hold, but trial {bad.trial.iloc[0]} has {_first(bad)}")
    bad = cells[((cells.correct / cells.n).astype("float64") - cells.accuracy).abs() > 1e-5]
    if len(bad):
        raise ValueError(f"accuracy must be correct / n, but trial {bad.trial.iloc[0]} has {_first(bad)}")
    bad = cells[(cells.severity == 0) != ((cells.corruption == "clean") | (cells.group == REAL))]
    if len(bad):
        raise ValueError(f"severity 0 must mean clean or real images and nothing else, but got {_first(bad)}")
    for column in ("ece", "flips"):
        bad = cells[(cells[column] < 0) | (cells[column] > 1)]
        if len(bad):
            raise ValueError(f"{column} must be in [0, 1], but trial {bad.trial.iloc[0]} has {_first(bad, column)}")


def _first(rows: pd.DataFrame, *columns: str) -> dict[str, Any]:
    return rows[["corruption", "severity", "n", "correct", "accuracy", *columns]].iloc[0].to_dict()
