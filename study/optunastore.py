"""A study's searches written to a database under names of their own, for optuna-dashboard; nothing is read back.

A projection of the ledger, as MLflow's is: what the database lacks is added, a lost one is written anew, and one that
is away costs a warning and no trial. A trial is added once it has ended, whole, and is known again by its key.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from analysis.recordfile import RecordError, parse_trial
from study.config import StudyConfig, TrialConfig
from study.config_phases import SearchPhase
from study.config_search import SearchConfig
from study.footprint import footprint
from study.ledger import Ledger, Status
from study.outcomes import Outcome, course, outcome_of
from study.places import redact, refuse_credentials, resolve_places, sqlite_path
from study.searcher import drawn_again, past_trial
from study.space import Space, for_phase, parse
from study.studyfile import load_study_text

TRIAL, NUMBER = "murk.trial", "murk.number"
_SCHEMES = ("sqlite", "postgresql", "mysql")
_log = logging.getLogger("murk.optuna")
AWAY = (SQLAlchemyError, optuna.exceptions.OptunaError, OSError, ImportError, RuntimeError)
"""What a database that is away, or refuses, may raise."""


class Target(NamedTuple):
    """A search phase and the database that it is written to."""

    phase: str
    url: str
    search: SearchConfig
    space: Space


def resolve_storage(url: str, *, cwd: Path) -> str:
    """The database's URL: a SQLite path made absolute, PostgreSQL by the driver that Murk installs.

    Raises:
        ValueError: It is no such database, or holds a password.
    """
    refuse_credentials(url, "optuna_storage")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.partition("+")[0] not in _SCHEMES:
        raise ValueError(
            f"optuna_storage must be a database ({', '.join(_SCHEMES)}), but got {redact(url)!r}; a file of your own "
            "is sqlite:///PATH/optuna.db"
        )
    database = sqlite_path(url)
    if database is not None:
        if database.name in {"", ":memory:"}:
            raise ValueError(f"optuna_storage must name a database file, sqlite:///PATH/optuna.db, but got {url!r}")
        return f"{scheme}:///{(cwd / database.expanduser()).absolute()}"
    return f"postgresql+psycopg://{rest}" if scheme == "postgresql" else url


def study_name(record: Mapping[str, Any], phase: str) -> str:
    """`STUDY/PHASE` and what tells this study from another of its name: when it was opened, and on which images."""
    unique = hashlib.sha256(f"{record['created']}/{record['fingerprint']}".encode()).hexdigest()[:8]
    return f"{record['study']}/{phase} {unique}"


def targets_of(config: StudyConfig, *, cwd: Path, url: str | None = None) -> list[Target]:
    """The search phases that are written to a database.

    Args:
        url: In place of each search's own `optuna_storage`.

    Raises:
        ValueError: A URL is no database.
    """
    found = []
    for phase in config.phases:
        if not isinstance(phase, SearchPhase):
            continue
        here = for_phase(config, phase)
        named = url or here.search.optuna_storage
        if named is not None:
            space = parse(here.search.space, here)
            found.append(Target(phase.name, resolve_storage(named, cwd=cwd), here.search, space))
    return found


def project(ledger: Ledger, target: Target) -> int:
    """Add the ended trials of a phase that the database lacks; returns how many.

    Raises:
        SQLAlchemyError, OptunaError, OSError, ImportError, RuntimeError: The database is away or refuses.
    """
    record = ledger.read_json("study.json")
    return 0 if record is None else write_trials(ledger, record, target, EndedTrials(ledger, target.phase).keys(record))


def write_trials(ledger: Ledger, record: Mapping[str, Any], target: Target, keys: Sequence[str]) -> int:
    """Add those of a phase's ended trials that the database lacks; returns how many.

    Args:
        record: The study's `study.json`.

    Raises:
        SQLAlchemyError, OptunaError, OSError, ImportError, RuntimeError: The database is away or refuses.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    database = sqlite_path(target.url)
    if database is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
    storage = RDBStorage(target.url, engine_kwargs={"pool_pre_ping": True})
    try:
        study = optuna.create_study(
            study_name=study_name(record, target.phase),
            storage=storage,
            directions=["maximize" if item.goal == "maximise" else "minimize" for item in target.search.objectives],
            load_if_exists=True,
        )
        known = {trial.user_attrs.get(TRIAL) for trial in study.get_trials(deepcopy=False)}
        return sum(_add(study, ledger, key, target) for key in keys if key not in known)
    finally:
        storage.engine.dispose()


