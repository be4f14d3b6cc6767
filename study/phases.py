"""A study from its file to its report: the driver that runs phase after phase."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import typer

from analysis.pareto import front_of
from analysis.repeats import trial_number
from analysis.selection import top_of, top_per
from study.config import StudyConfig, TrialConfig
from study.config_phases import DEFAULT_ENDPOINTS, ConfirmPhase, Phase, SearchPhase, TrainPhase
from study.config_search import SearchConfig
from study.credentials import printable, scrub
from study.data.image_set import DataSplits
from study.data.prepare import prepare_data
from study.data.real import RealImages, prepare_all_real
from study.estimate import check_budget
from study.finalists import measure_finalists
from study.footprint import footprint
from study.fulldisk import full_disk_said
from study.ledger import Ledger, TrialSpec
from study.optunamirror import Mirror
from study.override import apply
from study.places import Places, redact, refuse_credentials, resolve_places
from study.plan import refuse_what_cannot_run
from study.possible import configs_of
from study.repeats import Contender, run_repeats
from study.reporting import closing_lines, write_study_report
from study.search import Interrupted, PhaseSummary, run_list, run_search, start_ray, stop_ray
from study.searcher import MAX_STATIC_ASKS
from study.space import for_phase, parse
from study.studyfile import LoadedStudy, load_study_text
from study.studyrecord import open_study, record_phase, record_test_read
from study.studyrun import StudyRun, candidates_of, say
from study.tasks import fingerprint_of, prepare_task
from study.tracking import Tracker
from study.warmstart import take_trials, taken_trials

DONE, FAILED_TRIALS, INTERRUPTED = 0, 1, 130


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
        FullDiskError: There is no room for the records; a ValueError.
    """
    config = loaded.config
    refuse_credentials(address or os.environ.get("RAY_ADDRESS"), "--address")
    places = resolve_places(config.tracking, cwd=Path.cwd(), storage=storage)
    refuse_what_cannot_run(config, storage=str(places.storage))
    ledger = Ledger(str(places.storage), config.name)
    go_on = f"murk resume {config.name}{_storage_hint(places)}"
    with full_disk_said(ledger.root, way_out=go_on), ledger.lock():
        say(f"study {config.name}: reading the images")
        data = prepare_data(config.data, cache_dir=places.cache_dir)
        _check_budgets(config, data)
        tested = any(phase.kind != "search" for phase in config.phases)
        pairs = fingerprint_of(prepare_task(config.trial(), data, cache_dir=places.cache_dir, tested=tested))
        real = _real_images(config, data, places)
        open_study(ledger, loaded, data, real=real, pairs=pairs, tracking_uri=places.tracking_uri, again=again)
        tracker = Tracker(ledger, places.tracking_uri) if config.tracking.enabled else None
        mirror = Mirror(ledger, config)
        _learn_of_earlier_studies(config, ledger, storage=str(places.storage))
        runtime = start_ray(config.resources, address=address, verbose=verbose)
        fingerprints = {name: images.fingerprint for name, images in real.items()}
        run = StudyRun(config, ledger, places, data.fingerprint, runtime, fingerprints, data.class_names, pairs=pairs,
                       num_train=len(data.train))  # fmt: skip
        try:
            if tracker:
                tracker.start()
            mirror.start()
            summaries = [_run_phase(run, phase, tracker) for phase in config.phases]
            ledger.files.refuse_if_lost()
            report = write_study_report(ledger, tracker)
        except Interrupted:
            ledger.files.refuse_if_lost()
            say(f"stopped; what was done is kept. Go on with: {go_on}")
            return INTERRUPTED
        finally:
            stop_ray(runtime)
            mirror.close()
            if tracker:
                tracker.close()
    typer.echo(printable(scrub(closing_lines(ledger, report, places, config))))
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
                workers=config.resources.max_workers,
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


def _run_phase(run: StudyRun, phase: Phase, tracker: Tracker | None) -> PhaseSummary:
    config = for_phase(run.config, phase)
    record_phase(run.ledger, phase, status="running")
    if tracker:
        tracker.phase_started(phase.name)
    if isinstance(phase, SearchPhase):
        _meet_teachers(run, config)
        summary = _search(run, phase, config)
    elif isinstance(phase, ConfirmPhase) and phase.adaptive is not None:
        summary = _repeated(run, phase, config)
    else:
        summary = run_list(_specs(run, phase, config), phase=phase.name, ledger=run.ledger, runtime=run.runtime)
    extra: dict[str, Any] = {}
    if isinstance(phase, SearchPhase) and (finalists := measure_finalists(run, phase, config.search, summary.done)):
        extra["finalists"] = finalists
    record_phase(run.ledger, phase, status="finished", trials=summary.keys, **extra)
    if phase.kind != "search":
        record_test_read(run.ledger, phase.name, summary.keys)
    return summary


