"""What a study's parts demand of each other: phases, their overrides, search spaces and the baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from analysis.metrics import ALEXNET_CLASSES, ALEXNET_ERRORS, ALEXNET_IMAGE_SIZE, ALEXNET_SEVERITIES
from study.algorithms import MAX_GRID, refusals
from study.config import StudyConfig, TrialConfig
from study.config_method import teacher_kind, teachers_of
from study.config_phases import DEFAULT_ENDPOINTS, ConfirmPhase, Phase, SearchPhase, TrainPhase
from study.evaluate import CLEAN, group_of
from study.grids import grid_of_test
from study.halving import why_not_halved
from study.keys import places, unknown_trial_key
from study.override import apply
from study.problems import Path, Problem, ProblemsError, near_text, shown
from study.readable import value_problems
from study.searchcheck import grid_problems, search_problems
from study.space import SAMPLES, for_phase, parse
from study.spaceread import key_problem
from study.teachers import phase_problem


def check_study(study: StudyConfig) -> list[Problem]:
    """All problems between the parts of a study whose settings are valid one by one."""
    problems = [*_baseline(study), *_normaliser(study), *_endpoints(study), *_repeated(study)]
    problems += grid_problems(study)
    for index, phase in enumerate(study.phases):
        problems += _phase(study, phase, ("phases", index))
    if not any(isinstance(phase, SearchPhase) for phase in study.phases):
        problems += _space(study, ("search",))
    return problems or list(_halving(study))


def _baseline(study: StudyConfig) -> Iterator[Problem]:
    for key, value in study.report.baseline.items():
        path = ("report", "baseline", key)
        if key not in places():
            yield Problem(path, unknown_trial_key(key))
        else:
            yield from value_problems(key, value, path)


def _halving(study: StudyConfig) -> Iterator[Problem]:
    """Some trial can have its batches cut, or halving them has no effect."""
    if study.resources.on_out_of_memory != "halve":
        return
    reasons = []
    for phase in study.phases:
        config = for_phase(study, phase)
        space = config.search.space if isinstance(phase, SearchPhase) else {}
        is_searched = any(key.split(".")[0] in {"method", "model"} for key in space)
        reasons.append(None if is_searched else why_not_halved(config.trial()))
    if reasons and None not in reasons:
        text = f"must be fail, as {reasons[0]}, but got halve; lower train.batch_size, or leave it out"
        yield Problem(("resources", "on_out_of_memory"), text)


def _normaliser(study: StudyConfig) -> Iterator[Problem]:
    """AlexNet's published errors are those of ImageNet-C: 224 px, its own severity table, all five severities."""
    if study.report.normaliser != "alexnet":
        return
    reasons = {
        f"images of {ALEXNET_IMAGE_SIZE} px": (study.data.image_size == ALEXNET_IMAGE_SIZE, "data.image_size",
                                               study.data.image_size),
        "ImageNet's severity table": (study.noise.scale in {"nearest", "imagenet"}, "noise.scale", study.noise.scale),
        "severities 1 to 5": (sorted(study.noise.test_severities) == list(ALEXNET_SEVERITIES),
                              "noise.test_severities", list(study.noise.test_severities)),
        "a test corruption of ImageNet-C": (bool(set(study.noise.test) & set(ALEXNET_ERRORS)), "noise.test",
                                            list(study.noise.test)),
        f"ImageNet's {ALEXNET_CLASSES:,} classes": (study.data.source != "synthetic-vehicles", "data.source",
                                                    study.data.source),
    }  # fmt: skip
    for needs, (holds, key, value) in reasons.items():
        if not holds:
            text = f"alexnet needs {needs}, but {key} is {shown(value)}; change it, or use baseline"
            yield Problem(("report", "normaliser"), text)


