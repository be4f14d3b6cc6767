"""Earlier studies that a search starts warm from: how a study file names them, and whether they are there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from study.config import StudyConfig
from study.config_phases import SearchPhase
from study.ledger import Ledger
from study.places import redact
from study.problems import Problem


class Origin(NamedTuple):
    """An earlier study, and the one phase that is meant, or all its searches."""

    ledger: Ledger
    phase: str | None

    def record(self) -> dict[str, Any]:
        """Its `study.json`.

        Raises:
            ValueError: There is none, or it has no such search phase.
        """
        record = self.ledger.read_json("study.json")
        if record is None:
            raise ValueError(f"must be an earlier study, but there is none at {redact(self.ledger.root)}")
        searches = [item["name"] for item in record["phases"] if item["kind"] == "search"]
        if not searches or (self.phase is not None and self.phase not in searches):
            named = f"no search phase {self.phase!r}" if self.phase else "no search phase"
            raise ValueError(f"must name a search, but {self.ledger.study!r} has {named}; it has {searches or 'none'}")
        return record


def origin_of(reference: str, storage: str) -> Origin:
    """The study that `STUDY`, `STUDY/PHASE`, a folder or a URL names."""
    if "://" in reference or reference.startswith(("/", "./", "../", "~")):
        place = reference if "://" in reference else str(Path(reference).expanduser().absolute())
        parent, _, study = place.rstrip("/").rpartition("/")
        return Origin(Ledger(parent, study), None)
    study, _, phase = reference.partition("/")
    return Origin(Ledger(storage, study), phase or None)


def warm_problems(config: StudyConfig, *, storage: str) -> Iterator[Problem]:
    """Earlier studies that are not there, or have no such search; not those whose trials were taken over already."""
    warm = [
        phase for phase in config.phases
        if isinstance(phase, SearchPhase) and (phase.search or config.search).warm_start
    ]  # fmt: skip
    taken = ((Ledger(storage, config.name).read_json("study.json") or {}).get("warm") or {}) if warm else {}
    for index, phase in enumerate(config.phases):
        if phase not in warm or phase.name in taken or not isinstance(phase, SearchPhase):
            continue
        where = ("phases", index, "search") if phase.search is not None else ("search",)
        for number, reference in enumerate((phase.search or config.search).warm_start or ()):
            try:
                origin_of(reference, storage).record()
            except (ValueError, OSError, ImportError) as error:
                yield Problem((*where, "warm_start", number), str(error))
