"""Every dotted key of a study file: where it stands, in which branch of a union, and what may be written there."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from study.config import StudyConfig, TrialConfig
from study.problems import Path, dotted, near

NoneType = type(None)


@dataclass(frozen=True)
class Place:
    """One field of one section.

    Attributes:
        key: Dotted, from the top.
        model: The section that holds it.
        name: Within the section.
        branch: The unions it lies in: (`method.name`, `pmal`) for a field that only that branch has.
    """

    key: str
    model: type[BaseModel]
    name: str
    branch: tuple[tuple[str, str], ...] = ()

    @property
    def field(self) -> FieldInfo:
        return self.model.model_fields[self.name]


@lru_cache(maxsize=8)
def places(root: type[BaseModel] = TrialConfig) -> dict[str, tuple[Place, ...]]:
    """All dotted keys below `root`; a key that several branches of a union have, has several places."""
    found: dict[str, list[Place]] = {}
    for place in _walk(root, "", ()):
        known = found.setdefault(place.key, [])
        if all(place.branch != other.branch for other in known):
            known.append(place)
    return {key: tuple(items) for key, items in found.items()}


def _walk(model: type[BaseModel], prefix: str, branch: tuple[tuple[str, str], ...]) -> Iterator[Place]:
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        yield Place(key, model, name, branch)
        union = field.discriminator if isinstance(field.discriminator, str) else None
        for section in _sections(field.annotation):
            inside = (*branch, (f"{key}.{union}", tag_of(section, union))) if union else branch
            yield from _walk(section, f"{key}.", inside)


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a field itself may be; those in lists have no dotted key."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        return [section for part in get_args(annotation) for section in _sections(part)]
    return []


def tag_of(section: type[BaseModel], union: str) -> str:
    """The value of a section's discriminator."""
    (tag,) = get_args(section.model_fields[union].annotation)
    return str(tag)


@lru_cache(maxsize=8)
def unions(root: type[BaseModel] = StudyConfig) -> dict[str, dict[str, type[BaseModel]]]:
    """Dotted key of each discriminator (`method.name`) -> its branches by name."""
    found: dict[str, dict[str, type[BaseModel]]] = {}
    for key, items in places(root).items():
        union = items[0].field.discriminator
        if isinstance(union, str) and _sections(items[0].field.annotation):
            branches = _sections(items[0].field.annotation)
            found[f"{key}.{union}"] = {tag_of(section, union): section for section in branches}
    return found


@lru_cache(maxsize=512)
def _adapter(model: type[BaseModel], name: str) -> TypeAdapter[Any]:
    field = model.model_fields[name]
    annotated: Any = Annotated.__class_getitem__((field.annotation, field))  # type: ignore[attr-defined]
    return TypeAdapter(annotated)


def canonical(key: str, value: Any) -> Any:
    """`value` as the config would hold it, in JSON's types, so that two ways of writing it compare equal."""
    for place in places().get(key, ()):
        adapter = _adapter(place.model, place.name)
        try:
            return adapter.dump_python(adapter.validate_python(value), mode="json")
        except ValidationError:
            continue
    return value


class Spot(NamedTuple):
    """What a path of a file leads to: the section it is in, and the type and bounds of its value."""

    sections: tuple[type[BaseModel], ...]
    annotation: Any
    metadata: tuple[Any, ...]


def locate(path: Path, data: Any, *, root: type[BaseModel] = StudyConfig) -> Spot:
    """Follow a path through the types of a study file, choosing branches by what the data say."""
    spot = Spot((), root, ())
    value = data
    for part in path:
        sections = _fitting(_sections(spot.annotation), value)
        fields = [section.model_fields[part] for section in sections if part in section.model_fields]
        if sections and fields:
            spot = Spot(sections, fields[0].annotation, tuple(fields[0].metadata))
        elif sections:
            spot = Spot(sections, Any, ())
        else:
            spot = Spot((), _item_type(spot.annotation), ())
        value = _inside(value, part)
    return spot


def _inside(value: Any, part: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(str(part))
    if isinstance(value, list) and isinstance(part, int) and part < len(value):
        return value[part]
    return None


def _fitting(sections: list[type[BaseModel]], value: Any) -> tuple[type[BaseModel], ...]:
    if len(sections) < 2 or not isinstance(value, dict):
        return tuple(sections)
    fitting = tuple(section for section in sections if _tags_agree(section, value))
    return fitting or tuple(sections)


def _tags_agree(section: type[BaseModel], value: dict[str, Any]) -> bool:
    for name, field in section.model_fields.items():
        literal = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        if len(literal) == 1 and value.get(name) != literal[0]:
            return False
    return True


def _item_type(annotation: Any) -> Any:
    """The type of what stands in a list or mapping."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _item_type(args[0])
    if origin in (tuple, list) and args:
        return args[0]
    if origin is dict:
        return args[1]
    if origin in (Union, types.UnionType):
        return next((item for item in map(_item_type, args) if item is not Any), Any)
    return Any


def near_keys(key: str, root: type[BaseModel] = TrialConfig) -> list[str]:
    """Dotted keys that `key` may stand for: by how it is written, or by what the setting is described as."""
    words = key.rpartition(".")[2].lower().split("_")
    described = [
        other
        for other, items in places(root).items()
        if len(words) > 1 and all(word in (items[0].field.description or "").lower() for word in words)
    ]
    return list(dict.fromkeys([*described, *near(key, places(root))]))[:3]


def unknown_key(path: Path, data: Any, *, root: type[BaseModel] = StudyConfig) -> str:
    """The text for a key that is no setting where it stands."""
    key, last = dotted(path), str(path[-1])
    siblings = sorted({name for section in locate(path, data, root=root).sections for name in section.model_fields})
    prefix = key.removesuffix(last)
    alike = [prefix + name for name in near(last, siblings)]
    everywhere = [] if alike or any(isinstance(part, int) for part in path) else near_keys(key, root)
    found = list(dict.fromkeys([*alike, *everywhere]))[:3]
    if found:
        return f"is no setting; near: {', '.join(found)}"
    return f"is no setting; {prefix.rstrip('.') or 'a study file'} has {', '.join(siblings)}"


def unknown_trial_key(key: str) -> str:
    """The text for a dotted key that is no setting of a trial."""
    found = near_keys(key)
    return f"is no setting; near: {', '.join(found)}" if found else "is no setting of a trial"
