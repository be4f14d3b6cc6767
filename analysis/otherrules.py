"""What other rules would have chosen of a search, by name and on validation rows alone, beside what the study chose."""
# pandas ships no stubs, and pyright takes an indexed frame for any of four types:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.choice import Choice, choice_of
from analysis.choices import Rule, choose, figures
from analysis.chosen import small_grid_words
from analysis.load import Snapshot
from analysis.metrics import own_images
from analysis.records import config_id
from analysis.scores import CLEAN
from analysis.searches import searched
from analysis.sides import rows_word
from analysis.tables import Column, Table, count_text, interval_text
from analysis.validated import whole_grid

RULE_COLUMNS = ("rule", "config_id", "label", "is_chosen", "noise_mean", "worst", "worst_corruption", "clean", "cost",
                "n_trials", "bound")  # fmt: skip
MOST_ON_FRONT = 5
"""Configurations of a front that are named, the most accurate ones."""
_NAMES: dict[Rule, str] = {
    "best_validation_mean": "best mean",
    "best_worst_family": "best worst corruption",
    "pareto_under_cost": "Pareto front, no dearer than the chosen",
}


def rule_table(snapshot: Snapshot, phase: str) -> Table:
    """Rule by rule what it would choose of a search's trials that may be chosen; empty where there are not two.

    The bound of the Pareto rule is the passes of what the study chose, so it is left out where that is of another phase
    or nothing.

    Raises:
        ValueError: The trials do not have the same validation cells.
    """
    keys = [candidate.key for candidate in searched(snapshot.trials, snapshot.study).get(phase, [])]
    rows = whole_grid(snapshot, snapshot.frame(), keys)
    rows = rows[rows["split"] == "validation"]
    columns = _columns(rows_word(rows))
    if rows["config_id"].nunique() < 2 or (own_images(rows)["corruption"] == CLEAN).all():
        return Table("rules", pd.DataFrame(columns=list(RULE_COLUMNS)), columns)
    choice = choice_of(snapshot)
    chosen = "" if choice.origin is None else config_id(choice.origin.info["config"])
    costs = figures(rows).set_index("config_id")["cost"]
    bound = float(costs.get(chosen, 0.0))
    made = [_asked("best_validation_mean", rows), _asked("best_worst_family", rows)]
    made += [_asked("pareto_under_cost", rows, bound=bound)] if bound > 0 else []
    frame = pd.concat(made, ignore_index=True)
    frame = frame.assign(is_chosen=frame["config_id"] == chosen).rename(columns={"n_seeds": "n_trials"})
    small_grid = small_grid_words(snapshot, set(rows["trial"]))
    notes = [*([small_grid] if small_grid else []), _legend(choice, bound)]
    return Table("rules", frame[list(RULE_COLUMNS)], columns, notes)


def _asked(rule: Rule, rows: pd.DataFrame, **settings: Any) -> pd.DataFrame:
    count = MOST_ON_FRONT if rule == "pareto_under_cost" else 1
    return choose(rows, rule, count=count, **settings).assign(rule=rule, bound=settings.get("bound", float("nan")))


def _columns(word: str) -> list[Column]:
    return [
        Column("rule", lambda row: _NAMES[row["rule"]], is_number=False),
        Column("configuration", lambda row: row["label"], is_number=False),
        Column("chosen", lambda row: "yes" if row["is_chosen"] else "no", is_number=False),
        Column(f"mean {word}", interval_text("noise_mean")),
        Column("worst corruption", lambda row: f"{interval_text('worst')(row)} {row['worst_corruption']}"),
        Column("clean", interval_text("clean")),
        Column("passes", lambda row: count_text(row["cost"])),
    ]


def _legend(choice: Choice, bound: float) -> str:
    front = (
        f" The front is of those that cost at most the chosen one's {count_text(bound)} gradient passes, its first "
        f"{MOST_ON_FRONT} at most."
        if bound > 0
        else ""
    )
    words = choice.words
    said = f"{words[0].upper()}{words[1:]}" if choice.origin is None else f"Chosen: {words}"
    return (
        "Accuracy in per cent on validation images, by which all rules choose: the figures are optimistic, and no test "
        f"figure is among them. {said}.{front}"
    )
