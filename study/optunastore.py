"""A study's searches written to a database under names of their own, for optuna-dashboard; nothing is read back.

A projection of the ledger, as MLflow's is: what the database lacks is added, a lost one is written anew, and one that
is away costs a warning and no trial. A trial is added once it has ended, whole, and is known again by its key.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

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

POLL_S, CLOSE_S = 5.0, 30.0
TRIAL, NUMBER = "murk.trial", "murk.number"
_SCHEMES = ("sqlite", "postgresql", "mysql")
_AWAY = (SQLAlchemyError, optuna.exceptions.OptunaError, OSError, ImportError, RuntimeError)
_log = logging.getLogger("murk.optuna")


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
    if record is None:
        return 0
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
        new = [key for key in _own(ledger, record, target.phase) if key not in known]
        return sum(_add(study, ledger, key, target) for key in new)
    finally:
        storage.engine.dispose()


def _own(ledger: Ledger, record: Mapping[str, Any], phase: str) -> Sequence[str]:
    """The trials that a phase counts as its own; before its end those that were made since the study was opened."""
    listed = next((item["trials"] for item in record["phases"] if item["name"] == phase), [])
    if listed:
        return listed
    return [key for key in ledger.keys(phase) if ledger.trial(key)["created"] >= record["created"]]


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


class Mirror:
    """Follows a study's searches into their databases, in a thread of its own; does nothing where none is named.

    Args:
        ledger: The study's records, whose lock the driver holds.
        poll_s: Seconds between two looks.

    Raises:
        ValueError: A URL is no database.
    """

    def __init__(self, ledger: Ledger, config: StudyConfig, *, poll_s: float = POLL_S) -> None:
        self._ledger = ledger
        self._targets = targets_of(config, cwd=Path.cwd())
        self._poll_s = poll_s
        self._ended = threading.Event()
        self._behind: dict[str, str] = {}
        self._thread = threading.Thread(target=self._follow, name="murk-optuna", daemon=True)

    def start(self) -> None:
        """Begin to follow; returns at once."""
        if self._targets:
            self._thread.start()

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Write what is left and stop; never waits longer than the timeout."""
        self._ended.set()
        if not self._thread.is_alive():
            return
        self._thread.join(timeout_s)
        if (self._thread.is_alive() or self._behind) and not self._ledger.is_lost():
            url = redact(self._targets[0].url)
            _log.warning("the Optuna database is behind; nothing is lost, catch up with: murk optuna %s --storage %s "
                         "--storage-url %s", self._ledger.study, redact(self._ledger.storage), url)  # fmt: skip

    def _follow(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._ended.wait(self._poll_s)
            for target in self._targets:
                if self._ledger.is_lost():  # the driver that has the study now writes it
                    return
                self._try(target)

    def _try(self, target: Target) -> None:
        try:
            project(self._ledger, target)
        except _AWAY as error:
            if target.phase not in self._behind:
                _log.warning("Optuna's database %s cannot be written (%s); the search goes on without it",
                             redact(target.url), _one_line(error))  # fmt: skip
            self._behind[target.phase] = _one_line(error)
        else:
            self._behind.pop(target.phase, None)


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
            except _AWAY as error:
                raise ValueError(f"{redact(target.url)} cannot be written: {_one_line(error)}") from error
            lines.append(f"{study_name(record, target.phase)}: {count} new trials in {redact(target.url)}")
    return "\n".join(lines)


def _one_line(error: BaseException) -> str:
    return " ".join(redact(str(error)).split())[:300]
