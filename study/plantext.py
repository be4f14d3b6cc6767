"""A plan in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from study.plan import Backbone, PhasePlan, Plan

_WIDTH = 110
_MAX_NAMES = 4


def plan_text(plan: Plan) -> str:
    """What `murk check` prints."""
    config = plan.study.config
    lines = [f"Study {config.name} ({plan.study.path}) is valid.", "", *_data(plan)]
    lines += [line for backbone in plan.backbones for line in _backbone(backbone)]
    lines += _noise(plan)
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
    noise = plan.study.config.noise
    searched = any(key == "noise.train" for phase in plan.phases for key, _, _ in phase.searched)
    own = "the method's own" if noise.train is None else ", ".join(item.name for item in noise.train) or "none"
    held = f"; held out of all else: {', '.join(noise.held_out)}" if noise.held_out else ""
    images = min(noise.validation_images, plan.sizes.validation)
    return [
        *_wrapped("Noise", f"to train on: {'searched' if searched else own}"),
        *_wrapped("", f"to choose by: {', '.join(noise.validation)} at {_levels(noise.validation_severities)}, "
                  f"on {images} images"),
        *_wrapped("", f"to test on, once: {', '.join(noise.test)} at {_levels(noise.test_severities)}{held}"),
    ]  # fmt: skip


def _levels(severities: tuple[int, ...]) -> str:
    return f"severity {', '.join(map(str, severities))}"


def _phase(plan: PhasePlan, number: int) -> list[str]:
    phase, search = plan.phase, plan.config.search
    trials = _counted(plan.trials, "trial")
    if phase.kind == "search":
        goals = " and ".join(
            f"the {'highest' if item.goal == 'maximise' else 'lowest'} {item.metric}" for item in search.objectives
        )
        head = f"search for {goals}: {trials} ({search.algorithm})"
    elif phase.kind == "confirm":
        per = f" of each {phase.per}" if phase.per else ""
        seeds = _counted(len(phase.seeds), "seed")
        head = f"confirm the best {phase.top}{per} of {phase.of} with {seeds}: {trials}, then the test"
    else:
        head = f"train the settings as they stand with {_counted(len(phase.seeds), 'seed')}: {trials}, then the test"
    lines = [f"Phase {number}, {phase.name}: {head}"]
    if phase.set:
        lines.append(f"    with {', '.join(f'{key}: {value}' for key, value in phase.set.items())}")
    lines += _searched(plan)
    for item in plan.estimates:
        passes = _span(item.passes, "{:.3g}")
        low, high = (duration(value).removeprefix("about ") for value in item.seconds)
        span = low if low == high else f"{low} to {high}"
        lines.append(f"    {item.method}: {passes} gradient passes for each image; {span} for each trial")
    return [*lines, *(f"    note: {note}" for note in plan.notes)]


def _searched(plan: PhasePlan) -> list[str]:
    if not plan.searched:
        return []
    width = max(len(key) for key, _, _ in plan.searched)
    lines = []
    for key, values, condition in plan.searched:
        when = f"   if {condition}" if condition else ""
        lines.append(f"    {key:<{width}}  {values}{when}")
    return lines


def _cost(plan: Plan) -> list[str]:
    resources = plan.study.config.resources
    passes = sum(phase.passes for phase in plan.phases)
    have = f"{plan.available.get('CPU', 0):g} CPUs and {_counted(plan.available.get('GPU', 0), 'GPU', zero='no')}"
    side = f"{_counted(plan.at_once, 'trial')} at a time" if plan.at_once else "not even one trial"
    amount = f"{_counted(plan.trials, 'trial')}, {passes:,.0f} gradient passes, {duration(plan.seconds)}"
    lines = _wrapped(
        "Cost", f"{amount} with {side}; estimated on this machine from {_counted(plan.measured, 'measured configuration')}, reading the images and "
        "writing the report not counted",
    )  # fmt: skip
    need = f"{resources.workers_per_trial * resources.cpus_per_worker:g} CPU"
    gpus = resources.workers_per_trial * resources.gpus_per_worker
    need += f" and {gpus:g} GPU" if gpus else ""
    lines += _wrapped("Machine", f"{have}; a trial takes {need}, so {side}")
    if plan.lacks:
        return [*lines, "", "It cannot run here:", *(line for lack in plan.lacks for line in _wrapped("", lack))]
    return lines


def _counted(count: float, noun: str, *, zero: str = "0") -> str:
    amount = zero if count == 0 else f"{count:,g}"
    return f"{amount} {noun}{'' if count == 1 else 's'}"


def _span(values: tuple[float, float], form: str) -> str:
    low, high = (form.format(value) for value in values)
    return low if low == high else f"{low} to {high}"


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
