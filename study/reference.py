"""The study file's reference as Markdown, a row for each key, made of the models that read study files.

Whatever a page says of a key stands in its model: type, bounds, default and description. There is no second copy.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from study.config import StudyConfig

Schema = dict[str, Any]

_TYPES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_HEAD = "| key | type | range | default | meaning |\n|---|---|---|---|---|"
_DEEPEST = 4


def reference() -> str:
    """All sections in the study file's order, each with a heading, its description and a table of its keys."""
    whole = StudyConfig.model_json_schema(schema_generator=_WithMadeDefaults)
    return "\n\n".join(_Page(whole["$defs"]).whole_file(whole))


class _WithMadeDefaults(GenerateJsonSchema):
    """The JSON schema with those defaults too that are made anew for each file."""

    def get_default_value(self, schema: core_schema.WithDefaultSchema) -> Any:
        make: Any = schema.get("default_factory")
        return super().get_default_value(schema) if make is None else make()


class _Page:
    """Writes sections one after the other; a section that stands in two places is written at the first."""

    def __init__(self, parts: dict[str, Schema]) -> None:
        self._parts = parts
        self._places: dict[str, str] = {}  # the schema's name -> dotted path where it is written

    def whole_file(self, schema: Schema) -> Iterator[str]:
        """The table of the sections, then all of them."""
        yield "## The whole file {#whole-file}"
        yield self._table("", schema["properties"], schema)
        yield from self._inside("", "", schema["properties"], level=2)

    def _section(self, place: str, key: str, title: str, schema: Schema, *, level: int) -> Iterator[str]:
        yield f"{'#' * min(level, _DEEPEST)} {title} {{#{_anchor(place)}}}"
        doc = _prose(schema.get("description", ""))
        yield f"{doc[:1].upper()}{doc[1:].rstrip('.')}."
        if schema["properties"]:
            yield self._table(place, schema["properties"], schema)
            yield from self._inside(place, key, schema["properties"], level=level + 1)

    def _inside(self, place: str, key: str, fields: Schema, *, level: int) -> Iterator[str]:
        """The sections that are values of these keys."""
        for name, field in fields.items():
            here, dotted, names = _joined(place, name), _joined(key, name), _names(field)
            if not names or self._places.get(names[0]) != here:
                continue
            if len(names) > 1:
                yield from self._variants(dotted, field, [self._parts[item] for item in names], level=level)
            else:
                yield from self._section(here, dotted, f"`{dotted}`", self._parts[names[0]], level=level)

    def _variants(self, key: str, field: Schema, variants: list[Schema], *, level: int) -> Iterator[str]:
        """A section of several kinds: what they share, then what each has of its own."""
        chooser = next(name for name, item in variants[0]["properties"].items() if "const" in item)
        kinds = [variant["properties"][chooser]["const"] for variant in variants]
        yield f"{'#' * level} `{key}` {{#{_anchor(key)}}}"
        links = ", ".join(f"[{kind}](#{_anchor(f'{key}.{kind}')})" for kind in kinds)
        default = field.get("default")
        without = f" Without this section it is `{default[chooser]}`." if isinstance(default, dict) else ""
        yield f"{field['description'].rstrip('.')}. The key `{chooser}` says which kind: {links}.{without}"
        if shared := _shared(variants):
            yield "All kinds have these keys:"
            yield self._table(key, shared, variants[0])
        for kind, variant in zip(kinds, variants, strict=True):
            own = {name: item for name, item in variant["properties"].items() if name not in (chooser, *shared)}
            own |= {name: item for name, item in variant["properties"].items() if shared.get(name, item) != item}
            schema, title = {**variant, "properties": own}, f"`{key}`, `{chooser}: {kind}`"
            yield from self._section(f"{key}.{kind}", key, title, schema, level=level + 1)

    def _table(self, path: str, fields: Schema, schema: Schema) -> str:
        required = set(schema.get("required", ()))
        rows = [self._row(path, name, field, required=name in required) for name, field in fields.items()]
        return "\n".join([_HEAD, *rows])

    def _row(self, path: str, name: str, field: Schema, *, required: bool) -> str:
        names = _names(field)
        key, doc = f"`{name}`", field.get("description", "")
        default = "**required**" if required else _default(field)
        if names:
            place = self._places.setdefault(names[0], _joined(path, name))
            key = f"[{key}](#{_anchor(place)})"
            default = "" if isinstance(field.get("default"), dict) else default  # its own table has them
            doc = doc or (_first_sentence(self._parts[names[0]]["description"]) if len(names) == 1 else "")
        cells = (key, _type(field), _range(field), default, _prose(doc))
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _anchor(path: str) -> str:
    return path.replace(".", "-").replace("_", "-").lower()


