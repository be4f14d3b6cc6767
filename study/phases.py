"""A study from its file to its report: the driver that runs phase after phase."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from analysis.selection import Candidate, top_of, top_per
from noise.families import CORRUPTIONS
from study.config import (
    DEFAULT_ENDPOINTS,
    ConfirmPhase,
    OptimConfig,
    Phase,
    SearchPhase,
    StudyConfig,
    TrainConfig,
    TrainPhase,
    TrialConfig,
    teacher_kind,
    teacher_phase,
    teachers_of,
)
from study.config_resolution import ResolutionConfig
from study.config_task import Classification
from study.data.image_set import DataSplits
from study.data.prepare import prepare_data
from study.data.real import RealImages, prepare_all_real
from study.estimate import check_budget
from study.ledger import Ledger, TrialSpec, trial_key
from study.override import apply
from study.places import Places, redact, resolve_places
from study.plan import refuse_what_cannot_run
from study.possible import configs_of
from study.reporting import closing_lines, write_study_report
from study.search import Interrupted, PhaseSummary, Runtime, run_list, run_search, start_ray, stop_ray
from study.space import for_phase, parse
from study.studyfile import LoadedStudy, load_study_text
from study.tasks import fingerprint_of, prepare_task
from study.teachers import FoundTeacher, check_teacher, find_teacher, look_at, trial_place
from study.tracking import Tracker
from study.trial import versions

DONE, FAILED_TRIALS, INTERRUPTED = 0, 1, 130
_GROWN = {"task": Classification(), "resolution": ResolutionConfig(), "train": TrainConfig(), "optim": OptimConfig()}
"""Sections that older records lack, or lack settings of."""


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


def run_study(
    loaded: LoadedStudy, *, storage: str | None, address: str | None, again: bool = False, verbose: bool = False
) -> int:
    """Run all phases of a study and write its report; returns the exit code.

    Args:
        storage: In place of the file's `tracking.storage`.
        address: Ray cluster to join; None for `RAY_ADDRESS` or a local Ray of its own.
        again: Let a changed study under the same name go on, which reads the test split once more.

    Raises:
        ValueError: Bad input, found before Ray starts.
    """
    config = loaded.config
    places = resolve_places(config.tracking, cwd=Path.cwd(), storage=storage)
    refuse_what_cannot_run(config, storage=str(places.storage))
    ledger = Ledger(str(places.storage), config.name)
    with ledger.lock():
        say(f"study {config.name}: reading the images")
        data = prepare_data(config.data, cache_dir=places.cache_dir)
        _check_budgets(config, data)
        tested = any(phase.kind != "search" for phase in config.phases)
        pairs = fingerprint_of(prepare_task(config.trial(), data, cache_dir=places.cache_dir, tested=tested))
        real = _real_images(config, data, places)
        _open_study(ledger, loaded, data, real=real, pairs=pairs, tracking_uri=places.tracking_uri, again=again)
        tracker = Tracker(ledger, places.tracking_uri) if config.tracking.enabled else None
        runtime = start_ray(config.resources, address=address, verbose=verbose)
        fingerprints = {name: images.fingerprint for name, images in real.items()}
        run = StudyRun(config, ledger, places, data.fingerprint, runtime, fingerprints, data.class_names, pairs=pairs)
        try:
            if tracker:
                tracker.start()
            summaries = [_run_phase(run, phase, tracker) for phase in config.phases]
            report = write_study_report(ledger, tracker)
        except Interrupted:
            say(f"stopped; what was done is kept. Go on with: murk resume {config.name}{_storage_hint(places)}")
            return INTERRUPTED
        finally:
            stop_ray(runtime)
            if tracker:
                tracker.close()
    typer.echo(closing_lines(ledger, report, places, config))
    return FAILED_TRIALS if any(summary.failed for summary in summaries) else DONE


def resume_study(name: str, *, storage: str | None, address: str | None, verbose: bool = False) -> int:
    """Go on with a study from its ledger alone; returns the exit code.

    Raises:
        ValueError: No such study at this storage place.
    """
    places = resolve_places(None, cwd=Path.cwd(), storage=storage)
    ledger = Ledger(str(places.storage), name)
    record = ledger.read_json("study.json")
    if record is None:
        raise ValueError(f"no study {name!r} at {redact(str(places.storage))}; name its place with --storage")
    loaded = load_study_text(record["config"], text=(ledger.files.read_bytes("study.yaml") or b"").decode())
    return run_study(loaded, storage=storage, address=address, again=False, verbose=verbose)


def single_trial(loaded: LoadedStudy, *, named: bool) -> LoadedStudy:
    """The study of one trial that trains the file's own configuration.

    Args:
        named: Whether the user named the study; else `-train` is added to the file's name.
    """
    config = loaded.config
    phase = TrainPhase(kind="train", name="train", seeds=(config.train.seed,))
    name = config.name if named else f"{config.name}-train"
    # Contrasts are between phases that this study has not; its record could not be read back with them.
    report = config.report.model_copy(update={"contrasts": (), "endpoints": DEFAULT_ENDPOINTS})
    changed = {"phases": (phase,), "name": name, "report": report}
    return dataclasses.replace(loaded, config=config.model_copy(update=changed))


def say(text: str) -> None:
    """A line for the person who watches, on standard error."""
    print(text, file=sys.stderr, flush=True)


def _storage_hint(places: Places) -> str:
    """How `murk resume` finds the records; nothing where it looks by itself, as `resume` knows no study file."""
    is_default = places.storage == str(Path.cwd() / "results")
    return "" if is_default else f" --storage {redact(places.storage)}"


def _check_budgets(config: StudyConfig, data: DataSplits) -> None:
    """Refuse a budget that buys a phase nothing, before Ray starts; of a search as far as it was tried out."""
    for phase in config.phases:
        for trial in configs_of(config, phase):
            check_budget(
                trial, num_classes=len(data.class_names), num_images=len(data.train),
                workers=config.resources.workers_per_trial,
            )  # fmt: skip


def _real_images(config: StudyConfig, data: DataSplits, places: Places) -> dict[str, RealImages]:
    """The folders of real noisy images, where a phase will read them; whatever is wrong with them is said here."""
    if not config.noise.real or all(phase.kind == "search" for phase in config.phases):
        return {}
    real = prepare_all_real(
        config.noise.real, data=data, image_size=config.data.image_size,
        refuse=config.data.on_corrupt == "refuse", cache_dir=places.cache_dir,
    )  # fmt: skip
    for name, images in real.items():
        left_out = f"; {images.num_known} left out that stand in train or validation" if images.num_known else ""
        say(f"noise.real.{name}: {len(images.images)} real noisy images{left_out}")
    return real


def _open_study(
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
        changed = _changed_keys(before, config)
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
            means["restated"] = _is_restated(ledger, record, config)
            ledger.write_json("study.json", {**record, **means})
            ledger.files.write_bytes(loaded.text.encode(), "study.yaml")
            return
        record = _with_unrecorded_reads(ledger, record)
    facts = {
        "restated": record is not None and _is_restated(ledger, record, config),
        "study": ledger.study,
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
        "phases": [],
        "created": _now(),
        "tracking_uri": tracking_uri,
        "test_reads": (record["test_reads"] if record else []),
        "generation": (record.get("generation", 0) + 1 if record else 0),
    }
    ledger.write_json("study.json", facts)
    ledger.files.write_bytes(loaded.text.encode(), "study.yaml")


def _changed_keys(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys that decide results and differ; where and with what means a study runs may change."""
    changed = []
    for name in sorted(before.keys() | after.keys()):
        if not prefix and name in {"resources", "tracking", "report"}:
            continue
        if f"{prefix}{name}" in {"data.path", "noise.real", "task.pairs", "task.images"}:
            continue  # a place; what lies there has a fingerprint
        one, other = before.get(name), after.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            changed += _changed_keys(one, other, f"{prefix}{name}.")
        elif one != other:
            changed.append(f"{prefix}{name}")
    return changed


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


