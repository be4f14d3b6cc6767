"""Tested configurations that differ in stages and rho alone: whether the two act together, by image and seed."""
# pandas ships no stubs, and pyright takes an indexed frame for any of four types:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.contrasts import endpoint_title
from analysis.interactions import arm_interaction
from analysis.load import Snapshot
from analysis.records import config_id
from analysis.scores import CLEAN, NOISE, Arm, Headline
from analysis.sides import noise_word
from analysis.tables import Column, Table, bounds, interval_text
from analysis.trialframe import RHO, STAGES, settings_of
from analysis.wording import limit_words

ARM_INTERACTION_COLUMNS = (
    "endpoint", "config_id", "label", "stages_low", "stages_high", "rho_low", "rho_high", "interaction",
    "interaction_low", "interaction_high", "n_seeds", "n_images", "population",
)  # fmt: skip
LEGEND = (
    "How many points more the larger rho gains with the most stages than with the fewest; 0 where the two add up. Of "
    "tested configurations that are alike but for these two, named by the one with most of both. Each interval is a "
    "single 95 % interval, paired by image and noise, and not adjusted for others: a finding to confirm, no contrast "
    "stated beforehand."
)
Place = tuple[float, float]


def arm_interaction_table(snapshot: Snapshot, found: Headline) -> Table:
    """The interaction of stages and rho, of every four corners that were tested; empty where there are none."""
    configs = {record.key: record.info["config"] for record in snapshot.trials}
    rows = [row for corners in _corners(found, configs) for row in _rows(corners)]
    columns = [
        Column("endpoint", lambda row: endpoint_title(row["endpoint"], noise=noise_word(found)), is_number=False),
        Column("configuration", lambda row: row["label"], is_number=False),
        Column("stages", lambda row: f"{row['stages_low']:g} and {row['stages_high']:g}", is_number=False),
        Column("rho", lambda row: f"{row['rho_low']:g} and {row['rho_high']:g}", is_number=False),
        Column("interaction in points", interval_text("interaction")),
        Column("seeds", lambda row: str(row["n_seeds"])),
        Column("images", lambda row: str(row["n_images"])),
        Column("limit", lambda row: limit_words(row["population"], row["n_seeds"]) or "–", is_number=False),
    ]
    frame = pd.DataFrame(rows, columns=list(ARM_INTERACTION_COLUMNS))
    return Table("arm_interactions", frame, columns, [LEGEND] if rows else [])


def _corners(found: Headline, configs: Mapping[str, Mapping[str, Any]]) -> list[dict[Place, Arm]]:
    """Fewest and most stages with least and most rho, of each set of tested arms that has all four."""
    alike: dict[str, dict[Place, list[Arm]]] = {}
    for arm in found.arms if found.split == "test" else []:
        config = configs[str(arm.rows["trial"].iloc[0])]
        known = settings_of(config)
        if arm.scores and math.isfinite(known[STAGES]):
            places = alike.setdefault(_rest(config), {})
            places.setdefault((known[STAGES], known[RHO]), []).append(arm)
    made = []
    for places in alike.values():
        ends = [(min(axis), max(axis)) for axis in zip(*places, strict=True)]
        wanted = {(stages, rho) for stages in ends[0] for rho in ends[1]}
        if len(wanted) == 4 and all(len(places.get(place, ())) == 1 for place in wanted):
            made.append({place: places[place][0] for place in sorted(wanted)})
    return made


def _rest(config: Mapping[str, Any]) -> str:
    """The id of a configuration without stages and rho."""
    bare: dict[str, Any] = copy.deepcopy(dict(config))
    (bare.get("method") or {}).pop("stages", None)
    ((bare.get("optim") or {}).get("sam") or {}).pop("rho", None)
    return config_id(bare)


def _rows(corners: Mapping[Place, Arm]) -> list[dict[str, Any]]:
    (stages_low, rho_low), *_, (stages_high, rho_high) = corners
    last, rows = corners[stages_high, rho_high], []
    for endpoint, cells in ((NOISE, last.noisy()), (CLEAN, last.of(CLEAN))):
        if not cells or any(cell not in arm.scores for arm in corners.values() for cell in cells):
            continue
        scores = {place: arm.mean_scores(cells) for place, arm in corners.items()}
        if len({scores_SI.shape[1] for scores_SI in scores.values()}) > 1 or scores[stages_high, rho_high].shape[1] < 2:
            continue
        gap = arm_interaction(scores)
        row = {"endpoint": endpoint, "config_id": last.config_id, "label": last.label, "stages_low": stages_low,
               "stages_high": stages_high, "rho_low": rho_low, "rho_high": rho_high}  # fmt: skip
        row |= bounds("interaction", gap)
        rows.append(row | {"n_seeds": gap.n_seeds, "n_images": gap.n_images, "population": gap.population})
    return rows
