"""A plan in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from study.nodes import layout

if TYPE_CHECKING:
    from study.config_resolution import ResolutionConfig
    from study.plan import Backbone, PhasePlan, Plan

_WIDTH = 110
_MAX_NAMES = 4
_LONG = 60


def plan_text(plan: Plan) -> str:
    """What `murk check` prints."""
    config = plan.study.config
    lines = [f"Study {config.name} ({plan.study.path}) is valid.", "", *_data(plan)]
    lines += [line for backbone in plan.backbones for line in _backbone(backbone)]
    lines += [*_noise(plan), *_task(plan)]
    for number, phase in enumerate(plan.phases, start=1):
        lines += ["", *_phase(phase, number)]
    return "\n".join([*lines, "", *_cost(plan)])


def duration(seconds: float) -> str:
    """Such as "about 40 s" or "about 3 h": two figures at most, as an estimate deserves."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            amount = seconds / size
            figures = f"{amount:.0f}" if amount >= 10 else f"{amount:.1f}".removesuffix(".0")
            return f"about {figures} {unit}"
    return f"about {seconds:.0f} s" if seconds >= 1 else "less than 1 s"


def _data(plan: Plan) -> list[str]:
    data, sizes = plan.study.config.data, plan.sizes
    names = ", ".join(plan.class_names[:_MAX_NAMES]) + (", ..." if len(plan.class_names) > _MAX_NAMES else "")
    source = getattr(data, "path", None) or data.source
    return _wrapped(
        "Images", f"{source}: {sizes.num_classes} classes ({names}) at {data.image_size} x {data.image_size} px; "
        f"{sizes.train:,} to train on, {sizes.validation:,} to choose by, {sizes.test:,} to test on",
    )  # fmt: skip


def _backbone(backbone: Backbone) -> list[str]:
    stages = ", ".join(
        f"{channels} (1/{stride})"
        for channels, stride in zip(backbone.stages.channels, backbone.stages.strides, strict=True)
    )
    count = backbone.parameters
    size = f"{count / 1e6:.1f} million" if count >= 1e5 else f"{count:,}"
    text = f"{backbone.name}: {size} parameters; {len(backbone.stages.channels)} stages with channels (scale) {stages}"
    return _wrapped("Backbone", text)


def _noise(plan: Plan) -> list[str]:
    noise, lower = plan.study.config.noise, plan.study.config.resolution
    searched = {key for phase in plan.phases for key, _, _ in phase.searched}
    own = "the method's own" if noise.train is None else ", ".join(item.name for item in noise.train) or "none"
    held = f"; held out of all else: {', '.join(noise.held_out)}" if noise.held_out else ""
    images = min(noise.validation_images, plan.sizes.validation)
    return [
        *_wrapped("Noise", f"to train on: {'searched' if 'noise.train' in searched else own}"),
        *_wrapped("", f"to choose by: {_seen(noise.validation, noise.validation_severities, lower.validation)}, "
                  f"on {images} images"),
        *_wrapped("", f"to test on, once: {_seen(noise.test, noise.test_severities, lower.test)}{held}"),
        *(_wrapped("", f"real noisy images, with the test: {', '.join(noise.real)} ({plan.sizes.real:,} images)")
          if noise.real else []),
        *_sides(lower, searched="resolution.train" in searched),
    ]  # fmt: skip


def _sides(lower: ResolutionConfig, *, searched: bool) -> list[str]:
    """What sides images are shrunk to; nothing where there are none."""
    sides = "searched" if searched else f"{', '.join(map(str, lower.train))} px, {lower.kernel}"
    view = "kept small" if lower.view == "small" else "brought back up"
    lines = [
        *([f"to train on: {sides}, {view}"] if searched or lower.train else []),
        *(["the noise to choose and to test by is measured at the lower sides too"] if lower.with_noise else []),
    ]
    return [line for number, text in enumerate(lines) for line in _wrapped("" if number else "Sides", text)]


def _seen(names: tuple[str, ...], severities: tuple[int, ...], sides: tuple[int, ...]) -> str:
    """Corruptions at their severities, and lower sides."""
    noise = [f"{', '.join(names)} at {_levels(severities)}"] if names else []
    return "; ".join([*noise, *([f"sides of {', '.join(map(str, sides))} px"] if sides else [])])


def _task(plan: Plan) -> list[str]:
    """What trials are judged by, where it is not their classifier; its time is estimated as if it were."""
    task = plan.study.config.task
    if task.name == "classification":
        return []
    text = {"retrieval": "Recall@1 of embeddings, in place of accuracy", "verification": "pairs, by their embeddings"}
    return _wrapped("Judged by", f"{text[task.name]} (times of evaluation below are a classifier's)")


def _levels(severities: tuple[int, ...]) -> str:
    return f"severity {', '.join(map(str, severities))}"


