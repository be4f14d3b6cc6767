"""What may be written in a field, in words, from its type and bounds."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

_MAX_SETTINGS = 4
_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    type(None): "null",
}


def rule(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """Such as "a number from 0 to 10" or "one of sgd, adamw"; "" where nothing is known."""
    origin: Any = get_origin(annotation)
    args: tuple[Any, ...] = get_args(annotation)
    if origin is Annotated:
        inner = [part for item in args[1:] for part in (item.metadata if isinstance(item, FieldInfo) else [item])]
        return rule(args[0], (*metadata, *inner))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(filter(None, (rule(part, metadata) for part in args))))
    if origin is Literal:
        return f"{'one of ' if len(args) > 1 else ''}{', '.join(map(str, args))}"
    if origin in (tuple, list):
        return _list_rule(args, metadata)
    if origin is dict or annotation is dict:
        return "a mapping of keys to values"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"settings such as {', '.join(list(annotation.model_fields)[:_MAX_SETTINGS])}"
    return _scalar_rule(annotation, metadata)


def _scalar_rule(annotation: Any, metadata: tuple[Any, ...]) -> str:
    word = _WORDS.get(annotation, "")
    if annotation in (int, float):
        step = next((item.multiple_of for item in metadata if isinstance(item, annotated_types.MultipleOf)), None)
        return f"{f'a multiple of {step:g}' if step else word} {_range(metadata)}".strip()
    if annotation is str and any(getattr(item, "pattern", None) for item in metadata):
        return "a name of at most 64 letters, digits, '.', '_' and '-', the first a letter or digit"
    if annotation is str and any(isinstance(item, annotated_types.MinLen) for item in metadata):
        return "text that is not empty"
    return word


def _range(metadata: tuple[Any, ...]) -> str:
    low = next((f"at least {item.ge:g}" for item in metadata if isinstance(item, annotated_types.Ge)), None)
    high = next((f"at most {item.le:g}" for item in metadata if isinstance(item, annotated_types.Le)), None)
    low = low or next((f"above {item.gt:g}" for item in metadata if isinstance(item, annotated_types.Gt)), None)
    high = high or next((f"below {item.lt:g}" for item in metadata if isinstance(item, annotated_types.Lt)), None)
    if low and high and low.startswith("at least") and high.startswith("at most"):
        return f"from {low.removeprefix('at least ')} to {high.removeprefix('at most ')}"
    bounds = " and ".join(bound for bound in (low, high) if bound)
    return f"of {bounds}" if bounds.startswith("at") else bounds


def _list_rule(args: tuple[Any, ...], metadata: tuple[Any, ...]) -> str:
    low = next((item.min_length for item in metadata if isinstance(item, annotated_types.MinLen)), None)
    high = next((item.max_length for item in metadata if isinstance(item, annotated_types.MaxLen)), None)
    if Ellipsis not in args and args:
        return f"a list of {len(args)} values, each {rule(args[0], metadata)}"
    length = f"{low} to {high} values" if low is not None and high is not None else "values"
    if low is None and high is not None:
        length = f"at most {high} values"
    if high is None and low is not None:
        length = f"at least {'one value' if low == 1 else f'{low} values'}"
    item = "".join(rule(part) for part in args[:1])
    return f"a list of {length}{f', each {item}' if item and len(item) < 80 else ''}"
