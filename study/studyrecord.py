"""study.json: what a study was opened with, what may change about it, its phases and its reads of the test split."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from analysis.identity import new_study_id, study_id
from noise.families import CORRUPTIONS
from study.codestate import code_state
from study.config_noise import NoiseConfig
from study.config_phases import DEFAULT_ENDPOINTS, Phase
from study.config_resolution import ResolutionConfig
from study.config_search import SearchConfig
from study.config_task import Classification
from study.config_train import OptimConfig, TrainConfig
from study.credentials import scrub
from study.data.image_set import DataSplits
from study.data.real import RealImages
from study.ledger import Ledger
from study.machine import versions
from study.studyfile import LoadedStudy

_GROWN = {
    "task": Classification(), "resolution": ResolutionConfig(), "train": TrainConfig(), "optim": OptimConfig(),
    "noise": NoiseConfig(),
}  # fmt: skip
"""Sections that older records lack, or lack settings of."""
_GROWN_WHOLE: dict[str, TypeAdapter[Any]] = {
    "search": TypeAdapter(SearchConfig),
    "phases": TypeAdapter(tuple[Phase, ...]),
}
"""Sections that lie deeper than one level, read anew."""


def open_study(
    ledger: Ledger,
    loaded: LoadedStudy,
    data: DataSplits,
    *,
    tracking_uri: str | None,
    again: bool,
    real: Mapping[str, RealImages] | None = None,
    pairs: str = "",
) -> None:
    """Write `study.json`, or refuse a study that is there with other settings.

    The test split is read once for each study: a changed study would choose and read anew.
    """
    config = loaded.config.model_dump(mode="json")
    record = ledger.read_json("study.json")
    if record is not None:
        old = record["config"]  # of before some settings there were none
        before = old | {name: section.model_dump(mode="json") | old.get(name, {}) for name, section in _GROWN.items()}
        changed = changed_keys(before | _searches_of_today(old), config)
        if record["fingerprint"] != data.fingerprint:
            changed.append("the images themselves")
        changed += _changed_real(record.get("real") or {}, real or {})
        changed += ["task.pairs"] if record.get("pairs", "") != pairs else []
        if changed == ["search.trials"] and not _has_chosen(ledger, record):
            changed = []  # a longer or shorter search, nothing of which has been used yet
        if changed and not again:
            raise ValueError(
                f"study {ledger.study!r} is there already with other settings ({', '.join(changed[:6])}); "
                "give this one another --name, go on with the old one by `murk resume`, or add --again: a study that "
                "has read its test split then reads it once more, and the report says so"
            )
        if not changed:
            # Means and the report's baseline may have changed: the next resume and the report go by those of today.
            means = {"config": config, "baseline": loaded.config.report.baseline, "tracking_uri": tracking_uri}
            means["code"] = code_state().as_dict()
            means |= {"restated": _is_restated(ledger, record, config), "study_id": study_id(record)}
            ledger.write_json("study.json", {**record, **means})
            _keep_file(ledger, loaded)
            return
        record = _with_unrecorded_reads(ledger, record)
    facts = {
        "restated": record is not None and _is_restated(ledger, record, config),
        "study": ledger.study,
        "study_id": new_study_id() if record is None else study_id(record),
        "config": config,
        "fingerprint": data.fingerprint,
        "data": {
            "source": loaded.config.data.source,
            "image_size": loaded.config.data.image_size,
            "num_classes": len(data.class_names),
            "num_train": len(data.train),
            "num_validation": len(data.validation),
            "num_test": len(data.test),
            "num_leaked": data.num_leaked,
        },
        "real": {
            name: {
                "fingerprint": images.fingerprint,
                "num_images": len(images.images),
                "num_known": images.num_known,
                "num_skipped": len(images.skipped),
            }
            for name, images in (real or {}).items()
        },
        "pairs": pairs,
        "skipped": [list(item) for item in data.skipped],
        "baseline": loaded.config.report.baseline,
        "groups": {name: corruption.group for name, corruption in CORRUPTIONS.items()},
        "versions": versions(),
        "code": code_state().as_dict(),
        "phases": [],
        "created": _now(),
        "tracking_uri": tracking_uri,
        "test_reads": (record["test_reads"] if record else []),
        "generation": (record.get("generation", 0) + 1 if record else 0),
    }
    ledger.write_json("study.json", facts)
    _keep_file(ledger, loaded)


def _keep_file(ledger: Ledger, loaded: LoadedStudy) -> None:
    """Keep the study file as it was written, without what its comments and overridden lines may hold of credentials."""
    ledger.files.write_bytes(scrub(loaded.text).encode(), "study.yaml")


def _searches_of_today(old: Mapping[str, Any]) -> dict[str, Any]:
    """A record's search and phases with the settings that came later, each at its default."""
    found: dict[str, Any] = {}
    for name, kind in _GROWN_WHOLE.items():
        try:
            found[name] = kind.dump_python(kind.validate_python(old[name]), mode="json")
        except (KeyError, ValidationError):
            continue  # compared as it stands
    return found


