"""How fast searches find good settings: regret against gradient passes on a table of real trials, without training.

    python tests/bench/search_quality.py --study results/search-table --table search-table.csv   (a grid, run before)
    python tests/bench/search_quality.py --table search-table.csv --png docs/search-quality.png

A table has a row for each epoch of each configuration: the drawn keys, `epoch`, `passes` (spent so far) and `metric`
(more is better). The searches are Murk's own: its source of suggestions, its samplers, its rungs; a trial's curve is
read from the table. Regret is the best final metric of the table minus that of the best trial that has finished.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import platform
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

from study.config_search import Scheduler, SearchConfig
from study.ledger import Ledger, TrialSpec
from study.rungs import Rungs
from study.searcher import OptunaSource

CURVE = ("epoch", "passes", "metric")
SEARCHES = {"TPE + ASHA": ("tpe", True), "TPE": ("tpe", False), "random": ("random", False)}
COLOURS = {"TPE + ASHA": "#0072B2", "TPE": "#D55E00", "random": "#4d4d4d"}
SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)
STEPS = 200


class Point(NamedTuple):
    """Where a search stands: passes spent, and its regret; the table's worst before anything finished."""

    passes: float
    regret: float


@dataclass(frozen=True)
class Table:
    """Curves of a finite space.

    Attributes:
        values: Key -> its values in order; None stands where a configuration lacks the key.
        curves: Configuration (as JSON) -> rows (epoch, passes, metric).
    """

    values: dict[str, list[Any]]
    curves: dict[str, np.ndarray]

    @property
    def best(self) -> float:
        return max(curve[-1, 2] for curve in self.curves.values())

    @property
    def worst(self) -> float:
        return min(curve[-1, 2] for curve in self.curves.values())

    @property
    def passes(self) -> float:
        """Of all trials together."""
        return sum(curve[-1, 1] for curve in self.curves.values())


def read_table(frame: pd.DataFrame) -> Table:
    """The curves of a frame.

    Raises:
        ValueError: A column or a value is missing, or a configuration has an epoch twice.
    """
    keys = [name for name in frame.columns if name not in CURVE]
    if not keys or set(CURVE) - set(frame.columns):
        raise ValueError(f"a table must have drawn keys and {', '.join(CURVE)}, but has {list(frame.columns)}")
    if not np.isfinite(frame[list(CURVE)].to_numpy(dtype=float)).all():
        raise ValueError("epoch, passes and metric must be finite in every row; leave out trials that failed")
    if frame.duplicated([*keys, "epoch"]).any():
        raise ValueError("a table must have each epoch of a configuration once; average over seeds first")
    curves = {}
    for _, rows in frame.groupby(keys, dropna=False, sort=False):
        params = {key: _plain(rows[key].iloc[0]) for key in keys}
        name = _name({key: value for key, value in params.items() if value is not None})
        curves[name] = rows.sort_values("epoch")[list(CURVE)].to_numpy(dtype=float)
    values = {key: sorted({_plain(value) for value in frame[key]} - {None}, key=_order) for key in keys}
    return Table(values, curves)


def table_of_study(folder: Path) -> pd.DataFrame:
    """The finished search trials of a study as a table."""
    ledger = Ledger(str(folder.resolve().parent), folder.name)
    rows = []
    for key in ledger.keys():
        record = ledger.trial(key)
        if record["role"] != "search" or ledger.status(key) != "finished":
            continue
        params = {name: value if isinstance(value, (int, float, str)) else json.dumps(value)
                  for name, value in record["params"].items()}  # fmt: skip
        rows += [
            {**params, "epoch": event["epoch"], "passes": event["metrics"]["cost/passes"],
             "metric": event["metrics"]["acc/noise"]}
            for event in ledger.events(key) if event["event"] == "epoch"
        ]  # fmt: skip
    return pd.DataFrame(rows).drop_duplicates()


