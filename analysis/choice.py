"""Which configuration a study chose by validation figures, and in words by what; or that it chose none."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

from analysis.load import Snapshot
from analysis.records import TrialRecord, config_id
from analysis.repeats import first_choice, place_of
from analysis.searches import current, searched, unconfirmed

NOTHING_TO_CHOOSE = "nothing was chosen: every configuration was named in the file"


class Choice(NamedTuple):
    """What a study chose.

    Attributes:
        record: A trial of it: a tested one where it was confirmed, with that phase's own settings, else the search's
            own. None where nothing was chosen.
        words: By what it was chosen, or why nothing was.
        missing: Why no tested configuration is the chosen one; empty where one is.
        origin: The search trial that was chosen.
    """

    record: TrialRecord | None
    words: str
    missing: str = ""
    origin: TrialRecord | None = None


def choice_of(snapshot: Snapshot) -> Choice:
    """What the last confirm phase put first; without one the best of the last search in which a trial finished."""
    chosen = [phase for phase in snapshot.study.get("phases") or [] if first_choice(phase) is not None]
    if chosen:
        return _confirmed(snapshot, chosen[-1])
    pools = searched(snapshot.trials, snapshot.study)
    found = unconfirmed(snapshot.study, pools)
    if found is not None and found.best is not None:
        record = next(record for record in snapshot.trials if record.key == found.best.key)
        what = f"the best finished trial of phase {found.phase} by {found.metric} on validation"
        return Choice(record, what, f"{what} was not tested", record)
    if found is not None:
        why = "keeps its constraints" if not pools[found.phase] else "has a figure to choose by"
        words = f"nothing was chosen: no finished trial of phase {found.phase} {why}"
        return Choice(None, words, words)
    if any(record.info["role"] == "search" for record in snapshot.trials):
        words = "nothing was chosen: no trial of the search has a figure to choose by"
        return Choice(None, words, words)
    return Choice(None, NOTHING_TO_CHOOSE, NOTHING_TO_CHOOSE)


def _confirmed(snapshot: Snapshot, phase: Mapping[str, Any]) -> Choice:
    own = {record.key: record for record in current(snapshot.trials, snapshot.study)
           if record.info["phase"] == phase["name"] and record.info["role"] != "search"}  # fmt: skip
    origin = next((record for record in snapshot.trials if record.key == first_choice(phase)), None)
    keys = trials_of_choice(
        snapshot.study, phase, {key: record.info for key, record in own.items()},
        None if origin is None else origin.info,
    )  # fmt: skip
    mine = sorted((own[key] for key in keys), key=lambda record: (record.info.get("number", 0), record.key))
    done = [record for record in mine if record.status == "finished"]
    words = f"the first choice of phase {phase['name']}, by validation figures"
    if done:
        return Choice(done[0], words, "", origin)
    is_over = phase.get("status", "finished") == "finished"
    why = "was not tested: all its seeds failed" if is_over else "has not been tested yet"
    missing = f"the first choice of phase {phase['name']} {why}"
    return Choice(mine[0] if mine else origin, f"{words}; it {why}", missing, origin)


def trials_of_choice(
    study: Mapping[str, Any],
    phase: Mapping[str, Any],
    own: Mapping[str, Mapping[str, Any]],
    origin: Mapping[str, Any] | None,
) -> set[str]:
    """Which of a confirm phase's trials are of the configuration that it puts first.

    Those with the settings of the search trial that was chosen, but for what the phase sets itself, else those with its
    drawn parameters. Where that trial is not there, the phase's numbers tell; where these do not either, all are.

    Args:
        study: `study.json`.
        phase: The phase's record there.
        own: Key -> `trial.json` of its trials.
        origin: `trial.json` of the search trial.
    """
    config = next(
        (item for item in (study.get("config") or {}).get("phases") or () if item.get("name") == phase["name"]), {}
    )
    if origin is None or not origin.get("config"):
        return _by_number(phase, {key: info.get("number", 0) for key, info in own.items()}, config)
    varied = tuple(config.get("set") or ())
    wanted = _without(origin["config"], varied)
    found = {key for key, info in own.items() if _without(info["config"], varied) == wanted}
    params = origin.get("params")
    return found or {key for key, info in own.items() if params and info.get("params") == params}


def _without(config: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """A configuration's id without some dotted keys."""
    bare: dict[str, Any] = copy.deepcopy(dict(config))
    for key in keys:
        *way, last = key.split(".")
        place: Any = bare
        for name in way:
            place = place.get(name) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place.pop(last, None)
    return config_id(bare)


def _by_number(phase: Mapping[str, Any], numbers: Mapping[str, int], config: Mapping[str, Any]) -> set[str]:
    selected: list[str | None] = list(phase.get("selected") or ())
    first, leader = len(config.get("seeds") or ()), first_choice(phase)
    if leader not in selected or first < 1:
        return set(numbers)
    place = selected.index(leader)
    return {key for key, number in numbers.items() if place_of(number, first=first, contenders=len(selected)) == place}
