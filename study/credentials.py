"""Credentials come from the environment alone: where they stand in a text they are masked, in a setting refused."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

from study.problems import Path, Problem

MASK = "***"
WAY_OUT = (
    "give them by the environment: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD or MLFLOW_TRACKING_TOKEN for "
    "MLflow, PGUSER and PGPASSWORD for PostgreSQL, RAY_AUTH_TOKEN_PATH for Ray, AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY and their like for storage"
)

# Every repeat is bounded and begins at a sign or word of its own, so that no text makes them slow.
_USERINFO = re.compile(
    # A password may hold a slash; a port is none.
    r"(?<=://)(?:[^/\s'\"]{0,500}@|[^/\s'\"@:]{0,200}:(?!\d{1,5}(?:[/?#]|$))[^\s'\"]{0,500}@)"
)
_SECRET = re.compile(
    r"(?P<name>[?&;#](?:[^=&;#?\s]{0,40}(?:password|passwd|pwd|secret|token|signature|credential|auth|key)"
    r"[^=&;#?\s]{0,40}|sig)=)[^&;\s#'\"]+",
    re.IGNORECASE,
)
_ASSIGNED = re.compile(
    r"(?P<name>(?:password|passwd|passphrase|secret|api_?key|access_?key|private_?key|[_-]token)['\"]?"
    r"\s{0,4}[=:]\s{0,4}['\"]?)[^\s'\",;&}\])]+",
    re.IGNORECASE,
)
_HEADER = re.compile(r"(?P<name>\b(?:basic|bearer)\s+)(?=[\w.~+/=-]*[\d=+/])[\w.~+/=-]{8,}", re.IGNORECASE)
_NAMED_SECRET = re.compile(
    r"(?:passw(?:or)?d|passphrase|secret|token(?!iz)|credential|(?:api|access|account|private|auth)_?key|_pwd$|_pass$"
    r"|connection_?string)(?!.*_(?:path|file|dir|uri|url)$)",
    re.IGNORECASE,
)
_NAME_FILES = frozenset({"GOOGLE_APPLICATION_CREDENTIALS"})
"""Variables that are called like a secret and hold the path of one."""
_PASSWORD_OF_URI = re.compile(r"\w://[^\s/:@]{0,200}:(?!\d{1,5}(?:[/?#]|$))(?P<password>\S{1,500})@")
_LEAST_CHARACTERS = 6
"""Of a secret that is looked for by its value: a shorter one stands in too many words."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def redact(text: str) -> str:
    """The text with the credentials of every URI in it replaced by `***`: user and password, tokens in queries."""
    return _SECRET.sub(rf"\g<name>{MASK}", _USERINFO.sub(f"{MASK}@", text))


def scrub(text: str, environment: Mapping[str, str] | None = None) -> str:
    """A text as records, logs and messages may hold it.

    Credentials are masked: those of URIs, what is assigned to a name such as `password`, and the values of the
    environment's own secrets, wherever they stand.

    Args:
        environment: In place of the process's environment.
    """
    for secret in _secrets(os.environ if environment is None else environment):  # first, while each is whole
        if secret in text:
            text = re.sub(rf"(?<![^\W_]){re.escape(secret)}(?![^\W_])", MASK, text)
    return _HEADER.sub(rf"\g<name>{MASK}", _ASSIGNED.sub(rf"\g<name>{MASK}", redact(text)))


def printable(text: str) -> str:
    """The text without what a terminal would obey (colours, a moved cursor, a turned direction); lines and tabs stay.

    Names of files and classes may hold such characters; they are shown as `\\x1b` and the like.
    """
    return _CONTROL.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def has_credentials(text: str) -> bool:
    """Whether a setting holds a user, a password or a token in a URI."""
    return redact(text) != text or _PASSWORD_OF_URI.search(text) is not None


def credential_problems(tree: Any, path: Path = ()) -> Iterator[Problem]:
    """Each place of a study file with credentials: the file is kept with the records, so it may hold none."""
    if isinstance(tree, dict):
        for name, item in tree.items():
            if isinstance(name, str) and has_credentials(name):
                yield Problem(path, f"must hold no user, password or token in a key; {WAY_OUT}")
            else:
                yield from credential_problems(item, (*path, name))
    elif isinstance(tree, (list, tuple)):
        for index, item in enumerate(tree):
            yield from credential_problems(item, (*path, index))
    elif isinstance(tree, str) and has_credentials(tree):
        shown = redact(tree)
        shown = f"{tree.partition('://')[0]}://{MASK}" if has_credentials(shown.replace(f"{MASK}@", "")) else shown
        text = "must hold no user, password or token, since the study file is kept with the records"
        yield Problem(path, f"{text}, but got {shown}; {WAY_OUT}")


class ScrubbingFormatter(logging.Formatter):
    """Formats a log record, its traceback too, without credentials and control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(scrub(super().format(record)))


def is_secret(name: str, value: str) -> bool:
    """Whether a variable of the environment holds a credential, by its name or in a URI."""
    return has_credentials(value) or _is_named_secret(name, value)


def _is_named_secret(name: str, value: str) -> bool:
    if not _NAMED_SECRET.search(name) or name in _NAME_FILES or "://" in value:
        return False
    # A key in base64 may begin with a slash too.
    return not (value.startswith("/") and os.path.exists(value))  # noqa: PTH110 - Path's raises for what is too long


def _secrets(environment: Mapping[str, str]) -> list[str]:
    """Values that the environment says are secret, the longest first, and how a URL writes them."""
    found: set[str] = set()
    for name, value in environment.items():
        match = _PASSWORD_OF_URI.search(value)
        if match:
            found.add(match.group("password"))
        elif _is_named_secret(name, value):
            found.add(value)
    found |= {form for value in found for form in (quote(value, safe=""), unquote(value))}
    return sorted((value for value in found if len(value) >= _LEAST_CHARACTERS), key=len, reverse=True)
