"""What a search suggested in vain, and what samplers keep beside the trials: lines of the ledger, one for each trial.

Without them a search that was cut off would ask again for what was refused, and a population would start over.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from study.ledger import Ledger
from study.outcomes import State


@dataclasses.dataclass(frozen=True)
class Refused:
    """A suggestion that was not run, and what Optuna was told of it.

    Args:
        params: Dotted keys.
        state: Name of Optuna's state.
        attrs: System attributes to keep.
    """

    params: dict[str, Any]
    state: State
    values: list[float] | None = None
    constraints: dict[str, float] = dataclasses.field(default_factory=dict)
    epochs: Mapping[int, float] = dataclasses.field(default_factory=dict)
    attrs: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Suggestions:
    """What led to a trial.

    Args:
        number: Of the trial.
        refused: Suggestions before it, since the last trial.
        attrs, study: System attributes of the trial and of Optuna's study to keep.
    """

    number: int
    refused: tuple[Refused, ...] = ()
    attrs: dict[str, Any] = dataclasses.field(default_factory=dict)
    study: dict[str, Any] = dataclasses.field(default_factory=dict)


class SuggestionLog:
    """The suggestions of one search phase in a study's folder: `searches/<phase>.jsonl`."""

    def __init__(self, ledger: Ledger, phase: str) -> None:
        self._files = ledger.files
        self._place = ("searches", f"{phase}.jsonl")

    def write(self, suggestions: Suggestions) -> None:
        """Append one trial's, unless there is nothing to keep."""
        if suggestions.refused or suggestions.attrs or suggestions.study:
            self._files.append_line(json.dumps(dataclasses.asdict(suggestions)), *self._place)

    def read(self) -> dict[int, Suggestions]:
        """Trial's number -> its suggestions; of a number that was written twice the last, as a crash came between."""
        found: dict[int, Suggestions] = {}
        for line in (self._files.read_bytes(*self._place) or b"").splitlines():
            try:
                tree = json.loads(line)
            except ValueError:
                continue  # torn by a crash: its trial was never made
            refused = tuple(
                Refused(**{**item, "epochs": {int(epoch): value for epoch, value in item["epochs"].items()}})
                for item in tree["refused"]
            )
            found[tree["number"]] = Suggestions(tree["number"], refused, tree["attrs"], tree["study"])
        return found