def _phase(plan: PhasePlan, number: int) -> list[str]:
    phase, search = plan.phase, plan.config.search
    trials = _counted(plan.trials, "trial")
    if phase.kind == "search":
        goals = " and ".join(
            f"the {'highest' if item.goal == 'maximise' else 'lowest'} {item.metric}" for item in search.objectives
        )
        head = f"{trials} by {search.algorithm} in search of {goals}"
    else:
        seeds = _counted(len(phase.seeds), "seed")
        what = "the settings as they stand"
        if phase.kind == "confirm":
            per = f" of each {phase.per}" if phase.per else ""
            place = f"on the Pareto front of {phase.of}" if _has_front(plan) else f"in {phase.of}"
            what = f"the best {phase.top}{per} {place}" if phase.top > 1 else f"the best{per} {place}"
        head = f"{trials}: {what}, {seeds}{' each' if phase.kind == 'confirm' else ''}; then the test split is read"
    lines = [f"Phase {number}, {phase.name}: {head}"]
    if phase.kind == "search" and search.constraints:
        lines.append(f"    chosen only if {' and '.join(search.constraints)}")
    if phase.set:
        lines.append(f"    with {', '.join(f'{key}: {value}' for key, value in phase.set.items())}")
    width = max((len(item.method) for item in plan.estimates), default=0)
    for item in plan.estimates:
        passes = _span([f"{value:.2g}" for value in item.passes])
        seconds = _span([duration(value).removeprefix("about ") for value in item.seconds])
        lines.append(f"    {item.method:<{width}}  {seconds} a trial, {passes} gradient passes an image")
    lines += _searched(plan)
    return [*lines, *(f"    note: {note}" for note in plan.notes)]


def _has_front(plan: PhasePlan) -> bool:
    """Whether a confirm phase chooses by several objectives."""
    source = next(item for item in plan.config.phases if item.name == getattr(plan.phase, "of", ""))
    return len((getattr(source, "search", None) or plan.config.search).objectives) > 1


def _searched(plan: PhasePlan) -> list[str]:
    if not plan.searched:
        return []
    width = max(len(key) for key, _, _ in plan.searched)
    lines = ["    searched:"]
    for key, values, condition in plan.searched:
        when = f"   if {condition}" if condition else ""
        options = values.split(" | ") if len(values) > _LONG else [values]
        lines.append(f"      {key:<{width}}  {options[0]}{when if len(options) == 1 else ''}")
        lines += [f"      {'':<{width}}  {option}" for option in options[1:]]
        lines += [f"      {'':<{width}}{when}"] if when and len(options) > 1 else []
    return lines


def _cost(plan: Plan) -> list[str]:
    resources = plan.study.config.resources
    passes = sum(phase.passes for phase in plan.phases)
    have = f"{_counted(plan.available.get('CPU', 0), 'CPU')} and {_gpus(plan.available.get('GPU', 0))}"
    side = f"{_counted(plan.at_once, 'trial')} at a time" if plan.at_once else "none fits"
    together = f"with {side}" if plan.at_once > 1 else "one after the other"
    amount = f"{_counted(plan.trials, 'trial')}, {passes:,.0f} gradient passes, {duration(plan.seconds)} {together}"
    source = f"estimated on this machine, as busy as it is now, from {_counted(plan.measured, 'timed configuration')}"
    lines = _wrapped("Cost", f"{amount}; {source}, reading the images and writing the report not counted")
    need = _counted(resources.max_workers * resources.cpus_per_worker, "CPU")
    gpus = resources.max_workers * resources.gpus_per_worker
    need += f" and {_counted(gpus, 'GPU')}" if gpus else ""
    if resources.is_elastic:
        need += f" for {resources.max_workers} workers, or fewer down to {resources.min_workers}"
    if plan.nodes:
        lines += _wrapped("Cluster", f"{have} in all; a trial takes {need}: {side} when nothing else runs there")
        lines += [line for kind in layout(resources, plan.nodes) for line in _wrapped("", kind)]
    else:
        lines += _wrapped("Machine", f"{have}; a trial takes {need}: {side}")
    if plan.lacks:
        return [
            *lines,
            "",
            f"It cannot run {'there' if plan.nodes else 'here'}:",
            *(line for lack in plan.lacks for line in _wrapped("", lack)),
        ]
    return lines


def _counted(count: float, noun: str) -> str:
    return f"{count:,g} {noun}{'' if count == 1 else 's'}"


def _gpus(count: float) -> str:
    return _counted(count, "GPU") if count else "no GPU"


def _span(values: list[str]) -> str:
    """`4.5 to 6.8 min`: the unit of the first is left out where the second has the same."""
    low, high = values
    if low == high:
        return low
    unit = high.rpartition(" ")[2]
    return f"{low.removesuffix(f' {unit}')} to {high}"


def _wrapped(label: str, text: str) -> list[str]:
    """`Label     text`, the text in a column of its own."""
    lines, line = [], ""
    for word in text.split(" "):
        if line and len(line) + len(word) + 11 > _WIDTH:
            lines.append(line)
            line = ""
        line = f"{line} {word}" if line else word
    lines.append(line)
    return [f"{label if index == 0 else '':<10}{line}" for index, line in enumerate(lines)]