def _run_phase(run: StudyRun, phase: Phase, tracker: Tracker | None) -> PhaseSummary:
    config = for_phase(run.config, phase)
    _record_phase(run.ledger, phase, status="running")
    if tracker:
        tracker.phase_started(phase.name)
    if isinstance(phase, SearchPhase):
        _meet_teachers(run, config)
        summary = _search(run, phase, config)
    else:
        summary = run_list(_specs(run, phase, config), phase=phase.name, ledger=run.ledger, runtime=run.runtime)
    _record_phase(run.ledger, phase, status="finished", trials=summary.keys)
    if phase.kind != "search":
        _record_test_read(run.ledger, phase.name, summary.keys)
    return summary


def _meet_teachers(run: StudyRun, config: StudyConfig) -> None:
    """Resolve every teacher that a search can draw before its first trial; a list of trials does so by itself."""
    for params in parse(config.search.space, config).samples():
        run.teacher(apply(config.trial(), params))


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
    candidates = _candidates(run, name, accuracies[0].metric if accuracies else "acc/noise")
    candidates = [item for item in candidates if not seed or item.config["train"]["seed"] == int(seed)]
    if not candidates:
        of_seed = f" of seed {seed}" if seed else ""
        raise ValueError(f"no trial of {name!r}{of_seed} finished, so nobody can teach")
    if isinstance(phase, ConfirmPhase):
        return min(candidates, key=lambda candidate: candidate.number).key
    return top_of(candidates, 1, goal="maximise")[0].key