class EndedTrials:
    """The ended trials that a phase counts as its own. What says so of a trial is read until it has ended, then never.

    Args:
        ledger: The study's records.
        phase: A search phase.
    """

    def __init__(self, ledger: Ledger, phase: str) -> None:
        self._ledger = ledger
        self._phase = phase
        self._numbers: dict[str, int] = {}
        self._others: set[str] = set()
        self._damaged: set[str] = set()

    def keys(self, record: Mapping[str, Any]) -> list[str]:
        """Their keys, in the order of their numbers; before the phase's end of those made since the study was opened.

        Args:
            record: The study's `study.json`.
        """
        listed = next((item["trials"] for item in record["phases"] if item["name"] == self._phase), [])
        for key in listed or self._ledger.files.folders("trials"):
            if key not in self._numbers and (listed or key not in self._others):
                self._look_at(key, since=None if listed else record["created"])
        if listed:
            return [key for key in listed if key in self._numbers]
        return sorted(self._numbers, key=lambda key: (self._numbers[key], key))

    def _look_at(self, key: str, *, since: str | None) -> None:
        content = self._ledger.read_bytes(key, "trial.json")
        if content is None:  # its folder is made first
            return
        try:
            info = parse_trial(content, f"trial.json of {key}")
        except RecordError as error:
            if key not in self._damaged:
                _log.warning("a trial is left out of Optuna's database: %s", error)
            self._damaged.add(key)
            return
        if since is not None and (info["phase"] != self._phase or info["created"] < since):
            self._others.add(key)
        elif self._ledger.status(key) != "running":
            self._numbers[key] = info["number"]


def _add(study: optuna.Study, ledger: Ledger, key: str, target: Target) -> bool:
    """Add an ended trial, with the times of its own events; one that the space does not give is left out."""
    status, events, info = ledger.status(key), ledger.events(key), ledger.trial(key)
    drawn = None if status == "running" else drawn_again(target.space, info["params"])
    if drawn is None:
        return False
    outcome = _outcome(ledger, key, target.search, status)
    single = len(target.search.objectives) == 1
    epochs = course(ledger, key, target.search.objectives[0].metric) if single else {}
    trial = past_trial(drawn, outcome, epochs, names={TRIAL: key, NUMBER: info["number"]})
    trial.datetime_start = datetime.fromtimestamp(events[0]["time"])
    trial.datetime_complete = datetime.fromtimestamp(events[-1]["time"])
    study.add_trial(trial)
    return True


def _outcome(ledger: Ledger, key: str, search: SearchConfig, status: Status) -> Outcome:
    """A trial's end, with what its settings alone decide; a pruned one's constraint without a figure is left out."""
    metrics = ledger.metrics(key)
    missing = [limit for limit in search.limits if limit.is_static and limit.excess(metrics) is None]
    if missing and (facts := _facts(ledger, key)):
        metrics, missing = {**facts, **metrics}, []
    outcome = outcome_of(search, status, metrics)
    if status != "pruned" or not missing:
        return outcome
    unknown = {str(limit) for limit in missing}
    return outcome._replace(constraints={text: x for text, x in outcome.constraints.items() if text not in unknown})


def _facts(ledger: Ledger, key: str) -> dict[str, float]:
    """`cost/params` and `cost/macs`; none where the classes are not recorded or the settings are of another version."""
    num_classes = ((ledger.read_json("study.json") or {}).get("data") or {}).get("num_classes")
    if not num_classes:
        return {}
    try:
        return footprint(TrialConfig.model_validate(ledger.trial(key)["config"]), num_classes=num_classes)
    except ValueError:
        return {}


def write_study(name: str, *, url: str | None, storage: str | None) -> str:
    """Bring a database up to a study's searches; returns what was done, in words.

    Raises:
        ValueError: There is no such study, no database is named, or it cannot be written.
    """
    places = resolve_places(None, cwd=Path.cwd(), storage=storage)
    ledger = Ledger(str(places.storage), name)
    record = ledger.read_json("study.json")
    if record is None:
        raise ValueError(f"no study {name!r} at {redact(str(places.storage))}; name its place with --storage")
    text = (ledger.files.read_bytes("study.yaml") or b"").decode()
    targets = targets_of(load_study_text(record["config"], text=text).config, cwd=Path.cwd(), url=url)
    if not targets:
        raise ValueError(f"study {name!r} names no search.optuna_storage; name a database with --storage-url")
    lines = []
    with ledger.lock():
        for target in targets:
            try:
                count = project(ledger, target)
            except AWAY as error:
                raise ValueError(f"{redact(target.url)} cannot be written: {one_line(error)}") from error
            lines.append(f"{study_name(record, target.phase)}: {count} new trials in {redact(target.url)}")
    return "\n".join(lines)


def one_line(error: BaseException) -> str:
    """An error's text without credentials, cut to a line."""
    return " ".join(redact(str(error)).split())[:300]
