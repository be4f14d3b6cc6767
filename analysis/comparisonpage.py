"""The comparison of two studies as files: a page, and its tables."""
# pandas ships no stubs:
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import facts
from analysis.charts import corruption_chart, severity_chart
from analysis.comparison import Comparison, compare_studies
from analysis.contrasts import endpoint_phrase, joint_text
from analysis.load import Snapshot, read_study
from analysis.page import cells_of, render
from analysis.panels import panels
from analysis.report import USUAL, Format, ReportPaths, check_formats, write_files
from analysis.reproduce import recipe
from analysis.tablefiles import rows_of, table_files
from analysis.tables import Column, Table


def write_comparison(
    first: Path | str, second: Path | str, *, out: Path | str, tracking_uri: str | None = None,
    formats: Sequence[Format] = USUAL,
) -> ReportPaths:  # fmt: skip
    """Write `compare.html` and `tables/` of two studies.

    Args:
        first: a study's folder or URL; with `tracking_uri`, its name.
        second: the other one's.
        out: folder or URL to write into.
        tracking_uri: MLflow server to read both from.
        formats: which of these to write.

    Raises:
        FileNotFoundError: there is no such study.
        ValueError: a format is unknown.
    """
    check_formats(formats)
    snapshots = (read_study(first, tracking_uri=tracking_uri), read_study(second, tracking_uri=tracking_uri))
    made = compare_studies(*snapshots)
    tables = [table for table in (made.studies, made.contrasts) if len(table.frame)]
    files = {f"tables/{name}": content for table in tables for name, content in table_files(table, formats).items()}
    if "html" in formats:
        files["compare.html"] = comparison_page(made, snapshots).encode()
    places = write_files(str(out), files)
    return ReportPaths(
        html=places.get("compare.html"),
        tables=[place for name, place in places.items() if name.startswith("tables/")],
        figures=[], summary=made.text(), facts=comparison_facts(made),
    )  # fmt: skip


def comparison_facts(made: Comparison) -> dict[str, Any]:
    """The comparison for a script."""
    return {"studies": list(made.names), "configurations": rows_of(made.studies),
            "contrasts": rows_of(made.contrasts), "no_difference_because": made.reasons,
            "notes": made.all_notes}  # fmt: skip


def comparison_page(made: Comparison, snapshots: tuple[Snapshot, Snapshot]) -> str:
    """The page: differences where there may be any, both studies' configurations, what was run."""
    charts = []
    if made.joined is not None:
        charts = [chart for chart in (severity_chart(made.joined), corruption_chart(made.joined)) if chart is not None]
    return render(
        "compare.html", charts=charts, title=" against ".join(made.names), sentences=_sentences(made, snapshots),
        contrasts=cells_of(made.contrasts), studies=cells_of(made.studies), studies_legend=" ".join(made.studies.notes),
        panels=panels([], charts), runs=cells_of(_runs(made.names, snapshots)), notes=made.all_notes,
        written=facts.now(),
    )  # fmt: skip


def _sentences(made: Comparison, snapshots: tuple[Snapshot, Snapshot]) -> list[str]:
    said = [f"No difference is stated between these studies: {reason}." for reason in made.reasons]
    for _, row in made.contrasts.frame.iterrows():
        where = endpoint_phrase(str(row["endpoint"]), noise=made.word)
        gap = f"{row['difference'] * 100:+.1f} points (simultaneous 95 % interval {joint_text(row)}; "
        said.append(
            f"{where[0].upper()}{where[1:]}, {row['label']} against {row['baseline']}: {gap}{row['n_images']} images, "
            f"{row['n_seeds']} seeds): {row['verdict']}."
        )
    for name, snapshot, found in zip(made.names, snapshots, made.found, strict=True):
        said += [f"{name}: {facts.reading(snapshot, found, pd.DataFrame())[0]}"]
    return said


def _runs(names: tuple[str, str], snapshots: tuple[Snapshot, Snapshot]) -> Table:
    """What was run, a row for each fact, a column for each study; differences are marked."""
    sides = [dict(recipe(snapshot).pairs) for snapshot in snapshots]
    titles = list(dict.fromkeys(title for side in sides for title in side))
    rows = [{"what": title, "first": sides[0].get(title, "–"), "second": sides[1].get(title, "–")} for title in titles]
    columns = [
        Column("what", lambda row: row["what"], is_number=False),
        Column(names[0], lambda row: row["first"], is_number=False),
        Column(names[1], lambda row: row["second"], is_number=False),
        Column("same", lambda row: "yes" if row["first"] == row["second"] else "no", is_number=False),
    ]
    return Table("runs", pd.DataFrame(rows), columns)
