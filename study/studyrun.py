"""A study under way: what its phases share, the trials it makes of configurations, and who teaches them."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.choice import trials_of_choice
from analysis.constraints import Constraint, broken, is_feasible, total_excess
from analysis.fidelity import chosen_value, judged
from analysis.repeats import first_choice
from analysis.selection import Candidate, top_of
from study.config import StudyConfig, TrialConfig
from study.config_method import teacher_kind, teacher_phase, teachers_of
from study.config_phases import ConfirmPhase, Phase, SearchPhase
from study.config_search import SearchConfig
from study.credentials import printable, scrub
from study.grids import part_of
from study.ledger import Ledger, TrialSpec, trial_key
from study.places import Places, redact
from study.search import Runtime
from study.teachers import FoundTeacher, check_teacher, find_teacher, look_at, trial_place


@dataclasses.dataclass(frozen=True)
class StudyRun:
    """What every phase of a study under way shares; `teachers` holds those that were asked for, by reference.

    `pairs` is the fingerprint of those that verification is tested on, `num_train` the number of training images.
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
    num_train: int = 1

    def spec(self, config: TrialConfig, phase: Phase, *, number: int, params: dict[str, Any]) -> TrialSpec:
        """A trial of this study, named by what decides its numbers."""
        role = phase.kind
        real = {} if role == "search" else dict(self.real)
        teacher = self.teacher(config)
        digest = "/".join(teacher[name] for name in ("digest", "direct_digest") if name in teacher)
        pairs = "" if role == "search" else self.pairs
        part = part_of(self._search(phase).fidelity, config) if role == "search" else {}
        return TrialSpec(
            key=trial_key(
                config, fingerprint=self.fingerprint, role=role, phase=phase.name, real=real,
                teacher=digest, pairs=pairs, fidelity=part,
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
            fidelity=part,
            system_metrics=self.config.tracking.system_metrics,
            checkpoints_kept=self.config.tracking.checkpoints_kept,
        )  # fmt: skip

    def _search(self, phase: Phase) -> SearchConfig:
        return getattr(phase, "search", None) or self.config.search

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

    With adaptive seeds that is the configuration that led on validation in the end. Where all its seeds failed nobody
    teaches, no other choice in its place. `PHASE@7` asks for the same among its trials of seed 7.

    Raises:
        ValueError: No trial of that phase finished, or of a confirm phase none of its first choice.
    """
    name, _, seed = reference.partition("@")
    phase = next((item for item in run.config.phases if item.name == name), None)
    known = {item["name"]: item for item in (run.ledger.read_json("study.json") or {})["phases"]}
    if phase is None or name not in known:
        raise ValueError(f"must be the name of a phase before this one, but got {name!r}")
    search = getattr(phase, "search", None) or run.config.search
    accuracies = [item for item in search.objectives if item.metric.startswith("acc/")]
    limits = search.limits if isinstance(phase, SearchPhase) else ()
    candidates = candidates_of(run, name, accuracies[0].metric if accuracies else "acc/noise", limits)
    candidates = [item for item in candidates if not seed or item.config["train"]["seed"] == int(seed)]
    of_seed = f" of seed {seed}" if seed else ""
    if not candidates:
        raise ValueError(f"no trial of {name!r}{of_seed} finished, so nobody can teach")
    if isinstance(phase, ConfirmPhase):
        first = _of_first_choice(run, known[name], candidates)
        if not first:
            raise ValueError(
                f"no trial of the first choice of {name!r}{of_seed} finished, so nobody can teach; the phase's other "
                "choices do not stand for it: look in the report at why it failed"
            )
        return min(first, key=lambda item: item.number).key
    return top_of(candidates, 1, goal="maximise")[0].key


def _of_first_choice(run: StudyRun, phase: Mapping[str, Any], candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those of a confirm phase's finished trials that are of the configuration that it puts first."""
    chosen = first_choice(phase)
    origin = None
    if chosen is not None and run.ledger.read_bytes(chosen, "trial.json") is not None:
        origin = run.ledger.trial(chosen)
    own = {item.key: run.ledger.trial(item.key) for item in candidates}
    keys = trials_of_choice(run.ledger.read_json("study.json") or {}, phase, own, origin)
    return [item for item in candidates if item.key in keys]


def candidates_of(
    run: StudyRun, phase: str, metric: str, limits: Sequence[Constraint] = (), *, others: Sequence[str] = ()
) -> list[Candidate]:
    """The finished trials of a phase's present settings (a changed study has others beside them) that keep constraints.

    Of a search that was scored by a small grid its finalists, by their figures on the whole one.

    Args:
        others: Further metrics to carry, for a choice by several objectives.

    Raises:
        ValueError: Trials finished, but none keeps the constraints; the message says how close the nearest came.
    """
    known = {item["name"]: item for item in (run.ledger.read_json("study.json") or {})["phases"]}
    finalists = known[phase].get("finalists")
    finished = [
        (record, run.ledger.metrics(key)) for key in finalists or known[phase]["trials"]
        if run.ledger.status(key) == "finished" and (record := run.ledger.trial(key))
    ]  # fmt: skip
    kept = [(record, metrics) for record, metrics in finished if is_feasible(limits, judged(metrics))]
    if finished and not kept:
        record, metrics = min(finished, key=lambda item: (total_excess(limits, judged(item[1])), item[0]["number"]))
        raise ValueError(
            f"none of the {len(finished)} finished trials of {phase!r} keeps its constraints; the nearest, number "
            f"{record['number']} ({record['key']}), breaks {broken(limits, judged(metrics))}; search on with more "
            "trials, or loosen search.constraints under another study name"
        )

    def figure(metrics: Mapping[str, float], name: str) -> float:
        return chosen_value(metrics, name) if finalists else metrics.get(name, math.nan)

    return [
        Candidate(
            record["key"], figure(metrics, metric), record["number"], record["config"],
            tuple(figure(metrics, name) for name in others),
        )
        for record, metrics in kept
    ]  # fmt: skip


def say(text: str) -> None:
    """A line for the person who watches, on standard error."""
    print(printable(scrub(text)), file=sys.stderr, flush=True)