def changed_keys(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys that decide results and differ; where and with what means a study runs may change."""
    changed = []
    for name in sorted(before.keys() | after.keys()):
        if not prefix and name in {"resources", "tracking", "report"}:
            continue
        if f"{prefix}{name}" in {"data.path", "noise.real", "task.pairs", "task.images", "search.optuna_storage"}:
            continue  # a place; what lies there has a fingerprint, or is never read
        one, other = before.get(name), after.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            changed += changed_keys(one, other, f"{prefix}{name}.")
        elif _said(one) != _said(other):
            changed.append(f"{prefix}{name}")
    return changed


def _said(value: Any) -> Any:
    """A value without the settings in it that say nothing, which older records lack; and without mere means."""
    if isinstance(value, dict):
        return {name: _said(item) for name, item in value.items() if item is not None and name != "optuna_storage"}
    return [_said(item) for item in value] if isinstance(value, list) else value


def _is_restated(ledger: Ledger, record: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether contrasts or endpoints were ever changed after the test split had been read."""
    defaults = {"contrasts": [], "endpoints": list(DEFAULT_ENDPOINTS)}  # of a record from before there were any
    before, after = record["config"]["report"], config["report"]
    differs = any(before.get(key, default) != after[key] for key, default in defaults.items())
    read = differs and bool(_with_unrecorded_reads(ledger, record)["test_reads"])
    return bool(record.get("restated")) or read


def _changed_real(before: Mapping[str, Any], after: Mapping[str, RealImages]) -> list[str]:
    """The folders of real noisy images that came, went or hold other images."""
    known = {name: entry["fingerprint"] for name, entry in before.items()}
    found = {name: images.fingerprint for name, images in after.items()}
    return [f"noise.real.{name}" for name in sorted(known.keys() | found.keys()) if known.get(name) != found.get(name)]


def record_phase(ledger: Ledger, phase: Phase, *, status: str, **fields: Any) -> None:
    record = ledger.read_json("study.json") or {}
    entry = {"name": phase.name, "kind": phase.kind, "trials": [], "selected": []}
    known = {item["name"]: item for item in record["phases"]}
    known[phase.name] = {**entry, **known.get(phase.name, {}), "status": status, **fields}
    ledger.write_json("study.json", {**record, "phases": list(known.values())})


def record_test_read(ledger: Ledger, phase: str, trials: Sequence[str]) -> None:
    record = ledger.read_json("study.json") or {}
    ledger.write_json("study.json", _with_test_read(record, phase, trials))


def _with_test_read(record: dict[str, Any], phase: str, trials: Sequence[str]) -> dict[str, Any]:
    """The record with one more read of the test split, unless these trials' read is there."""
    earlier = [read for read in record["test_reads"] if read["phase"] == phase]
    if any(read["trials"] == sorted(trials) for read in earlier):
        return record
    facts = {"generation": record.get("generation", 0), "again": bool(earlier), "time": _now()}
    read = {"phase": phase, "trials": sorted(trials), **facts}
    return {**record, "test_reads": [*record["test_reads"], read]}


def _has_chosen(ledger: Ledger, record: dict[str, Any]) -> bool:
    """Whether a search's figures have been used: a phase has chosen from them, or the test split was read."""
    return any(phase["selected"] for phase in record["phases"]) or bool(
        _with_unrecorded_reads(ledger, record)["test_reads"]
    )


def _with_unrecorded_reads(ledger: Ledger, record: dict[str, Any]) -> dict[str, Any]:
    """The record with the reads of phases that were cut off before they ended, which changed settings come after."""
    counted = {key for read in record["test_reads"] for key in read["trials"]}
    for phase in record["phases"]:
        tested = [key for key in ledger.keys(phase["name"]) if phase["kind"] != "search"]
        tested = [key for key in tested if key not in counted and ledger.status(key) == "finished"]
        if tested:
            record = _with_test_read(record, phase["name"], tested)
    return record


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
