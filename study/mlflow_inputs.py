"""The images of a trial as MLflow's dataset inputs: name, digest, source and size of each split. Knows no MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from study.places import redact

MAX_DIGEST_CHARACTERS = 36
_SPLITS = ("train", "validation", "test")
_SIZE = "num_{}"


class DatasetRow(NamedTuple):
    """One dataset input; `source` and `profile` are JSON. `context` says what the trial used it for."""

    name: str
    digest: str
    source_type: str
    source: str
    profile: str
    context: str


def dataset_rows(info: Mapping[str, Any], study: Mapping[str, Any]) -> list[DatasetRow]:
    """The splits that a trial reads, and folders of real noisy images; a search reads no test images.

    MLflow tells datasets apart by name and digest, so each split has a name of its own.

    Args:
        info: The trial's `trial.json`.
        study: `study.json`, which knows the sizes; without it the sizes are left out.
    """
    data, digest = info["config"].get("data", {}), info.get("fingerprint", "")
    if not digest:
        return []
    name = str(data.get("source", "images"))
    tested = info.get("role") != "search"
    sizes = study.get("data", {})
    rows = [
        _row(f"{name}/{split}", digest, data.get("path"), split,
             {"num_rows": sizes.get(_SIZE.format(split)), "image_size": data.get("image_size"),
              "num_classes": sizes.get("num_classes")})
        for split in (_SPLITS if tested else _SPLITS[:2])
    ]  # fmt: skip
    folders = info["config"].get("noise", {}).get("real") or {}
    for folder, fingerprint in (info.get("real") or {}).items():
        count = (study.get("real", {}).get(folder) or {}).get("num_images")
        place = folders.get(folder) if isinstance(folders, Mapping) else None
        rows.append(_row(f"real/{folder}", fingerprint, place, "test", {"num_rows": count}))
    return rows


def _row(name: str, digest: str, place: Any, context: str, profile: Mapping[str, Any]) -> DatasetRow:
    kind, source = _source(name, place)
    known = {key: value for key, value in profile.items() if value is not None} | {"fingerprint": digest}
    return DatasetRow(name, digest[:MAX_DIGEST_CHARACTERS], kind, json.dumps(source), json.dumps(known), context)


def _source(name: str, place: Any) -> tuple[str, dict[str, Any]]:
    """MLflow's type of a source and what it needs to say it; images that Murk draws come from code."""
    if not isinstance(place, str):
        return "code", {"tags": {"murk.source": name.partition("/")[0]}}
    scheme, separator, _ = place.partition("://")
    kind = {"s3": "s3", "gs": "gs", "http": "http", "https": "http"}.get(scheme, "local") if separator else "local"
    return kind, {"url" if kind == "http" else "uri": redact(place)}
