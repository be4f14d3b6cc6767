"""A study under way: what its phases share, the trials it makes of configurations, and who teaches them."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping
from typing import Any

from analysis.selection import Candidate, top_of
from study.config import StudyConfig, TrialConfig
from study.config_method import teacher_kind, teacher_phase, teachers_of
from study.config_phases import ConfirmPhase, Phase
from study.credentials import printable, scrub
from study.ledger import Ledger, TrialSpec, trial_key
from study.places import Places, redact
from study.search import Runtime
from study.teachers import FoundTeacher, check_teacher, find_teacher, look_at, trial_place


@dataclasses.dataclass(frozen=True)
class StudyRun:
    """What every phase of a study under way shares; `teachers` holds those that were asked for, by reference.

    `pairs` is the fingerprint of those that verification is tested on.
    """

    config: StudyConfig
    ledger: Ledger
    places: Places
    fingerprint: str
    runtime: Runtime
    real: Mapping[str, str] = dataclasses.field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    teachers: dict[str, FoundTeacher] = dataclasses.field(default_factory=dict)
    pairs: str = ""

    def spec(self, config: TrialConfig, phase: Phase, *, number: int, params: dict[str, Any]) -> TrialSpec:
        """A trial of this study, named by what decides its numbers."""
        role = phase.kind
        real = {} if role == "search" else dict(self.real)
        teacher = self.teacher(config)
        digest = "/".join(teacher[name] for name in ("digest", "direct_digest") if name in teacher)
        pairs = "" if role == "search" else self.pairs
        return TrialSpec(
            key=trial_key(
                config, fingerprint=self.fingerprint, role=role, phase=phase.name, real=real,
                teacher=digest, pairs=pairs,
            ),
            study=self.config.name,
            phase=phase.name,
            role=role,
            number=number,
            seed=config.train.seed,
            config=config.model_dump(mode="json"),
            fingerprint=self.fingerprint,
            storage=str(self.places.storage),
            cache_dir=str(self.places.cache_dir),
            params=params,
            real=real,
            teacher=teacher,
            pairs=pairs,
        )  # fmt: skip

    def teacher(self, config: TrialConfig) -> dict[str, str]:
        """Where a trial's teachers lie and the digests of their weights; empty for a method without one.

        Raises:
            ValueError: It is missing, unfinished, damaged, another than the study began with, or does not fit.
        """
        found: dict[str, str] = {}
        for setting, reference in teachers_of(config.method).items():
            prefix = setting.removesuffix("teacher")
            try:
                spec = self._teacher(reference, config).as_spec()
            except ValueError as error:
                raise ValueError(f"method.{setting}: {error}") from error
            found |= {f"{prefix}{name}": value for name, value in spec.items()}
        return found

    def _teacher(self, reference: str, config: TrialConfig) -> FoundTeacher:
        if teacher_kind(reference) == "phase":
            name, same_seed = teacher_phase(reference)
            reference = f"{name}@{config.train.seed}" if same_seed else name
        if reference not in self.teachers:
            self.teachers[reference] = _resolved(self, reference)
        check_teacher(self.teachers[reference], config, self.class_names)
        return self.teachers[reference]


def _resolved(run: StudyRun, reference: str) -> FoundTeacher:
    """The teacher of a reference, the same at every launch of the study."""
    record = run.ledger.read_json("study.json") or {}
    known = record.get("teachers", {}).get(reference, {})
    if teacher_kind(reference) == "phase":
        key = known.get("key") or _best_of(run, reference)
        found, facts = look_at(trial_place(run.ledger, key)), {"key": key}
        say(f"teacher: trial {key} of {reference} ({found.method}, {found.backbone})")
    else:
        found = find_teacher(reference, storage=str(run.places.storage))
        facts = {"place": redact(found.place)}
    if known and known["digest"] != found.digest:
        raise ValueError(
            f"the weights of {redact(reference)} are not those that the study began with; restore them, or start a "
            "study under another name"
        )
    teachers = {**record.get("teachers", {}), reference: {**facts, "digest": found.digest}}
    run.ledger.write_json("study.json", {**record, "teachers": teachers})
    return found


def _best_of(run: StudyRun, reference: str) -> str:
    """The key of a phase's best finished trial by validation accuracy; of a confirm phase the first that was chosen.

    `PHASE@7` asks for the same among its trials of seed 7.

    Raises:
        ValueError: No trial of that phase finished.
    """
    name, _, seed = reference.partition("@")
    phase = next((item for item in run.config.phases if item.name == name), None)
    known = {item["name"]: item for item in (run.ledger.read_json("study.json") or {})["phases"]}
    if phase is None or name not in known:
        raise ValueError(f"must be the name of a phase before this one, but got {name!r}")
    search = getattr(phase, "search", None) or run.config.search
    accuracies = [item for item in search.objectives if item.metric.startswith("acc/")]
    candidates = candidates_of(run, name, accuracies[0].metric if accuracies else "acc/noise")
    candidates = [item for item in candidates if not seed or item.config["train"]["seed"] == int(seed)]
    if not candidates:
        of_seed = f" of seed {seed}" if seed else ""
        raise ValueError(f"no trial of {name!r}{of_seed} finished, so nobody can teach")
    if isinstance(phase, ConfirmPhase):
        return min(candidates, key=lambda candidate: candidate.number).key
    return top_of(candidates, 1, goal="maximise")[0].key


def candidates_of(run: StudyRun, phase: str, metric: str) -> list[Candidate]:
    """The finished trials of a phase's present settings (a changed study has others beside them)."""
    known = {item["name"]: item for item in (run.ledger.read_json("study.json") or {})["phases"]}
    return [
        Candidate(key, run.ledger.metrics(key).get(metric, math.nan), record["number"], record["config"])
        for key in known[phase]["trials"]
        if run.ledger.status(key) == "finished" and (record := run.ledger.trial(key))
    ]


def say(text: str) -> None:
    """A line for the person who watches, on standard error."""
    print(printable(scrub(text)), file=sys.stderr, flush=True)
