"""Who teaches: how a study file names a teacher, where that one lies, whether it fits, and loading it once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from timm.models import get_pretrained_cfg

from models.backbones import check_backbone
from models.methods.method import Teacher
from study.config import StudyConfig, TrialConfig
from study.config_method import teacher_kind, teacher_phase
from study.config_phases import Phase
from study.ledger import Ledger
from study.places import redact
from study.problems import near_text
from study.trained import MODEL_FILES, TrainedModel, read_model

_NUM_LOADED = 2  # teachers that a process keeps for its next trials


@dataclass(frozen=True)
class FoundTeacher:
    """A trained teacher and what decides whether it fits.

    Attributes:
        place: Folder or URL of its trial.
        digest: Of its weights; what it is called by in a trial's identity.
        method: Its own method's name.
    """

    place: str
    digest: str
    method: str
    can_teach: bool
    backbone: str
    image_size: int
    class_names: tuple[str, ...]

    def as_spec(self) -> dict[str, str]:
        """What a `TrialSpec` holds of it."""
        return {"place": self.place, "digest": self.digest}


def find_teacher(reference: str, *, storage: str) -> FoundTeacher:
    """The teacher that a `STUDY/KEY`, a folder or a URL names.

    Args:
        storage: Where studies lie, for `STUDY/KEY`.

    Raises:
        ValueError: It is missing, unfinished or damaged.
    """
    if teacher_kind(reference) == "trial":
        study, _, key = reference.partition("/")
        return look_at(trial_place(Ledger(storage, study), key))
    place = reference.removesuffix(MODEL_FILES[0]).rstrip("/") or "/"
    if "://" not in place and not Path(place).is_dir():
        raise ValueError(f"must be the folder of a trained trial or its {MODEL_FILES[0]}, but there is no {place}")
    return look_at(place)


def trial_place(ledger: Ledger, key: str) -> str:
    """Where a finished trial lies.

    Raises:
        ValueError: There is no such trial, or it has not finished.
    """
    name = f"{ledger.study}/{key}"
    if ledger.read_bytes(key, "trial.json") is None:
        known = ledger.keys()
        there = f"; there {'are' if len(known) > 1 else 'is'} {', '.join(known[:8])}" if known else ""
        raise ValueError(f"must be a finished trial, but there is no {name} at {redact(ledger.storage)}{there}")
    status = ledger.status(key)
    if status != "finished":
        raise ValueError(f"must be a finished trial, but {name} is {status}; finish it, or take another")
    return f"{ledger.root}/trials/{key}"


def look_at(place: str) -> FoundTeacher:
    """The teacher in a trial's folder or URL; its weights are read whole, so that damage is found now.

    Raises:
        ValueError: There is none, or it is damaged.
    """
    return _facts(read_model(place))


def _facts(model: TrainedModel) -> FoundTeacher:
    config = model.config
    return FoundTeacher(
        place=model.place,
        digest=model.digest,
        method=config.method.name,
        can_teach=isinstance(model.method, Teacher),
        backbone=config.model.backbone,
        image_size=config.data.image_size,
        class_names=model.class_names,
    )


def check_teacher(teacher: FoundTeacher, config: TrialConfig, class_names: Sequence[str]) -> None:
    """Check that a trial can learn from a teacher.

    Raises:
        ValueError: It cannot show its maps, knows other classes, or cannot take the images or have the stages.
    """
    if not teacher.can_teach:
        raise ValueError(f"must be of a method that shows its maps, but {redact(teacher.place)} is {teacher.method}")
    if teacher.class_names != tuple(class_names):
        strange = sorted(set(teacher.class_names) ^ set(class_names))[:6]
        differ = f"these differ: {strange}" if strange else "their order differs"
        raise ValueError(
            f"must know the study's {len(class_names)} classes, but {redact(teacher.place)} knows "
            f"{len(teacher.class_names)}, and {differ}"
        )
    check_sizes(teacher.backbone, trained_at=teacher.image_size, config=config)


def check_sizes(backbone: str, *, trained_at: int, config: TrialConfig) -> None:
    """Check that a teacher's backbone can take a trial's images and has as many stages as follow it.

    Raises:
        ValueError: It cannot, or has not.
    """
    size = config.data.image_size
    if size != trained_at and has_fixed_size(backbone):
        raise ValueError(
            f"must take the study's images of {size} pixels (data.image_size), but its {backbone} was trained at "
            f"{trained_at} and takes no other"
        )
    check_backbone(backbone, size)
    stages = int(getattr(config.method, "stages", 1))
    try:
        check_backbone(backbone, size, stages)
    except ValueError as error:
        raise ValueError(f"does not go with method.stages: the teacher's {error}") from None


def has_fixed_size(backbone: str) -> bool:
    """Whether a backbone takes only images of the size that it is built for."""
    config = get_pretrained_cfg(backbone)
    return config is not None and bool(config.fixed_input_size)


def phase_problem(study: StudyConfig, phase: Phase, reference: str) -> str:
    """Why the name of a phase names no teacher for a later one; "" where it does."""
    earlier = {item.name: item for item in study.phases[: [item.name for item in study.phases].index(phase.name)]}
    name, same_seed = teacher_phase(reference)
    if name in earlier:
        return _seed_problem(study, phase, earlier[name]) if same_seed else ""
    near = near_text(name, list(earlier)) or "; there is no phase before it"
    return (
        "must be the name of a phase before this one, STUDY/KEY of a finished trial, or the folder or URL of one "
        f'(a relative path with a slash, such as ./model.safetensors), but got "{reference}"{near}'
    )


def _seed_problem(study: StudyConfig, phase: Phase, teaching: Phase) -> str:
    """Why not every seed of a phase has a teacher of its own; "" where each has."""
    has = set(getattr(teaching, "seeds", (study.train.seed,)))
    missing = [seed for seed in getattr(phase, "seeds", (study.train.seed,)) if seed not in has]
    if not missing:
        return ""
    return (
        f"must have a trial of each seed of {phase.name}, but {teaching.name} has none of {missing}; give both phases "
        "the same seeds, or leave @seed out"
    )


def load_teacher(
    spec: Mapping[str, str], config: TrialConfig, class_names: Sequence[str], *, prefix: str = ""
) -> Teacher:
    """The teacher of a trial's spec, loaded once in a process.

    Args:
        prefix: Of its names in the spec: `direct_` for the second one.

    Raises:
        ValueError: It is not there, not the one the trial was planned with, or does not fit.
    """
    try:
        teacher, facts = _loaded(spec[f"{prefix}place"], spec[f"{prefix}digest"])
        check_teacher(facts, config, class_names)
    except ValueError as error:
        raise ValueError(f"method.{prefix}teacher: {error}") from error
    return teacher


@lru_cache(maxsize=_NUM_LOADED)
def _loaded(place: str, digest: str) -> tuple[Teacher, FoundTeacher]:
    model = read_model(place)
    if model.digest != digest:
        raise ValueError(
            f"the weights in {redact(place)} are not those that the trial was planned with; restore "
            "them, or start a study under another name"
        )
    facts, method = _facts(model), model.method
    if not isinstance(method, Teacher):
        raise ValueError(f"{facts.method} shows no maps, so nothing can be learned from it")
    return method, facts