def _choices(field: Schema) -> list[Schema]:
    return field.get("anyOf") or field.get("oneOf") or [field]


def _names(field: Schema) -> list[str]:
    """The schemas that a key's value may be of, or a list's items."""
    found = [choice["$ref"].removeprefix("#/$defs/") for choice in _choices(field) if "$ref" in choice]
    lists = [choice["items"] for choice in _choices(field) if "items" in choice]
    return found or [name for items in lists for name in _names(items)]


def _shared(variants: list[Schema]) -> Schema:
    """The keys that all variants have, each as most of them have it."""
    shared = {}
    for name in variants[0]["properties"]:
        if all(name in variant["properties"] for variant in variants):
            texts = Counter(json.dumps(variant["properties"][name]) for variant in variants)
            text, count = texts.most_common(1)[0]
            if count > 1:
                shared[name] = json.loads(text)
    return shared


def _type(field: Schema) -> str:
    if "$ref" in field or "oneOf" in field:
        return "section"
    if "anyOf" in field:
        is_option = field.get("default", 0) is None  # then null is the same as leaving it out
        kinds = [_type(choice) for choice in field["anyOf"] if not (is_option and choice.get("type") == "null")]
        return " or ".join(dict.fromkeys(kinds))
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    kind = str(field.get("type"))
    if kind == "array":
        items = field.get("prefixItems")
        return f"{len(items)} of: {_type(items[0])}" if items else f"list of: {_type(field['items'])}"
    if kind == "object":
        inner = field.get("additionalProperties")
        return f"map to {_type(inner)}" if isinstance(inner, dict) and inner else "map"
    return _TYPES.get(kind, "any value")


def _range(field: Schema) -> str:
    """The bounds of a value, or of a list's items and of its length."""
    found = [f"{sign} {field[name]:,.12g}" for name, sign in _BOUNDS.items() if name in field]
    if "multipleOf" in field:
        found.append(f"a multiple of {field['multipleOf']:g}")
    for inner in (*field.get("anyOf", ()), *field.get("prefixItems", ())[:1], field.get("items")):
        found.append(_range(inner) if inner else "")
    if "prefixItems" not in field:
        found.append(_length(field.get("minItems", 0), field.get("maxItems")))
    return ", ".join(dict.fromkeys(text for text in found if text))


def _length(least: int, most: int | None) -> str:
    if most is not None:
        return f"{least} to {most} of them" if least else f"at most {most} of them"
    return f"{least} or more of them" if least else ""


def _default(field: Schema) -> str:
    if "const" in field or "default" not in field:
        return ""
    return "none" if field["default"] is None else f"`{_flow(field['default'])}`"


def _flow(value: Any) -> str:
    """A value as a study file would write it on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items() if item not in (None, {})) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _first_sentence(text: str) -> str:
    return re.split(r"(?<!al)\. ", " ".join(text.split()))[0].rstrip(".") + "."


def _prose(text: str) -> str:
    """A description with its lines joined, its pages linked and nothing that Markdown takes for markup."""
    words = " ".join(text.split()).replace("<", "&lt;").replace("*", "\\*").split(" ")
    return " ".join(_linked(word) for word in words)


def _linked(word: str) -> str:
    bare = word.rstrip(".,;)")
    if not (bare.startswith("docs/") and bare.endswith(".md")):
        return word
    page = bare.removeprefix("docs/")
    return f"[{page.removesuffix('.md')}]({page}){word[len(bare) :]}"
