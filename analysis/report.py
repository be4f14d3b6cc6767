"""The report of a study: one HTML file that opens anywhere without a network, and the tables and figures beside it."""
# pandas ships no stubs, and pyright takes an indexed frame for any of four types:
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import fsspec
import jinja2
from fsspec.implementations.local import LocalFileSystem
from matplotlib.figure import Figure

from analysis import facts, figures
from analysis.adapted import ADAPTED_LEGEND, adapted_table
from analysis.contrasts import contrast_table
from analysis.embeddings import LEGENDS, TITLES, embedding_table, task_of
from analysis.fronts import FRONT_LEGEND, front_figure, front_table, fronts
from analysis.heads import HEAD_LEGEND, head_table
from analysis.load import Snapshot, read_examples, read_study
from analysis.plaintext import shown
from analysis.scores import Headline, headline
from analysis.searches import objectives_of
from analysis.sides import LOWER, WORDS, full_side, full_size_noise, lower_sides, noise_at_sides, noise_word
from analysis.summary import terminal
from analysis.tables import (
    ALEXNET_TITLE,
    MEASURE_LEGEND,
    REAL_LEGEND,
    Table,
    accuracy_table,
    mean_table,
    real_table,
    trial_table,
)

TEMPLATES = Path(__file__).parent / "templates"
HEADLINE_COLUMNS = (
    "seeds", "clean", *(f"mean {word}" for word in WORDS), "unseen by all", "worst", "mCE", ALEXNET_TITLE,
    *(f"ECE {word}" for word in WORDS), "flips", "passes", "seconds",
)  # fmt: skip

_OPTIONAL = ("real", "heads", "embeddings", "adapted", "pareto")  # tables that most studies have no rows for


@dataclass(frozen=True)
class ReportPaths:
    """Where a report lies: paths on a local disk, URLs elsewhere.

    Attributes:
        summary: the headline as plain text, for the terminal.
    """

    html: Path | str
    tables: list[Path | str]
    figures: list[Path | str]
    summary: str


@dataclass(frozen=True)
class Picture:
    """A figure of the report: `form` is how it stands in the page (drawings as SVG, photographs as PNG)."""

    name: str
    title: str
    caption: str
    figure: Figure
    form: Literal["svg", "png"] = "svg"


def write_report(
    study_dir: Path | str, *, out: Path | str | None = None, tracking_uri: str | None = None
) -> ReportPaths:
    """Write `report.html`, `tables/` (CSV, parquet, Markdown) and `figures/` (PNG).

    Every file is written whole or not at all, `report.html` last; nothing else in `out` is touched.

    Args:
        study_dir: the study's folder or URL; with `tracking_uri`, its name.
        out: folder or URL to write into; left out: the study's folder, or `<name>-report` here when read from MLflow.
        tracking_uri: MLflow server to read from in place of the folder.

    Raises:
        FileNotFoundError: there is no such study.
    """
    snapshot = read_study(study_dir, tracking_uri=tracking_uri)
    if out is None:
        out = f"{snapshot.name}-report" if tracking_uri is not None else str(study_dir)
    found = headline(snapshot)
    tables = {
        "accuracy": accuracy_table(found),
        "means": mean_table(found),
        "real": real_table(found),
        "contrasts": contrast_table(found, snapshot.study),
        "heads": head_table(snapshot, found),
        "embeddings": embedding_table(snapshot, found),
        "adapted": adapted_table(snapshot, found),
        "pareto": front_table(snapshot),
        "trials": trial_table(snapshot, metric=found.objective[0]),
    }
    pictures = draw(snapshot, found, tables)
    tables = {name: table for name, table in tables.items() if name not in _OPTIONAL or len(table.frame)}
    files = {f"tables/{name}": content for table in tables.values() for name, content in table.files().items()}
    files |= {f"figures/{picture.name}.png": figures.render(picture.figure, "png") for picture in pictures}
    files["report.html"] = page(snapshot, found, tables, pictures).encode()
    places = _write(str(out), files)
    return ReportPaths(
        html=places["report.html"],
        tables=[place for name, place in places.items() if name.startswith("tables/")],
        figures=[place for name, place in places.items() if name.startswith("figures/")],
        summary=terminal(found, tables["accuracy"], tables["contrasts"], tables.get("adapted"), tables.get("pareto")),
    )


