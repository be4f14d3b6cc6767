"""What of a study has not ended yet: said first, and a reason to call no difference better or worse."""
# pandas ships no stubs:
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.load import Snapshot
from analysis.searches import current, search_of
from analysis.tables import Table

NOT_FINISHED = "not finished"


def unfinished(snapshot: Snapshot) -> str:
    """The phases that have not finished, as a sentence; empty where all have."""
    counted = [record for record in current(snapshot.trials, snapshot.study) if record.status != "running"]
    parts = []
    for name, phase, config in _open(snapshot.study):
        ended = sum(record.info["phase"] == name for record in counted)
        planned = _planned(snapshot.study, phase, config)
        if not phase:
            parts.append(f"phase {name} has not begun")
        else:
            of = f"{ended} of {planned} trials" if planned else f"{ended} trial{'s' * (ended != 1)} so far"
            parts.append(f"phase {name} has not finished: {of}")
    said = "; ".join(parts)
    return f"{said[0].upper()}{said[1:]}." if said else ""


def has_open_tests(study: Mapping[str, Any]) -> bool:
    """Whether a phase that reads the test split has not finished, so that its figures are not all there."""
    return any((config or phase).get("kind") != "search" for _, phase, config in _open(study))


def without_verdicts(contrasts: Table) -> Table:
    """The table of differences where tested phases are open: its figures so far, and no word on what they show."""
    if contrasts.frame.empty:
        return contrasts
    frame = contrasts.frame.assign(verdict=NOT_FINISHED, reading=NOT_FINISHED, seeds_needed=0)
    return Table(contrasts.name, frame, contrasts.columns, contrasts.notes)


def _open(study: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Name, record (empty before it begins) and settings (empty where the study has none) of each unfinished phase."""
    records = {phase["name"]: phase for phase in study.get("phases") or []}
    configs = {item["name"]: item for item in (study.get("config") or {}).get("phases") or [] if "name" in item}
    return [
        (name, records.get(name, {}), configs.get(name, {}))
        for name in dict.fromkeys([*configs, *records])
        if records.get(name, {"status": ""}).get("status", "finished") != "finished"
    ]


def _planned(study: Mapping[str, Any], phase: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """Trials that a phase will have; 0 where that is not known yet."""
    kind, seeds = config.get("kind"), len(config.get("seeds") or ())
    if kind == "search":
        return int(search_of(study, str(config["name"])).get("trials") or 0)
    if kind == "train":
        return seeds
    return 0 if config.get("adaptive") else len(phase.get("selected") or ()) * seeds
