"""Words on how configurations came to be chosen: by a small grid and then the whole one, and with how many seeds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from analysis.fidelity import agreement_of
from analysis.labels import base_label

if TYPE_CHECKING:
    from analysis.load import Snapshot


def fidelity_remarks(snapshot: Snapshot) -> list[str]:
    """For each search that was scored by a small grid: what that was, and how it ranked the finalists."""
    said = []
    events = {record.key: record.events for record in snapshot.trials}
    for phase in snapshot.study.get("phases") or []:
        finalists = phase.get("finalists") or []
        if not finalists:
            continue
        search = _search_of(snapshot.study, phase["name"])
        metric = (search.get("objectives") or [{}])[0].get("metric", "acc/noise")
        part = next((r.info["fidelity"] for r in snapshot.trials if r.key in finalists and r.info.get("fidelity")), {})
        found = agreement_of(events, finalists, metric)
        grid = f"{part['images']} validation images, {len(part['corruptions'])} corruptions" if part else "a small grid"
        said.append(
            f"Trials of {phase['name']} were scored by {grid}; its {len(finalists)} finalists alone were measured on "
            f"the whole validation grid and chosen by that ({metric}: {found}; finalists are alike, so among all "
            "trials it would be higher)."
        )
    return said


def small_grid_words(snapshot: Snapshot, keys: Collection[str]) -> str:
    """What to say of figures of these trials: of which the noise is a part of the validation grid; else nothing."""
    small = [r for r in snapshot.trials if r.key in keys and r.info.get("fidelity") and r.whole_cells is None]
    if not small:
        return ""
    part = small[0].info["fidelity"]
    levels = ", ".join(str(level) for level in part["severities"])
    which = (
        f"Figures of {', '.join(base_label(r.info['config']) for r in small)}" if len(small) < len(keys) else "Figures"
    )
    return (
        f"{which} are those of the small validation grid that the search is scored by (up to {part['images']} images, "
        f"{', '.join(part['corruptions'])}, severity {levels}), not of the whole one."
    )


def adaptive_remarks(snapshot: Snapshot) -> list[str]:
    """For each phase with adaptive seeds: which configuration got how many, and why it got no more."""
    labels = {record.key: base_label(record.info["config"]) for record in snapshot.trials}
    numbers = {record.key: record.info.get("number", 0) for record in snapshot.trials}
    said = []
    for phase in snapshot.study.get("phases") or []:
        looks = phase.get("looks") or []
        if not looks:
            continue
        last = looks[-1]
        parts = [
            f"{labels.get(name, name)} (trial {numbers.get(name, '?')} of the search) {seeds}: {_why(name, looks)}"
            for name, seeds in last["seeds"].items()
        ]
        said.append(
            f"Seeds of {phase['name']} were added while validation left open which configuration is best (test figures "
            f"had no say; error over all {len(looks)} looks {phase.get('error', 0.05):.0%}). Seeds of each: "
            f"{'; '.join(parts)}."
        )
    return said


def _why(name: str, looks: list[Mapping[str, Any]]) -> str:
    last = looks[-1]
    if name == last["leader"]:
        return "the best on validation"
    for look in looks:
        if name in look["differences"] and name not in (*look["open"], look["leader"]):
            _, low, high = look["differences"][name]
            return f"parted from the best at {look['seeds'][name]} seeds, by {low * 100:.1f} to {high * 100:.1f} points"
    return "not parted from the best with the most seeds allowed"


def _search_of(study: Mapping[str, Any], phase: str) -> Mapping[str, Any]:
    config = study.get("config") or {}
    own = next((item.get("search") for item in config.get("phases") or [] if item.get("name") == phase), None)
    return own or config.get("search") or {}