def _endpoints(study: StudyConfig) -> Iterator[Problem]:
    """Each endpoint has test noise to be measured by, stands once, and judges a contrast."""
    endpoints, cells = study.report.endpoints, grid_of_test(study)
    if not study.report.contrasts:
        if endpoints != DEFAULT_ENDPOINTS:
            yield Problem(("report", "endpoints"), "has no effect without report.contrasts; state some or take it out")
        return
    groups, corruptions = ({f(cell) for cell in cells} - {CLEAN} for f in (group_of, lambda cell: cell.name))
    for index, endpoint in enumerate(endpoints):
        path = ("report", "endpoints", index)
        kind, _, names = endpoint.partition(":")
        measured = {"noise": groups, "group": groups & {names}, "outside": groups - set(names.split("+")),
                    "corruption": corruptions & {names}}  # fmt: skip
        if endpoint in endpoints[:index]:
            yield Problem(path, f"stands twice: {endpoint}; take one of them out")
        elif kind != "clean" and not measured[kind]:
            has = sorted(corruptions if kind == "corruption" else groups)
            there = f", which has {', '.join(has)}" if has else ""
            yield Problem(path, f"must be measured by a corruption of the test{there}, but {endpoint} has none there")


def _repeated(study: StudyConfig) -> Iterator[Problem]:
    """Two train phases of the same settings and a same seed train it twice, and it would count as two seeds."""
    seen: dict[tuple[str, int], str] = {}
    for index, phase in enumerate(study.phases):
        if not isinstance(phase, TrainPhase) or list(_set(study, phase, ())):
            continue
        settings = for_phase(study, phase).trial().model_dump_json(exclude={"train": {"seed"}})
        twice = {seed: seen[settings, seed] for seed in phase.seeds if (settings, seed) in seen}
        if twice:
            other = next(iter(twice.values()))
            text = f"has the settings of {other}, and seeds {list(twice)} too; give it other seeds or settings"
            yield Problem(("phases", index), text)
        seen |= {(settings, seed): phase.name for seed in phase.seeds}


def _phase(study: StudyConfig, phase: Phase, path: Path) -> Iterator[Problem]:
    broken = list(_set(study, phase, (*path, "set")))
    yield from broken
    if broken:
        return
    config = for_phase(study, phase)
    yield from _teachers(study, phase, config, path)
    if isinstance(phase, SearchPhase):
        where = (*path, "search") if phase.search is not None else ("search",)
        yield from _space(config, where)
        yield from _grace(config, where)
    yield from search_problems(study, phase, config, path)
    space = config.search.space if isinstance(phase, SearchPhase) else {}
    yield from _curriculum(config, space)
    yield from _update(config, space)
    yield from _elastic(config, space)
    yield from _shared_statistics(phase, config, path)
    if isinstance(phase, ConfirmPhase) and phase.per is not None:
        yield from _per(study, phase, (*path, "per"))
    if isinstance(phase, ConfirmPhase) and phase.set:
        yield from _confirmed(study, phase, (*path, "set"))


def _set(study: StudyConfig, phase: Phase, path: Path) -> Iterator[Problem]:
    """The phase's own keys: known, valid, and valid together with the rest of the study."""
    single = []
    for key, value in phase.set.items():
        refused = key_problem(key)
        if key == "train.seed" and not isinstance(phase, SearchPhase):
            refused = "has no effect here, as the phase's seeds set it; write seeds in its place"
        single += [Problem((*path, key), refused)] if refused else value_problems(key, value, (*path, key))
    yield from single
    if single:
        return
    try:
        apply(study, phase.set)
    except ProblemsError as error:
        text = "; ".join(str(problem) for problem in error.problems)
        yield Problem(path, f"does not go with the rest of the study: {text}")


def _teachers(study: StudyConfig, phase: Phase, config: StudyConfig, path: Path) -> Iterator[Problem]:
    """A teacher that is named like a phase must be one before this."""
    for where, reference in _references(phase, config, path):
        text = phase_problem(study, phase, reference) if teacher_kind(reference) == "phase" else ""
        if text:
            yield Problem(where, text)


