"""Pydantic's errors in a study file's own words: the rule, the value got, what is near."""

from __future__ import annotations

import re
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from study.config import StudyConfig
from study.keys import Place, locate, places, unions, unknown_key
from study.problems import Path, Problem, dotted, only_near, shown
from study.rules import rule

_STARTS_WITH_KEY = re.compile(r"^([a-z_]+(?:\.[a-z0-9_]+)*):? ")


def readable(
    error: ValidationError, data: Any, *, root: type[BaseModel] = StudyConfig, only: str | None = None
) -> list[Problem]:
    """The problems of a validation, one for each place.

    Args:
        data: What was validated, as it stands in the file.
        root: The section that validated it.
        only: The one field whose errors count.
    """
    found: dict[Path, Problem] = {}
    items = error.errors(include_url=False)
    wrong_inside = {tuple(item["loc"][:length]) for item in items for length in range(len(item["loc"]))}
    for item in items:
        if item["type"] == "too_short" and tuple(item["loc"]) in wrong_inside:
            continue  # pydantic leaves wrong items out and then counts too few
        if only is not None and item["loc"][:1] != (only,):
            continue
        path = _path(item, data)
        if path not in found:
            problem = _problem(item["type"], path, item, data, root)
            found.setdefault(problem.path, problem)
    return list(found.values())


def _path(item: Any, data: Any) -> Path:
    """Where the error is in the file: pydantic's own path has the names of union branches in it."""
    path: list[str | int] = []
    value = data
    parts = item["loc"]
    for index, part in enumerate(parts):
        if _has(value, part):
            value = value[part]
        elif not (item["type"] == "missing" and index == len(parts) - 1):
            continue
        path.append(part)
    return tuple(path)


def _has(value: Any, part: str | int) -> bool:
    if isinstance(value, dict):
        return part in value
    return isinstance(value, (list, tuple)) and isinstance(part, int) and part < len(value)


def value_at(path: Path, data: Any) -> Any:
    """The value that a path leads to, None where it leads nowhere."""
    for part in path:
        if not _has(data, part):
            return None
        data = data[part]
    return data


def _problem(kind: str, path: Path, item: Any, data: Any, root: type[BaseModel]) -> Problem:
    got = shown(value_at(path, data))
    if kind == "extra_forbidden":
        return Problem(path, _extra(path, data, root))
    if kind == "missing":
        return Problem(path, _missing(path, data, root))
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        return _union(path, data, root)
    if kind == "value_error":
        return _own_words(path, item["msg"].removeprefix("Value error, "), data, root)
    if path[:2] == ("search", "space") or path[-2:-1] == ("space",):
        example = "{log_uniform: [0.01, 0.5]}"
        return Problem(path, f"must map keys to domains, such as optim.sam.rho: {example}, but got {got}")
    if kind == "too_long":
        got = f"{len(value_at(path, data))}: {got}"
    spot = locate(path, data, root=root)
    words = rule(spot.annotation, spot.metadata)
    if not words:
        return Problem(path, f"{item['msg'][:1].lower()}{item['msg'][1:]}, but got {got}")
    if kind == "model_type":
        return Problem(path, f"must be a section: {words} below it, but got {got}{_section_hint(value_at(path, data))}")
    options = [str(option) for option in get_args(spot.annotation)] if kind == "literal_error" else []
    return Problem(path, f"must be {words}, but got {got}{only_near(str(value_at(path, data)), options)}")


def _section_hint(value: Any) -> str:
    if value is None:
        return "; write its settings or take it out"
    return "; is a space missing after ':'?" if isinstance(value, str) and ":" in value else ""


def _extra(path: Path, data: Any, root: type[BaseModel]) -> str:
    """The text for an unknown key, with the way out for known slips."""
    last = str(path[-1])
    if len(path) == 1 and "." in last and (last in places(root) or last.split(".")[0] in root.model_fields):
        section, _, name = last.rpartition(".")
        return (
            "dotted keys stand only in search.space, set, when and --set; write it nested, "
            f"as {name} inside of {section}"
        )
    if last == "<<":
        return "merge keys are not part of YAML 1.2; write the settings out"
    branch = _other_branch(path, data, root)
    return branch or unknown_key(path, data, root=root)


def _other_branch(path: Path, data: Any, root: type[BaseModel]) -> str:
    """A setting of another method or source than the one that is chosen."""
    key = dotted(path)
    tags = [place.branch[-1] for place in places(root).get(key, ()) if place.branch]
    if not tags:
        return ""
    discriminator = tags[0][0]
    chosen = value_at(tuple(discriminator.split(".")), data)
    names = " or ".join(sorted({tag for _, tag in tags}))
    return f"is no setting of {discriminator}: {chosen}, only of {names}; take it out or choose that"


def _missing(path: Path, data: Any, root: type[BaseModel]) -> str:
    spot = locate(path, data, root=root)
    words = rule(spot.annotation, spot.metadata)
    fields = [section.model_fields[path[-1]] for section in spot.sections if path[-1] in section.model_fields]
    if fields and fields[0].description:
        return f"is required ({fields[0].description.rstrip('.')}), but is not there"
    return f"is required{': ' + words if words else ''}, but is not there"


def _union(path: Path, data: Any, root: type[BaseModel]) -> Problem:
    """The discriminator of a union is missing or unknown."""
    key = dotted(path)
    branches = {name: list(items) for name, items in unions(root).items() if name.rpartition(".")[0] == key}
    if branches:
        discriminator, tags = next(iter(branches.items()))
        name = discriminator.rpartition(".")[2]
    else:  # a list of unions: the phases
        name, tags = "kind", ["search", "train", "confirm"]
    value = value_at((*path, name), data)
    where = (*path, name)
    if value is None:
        return Problem(where, f"is required: one of {', '.join(tags)}, but is not there")
    return Problem(where, f"must be one of {', '.join(tags)}, but got {shown(value)}{only_near(str(value), tags)}")


def _own_words(path: Path, text: str, data: Any, root: type[BaseModel]) -> Problem:
    """A validator's own text; where it starts with the name of a setting inside, that is the place."""
    match = _STARTS_WITH_KEY.match(text)
    if match:
        inside = (*path, *(int(part) if part.isdecimal() else part for part in match.group(1).split(".")))
        if locate(inside, data, root=root).sections and locate(inside, data, root=root).annotation is not Any:
            path, text = inside, text[match.end() :]
    return Problem(path, text)


def value_problems(key: str, value: Any, where: Path) -> list[Problem]:
    """The rules that a value breaks as the setting of a trial's dotted key, by the field's own validation.

    A key of several branches takes the value where one of them does.

    Args:
        where: Path of the value in the file.
    """
    tags = list(unions().get(key, ()))
    if tags:
        known = isinstance(value, str) and value in tags
        text = f"must be one of {', '.join(tags)}, but got {shown(value)}{only_near(str(value), tags)}"
        return [] if known else [Problem(where, text)]
    return min((_field_problems(place, value, where) for place in places()[key]), key=len)


def _field_problems(place: Place, value: Any, where: Path) -> list[Problem]:
    data = {place.name: value}
    try:
        place.model.model_validate(data)
    except ValidationError as error:
        problems = readable(error, data, root=place.model, only=place.name)
        return [Problem((*where, *problem.path[1:]), problem.text) for problem in problems]
    return []