def _candidates(run: StudyRun, phase: str, metric: str) -> list[Candidate]:
    """The finished trials of a phase's present settings (a changed study has others beside them)."""
    known = {item["name"]: item for item in (run.ledger.read_json("study.json") or {})["phases"]}
    return [
        Candidate(key, run.ledger.metrics(key).get(metric, math.nan), record["number"], record["config"])
        for key in known[phase]["trials"]
        if run.ledger.status(key) == "finished" and (record := run.ledger.trial(key))
    ]


def _search(run: StudyRun, phase: SearchPhase, config: StudyConfig) -> PhaseSummary:
    search = config.search

    def spec_of(params: dict[str, Any], number: int) -> TrialSpec:
        return run.spec(apply(config.trial(), params), phase, number=number, params=params)

    summary = run_search(
        search, space=parse(search.space, config), spec_of=spec_of, phase=phase.name, ledger=run.ledger,
        runtime=run.runtime,
    )  # fmt: skip
    if summary.exhausted:
        say(f"{phase.name}: the space gives no more new trials; the search ends with {len(summary.keys)} of "
            f"{search.trials}")  # fmt: skip
    return summary


def _specs(run: StudyRun, phase: TrainPhase | ConfirmPhase, config: StudyConfig) -> list[TrialSpec]:
    if isinstance(phase, TrainPhase):
        settings = [(config.trial(), {})]
    else:
        settings = [_confirmed(run, phase, key) for key in _chosen(run, phase)]
    seeded = [
        (apply(setting, {"train.seed": seed}), params) for setting, params in settings for seed in phase.seeds
    ]  # fmt: skip
    return [run.spec(setting, phase, number=i, params=params) for i, (setting, params) in enumerate(seeded)]


def _confirmed(run: StudyRun, phase: ConfirmPhase, key: str) -> tuple[TrialConfig, dict[str, Any]]:
    record = run.ledger.trial(key)
    config = TrialConfig.model_validate(record["config"])
    return (apply(config, phase.set) if phase.set else config), record["params"]


def _chosen(run: StudyRun, phase: ConfirmPhase) -> list[str]:
    """The keys of the trials that an earlier search's validation figures choose, the same at every launch.

    Raises:
        ValueError: No trial of that phase finished.
    """
    known = {item["name"]: item for item in (run.ledger.read_json("study.json") or {})["phases"]}
    if selected := known.get(phase.name, {}).get("selected"):
        return selected
    source = next(item for item in run.config.phases if item.name == phase.of)
    assert isinstance(source, SearchPhase)
    objective = (source.search or run.config.search).objectives[0]
    candidates = _candidates(run, phase.of, objective.metric)
    if not candidates:
        raise ValueError(f"phase {phase.name!r}: no trial of {phase.of!r} finished, so there is nothing to confirm")
    if phase.per is None:
        best = top_of(candidates, phase.top, goal=objective.goal)
    else:
        best = top_per(candidates, phase.top, key=phase.per, goal=objective.goal)
    chosen = [candidate.key for candidate in best]
    _record_phase(run.ledger, phase, status="running", selected=chosen)
    return chosen


def _record_phase(ledger: Ledger, phase: Phase, *, status: str, **fields: Any) -> None:
    record = ledger.read_json("study.json") or {}
    entry = {"name": phase.name, "kind": phase.kind, "trials": [], "selected": []}
    known = {item["name"]: item for item in record["phases"]}
    known[phase.name] = {**entry, **known.get(phase.name, {}), "status": status, **fields}
    ledger.write_json("study.json", {**record, "phases": list(known.values())})


def _record_test_read(ledger: Ledger, phase: str, trials: Sequence[str]) -> None:
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
