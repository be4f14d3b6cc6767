"""The method section of a study file: generated from the settings that each method declares; who teaches whom."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import Field, create_model

from models.methods.registry import METHODS
from study.config_data import Section


class MethodSettings(Section):
    """Base of the generated sections; `name` chooses the method."""

    name: str


TEACHER = (
    "Who teaches: an earlier phase's name (its best trial by validation accuracy), PHASE@seed (its trial of "
    "the student's own seed, so that seeds pair up), STUDY/KEY of another study, or the "
    "folder or URL of a trial or its model.safetensors; a relative path has a slash and counts from the study file"
)


def method_settings(section: MethodSettings) -> Any:
    """The settings dataclass that a method is built from, of its section.

    Raises:
        ValueError: Settings do not go together; the text starts with the name of one.
    """
    spec = METHODS[section.name]
    values = {item.name: getattr(section, item.name) for item in dataclasses.fields(spec.settings)}
    return spec.settings(**{
        name: value.model_dump() if isinstance(value, Section) else value for name, value in values.items()
    })  # fmt: skip


def is_decomposable(section: MethodSettings) -> bool:
    """Whether a batch's losses add up over its slices."""
    return METHODS[section.name].decomposable and getattr(method_settings(section), "decomposable", True)


def teacher_of(section: MethodSettings) -> str | None:
    """How a method's section names its teacher; None for a method without one."""
    return getattr(section, "teacher", None) if METHODS[section.name].taught else None


def teachers_of(section: MethodSettings) -> dict[str, str]:
    """Setting -> reference of all who teach a method: `teacher`, and `direct_teacher` where it has one."""
    found = {"teacher": teacher_of(section), "direct_teacher": getattr(section, "direct_teacher", None)}
    return {name: reference for name, reference in found.items() if reference is not None}


_SAME_SEED = "@seed"


def teacher_phase(reference: str) -> tuple[str, bool]:
    """The phase that a teacher's reference names, and whether its trial must be of the student's seed."""
    return reference.removesuffix(_SAME_SEED), reference.endswith(_SAME_SEED)


def teacher_kind(reference: str) -> Literal["phase", "trial", "place"]:
    """What a teacher's reference names: a phase of the study, `STUDY/KEY`, or a folder, file or URL."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}/[0-9a-f]{16}", reference):
        return "trial"
    return "place" if "/" in reference or reference.endswith(".safetensors") else "phase"


def _bounded(hint: Any, bounds: dict[str, Any]) -> Any:
    """The type with its bounds, those of a tuple on each of its entries."""
    if not bounds:
        return hint
    if get_origin(hint) is tuple:
        return tuple[tuple(part if part is Ellipsis else Annotated[part, Field(**bounds)] for part in get_args(hint))]
    return Annotated[hint, Field(**bounds)]


def _fields_of(settings: type) -> dict[str, Any]:
    """A section's fields, those of nested settings as a section of their own."""
    hints, fields = get_type_hints(settings), {}
    for item in dataclasses.fields(settings):
        doc, hint = item.metadata.get("doc"), hints[item.name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            inner = create_model(hint.__name__, __base__=Section, __doc__=hint.__doc__, **_fields_of(hint))
            fields[item.name] = (inner, Field(default_factory=inner, description=doc))
            continue
        bounds = {
            k: v for k, v in item.metadata.items() if k in {"gt", "ge", "lt", "le", "multiple_of"} and v is not None
        }
        fields[item.name] = (_bounded(hint, bounds), Field(item.default, description=doc))
    return fields


def _method_section(name: str, settings: type) -> type[MethodSettings]:
    fields: dict[str, Any] = {"name": (Literal[name], name), **_fields_of(settings)}
    if METHODS[name].taught:
        fields["teacher"] = (str, Field(min_length=1, description=TEACHER))
    if METHODS[name].taught_twice:
        text = "A second teacher beside it, named in the same way; see direct_weight."
        fields["direct_teacher"] = (str | None, Field(default=None, min_length=1, description=text))
    return create_model(f"{name.title()}Method", __base__=MethodSettings, __doc__=METHODS[name].doc, **fields)


METHOD_SECTIONS: dict[str, type[MethodSettings]] = {
    name: _method_section(name, spec.settings) for name, spec in METHODS.items()
}

if TYPE_CHECKING:
    AnyMethod = MethodSettings
else:
    AnyMethod = Annotated[
        Union[tuple(METHOD_SECTIONS.values())],  # noqa: UP007
        Field(discriminator="name"),
    ]
