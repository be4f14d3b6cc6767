"""What can be known of a study before it is submitted to a cluster: its file and its places, not the images there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from study.config_phases import SearchPhase
from study.credentials import is_secret
from study.places import JOB_VARIABLE, is_place_anywhere, redact, resolve_places
from study.studyfile import LoadedStudy, relative_paths


def job_facts(
    study: LoadedStudy,
    *,
    sets: Sequence[str],
    storage: str | None,
    cwd: Path,
    variables: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Name and places of a study that is fit for a job.

    Args:
        sets: As they were given to `load_study`.
        storage: In place of `tracking.storage`.
        variables: Of the environment, which the job is to have too.

    Raises:
        ValueError: A place is missing or counts from a folder that the nodes do not have, or a variable is a secret.
    """
    for name in (name for name, value in (variables or {}).items() if is_secret(name, value)):
        raise ValueError(
            f"--env {name} must hold no credential, since Ray writes a job's variables into logs on every node; give "
            "it to the nodes instead: by the environment that they are started in (as cluster/ does), or by a file "
            "there which a variable names (RAY_AUTH_TOKEN_PATH, GOOGLE_APPLICATION_CREDENTIALS)"
        )
    if storage is not None and redact(storage) != storage:
        raise ValueError(
            f"--storage must hold no user, password or token, since a job's command is kept on the cluster, but got "
            f"{redact(storage)}; give them by the environment that the nodes are started in"
        )
    tracking = study.config.tracking
    places = resolve_places(tracking, cwd=cwd, storage=storage, environment=_as_if_submitted())
    named: Mapping[str, str | None] = {
        "tracking.storage": storage or tracking.storage,
        "tracking.uri": tracking.uri,
    }
    relative = [key for key, place in named.items() if place is not None and not is_place_anywhere(place)]
    relative += relative_paths(study.text, sets)
    searches = {"search": study.config.search}
    searches |= {f"phases.{i}.search": phase.search for i, phase in enumerate(study.config.phases)
                 if isinstance(phase, SearchPhase) and phase.search is not None}  # fmt: skip
    for key, search in searches.items():
        if search.optuna_storage is not None and not is_place_anywhere(search.optuna_storage):
            relative.append(f"{key}.optuna_storage")
        if any(place.startswith((".", "~")) for place in search.warm_start or ()):
            relative.append(f"{key}.warm_start")
    if relative:
        raise ValueError(
            f"{' and '.join(relative)} must be absolute or a URL in a submitted study, as the nodes do not have the "
            f"folder that {'it counts' if len(relative) == 1 else 'they count'} from; name a place that every node "
            "reaches, such as /mnt/shared/cars.parquet or s3://bucket/cars.parquet"
        )
    return {"name": study.config.name, "storage": redact(places.storage)}


def _as_if_submitted() -> dict[str, str]:
    return {JOB_VARIABLE: "{}"}
