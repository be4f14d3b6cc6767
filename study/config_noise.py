"""The noise section of a study file: what training draws, what a search is scored by, what the test reads once."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from noise.families import CORRUPTIONS, SETS, expand
from noise.training import TRAINING_ONLY
from study.config_data import Section

MAX_SEARCH_IMAGES = 256
MAX_SEARCH_CORRUPTIONS = 4
MAX_SEARCH_SEVERITIES = 2

Severity = Annotated[int, Field(ge=1, le=5)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Strength = Annotated[float, Field(ge=0.0, le=5.0)]


def _known(name: str, *, training: bool) -> str:
    known = [*sorted(CORRUPTIONS), *(sorted(TRAINING_ONLY) if training else []), *SETS]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
        raise ValueError(
            f"must be {'a training noise' if training else 'a corruption'} that Murk has, but got {name!r}; "
            + (f"near: {', '.join(near)}" if near else f"there are {', '.join(known)}")
        )
    return name


class TrainNoise(Section):
    """One kind of training noise and how often an image gets it."""

    name: str = Field(description="A corruption, or pmal_pair, which moves the clean target too.")
    severities: tuple[Severity, ...] = Field(
        default=(1, 2, 3), min_length=1, description="Drawn from evenly, per image."
    )
    probability: Probability = Field(default=0.5, description="Share of images that get this kind.")
    strength: tuple[Strength, Strength] | None = Field(
        default=None, description="In place of severities: least and most, 0 to 5 in their units, drawn per image."
    )

    @field_validator("strength")
    @classmethod
    def _least_first(cls, strength: tuple[float, float] | None) -> tuple[float, float] | None:
        if strength is not None and strength[0] > strength[1]:
            raise ValueError(f"must name the least first, but got {list(strength)}")
        return strength

    @field_validator("name")
    @classmethod
    def _name_known(cls, name: str) -> str:
        return _known(name, training=True)

    @model_validator(mode="after")
    def _settings_have_effect(self) -> Self:
        own = self.severities != TrainNoise.model_fields["severities"].default
        if own and self.strength is not None:
            raise ValueError(
                f"severities have no effect beside strength, but got {list(self.severities)} and "
                f"{list(self.strength)}; take one of them out"
            )
        if self.name in TRAINING_ONLY and (own or self.strength is not None):
            raise ValueError(f"must not name severities or strength for {self.name}, whose strength is its own; "
                             "take them out")  # fmt: skip
        return self


def _spelled_out(items: Any) -> Any:
    """A bare name stands for that kind with the images shared evenly: half stay clean, but all get `pmal_pair`."""
    if not isinstance(items, (list, tuple)):
        return items
    items = [name for item in items for name in (expand([item]) if isinstance(item, str) else [item])]
    names = [item for item in items if isinstance(item, str)]
    return [
        {"name": item, "probability": (1.0 if item in TRAINING_ONLY else 0.5) / len(names)}
        if isinstance(item, str)
        else item
        for item in items
    ]


class Curriculum(Section):
    """Training noise that grows over the first epochs (after Bengio et al. 2009, curriculum learning)."""

    start: float = Field(default=0.2, ge=0, lt=1, description="Share of the strength in the first epoch.")
    epochs: int = Field(default=5, ge=1, description="Epochs until the whole strength, on a line.")


TrainNoiseList = Annotated[tuple[TrainNoise, ...], BeforeValidator(_spelled_out)]


def _expanded(items: Any) -> Any:
    """The names of families and other sets spelled out."""
    is_list = isinstance(items, (list, tuple)) and all(isinstance(item, str) for item in items)
    return expand(items) if is_list else items


Corruptions = Annotated[tuple[str, ...], BeforeValidator(_expanded)]


class NoiseConfig(Section):
    """Three lists that are not to mix: what training may draw, what the search sees, what the test reads once.

    A name is a corruption, or stands for several: a family (`imagecorruptions`, `surveillance`, `kornia`, ...), or the
    benchmark's `common` 15 and `extra` 4.
    """

    train: TrainNoiseList | None = Field(
        default=None, description="Training noise; left out: the method's own (pmal: pmal_pair; plain: none)."
    )
    curriculum: Curriculum | None = Field(default=None, description="Training noise grows; left out: whole at once.")
    validation: Corruptions = Field(
        default=("gaussian_noise", "motion_blur"),
        description=f"At most {MAX_SEARCH_CORRUPTIONS}, as all are measured after each epoch, unless search.fidelity "
        "scores trials by a part.",
    )
    validation_severities: tuple[Severity, ...] = Field(
        default=(2, 4), min_length=1, description=f"At most {MAX_SEARCH_SEVERITIES}, unless with search.fidelity."
    )
    validation_images: int = Field(
        default=MAX_SEARCH_IMAGES, ge=1, le=100_000, description=f"At most {MAX_SEARCH_IMAGES}, unless as before."
    )
    test: Corruptions = Field(
        default=("shot_noise", "impulse_noise", "gaussian_blur", "contrast", "jpeg_compression", "resolution"),
        description="What chosen models are tested under, once, at the end.",
    )
    test_severities: tuple[Severity, ...] = Field(
        default=(1, 2, 3, 4, 5), min_length=1, description="At which the test is measured."
    )
    held_out: Corruptions = Field(
        default=(), description="Test corruptions that no training and no search may ever see."
    )
    real: dict[str, str] = Field(
        default_factory=dict,
        description="Real noisy test images: name -> class folder or parquet file of the study's classes; relative "
        "paths count from the study file. Read where test is read, in figures of their own (no clean image pairs).",
    )
    similarity: bool = Field(
        default=False,
        description="Where test is read, also measure how alike clean and noisy features are, stage by stage (cosine, "
        "linear CKA; one severity, at most 512 images).",
    )
    allow_overlap: bool = Field(
        default=False, description="Let a corruption stand in two lists; the report marks it seen."
    )
    scale: Literal["nearest", "imagenet", "tiny", "cifar"] = Field(
        default="nearest",
        description="Whose severities: imagenet's (224 px), tiny's (64 px), cifar's (32 px), or those of the nearest.",
    )
    seed: int = Field(default=0, ge=0, description="Key of the evaluation noise; the same for all trials of a study.")

    @field_validator("validation", "test", "held_out")
    @classmethod
    def _names_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            _known(name, training=False)
        if len(set(names)) < len(names):
            raise ValueError(f"must not name a corruption twice, but got {list(names)}")
        return names

    @field_validator("real")
    @classmethod
    def _real_names_own(cls, real: dict[str, str]) -> dict[str, str]:
        for name, path in real.items():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
                raise ValueError(
                    f"must give each folder a name of letters, digits, '_' and '-', but got {name!r}; rename it"
                )
            is_side = re.fullmatch(r"(.*_)?[0-9]+px", name) is not None  # as cells of a lower resolution are called
            if name in CORRUPTIONS or name in TRAINING_ONLY or name == "clean" or is_side:
                raise ValueError(
                    f"must give each folder a name of its own, but {name!r} is Murk's own name of a corruption; "
                    f"call it otherwise, such as {name}_real"
                )
            if not path:
                raise ValueError(f"must give a folder or a parquet file to each name, but {name!r} has none")
        return real

    @field_validator("validation_severities", "test_severities")
    @classmethod
    def _severities_once(cls, severities: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(severities)) < len(severities):
            raise ValueError(f"must not name a severity twice, but got {list(severities)}")
        return severities

    @model_validator(mode="after")
    def _lists_apart(self) -> Self:
        train = {item.name for item in self.train or ()}
        total = sum(item.probability for item in self.train or ())
        if total > 1.0 + 1e-9:
            raise ValueError(f"train: probabilities must sum to at most 1, but sum to {total:g}")
        stray = set(self.held_out) - set(self.test)
        if stray:
            raise ValueError(f"held_out: {sorted(stray)} must also stand in test: held-out noise is what test reads")
        touched = set(self.held_out) & (train | set(self.validation))
        if touched:
            raise ValueError(f"held_out: {sorted(touched)} also stands in train or validation; take it out of one")
        if self.allow_overlap:
            return self
        lists = {"train": train, "validation": set(self.validation), "test": set(self.test)}
        for one, other in (("validation", "test"), ("train", "test"), ("train", "validation")):
            both = lists[one] & lists[other]
            if both:
                raise ValueError(
                    f"{sorted(both)} stands in both {one} and {other}; take it out of one, or set "
                    "noise.allow_overlap: true (the report then marks it seen)"
                )
        return self