def _learn_of_earlier_studies(config: StudyConfig, ledger: Ledger, *, storage: str) -> None:
    """Take over the trials that searches start warm from, once for a study, before Ray starts."""
    for phase in config.phases:
        if isinstance(phase, SearchPhase):
            take_trials(ledger, phase, for_phase(config, phase), storage=storage)


def _meet_teachers(run: StudyRun, config: StudyConfig) -> None:
    """Resolve every teacher that a search can draw before its first trial; a list of trials does so by itself."""
    for params in parse(config.search.space, config).samples():
        run.teacher(apply(config.trial(), params))


def _search(run: StudyRun, phase: SearchPhase, config: StudyConfig) -> PhaseSummary:
    search = config.search

    def spec_of(params: dict[str, Any], number: int) -> TrialSpec:
        return run.spec(apply(config.trial(), params), phase, number=number, params=params)

    def facts_of(spec: TrialSpec) -> dict[str, float]:
        return footprint(TrialConfig.model_validate(spec.config), num_classes=len(run.class_names))

    summary = run_search(
        search, space=parse(search.space, config), spec_of=spec_of, phase=phase.name, ledger=run.ledger,
        runtime=run.runtime, facts_of=facts_of, num_images=run.num_train, past=taken_trials(run.ledger, phase),
    )  # fmt: skip
    if summary.skipped:
        say(f"{phase.name}: {summary.skipped} suggestions broke a constraint before training and were not trained")
    if summary.exhausted:
        why = "the space gives no more new trials"
        if summary.gave_up:
            why = (
                f"{MAX_STATIC_ASKS:,} new suggestions in a row broke a constraint before training, so loosen "
                "search.constraints or narrow search.space"
            )
        say(f"{phase.name}: {why}; the search ends with {len(summary.keys)} of {search.trials}")
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


def _repeated(run: StudyRun, phase: ConfirmPhase, config: StudyConfig) -> PhaseSummary:
    """A confirm phase whose contenders may get more seeds; the first seeds' trials have the numbers that they had."""
    chosen, seeds = _chosen(run, phase), phase.all_seeds(config.train.seed)
    first, contenders = len(phase.seeds), []
    for place, key in enumerate(chosen):
        setting, params = _confirmed(run, phase, key)
        specs = []
        for turn, seed in enumerate(seeds):
            number = trial_number(place, turn, first=first, contenders=len(chosen))
            specs.append(run.spec(apply(setting, {"train.seed": seed}), phase, number=number, params=params))
        contenders.append(Contender(key, specs))
    return run_repeats(run, phase, contenders, _searched(run, phase).objectives[0].metric)


def _searched(run: StudyRun, phase: ConfirmPhase) -> SearchConfig:
    """The search that a confirm phase chooses from."""
    source = next(item for item in run.config.phases if item.name == phase.of)
    return getattr(source, "search", None) or run.config.search


def _confirmed(run: StudyRun, phase: ConfirmPhase, key: str) -> tuple[TrialConfig, dict[str, Any]]:
    record = run.ledger.trial(key)
    config = TrialConfig.model_validate(record["config"])
    return (apply(config, phase.set) if phase.set else config), record["params"]


def _chosen(run: StudyRun, phase: ConfirmPhase) -> list[str]:
    """The keys of the trials that an earlier search's validation figures choose, the same at every launch.

    Trials that break a constraint are never chosen. Of a search of several objectives the phase takes from its Pareto
    front (of each value of `per` its own): the `top` best there by the first objective, all where `top` is larger.

    Raises:
        ValueError: No trial of that phase finished, or none keeps the constraints.
    """
    known = {item["name"]: item for item in (run.ledger.read_json("study.json") or {})["phases"]}
    if selected := known.get(phase.name, {}).get("selected"):
        return selected
    search = _searched(run, phase)
    objective, *more = search.objectives
    try:
        candidates = candidates_of(
            run, phase.of, objective.metric, search.limits, others=[item.metric for item in more]
        )
    except ValueError as error:
        raise ValueError(f"phase {phase.name!r}: {error}") from None
    if not candidates:
        raise ValueError(f"phase {phase.name!r}: no trial of {phase.of!r} finished, so there is nothing to confirm")
    if more:
        candidates = front_of(candidates, [item.goal for item in search.objectives], per=phase.per)
    if phase.per is None:
        best = top_of(candidates, phase.top, goal=objective.goal)
    else:
        best = top_per(candidates, phase.top, key=phase.per, goal=objective.goal)
    chosen = [candidate.key for candidate in best]
    record_phase(run.ledger, phase, status="running", selected=chosen)
    return chosen
