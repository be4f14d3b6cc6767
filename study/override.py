"""Dotted keys set in a tree of settings; where a union changes its branch only the new branch's keys stay."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from study.config import StudyConfig, TrialConfig
from study.keys import places, unions
from study.problems import Path, ProblemsError, dotted
from study.readable import readable

Config = TypeVar("Config", bound=TrialConfig)


def apply(base: Config, overrides: Mapping[str, Any]) -> Config:
    """The config with some dotted keys set to other values, validated.

    Where a union changes its branch (`method.name`), settings that the new branch lacks are dropped and those that
    stood at their default have the new branch's default. The order of `overrides` does not matter.

    Raises:
        ProblemsError: A key is no setting, or a rule is broken; a ValueError.
    """
    tree = override(written(base), overrides)
    try:
        return type(base).model_validate(tree)
    except ValidationError as error:
        raise ProblemsError(readable(error, tree, root=type(base))) from None


def written(section: BaseModel) -> dict[str, Any]:
    """The settings of a section that differ from its defaults, as JSON data; always those that choose a union's branch.

    It goes by values, not by what was written down, so that a study read back from its records gives the same.
    """
    dump = section.model_dump(mode="json")
    tree = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        chooses = get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1
        if value != _defaults(type(section))[name] or chooses or isinstance(field.discriminator, str):
            tree[name] = written(value) if isinstance(value, BaseModel) else dump[name]
    return tree


@lru_cache(maxsize=256)
def _defaults(kind: type[BaseModel]) -> dict[str, Any]:
    """Name -> default of a section's settings, to compare with: pydantic copies each one anew whenever it is asked."""
    return {
        name: field.get_default(call_default_factory=True, validated_data={})
        for name, field in kind.model_fields.items()
    }


def override(tree: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a tree of settings with dotted keys set; the values are not checked."""
    tree = copy.deepcopy(tree)
    discriminators = unions()
    for key in sorted(overrides, key=lambda key: (key not in discriminators, key.count("."), key)):
        assign(tree, path_of(key), overrides[key])
    return tree


def path_of(key: str) -> Path:
    """The path of a dotted key; what stands below an open mapping (`search.space.optim.lr`) is one key there."""
    parts = key.split(".")
    path: list[str | int] = []
    for index, part in enumerate(parts):
        if path and path[-1] in ("set", "space", "baseline", "when"):
            return (*path, *_open_key(parts[index:]))
        path.append(int(part) if part.isdecimal() and path else part)
    return tuple(path)


def _open_key(parts: list[str]) -> Path:
    """A dotted key and what stands below it, such as `optim.lr.log_uniform`."""
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in places():
            rest = parts[end:]
            if rest[:1] == ["when"] and len(rest) > 1:
                return (".".join(parts[:end]), "when", ".".join(rest[1:]))
            return (".".join(parts[:end]), *rest)
    return (".".join(parts),)


def assign(tree: Any, path: Path, value: Any) -> Path:
    """Set one value in place, making the sections on the way.

    Returns:
        The path with items of lists by number.

    Raises:
        KeyError: A list on the way has no such item.
    """
    branches = unions().get(dotted(path), {})
    here: list[str | int] = []
    for part in path[:-1]:
        if isinstance(tree, list):
            here.append(_index(tree, part))
        else:
            here.append(str(part))
            if not isinstance(tree.get(here[-1]), (dict, list)):
                tree[here[-1]] = copy.deepcopy(_fresh(dotted(tuple(here))))
        tree = _step(tree, here[-1])
    if isinstance(tree, list):
        last: str | int = _index(tree, path[-1])
    else:
        last = str(path[-1])
        if isinstance(value, str) and value in branches and tree.get(last) != value:
            for name in [name for name in tree if name not in branches[value].model_fields]:
                del tree[name]
    holder: Any = tree
    holder[last] = value
    return (*here, last)


def _step(tree: Any, part: str | int) -> Any:
    return tree[part]


def _index(items: list[Any], part: str | int) -> int:
    """Items of a list go by number, or by their own `name`."""
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    if part in names:
        return names.index(part)
    if isinstance(part, int) and part < len(items):
        return part
    known = ", ".join(str(name) for name in names if name)
    raise KeyError(f"no item {part!r}: there are 0 to {len(items) - 1}{f', or by name {known}' if known else ''}")


@lru_cache(maxsize=256)
def _fresh(key: str) -> dict[str, Any] | list[Any]:
    """A section that was not there: empty, but for the branch that its union has by default."""
    for place in places(StudyConfig).get(key, ()):
        default = place.field.get_default(call_default_factory=True, validated_data={})
        if isinstance(place.field.discriminator, str) and isinstance(default, BaseModel):
            return {place.field.discriminator: getattr(default, place.field.discriminator)}
        if isinstance(default, tuple):
            return [written(item) if isinstance(item, BaseModel) else item for item in default]
    return {}
