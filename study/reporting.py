"""The end of a study: its report, its figures in MLflow, and the last lines that a person reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from analysis.comparisonpage import write_comparison
from analysis.constraints import is_feasible
from analysis.fidelity import chosen_value, judged
from analysis.report import USUAL, Format, ReportPaths, check_formats, write_report
from analysis.selection import Candidate, ranked
from analysis.studyruns import find_study_runs
from study.config import StudyConfig
from study.config_phases import SearchPhase
from study.finalists import agreement_line
from study.ledger import Ledger
from study.places import Places, redact, refuse_credentials, resolve_places, resolve_tracking, sqlite_path
from study.watching import watch

if TYPE_CHECKING:
    from study.tracking import Tracker


def study_url(storage: str, name: str) -> str:
    """`<storage>/<name>`, local paths made absolute."""
    place = storage if "://" in storage else str(Path(storage).expanduser().resolve())
    return f"{place.rstrip('/')}/{name}".rstrip("/")


class Written(NamedTuple):
    """A report as a command tells of it: for a person, and for a script."""

    text: str
    facts: dict[str, Any]


def report_study(name: str, *, storage: str | None, tracking: str | None, out: Path | None) -> str:
    """Write a study's report again; returns where it lies.

    Args:
        name: A study's name, or the folder or URL of its records.

    Raises:
        ValueError: There is no such study, or a place holds credentials.
    """
    return report([name], storage=storage, tracking=tracking, out=out).text


def report(
    names: Sequence[str], *, storage: str | None, tracking: str | None, out: Path | None,
    formats: Sequence[str] = (), every_s: int | None = None, say: Callable[[str], None] = print,
) -> Written:  # fmt: skip
    """Write the report of a study, or the comparison of two.

    Args:
        names: One or two studies: names, or folders or URLs of their records; of several studies of one name in
            MLflow the one that was opened last, or `NAME@IDENTITY`.
        formats: Of `analysis.report.FORMATS`; none for the usual ones.
        every_s: Seconds between two looks at a study that runs; None to write once.
        say: Tells the person what was done in between.

    Raises:
        ValueError: There is no such study, a format is unknown, more than two studies are named, or a place holds
            credentials.
    """
    for name in names:
        refuse_credentials(name, "the study's place")
    chosen = cast("tuple[Format, ...]", tuple(formats) or USUAL)
    check_formats(chosen)
    if len(names) > 2:
        raise ValueError(f"a report is of one study, or compares two, but got {len(names)}: {', '.join(names)}")
    if len(names) == 2 and every_s is not None:
        raise ValueError("--watch is for the report of one study; leave it out to compare two")
    with reading_mlflow(tracking) if tracking is not None else nullcontext() as uri:
        places = [name if tracking is not None else _records(name, storage) for name in names]
        for note in _notes(names, uri) if uri is not None else ():
            say(note)
        if len(places) == 2:
            target = out or Path("-against-".join(name.rstrip("/").rsplit("/", 1)[-1] for name in names))
            paths = write_comparison(places[0], places[1], out=target, tracking_uri=uri, formats=chosen)
        else:
            write = partial(write_report, places[0], out=out, tracking_uri=uri, formats=chosen)
            paths = watch(lambda seconds: write(refresh_s=seconds), places[0], tracking_uri=uri, every_s=every_s,
                          say=say, passing=_passing(uri)) if every_s is not None else write()  # fmt: skip
    written = [place for place in (paths.html, *paths.tables) if place is not None]
    where = paths.html or (str(paths.tables[0]).rpartition("/")[0] if paths.tables else "nothing to write")
    return Written(f"{paths.summary}\n\nreport  {where}", {**paths.facts, "files": [str(place) for place in written]})


def _notes(names: Sequence[str], uri: str) -> list[str]:
    """What names stand for besides the studies that are read."""
    from study.tracking import connect

    return [note for name in names for note in find_study_runs(connect(uri), name).notes]


def _passing(uri: str | None) -> tuple[type[Exception], ...]:
    """What reading may raise for a moment; MLflow, which is slow to import, has its own."""
    if uri is None:
        return ValueError, OSError
    from mlflow.exceptions import MlflowException

    return ValueError, OSError, MlflowException


def _records(name: str, storage: str | None) -> str:
    if "/" in name or "://" in name:
        return study_url(name, "")
    return study_url(str(resolve_places(None, cwd=Path.cwd(), storage=storage).storage), name)


@contextmanager
def reading_mlflow(tracking: str) -> Iterator[str]:
    """An MLflow place that is there, for reading; gives its URI.

    Raises:
        ValueError: It is no MLflow place, holds credentials, there is no such database, or the server does not answer.
    """
    refuse_credentials(tracking, "--tracking")
    from study.tracking import connect

    uri = resolve_tracking(tracking, Path.cwd())
    database = sqlite_path(uri)
    if database is not None and not database.is_file():  # a client would make an empty one
        raise ValueError(f"there is no MLflow database {database}")
    connect(uri)  # sets how long it waits for a server that is away
    from mlflow.exceptions import MlflowException

    try:
        yield uri
    except MlflowException as error:
        reason = " ".join(redact(str(error)).split())[:300]
        raise ValueError(f"MLflow at {redact(uri)} could not be read: {reason}") from error


def sync_study(name: str, *, storage: str | None, tracking: str | None) -> str:
    """Bring MLflow up to date with a study's ledger; returns what was done, in words."""
    from study.tracking import sync

    refuse_credentials(tracking, "--tracking")
    places = resolve_places(None, cwd=Path.cwd(), storage=storage)
    ledger = Ledger(str(places.storage), name)
    record = ledger.read_json("study.json")
    if record is None:
        raise ValueError(f"no study {name!r} at {redact(str(places.storage))}; name its place with --storage")
    return str(
        sync(
            ledger, tracking or record.get("tracking_uri") or record["config"]["tracking"]["uri"] or places.tracking_uri
        )
    )