def draw(snapshot: Snapshot, found: Headline, tables: Mapping[str, Table]) -> list[Picture]:
    """The figures of a study, those it has data for."""
    pictures = [*_severity_picture(found), *_side_picture(found, snapshot.study)]
    if found.arms and found.corruptions:
        where = "at lower sides" if noise_word(found) == LOWER else "under noise"
        pictures += [
            Picture("corruptions", "Accuracy by corruption",
                    "Per cent, mean over severities. ● trained on this very corruption, ◐ on one of its group.",
                    figures.heat_figure(found)),
            Picture("cost", f"Accuracy {where} against cost of training",
                    "One gradient pass is one image forward and backward through the deployed network.",
                    figures.cost_figure(found, tables["accuracy"].frame)),
        ]  # fmt: skip
    chosen = facts.chosen_arm(snapshot, found)
    examples = None if chosen is None else read_examples(snapshot, str(chosen.rows["trial"].iloc[0]))
    if chosen is not None and examples is not None:
        pictures.append(
            Picture("examples", "What the network saw", f"Test images and what {chosen.label} said.",
                    figures.example_figure(examples), form="png")
        )  # fmt: skip
    trials = tables["trials"].frame
    for phase in dict.fromkeys(r.info["phase"] for r in snapshot.trials if r.info["role"] == "search"):
        metric, goal = found.objective
        rows = trials[trials["phase"] == phase]
        pictures.append(
            Picture(f"search-{phase}", f"Phase {phase}: the objective, trial by trial",
                    facts.validation_words(snapshot.study),
                    figures.history_figure(rows, metric=metric, goal=goal))
        )  # fmt: skip
    for phase, frame in fronts(snapshot).items():
        pictures.append(
            Picture(f"pareto-{phase}", f"Phase {phase}: the Pareto front",
                    f"{FRONT_LEGEND} Numbers are those of trials.",
                    front_figure(frame, objectives_of(snapshot.study, phase)))
        )  # fmt: skip
    return pictures


def _severity_picture(found: Headline) -> list[Picture]:
    if not any(full_size_noise(arm) for arm in found.arms):
        return []
    caption = "Mean over the corruptions; bands are 95 % intervals."
    if any(lower_sides(arm) for arm in found.arms):
        caption += " Images at full size."
    return [Picture("severity", "Accuracy against severity", caption, figures.severity_figure(found))]


def _side_picture(found: Headline, study: Mapping[str, Any]) -> list[Picture]:
    arms, size = [arm for arm in found.arms[: figures.MAX_LINES] if lower_sides(arm)], full_side(study)
    if not arms or size is None:
        return []
    caption = f"Bands are 95 % intervals; {size} px are the images as they are."
    if any(noise_at_sides(arm) for arm in arms):
        caption += " Under noise: the mean over the corruptions and severities measured at that side."
    return [Picture("sides", "Accuracy against side", caption, figures.side_figure(found, size))]


