"""Short names of configurations for people: what they are, and where two are alike, in what they differ."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping
from typing import Any, TypeVar

Place = TypeVar("Place", bound=Hashable)

MAX_DIFFERENCES = 3
MAX_LENGTH = 32


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def base_label(config: Mapping[str, Any]) -> str:
    """Method, stages, SAM and training noise, such as `pmal S=3 rho=0.05` or `plain +gaussian_noise`."""
    method = config.get("method", {})
    parts = [str(method.get("name", "unknown"))]
    stages = method.get("stages")
    if stages is not None:
        parts.append(f"S={len(stages) if isinstance(stages, (list, tuple)) else stages}")
    rho = config.get("optim", {}).get("sam", {}).get("rho") or 0.0
    if rho > 0:
        parts.append(f"rho={short(rho)}")
    named = config.get("noise", {}).get("train") or []
    names = [item if isinstance(item, str) else item["name"] for item in named]
    parts.extend(f"+{name}" for name in names[:2] if name != "pmal_pair" or method.get("name") != "pmal")
    if len(names) > 2:
        parts.append(f"+{len(names) - 2} more")
    return " ".join(parts)


def label_configs(configs: Mapping[Place, Mapping[str, Any]]) -> dict[Place, str]:
    """Labels that are unique within a phase, and tell phases apart that are alike but for what a label leaves out.

    Args:
        configs: (phase, config id) -> configuration.

    Returns:
        The same keys -> label. Configurations of one phase whose base labels clash get the settings in which they
        differ, at most three of them, and then the first digits of their id. Where different configurations of several
        phases have one label, the phase's name stands before it.
    """
    clashes: dict[tuple[Any, str], list[Place]] = defaultdict(list)
    for place, config in configs.items():
        phase = place[0] if isinstance(place, tuple) else None
        clashes[phase, base_label(config)].append(place)
    labels: dict[Place, str] = {}
    for (_, base), places in clashes.items():
        labels |= {places[0]: base} if len(places) == 1 else _told_apart(base, {p: configs[p] for p in places})
    return _by_phase(labels)


def _by_phase(labels: dict[Place, str]) -> dict[Place, str]:
    meant: dict[str, set[Any]] = defaultdict(set)
    for place, label in labels.items():
        meant[label].add(place[-1] if isinstance(place, tuple) else place)
    return {
        place: f"{place[0]}: {label}" if isinstance(place, tuple) and len(meant[label]) > 1 else label
        for place, label in labels.items()
    }


def _told_apart(base: str, configs: Mapping[Place, Mapping[str, Any]]) -> dict[Place, str]:
    flat = {place: flatten(config) for place, config in configs.items()}
    keys = sorted({key for one in flat.values() for key in one if key not in {"train.seed", "seed"}})
    differing = [key for key in keys if len({repr(one.get(key)) for one in flat.values()}) > 1][:MAX_DIFFERENCES]
    labels: dict[Place, str] = {}
    for place, one in flat.items():
        parts = [f"{key.rsplit('.', 1)[-1]}={short(one[key])}" for key in differing if one.get(key) is not None]
        labels[place] = " ".join([base, *parts])
    taken = list(labels.values())
    return {
        place: f"{label} #{str(place[-1] if isinstance(place, tuple) else place)[:4]}"
        if taken.count(label) > 1
        else label
        for place, label in labels.items()
    }


def short(value: Any) -> str:
    """A value in few characters: three significant digits, names of a list joined, of a long text start and end."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.3g}"
    if isinstance(value, (list, tuple)):
        return "+".join(short(item) for item in value) or "none"
    if isinstance(value, Mapping):
        return str(value.get("name", "{...}"))
    text = str(value)
    return text if len(text) <= MAX_LENGTH else f"{text[:8]}…{text[9 - MAX_LENGTH :]}"
