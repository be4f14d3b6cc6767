"""Which study a record or a run of MLflow belongs to: several may bear one name."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from typing import Any

STUDY_TAG = "murk.study_id"
"""Of each run in MLflow, and of each registered network."""


def new_study_id() -> str:
    """An identity for a study that is opened."""
    return secrets.token_hex(4)


def study_id(record: Mapping[str, Any]) -> str:
    """The identity in a `study.json`; of one that is older than identities, by when and on which images it was opened.

    A study keeps the latter when it is opened again: it is written into the record then.
    """
    told = record.get("study_id")
    if told:
        return str(told)
    return hashlib.sha256(f"{record.get('created')}/{record.get('fingerprint')}".encode()).hexdigest()[:8]


def split_name(name: str) -> tuple[str, str]:
    """A study's name and, of `NAME@IDENTITY`, the identity; else an empty one."""
    plain, _, identity = name.partition("@")
    return plain, identity