def write_study_report(ledger: Ledger, tracker: Tracker | None) -> ReportPaths:
    """Write the report into the study's folder and hand it to MLflow."""
    paths = write_report(ledger.root, out=ledger.root)
    if tracker is not None:
        tracker.add_report([place for place in (paths.html, *paths.figures) if place is not None])
    return paths


def best_line(ledger: Ledger, config: StudyConfig) -> str:
    """The best trial of the last search phase by its objective, or nothing where there is none."""
    searches = [phase for phase in config.phases if isinstance(phase, SearchPhase)]
    if not searches:
        return ""
    search = searches[-1].search or config.search
    objective = search.objectives[0]
    keys, finalists = _keys_of(ledger, searches[-1].name)
    found = {key: ledger.metrics(key) for key in keys if ledger.status(key) == "finished"}
    candidates = [
        Candidate(
            key, chosen_value(metrics, objective.metric) if finalists else metrics.get(objective.metric, math.nan),
            ledger.trial(key)["number"],
        )
        for key, metrics in found.items()
        if (not finalists or key in finalists) and is_feasible(search.limits, judged(metrics))
    ]  # fmt: skip
    ranking = ranked(candidates, goal=objective.goal)
    if found and not candidates:
        return f"none of the {len(found)} finished trials of the search keeps {' and '.join(search.constraints)}\n"
    if not ranking:
        return "no trial of the search finished\n"
    chosen = ranking[0]
    lower = objective.metric == "acc/noise" and not config.noise.validation  # it is the mean over lower sides then
    params = ", ".join(f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
                       for name, value in ledger.trial(chosen.key)["params"].items())  # fmt: skip
    return agreement_line(ledger, searches[-1], search) + (
        f"best trial of {len(found)}: number {chosen.number} ({chosen.key}), {objective.metric} "
        f"{chosen.value:.3f} on validation images{' at lower sides' if lower else ''}"
        f"{f', of {len(finalists)} finalists' if finalists else ''}\n  {params}\n"
    )


def _keys_of(ledger: Ledger, phase: str) -> tuple[list[str], list[str]]:
    """The trials that a phase counts as its own, and its finalists; those of earlier settings (`--again`) stay out."""
    phases = (ledger.read_json("study.json") or {}).get("phases", ())
    found = next((item for item in phases if item["name"] == phase), {"trials": []})
    return found["trials"], found.get("finalists") or []


def closing_lines(ledger: Ledger, report: ReportPaths, places: Places, config: StudyConfig) -> str:
    """The best trial, accuracy under noise, where the report lies, how to open MLflow."""
    lines = [best_line(ledger, config), report.summary, "", f"report   {report.html}"]
    if config.tracking.enabled:
        uri = str(places.tracking_uri)
        shown = redact(uri)
        lines.append(f"mlflow   mlflow ui --backend-store-uri {shown}" if "://" in uri and uri.startswith("sqlite")
                     else f"mlflow   {shown}")  # fmt: skip
    lines.append(f"records  {ledger.root}")
    return "\n".join(lines)