class TableSpace:
    """The space of a table: numbers as places in their order, all else as choices; a key only where a row has it."""

    def __init__(self, table: Table) -> None:
        self._values = table.values
        self._rows = [json.loads(name) for name in table.curves]

    def suggest(self, trial: Any) -> dict[str, Any]:
        """Draw the keys one after the other."""
        params: dict[str, Any] = {}
        for key, values in self._values.items():
            fitting = [row for row in self._rows if all(row.get(name) == value for name, value in params.items())]
            if not any(key in row for row in fitting):
                continue
            if _is_ordered(values):
                params[key] = values[trial.suggest_int(key, 0, len(values) - 1)]
            else:
                params[key] = trial.suggest_categorical(key, values)
        return params

    def encode(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """What Optuna keeps."""
        return {key: self._values[key].index(value) if _is_ordered(self._values[key]) else value
                for key, value in params.items()}  # fmt: skip

    def configurations(self) -> list[dict[str, Any]]:
        """All rows of the table."""
        return self._rows


def simulate(
    table: Table, search: str, *, seed: int, budget: float, grace: float, reduction_factor: int
) -> list[Point]:
    """Replay one search until it has spent a budget of passes or the table is exhausted.

    Args:
        search: One of `SEARCHES`.
        grace: Passes before a trial may be stopped.
    """
    algorithm, is_stopping = SEARCHES[search]
    settings = SearchConfig(algorithm=algorithm, trials=len(table.curves), seed=seed)
    scheduler = Scheduler(name="asha", grace_passes_per_image=grace, reduction_factor=reduction_factor)
    rungs = Rungs(scheduler, maximise=True)
    root = f"memory://search-quality-{uuid.uuid4().hex}"
    ledger = Ledger(root, "table")
    source = OptunaSource(TableSpace(table), settings, spec_of=_spec_maker(table), ledger=ledger, phase="search")
    points, spent, best = [Point(0.0, table.best - table.worst)], 0.0, -math.inf
    while spent < budget and (spec := source.next_spec()) is not None:
        curve, method = table.curves[_name(spec.params)], str(spec.params.get("method.name", ""))
        used, status, metrics = 0.0, "finished", {}
        for place, (epoch, passes, value) in enumerate(curve):
            used, metrics = passes, {"epoch": int(epoch), "acc/noise": value, "cost/passes": passes}
            is_last = place == len(curve) - 1
            source.on_epoch(spec.key, int(epoch), metrics)
            if is_stopping and not is_last and rungs.judge(spec.key, metrics, value, method=method):
                status = "pruned"
                break
        spent += used
        ledger.append(spec.key, "final" if status == "finished" else "pruned", metrics=metrics, epoch=metrics["epoch"])
        source.on_end(spec.key, status, metrics)
        best = max(best, metrics["acc/noise"]) if status == "finished" else best
        points.append(Point(spent, table.best - (best if math.isfinite(best) else table.worst)))
    fsspec.filesystem("memory").rm(root, recursive=True)
    return points


def compare(
    table: Table, *, seeds: int, budget: float, grace: float, reduction_factor: int
) -> dict[str, np.ndarray]:  # fmt: skip
    """Search -> regrets (seeds x STEPS) at equal steps up to the budget."""
    grid = np.linspace(0, budget, STEPS)
    found = {}
    for search in SEARCHES:
        runs = [simulate(table, search, seed=seed, budget=budget, grace=grace, reduction_factor=reduction_factor)
                for seed in range(seeds)]  # fmt: skip
        found[search] = np.array([_at(points, grid) for points in runs])
    return found


def summary(found: Mapping[str, np.ndarray], *, budget: float, whole: float) -> pd.DataFrame:
    """Mean regret with its 95 % interval over seeds (Student's t) at shares of the whole table's passes."""
    rows = []
    for search, regrets in found.items():
        for share in SHARES:
            if share * whole > budget * (1 + 1e-9):
                continue
            step = min(STEPS - 1, round(share * whole / budget * (STEPS - 1)))
            mean, low, high = _interval(regrets[:, step])
            rows.append({"search": search, "share": share, "passes": share * whole, "regret": mean, "low": low,
                         "high": high})  # fmt: skip
    return pd.DataFrame(rows)


def picture(found: Mapping[str, np.ndarray], *, budget: float, whole: float) -> Figure:
    """Mean regret in points against the share of the table's passes, with bands of 95 %."""
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    grid = np.linspace(0, budget, STEPS) / whole * 100
    for search, regrets in found.items():
        bands = np.array([_interval(regrets[:, step]) for step in range(STEPS)]) * 100
        axes.plot(grid, bands[:, 0], label=search, color=COLOURS[search], lw=2)
        axes.fill_between(grid, np.maximum(bands[:, 1], 0), bands[:, 2], color=COLOURS[search], alpha=0.15, lw=0)
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, grid[-1])
    axes.set_xlabel("gradient passes spent, in per cent of the whole grid's")
    axes.set_ylabel("regret (points of accuracy under noise)")
    axes.grid(color="#e3e7ec", lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def _interval(values: np.ndarray) -> tuple[float, float, float]:
    mean = float(values.mean())
    if len(values) < 2:
        return mean, mean, mean
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half


def _at(points: Sequence[Point], grid: np.ndarray) -> np.ndarray:
    """The regret at each place of a grid: that of the last point before it."""
    places = np.searchsorted([point.passes for point in points], grid, side="right") - 1
    return np.array([points[place].regret for place in places])


def _spec_maker(table: Table):
    def spec_of(params: dict[str, Any], number: int) -> TrialSpec:
        name = _name(params)
        if name not in table.curves:
            raise ValueError(f"the table has no row for {name}")
        key = hashlib.sha256(name.encode()).hexdigest()[:16]
        return TrialSpec(key, "table", "search", "search", number, 0, {}, "table", "unused", "unused", params)

    return spec_of


def _name(params: Mapping[str, Any]) -> str:
    return json.dumps(params, sort_keys=True)


def _plain(value: Any) -> Any:
    """A cell as JSON has it; None for a missing one."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if value is None or (isinstance(value, float) and math.isnan(value)) else value


def _order(value: Any) -> tuple[str, Any]:
    return ("", value) if isinstance(value, (int, float)) else ("text", value)


def _is_ordered(values: Sequence[Any]) -> bool:
    return len(values) > 1 and all(type(value) in (int, float) for value in values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, required=True, help="CSV or parquet; written where --study is given")
    parser.add_argument("--study", type=Path, help="folder of a study's records, to make the table of")
    parser.add_argument("--png", type=Path, help="picture to write")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--budget", type=float, default=0.5, help="share of the whole grid's passes to spend")
    parser.add_argument("--reduction-factor", type=int, default=3)
    given = parser.parse_args()
    if given.study is not None:
        frame = table_of_study(given.study)
        frame.to_csv(given.table, index=False)
        print(f"{given.table}: {len(frame)} rows")
    frame = pd.read_parquet(given.table) if given.table.suffix == ".parquet" else pd.read_csv(given.table)
    table = read_table(frame)
    grace = min(curve[0, 1] for curve in table.curves.values())
    budget, started = given.budget * table.passes, time.perf_counter()
    found = compare(table, seeds=given.seeds, budget=budget, grace=grace, reduction_factor=given.reduction_factor)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    print(f"{time.strftime('%Y-%m-%d')}, commit {commit.stdout.strip()}, {platform.machine()}, "
          f"Python {platform.python_version()}, {time.perf_counter() - started:.0f} s")  # fmt: skip
    ends = f"best {table.best:.4f}, worst {table.worst:.4f}"
    print(f"{len(table.curves)} configurations, {table.passes:.4g} passes in all, {ends}")
    print(f"{given.seeds} seeds, grace {grace:.4g} passes, factor {given.reduction_factor}; regret in points [95 %]")
    rows = summary(found, budget=budget, whole=table.passes)
    print(f"{'search':<12}" + "".join(f"{share:>22.0%}" for share in dict.fromkeys(rows["share"])))
    for search, part in itertools.groupby(rows.to_dict("records"), key=lambda row: row["search"]):
        cells = [f"{100 * row['regret']:.2f} [{100 * row['low']:.2f}, {100 * row['high']:.2f}]" for row in part]
        print(f"{search:<12}" + "".join(f"{cell:>22}" for cell in cells))
    if given.png is not None:
        picture(found, budget=budget, whole=table.passes).savefig(given.png, dpi=160)


if __name__ == "__main__":
    main()
