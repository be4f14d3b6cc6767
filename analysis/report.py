"""The report of a study: one HTML file that opens anywhere without a network, and the tables and figures beside it."""
# pandas ships no stubs, and pyright takes an indexed frame for any of four types:
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import fsspec
from fsspec.implementations.local import LocalFileSystem

from analysis import figures
from analysis.adapted import adapted_table
from analysis.charts import headline_charts
from analysis.contrasts import contrast_table
from analysis.decision import decision_table
from analysis.embeddings import embedding_table
from analysis.explained import effect_charts, explanations, importance_charts
from analysis.facts import reading
from analysis.fronts import front_table
from analysis.heads import head_table
from analysis.load import Snapshot, read_study
from analysis.meantables import mean_table, real_table
from analysis.page import page
from analysis.pictures import draw
from analysis.scores import Headline, headline
from analysis.searchcharts import search_charts
from analysis.summary import terminal
from analysis.tablefiles import ENDINGS, rows_of, table_files
from analysis.tables import Table, accuracy_table
from analysis.trialtable import trial_table
from analysis.unfinished import has_open_tests, unfinished, without_verdicts
from analysis.vegalite import Chart

Format = Literal["html", "md", "csv", "parquet", "latex"]
FORMATS: tuple[Format, ...] = get_args(Format)
USUAL: tuple[Format, ...] = ("html", "md", "csv", "parquet")
"""What a report is written as where nobody says otherwise; drawn figures come with the page."""

_OPTIONAL = ("real", "heads", "embeddings", "adapted", "pareto")  # tables that most studies have no rows for


@dataclass(frozen=True)
class ReportPaths:
    """Where a report lies: paths on a local disk, URLs elsewhere.

    Attributes:
        html: None where the page was not asked for.
        summary: the headline as plain text, for the terminal.
        facts: the same for a script, as JSON can hold it.
    """

    html: Path | str | None
    tables: list[Path | str]
    figures: list[Path | str]
    summary: str
    facts: Mapping[str, Any] = field(default_factory=dict)


def write_report(
    study_dir: Path | str,
    *,
    out: Path | str | None = None,
    tracking_uri: str | None = None,
    formats: Sequence[Format] = USUAL,
    refresh_s: int = 0,
) -> ReportPaths:
    """Write `report.html` with `figures/` (PNG), and `tables/` (CSV, parquet, Markdown, LaTeX).

    Every file is written whole or not at all, `report.html` last; nothing else in `out` is touched.

    Args:
        study_dir: the study's folder or URL; with `tracking_uri`, its name.
        out: folder or URL to write into; left out: the study's folder, or `<name>-report` here when read from MLflow.
        tracking_uri: MLflow server to read from in place of the folder.
        formats: which of these to write.
        refresh_s: seconds after which an open page loads itself again; 0 for never.

    Raises:
        FileNotFoundError: there is no such study.
        ValueError: a format is unknown.
    """
    check_formats(formats)
    snapshot = read_study(study_dir, tracking_uri=tracking_uri)
    if out is None:
        out = f"{study_dir}-report" if tracking_uri is not None else str(study_dir)
    found = headline(snapshot)
    tables, explained = report_tables(snapshot, found), explanations(snapshot, found)
    shown = {name: table for name, table in tables.items() if name not in _OPTIONAL or len(table.frame)}
    files: dict[str, bytes] = {}
    if "html" in formats:
        pictures = draw(snapshot, found, tables)
        charts = [
            *draw_charts(snapshot, found, tables), *importance_charts(explained), *effect_charts(snapshot, explained),
        ]  # fmt: skip
        files |= {f"figures/{picture.name}.png": figures.render(picture.figure, "png") for picture in pictures}
        files["report.html"] = page(
            snapshot, found, shown, pictures, charts, explained=explained, refresh_s=refresh_s,
            files=[ending for name, ending in ENDINGS.items() if name in formats],
        ).encode()  # fmt: skip
    texts = [table for table in (*shown.values(), *(one.table for one in explained)) if table.columns]
    written = {f"tables/{name}": content for table in texts for name, content in table_files(table, formats).items()}
    places = write_files(str(out), written | files)
    return ReportPaths(
        html=places.get("report.html"),
        tables=[place for name, place in places.items() if name.startswith("tables/")],
        figures=[place for name, place in places.items() if name.startswith("figures/")],
        summary=terminal(
            found,
            tables["accuracy"],
            tables["contrasts"],
            shown.get("adapted"),
            shown.get("pareto"),
            unfinished=unfinished(snapshot),
        ),
        facts=as_json(snapshot, found, tables),
    )


def check_formats(formats: Sequence[str]) -> None:
    """Refuse a format that there is not.

    Raises:
        ValueError: one is unknown, or none is given.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ValueError(f"a report's format must be of {', '.join(FORMATS)}, but got {', '.join(unknown) or 'none'}")


def report_tables(snapshot: Snapshot, found: Headline) -> dict[str, Table]:
    """All tables of a report, also those without rows."""
    contrasts = contrast_table(found, snapshot.study)
    if has_open_tests(snapshot.study):
        contrasts = without_verdicts(contrasts)
    return {
        "decision": decision_table(snapshot, found, contrasts),
        "accuracy": accuracy_table(found),
        "means": mean_table(found),
        "real": real_table(found),
        "contrasts": contrasts,
        "heads": head_table(snapshot, found),
        "embeddings": embedding_table(snapshot, found),
        "adapted": adapted_table(snapshot, found),
        "pareto": front_table(snapshot),
        "trials": trial_table(snapshot),
    }


def draw_charts(snapshot: Snapshot, found: Headline, tables: Mapping[str, Table]) -> list[Chart]:
    """The interactive charts of a study, those it has rows for."""
    return [*headline_charts(snapshot, found), *search_charts(snapshot, tables["trials"])]


def as_json(snapshot: Snapshot, found: Headline, tables: Mapping[str, Table]) -> dict[str, Any]:
    """The answer for a script: what was read, in sentences and in rows."""
    return {
        "study": snapshot.name,
        "split": found.split,
        "unfinished": unfinished(snapshot),
        "reading": reading(snapshot, found, tables["contrasts"].frame),
        "decision": rows_of(tables["decision"]),
        "contrasts": rows_of(tables["contrasts"]),
        "notes": list(found.notes),
    }


# ------------------------------------------------------------------------------------------------------------- writing
def write_files(out: str, files: Mapping[str, bytes]) -> dict[str, Path | str]:
    """Write each file whole or not at all, in their order; returns where they lie: paths here, URLs elsewhere.

    Raises:
        ValueError: a file would lie outside the folder.
    """
    stray = next((name for name in files if ".." in name.split("/") or name.count("/") > 1), None)
    if stray is not None:  # a phase's name, of records that come from elsewhere, is part of some
        raise ValueError(f"a report's files must lie in its folder, but one would be {stray!r}; correct the records")
    filesystem, root = fsspec.core.url_to_fs(out)
    if isinstance(filesystem, LocalFileSystem):
        return {name: _replace(Path(root) / name, content) for name, content in files.items()}
    places: dict[str, Path | str] = {}
    for name, content in files.items():
        filesystem.makedirs(f"{root}/{name}".rsplit("/", 1)[0], exist_ok=True)
        filesystem.pipe_file(f"{root}/{name}", content)
        places[name] = f"{out.rstrip('/')}/{name}"
    return places


def _replace(place: Path, content: bytes) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).chmod(0o644)
        Path(name).replace(place)
    finally:
        Path(name).unlink(missing_ok=True)
    return place