def _references(phase: Phase, config: StudyConfig, path: Path) -> Iterator[tuple[Path, str]]:
    """The teachers that a phase names, and where."""
    space = config.search.space if isinstance(phase, SearchPhase) else {}
    base = (*path, "search") if getattr(phase, "search", None) is not None else ("search",)
    stated = {} if isinstance(phase, ConfirmPhase) else teachers_of(config.method)
    for setting in ("teacher", "direct_teacher"):
        key = f"method.{setting}"
        searched = space.get(key, {})
        values = [*(searched.get("choice") or ()), searched.get("fixed")]
        yield from (((*base, "space", key), value) for value in values if isinstance(value, str))
        if key in phase.set:
            yield (*path, "set", key), str(phase.set[key])
        elif not searched and setting in stated:
            yield ("method", setting), stated[setting]


def _space(config: StudyConfig, where: Path) -> Iterator[Problem]:
    """The space by itself, and whether the algorithm takes it."""
    try:
        space = parse(config.search.space, config)
    except ProblemsError as error:
        for problem in error.problems:
            yield problem._replace(path=(*where, "space", *problem.path))
        return
    count = space.count(MAX_GRID) if config.search.algorithm == "grid" else None
    for text in refusals(config.search, space.domains, count):
        yield Problem((*where, "algorithm"), text)


def _curriculum(config: StudyConfig, space: Mapping[str, Any]) -> Iterator[Problem]:
    """A curriculum needs training noise to grow, and an end within the training."""
    curriculum = config.noise.curriculum
    if curriculum is None:
        return
    searched = {"noise.train", "method.name"} & set(space)
    if not config.training_noise() and not searched:
        yield Problem(
            ("noise", "curriculum"), "has no effect without training noise; name some in noise.train or take it out"
        )
    if config.train.budget is not None or any(key.startswith("train.budget") for key in space):
        text = "must be left out with train.budget: it counts epochs, and arms of one budget differ in these"
        yield Problem(("noise", "curriculum"), text)
        return
    known = "train.epochs" not in space
    if known and curriculum.epochs > config.train.epochs:
        text = f"must be at most train.epochs ({config.train.epochs}), or the whole strength is never reached"
        yield Problem(("noise", "curriculum", "epochs"), f"{text}, but got {curriculum.epochs}")


def _update(config: StudyConfig, space: Mapping[str, Any]) -> Iterator[Problem]:
    """Micro-batches are smaller than batches, and only several workers can differ in their ascent."""
    micro, batch = config.train.micro_batch, config.train.batch_size
    if micro is not None and micro >= batch and not {"train.batch_size", "train.micro_batch"} & set(space):
        text = f"must be below train.batch_size ({batch}), or it has no effect"
        yield Problem(("train", "micro_batch"), f"{text}, but got {micro}")
    if getattr(config.method, "gather", False) and config.resources.max_workers == 1:
        text = "true has no effect with one worker; set resources.workers_per_trial or leave gather out"
        yield Problem(("method", "gather"), text)
    if config.optim.sam.ascent == "local" and config.resources.max_workers == 1:
        text = "local has no effect with one worker; set resources.workers_per_trial or leave ascent out"
        yield Problem(("optim", "sam", "ascent"), text)


def _elastic(config: StudyConfig, space: Mapping[str, Any]) -> Iterator[Problem]:
    """A number of workers that changes within a trial must not change what the trial is."""
    if not config.resources.is_elastic:
        return
    where = ("resources", "workers_per_trial")
    if config.train.budget is not None or any(key.startswith("train.budget") for key in space):
        text = "must be one number with train.budget, whose last update would come at another place with other workers"
        yield Problem(where, f"{text}; write one, or count epochs by train.epochs")
    ascent = space.get("optim.sam.ascent", {})
    if "local" in (config.optim.sam.ascent, ascent.get("fixed"), *(ascent.get("choice") or ())):
        text = "must be one number with optim.sam.ascent: local, whose perturbation is that of each worker's own share"
        yield Problem(where, f"{text}; write one, or take ascent: global")
    if config.train.batch_size < config.resources.max_workers and "train.batch_size" not in space:
        text = f"must be at most train.batch_size ({config.train.batch_size}), as each worker needs an image of a batch"
        yield Problem(where, f"{text}, but got {config.resources.max_workers}")


