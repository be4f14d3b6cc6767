"""What it takes to run a study again: its file, the code, the versions, the data's fingerprint and every seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from analysis import facts
from analysis.load import Snapshot


class Recipe(NamedTuple):
    """What a reader needs to run a study again.

    Attributes:
        pairs: (name, value) pairs.
        study_yaml: the study file with every default written out; empty where the study's record is missing.
        command: what runs it.
    """

    pairs: list[tuple[str, str]]
    study_yaml: str
    command: str


def recipe(snapshot: Snapshot) -> Recipe:
    """The recipe of a study, from its records alone."""
    study, config = snapshot.study, snapshot.study.get("config") or {}
    starts = [e for r in snapshot.trials for e in r.events if e.get("event") in ("start", "resume")]
    codes = [study.get("code") or {}, *(event.get("code") or {} for event in starts)]
    versions = study.get("versions") or next((e["versions"] for e in starts if e.get("versions")), {})
    pairs = [
        ("Code", "; ".join(dict.fromkeys(_code(code) for code in codes if code.get("commit")))),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("Data fingerprint", study.get("fingerprint")),
        *_seeds(snapshot, config),
        (
            "Trials' numerics",
            ", ".join(sorted({str(r.info["numerics"]) for r in snapshot.trials if "numerics" in r.info})),
        ),
        ("Hardware", "; ".join(dict.fromkeys(str(e["hardware"]) for e in starts if e.get("hardware")))),
    ]
    shown = [(name, str(value)) for name, value in pairs if value not in (None, "")]
    return Recipe(shown, facts.yaml_text(config) if config else "", "murk run study.yaml" if config else "")


def _code(code: Mapping[str, Any]) -> str:
    dirty = {True: " with changed files", False: "", None: " (whether files were changed is not known)"}
    return f"commit {code['commit']}{dirty.get(code.get('dirty'), '')}"


def _seeds(snapshot: Snapshot, config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Every seed that the records name: those of training by phase, and those that make the study's own choices."""
    phases: dict[str, set[int]] = {}
    for record in snapshot.trials:
        if record.info.get("seed") is not None:
            phases.setdefault(str(record.info["phase"]), set()).add(int(record.info["seed"]))
    places = {"split": ("data", "split_seed"), "data": ("data", "seed"), "noise": ("noise", "seed"),
              "search": ("search", "seed")}  # fmt: skip
    fixed = [f"{name} {value}" for name, (section, key) in places.items()
             if (value := (config.get(section) or {}).get(key)) is not None]  # fmt: skip
    trained = [f"phase {phase}: {', '.join(map(str, sorted(seeds)))}" for phase, seeds in phases.items()]
    return [("Training seeds", "; ".join(trained)), ("Other seeds", ", ".join(fixed))]
