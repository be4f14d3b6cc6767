"""What was run: data, noise, hardware and versions, and how often the test split was read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from analysis.load import Snapshot
from analysis.scores import Headline
from analysis.wording import counted


def subtitle(snapshot: Snapshot) -> str:
    """Data, backbone, classes and size in one line."""
    data = snapshot.study.get("data") or {}
    config = snapshot.study.get("config") or {}
    parts = [data.get("source"), (config.get("model") or {}).get("backbone")]
    if data.get("num_classes"):
        parts.append(f"{data['num_classes']} classes")
    if data.get("image_size"):
        parts.append(f"{data['image_size']} × {data['image_size']} px")
    return " · ".join(str(part) for part in parts if part)


def what_ran(snapshot: Snapshot, found: Headline) -> list[tuple[str, str]]:
    """(name, value) pairs: data, trials, noise, reads of the test split, hardware and versions; empty ones left out."""
    study = snapshot.study
    data, noise = study.get("data") or {}, (study.get("config") or {}).get("noise") or {}
    starts = [
        event for record in snapshot.trials for event in record.events if event.get("event") in ("start", "resume")
    ]
    images = [f"{data[f'num_{name}']:,} {name}" for name in ("train", "validation", "test") if f"num_{name}" in data]
    versions = study.get("versions") or next((e["versions"] for e in starts if e.get("versions")), {})
    status = Counter(record.status for record in snapshot.trials)
    pairs = [
        ("Data", data.get("source")),
        ("Images", ", ".join(images)),
        ("Classes", data.get("num_classes")),
        ("Skipped images", _skipped(study)),
        ("Test images also in training", data.get("num_leaked")),
        ("Data fingerprint", study.get("fingerprint")),
        ("Trials", ", ".join(f"{count} {name}" for name, count in sorted(status.items()))),
        ("Seeds shown", ", ".join(sorted({str(s) for arm in found.arms for s in arm.rows["seed"]}))),
        ("Validation noise", _noises(noise, "validation")),
        ("Test noise", _noises(noise, "test")),
        ("Lower sides", _sides(study)),
        ("Real noisy images", _real(study)),
        ("Held-out noise", ", ".join(noise.get("held_out") or [])),
        ("Corruption tables", ", ".join(sorted({str(t) for a in found.arms for t in a.rows["table"] if t}))),
        ("Test split", _test_reads(snapshot)),
        ("Hardware", "; ".join(dict.fromkeys(str(e["hardware"]) for e in starts if e.get("hardware")))),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("Started", study.get("created")),
    ]
    return [(name, str(value)) for name, value in pairs if value not in (None, "")]


def _noises(noise: Mapping[str, Any], kind: str) -> str:
    levels = ", ".join(str(level) for level in noise.get(f"{kind}_severities") or [])
    names = ", ".join(noise.get(kind) or [])
    return f"{names} (severities {levels})" if names and levels else names


def validation_words(study: Mapping[str, Any]) -> str:
    """What a search's objective is measured on."""
    config = study.get("config") or {}
    has_sides = bool((config.get("resolution") or {}).get("validation"))
    has_noise = bool((config.get("noise") or {}).get("validation")) or not has_sides
    parts = [
        word for word, is_there in (("under validation noise", has_noise), ("at lower sides", has_sides)) if is_there
    ]
    return f"Measured on validation images {' and '.join(parts)}."


def _sides(study: Mapping[str, Any]) -> str:
    """The sides that validation and test measured below full size."""
    config = (study.get("config") or {}).get("resolution") or {}
    sides = {kind: ", ".join(map(str, config.get(kind) or ())) for kind in ("validation", "test")}
    parts = [f"{kind} {named} px" for kind, named in sides.items() if named]
    return "; ".join(parts) + (", with and without noise" if parts and config.get("with_noise") else "")


def _real(study: Mapping[str, Any]) -> str:
    """The folders of real noisy images, with what was left out of each."""
    parts = []
    for name, entry in (study.get("real") or {}).items():
        left_out = f"{entry['num_known']:,} left out that stand in train or validation" if entry["num_known"] else ""
        skipped = f"{entry['num_skipped']:,} that cannot be read" if entry["num_skipped"] else ""
        said = "; ".join(part for part in (counted(entry["num_images"], "image"), left_out, skipped) if part)
        parts.append(f"{name} ({said})")
    return ", ".join(parts)


def _skipped(study: Mapping[str, Any]) -> str:
    return "not recorded" if "skipped" not in study else str(len(study["skipped"]))


def _test_reads(snapshot: Snapshot) -> str:
    reads, open_reads = snapshot.study.get("test_reads") or [], _open_reads(snapshot)
    times = [f"{read['phase']} {read['time']}" for read in reads]
    times += [f"{phase} by {counted(count, 'trial')} so far" for phase, count in open_reads.items()]
    if not times:
        return "not read"
    again = times_read(snapshot)
    if again > 1:
        return f"READ {again} TIMES (--again): {', '.join(times)}"
    return f"read once{' by each phase' if len(times) > 1 else ''}: {', '.join(times)}"


def _open_reads(snapshot: Snapshot) -> dict[str, int]:
    """Phase -> its finished trials that no read names: a read is written down when its phase ends."""
    named = {key for read in snapshot.study.get("test_reads") or [] for key in read.get("trials") or ()}
    return dict(Counter(
        record.info["phase"] for record in snapshot.trials
        if record.info["role"] != "search" and record.status == "finished" and record.key not in named
    ))  # fmt: skip


def times_read(snapshot: Snapshot) -> int:
    """Reads of one phase, or of generations of settings (`--again` begins one), whichever are more."""
    study = snapshot.study
    reads, open_reads = study.get("test_reads") or [], _open_reads(snapshot)
    generations = {read.get("generation", 0) for read in reads}
    if open_reads:
        generations |= {study.get("generation", 0)}
    return max(len(generations), max(Counter(read["phase"] for read in reads).values(), default=0))