def _shared_statistics(phase: Phase, config: StudyConfig, path: Path) -> Iterator[Problem]:
    """Batch statistics are shared by several workers with GPUs, or there is nothing to share or no way to."""
    searched = config.search.space.get("model.batch_norm", {}) if isinstance(phase, SearchPhase) else {}
    where: Path = ("model", "batch_norm")
    if searched:
        own = getattr(phase, "search", None) is not None
        where = (*(path if own else ()), "search", "space", "model.batch_norm")
    values = [*(searched.get("choice") or ()), searched.get("fixed")] if searched else [config.model.batch_norm]
    if "sync" not in values:
        return
    resources = config.resources
    if resources.max_workers == 1:
        yield Problem(where, "sync has no effect with one worker; set resources.workers_per_trial or take it out")
    elif not resources.gpus_per_worker:
        text = "sync needs GPUs, as PyTorch cannot share batch statistics between CPUs; set resources.gpus_per_worker"
        yield Problem(where, f"{text}, or take frozen or a backbone without batch norms")


def _grace(config: StudyConfig, where: Path) -> Iterator[Problem]:
    """The grace period must end within the training, counted in what the training is counted in.

    How many gradient passes a number of epochs comes to is told by `study.possible`.
    """
    scheduler, space = config.search.scheduler, config.search.space
    if scheduler is None:
        return
    path, grace = (*where, "scheduler"), scheduler.grace_passes_per_image
    is_searched = any(key == "train.epochs" or key.startswith("train.budget") for key in space)
    trials = _tried(config) if is_searched else [config.trial()]
    if grace is None and (config.train.budget is not None or any(trial.train.budget for trial in trials)):
        text = "must count in gradient passes with train.budget, since epochs differ in length by what a batch costs"
        yield Problem(path, f"{text}; write grace_passes_per_image in it")
        return
    if grace is None:
        key, setting, got = "grace_epochs", "train.epochs", float(scheduler.grace_epochs)
        lengths = [float(trial.train.epochs) for trial in trials]
    else:
        key, setting, got = "grace_passes_per_image", "train.budget.passes_per_image", grace
        budgets = [trial.train.budget and trial.train.budget.passes_per_image for trial in trials]
        lengths = [budget for budget in budgets if budget]
        if len(lengths) < len(budgets):
            return
    if lengths and got >= max(lengths):
        longest = f"{'at most ' if is_searched else ''}{max(lengths):g}"
        text = f"must be below {setting} ({longest}), or no trial is ever stopped early, but got {got:g}"
        yield Problem((*path, key), text)


def _tried(config: StudyConfig) -> list[TrialConfig]:
    """What a search can train, as far as it is tried out; nothing where its space is refused already."""
    try:
        return [apply(config.trial(), params) for params in parse(config.search.space, config).samples()]
    except ProblemsError:
        return []


def _per(study: StudyConfig, phase: ConfirmPhase, path: Path) -> Iterator[Problem]:
    source = next(item for item in study.phases if item.name == phase.of)
    searched = ((source.search if isinstance(source, SearchPhase) else None) or study.search).space
    if phase.per not in searched:
        known = near_text(str(phase.per), searched) or "; it searches nothing"
        yield Problem(path, f'must be a key that phase "{phase.of}" searches, but got "{phase.per}"{known}')


def _confirmed(study: StudyConfig, phase: ConfirmPhase, path: Path) -> Iterator[Problem]:
    """The phase's own keys must go with whatever the search may choose."""
    try:
        source = for_phase(study, next(item for item in study.phases if item.name == phase.of))
        chosen = [apply(source.trial(), params) for params in parse(source.search.space, source).draws(SAMPLES)]
    except ProblemsError:
        return  # told where the search stands
    for config in chosen:
        try:
            apply(config, phase.set)
        except ProblemsError as error:
            text = "; ".join(str(problem) for problem in error.problems)
            yield Problem(path, f"does not go with all that {phase.of} can choose: {text}")
            return
