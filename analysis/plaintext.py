"""Texts of records as a page may show them: no character hides there or turns the direction of what is read."""

from __future__ import annotations

import re
from typing import Any

_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def encodable(text: str) -> str:
    """A text that UTF-8 can hold: a half of a character, as an undecodable file name leaves it, as `\\udceb`."""
    return text.encode(errors="backslashreplace").decode()


def shown(value: Any) -> Any:
    """A value for a template's `finalize`: control characters of texts as `\\x1b` and the like; lines and tabs stay."""
    if not isinstance(value, str) or hasattr(
        value, "__html__"
    ):  # markup: a macro's output, whose parts were met before
        return value
    return _UNSEEN.sub(lambda match: match.group().encode("unicode_escape").decode(), value)