def page(snapshot: Snapshot, found: Headline, tables: Mapping[str, Table], pictures: list[Picture]) -> str:
    """The HTML page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        finalize=shown,
    )  # fmt: skip
    accuracy, looks = tables["accuracy"], figures.styles(found)
    texts = {c.title: [c.text(row) for _, row in accuracy.frame.iterrows()] for c in accuracy.columns}
    columns = [c for c in accuracy.columns if c.title in HEADLINE_COLUMNS and set(texts[c.title]) != {"–"}]
    rows = [
        {"label": row["label"], "noise": str(row["train_noise"]).replace("+", ", "), "id": row["config_id"],
         "colour": looks.get(row["config_id"], (figures.QUIET, ""))[0],
         "is_baseline": row["config_id"] == found.baseline,
         "cells": [_split_interval(column.text(row)) for column in columns]}
        for _, row in accuracy.frame.iterrows()
    ]  # fmt: skip
    ended, task, word = tables["trials"].frame, task_of(snapshot.study), noise_word(found)
    return environment.get_template("report.html").render(
        facts=facts.gather(snapshot, found, tables["contrasts"]),
        is_test=found.split == "test",
        columns=[column.title for column in columns],
        rows=rows,
        by_corruption=_by_corruption(found, accuracy),
        means=_cells_of(tables["means"]),
        real=_cells_of(tables["real"]) if "real" in tables else None,
        real_legend=REAL_LEGEND,
        heads=_cells_of(tables["heads"]) if "heads" in tables else None,
        head_legend=HEAD_LEGEND,
        embeddings=_cells_of(tables["embeddings"]) if "embeddings" in tables else None,
        embeddings_title=TITLES[task] if task else "",
        embeddings_legend=LEGENDS[task] if task else "",
        adapted=_cells_of(tables["adapted"]) if "adapted" in tables else None,
        adapted_legend=ADAPTED_LEGEND,
        where="at lower sides" if word == LOWER else "under noise",
        mean_legend=_mean_legend(found),
        measure_legend=MEASURE_LEGEND if f"ECE {word}" in (column.title for column in columns) else "",
        contrasts=tables["contrasts"],
        is_restated=bool(snapshot.study.get("restated")),
        is_stated=bool(((snapshot.study.get("config") or {}).get("report") or {}).get("contrasts")),
        pictures={picture.name: _inline(picture) for picture in pictures},
        searches=[f"search-{phase}" for phase in dict.fromkeys(_search_phases(snapshot))],
        fronts=[picture.name for picture in pictures if picture.name.startswith("pareto-")],
        pareto=_cells_of(tables["pareto"]) if "pareto" in tables else None,
        pareto_legend=FRONT_LEGEND,
        unfinished=ended[ended["status"] != "finished"].to_dict("records") if len(ended) else [],
        notes=_notes(found, accuracy),
    )


def _mean_legend(found: Headline) -> str:
    """What the mean over noisy cells is over."""
    if noise_word(found) == LOWER:
        return "Mean lower sides: over all sides below full size."
    more = ", those of lower sides among them" if any(lower_sides(arm) for arm in found.arms) else ""
    return f"Mean noise: over all corruptions and severities{more}."


def _notes(found: Headline, accuracy: Table) -> list[str]:
    notes = [*found.notes, *(note for note in accuracy.notes if note.startswith(("mCE", "relative mCE")))]
    if len(found.arms) > figures.MAX_LINES:
        notes.append(f"figures show the first {figures.MAX_LINES} of {len(found.arms)} configurations, the tables all")
    return notes


def _search_phases(snapshot: Snapshot) -> list[str]:
    return [record.info["phase"] for record in snapshot.trials if record.info["role"] == "search"]


def _split_interval(text: str) -> dict[str, str]:
    """`61.2 [58.0, 64.1] fog` as value, interval and rest, so that the page can set them apart."""
    value, _, rest = text.partition(" [")
    interval, _, more = rest.partition("]")
    return {"value": value, "interval": interval.replace(", ", " – "), "more": more.strip()}


def _by_corruption(found: Headline, table: Table) -> dict[str, Any]:
    """The accuracy table on its side: a row for each corruption, since a page is narrow."""
    groups = found.groups()
    shown = {"clean", *found.corruptions, *(f"real: {name}" for name in found.real)}
    titles = [c for c in table.columns if c.title in shown]
    return {
        "arms": [arm.label for arm in found.arms],
        "rows": [
            {"name": c.title, "group": groups.get(c.title, ""),
             "cells": [_split_interval(c.text(row)) for _, row in table.frame.iterrows()]}
            for c in titles
        ],
    }  # fmt: skip


def _cells_of(table: Table) -> dict[str, Any]:
    """A table with its estimates and intervals apart."""
    rows = [[_split_interval(text) for text in row] for row in table.texts()]
    return {"titles": [column.title for column in table.columns], "rows": rows}


def _inline(picture: Picture) -> dict[str, Any]:
    kind = {"svg": "image/svg+xml", "png": "image/png"}[picture.form]
    content = base64.b64encode(figures.render(picture.figure, picture.form)).decode()
    width = round(picture.figure.get_figwidth() * 100)
    return {"title": picture.title, "caption": picture.caption, "uri": f"data:{kind};base64,{content}", "width": width}


# ------------------------------------------------------------------------------------------------------------- writing
def _write(out: str, files: Mapping[str, bytes]) -> dict[str, Path | str]:
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
