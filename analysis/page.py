"""The report's page: one HTML file that opens anywhere, asks no network, and works without scripts too."""
# pandas ships no stubs, and pyright takes an indexed frame for any of four types:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportReturnType=false, reportOperatorIssue=false
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from analysis import examplecards, facts, figures, plaintext, vegalite
from analysis.adapted import ADAPTED_LEGEND
from analysis.charts import scopes
from analysis.embeddings import LEGENDS, TITLES, task_of
from analysis.explained import Explanation
from analysis.fronts import FRONT_LEGEND
from analysis.heads import HEAD_LEGEND
from analysis.load import Snapshot, read_examples
from analysis.looks import COLOUR, MAX_ARMS, PALETTES, SIGNS, Look, looks
from analysis.panels import panels
from analysis.pictures import Picture
from analysis.reproduce import recipe
from analysis.scores import Headline
from analysis.searchcharts import slug
from analysis.sides import LOWER, WORDS, lower_sides, noise_word
from analysis.tables import ALEXNET_TITLE, MEASURE_LEGEND, REAL_LEGEND, Table, corruption_title
from analysis.vegalite import Chart

TEMPLATES = Path(__file__).parent / "templates"
HEADLINE_COLUMNS = (
    "seeds", "clean", *(f"mean {word}" for word in WORDS), "unseen by all", "worst", "mCE", ALEXNET_TITLE,
    *(f"ECE {word}" for word in WORDS), "flips", "passes", "seconds",
)  # fmt: skip
MOST_ROWS = 500
"""Trials in the page's table; the files have all."""
_UI = {
    "dark_ui": "--ink: #e6eaef; --quiet: #a9b3bf; --line: #2c353f; --soft: #1b222a; --paper: #14191f; "
               "--accent: #6bb8ee; "
               "--warn-ink: #ffd9a0; --warn: #33270f; --better: #4fd6a5; --worse: #ff9b62; --field: #76828f;",
    "light_ui": "--ink: #1f2933; --quiet: #55606e; --line: #e3e7ec; --soft: #f6f8fa; --paper: #fff; --accent: #0068a3; "
                "--warn-ink: #7a4200; --warn: #fff4e0; --better: #00664b; --worse: #a33c00; --field: #8792a0;",
}  # fmt: skip


def render(template: str, **context: Any) -> str:
    """A page of `templates/` with its style and its scripts, and the policy that lets only these run.

    The policy names each script by its hash, so that nothing a record holds could run even if it got past the escaping.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        finalize=plaintext.shown,
    )
    charts: Sequence[Chart] = context.pop("charts", ())
    scripts = [*([vegalite.library()] if charts else []), (TEMPLATES / "report.js").read_text(encoding="utf-8")]
    if any("</script" in script or "\r" in script for script in scripts):
        raise ValueError("a script of the page must not end its own element or have carriage returns")
    hues = {name: "".join(f"--{key}: {hue}; " for key, hue in palette.items() if key[1:].isdigit())
            for name, palette in PALETTES.items()}  # fmt: skip
    css = jinja2.Template((TEMPLATES / "report.css").read_text(encoding="utf-8")).render(**hues, **_UI)
    data = {"charts": [chart.embedded() | {"alt": chart.alt} for chart in charts], "palettes": PALETTES,
            "colour": COLOUR,
            "configs": {name: vegalite.config(palette) for name, palette in PALETTES.items()}}  # fmt: skip
    environment.globals["sign"] = sign
    return environment.get_template(template).render(
        css=Markup(css), data=Markup(vegalite.script_json(data)), scripts=[Markup(script) for script in scripts],
        script_sources=Markup(" ".join(_hash(script) for script in scripts)), **context,
    )  # fmt: skip


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def sign(look: Look | None) -> Markup:
    """A configuration's coloured sign, as in the figures."""
    if look is None:
        return Markup("")
    return Markup('<span class="sign sign-{}" aria-hidden="true">{}</span>').format(look.colour, SIGNS[look.shape])


def page(
    snapshot: Snapshot, found: Headline, tables: Mapping[str, Table], pictures: Sequence[Picture],
    charts: Sequence[Chart] = (), *, explained: Sequence[Explanation] = (), refresh_s: int = 0,
    files: Sequence[str] = (),
) -> str:  # fmt: skip
    """The HTML page of a study.

    Args:
        explained: further tables, each with its place.
        refresh_s: seconds after which an open page loads itself again; 0 for never.
        files: endings of the tables' files that are written beside it.
    """
    accuracy, word = tables["accuracy"], noise_word(found)
    rows, columns = _headline_rows(found, accuracy)
    ended, task = tables["trials"].frame, task_of(snapshot.study)
    methods = {r.key: str(r.info["config"].get("method", {}).get("name", "unknown")) for r in snapshot.trials}
    shown, searches = panels(_unslugged(pictures), charts), _search_panels(snapshot)
    chosen_label, cards = _cards(snapshot, found) if pictures else ("", [])
    context: dict[str, Any] = {
        "facts": facts.gather(snapshot, found, tables["contrasts"]), "is_test": found.split == "test",
        "columns": columns, "rows": rows, "by_corruption": _by_corruption(found, accuracy),
        "means": cells_of(tables["means"], _mean_marks(tables["means"].frame)),
        "embeddings_title": TITLES[task] if task else "", "embeddings_legend": LEGENDS[task] if task else "",
        "real_legend": REAL_LEGEND, "head_legend": HEAD_LEGEND, "adapted_legend": ADAPTED_LEGEND,
        "pareto_legend": FRONT_LEGEND, "where": "at lower sides" if word == LOWER else "under noise",
        "mean_legend": _mean_legend(found), "contrasts": tables["contrasts"],
        "measure_legend": MEASURE_LEGEND if f"ECE {word}" in (column.title for column in accuracy.columns) else "",
        "is_restated": bool(snapshot.study.get("restated")), "is_stated": _is_stated(snapshot),
        "decision": _decision(tables["decision"], found), "decision_legend": " ".join(tables["decision"].notes),
        "panels": shown, "cards": cards, "cards_caption": f"Test images and what {chosen_label} said.",
        "searches": searches, "methods": methods, "recipe": recipe(snapshot),
        "filters": _filters(found, methods, ended),
        "trials": _trials(tables["trials"], methods), "num_trials": len(ended),
        "trials_legend": _trials_legend(ended, files),
        "unfinished": _unfinished(ended),
        "notes": _notes(found, accuracy), "refresh_s": refresh_s,
    }  # fmt: skip
    for place in ("accuracy", "search", "fails"):
        context[f"explained_{place}"] = [
            {"title": one.title, "cells": cells_of(one.shown), "legend": " ".join(one.shown.notes),
             "is_folded": one.is_folded}
            for one in explained if one.place == place
        ]  # fmt: skip
    for name in ("real", "heads", "embeddings", "adapted", "pareto"):
        context[name] = cells_of(tables[name]) if name in tables else None
    return render("report.html", charts=charts, contents=_contents(context), **context)


def _contents(context: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(id, title) of the sections that there are."""
    contrasts = context["contrasts"]
    places = (
        ("decision", "Decision", context["decision"]["rows"]),
        ("differences", "Differences", len(contrasts.frame) or contrasts.notes),
        ("accuracy", f"Accuracy {context['where']}", context["rows"]), ("real", "Real images", context["real"]),
        ("examples", "Examples", context["cards"]), ("embeddings", context["embeddings_title"], context["embeddings"]),
        ("fails", "Where it fails", context["explained_fails"]),
        ("heads", "Heads", context["heads"]), ("adapted", "Adapted batch norms", context["adapted"]),
        ("search", "The search", context["searches"]), ("trials", "Trials", context["trials"]["rows"]),
        ("best", "Best configuration", context["facts"].best_yaml), ("run", "What was run", True),
        ("again", "To run it again", context["recipe"].pairs), ("notes", "Notes", True),
    )  # fmt: skip
    return [(name, title) for name, title, is_there in places if is_there]


def _is_stated(snapshot: Snapshot) -> bool:
    return bool(((snapshot.study.get("config") or {}).get("report") or {}).get("contrasts"))


# -------------------------------------------------------------------------------------------------------------- figures
def _unslugged(pictures: Sequence[Picture]) -> list[Picture]:
    """The pictures under names that can be an element's id."""
    named = []
    for picture in pictures:
        kind, dash, phase = picture.name.partition("-")
        name = f"{kind}-{slug(phase)}" if dash else kind
        named.append(Picture(name, picture.title, picture.caption, picture.figure, picture.form))
    return named


def _search_panels(snapshot: Snapshot) -> list[str]:
    phases = dict.fromkeys(r.info["phase"] for r in snapshot.trials if r.info["role"] == "search")
    kinds = ("search", "pareto", "parallel", "importance", "effects")
    return [f"{kind}-{slug(phase)}" for phase in phases for kind in kinds]


def _cards(snapshot: Snapshot, found: Headline) -> tuple[str, list[examplecards.Card]]:
    chosen = facts.example_arm(snapshot, found)
    examples = None if chosen is None else read_examples(snapshot, str(chosen.rows["trial"].iloc[0]))
    return ("", []) if chosen is None or examples is None else (chosen.label, examplecards.cards(examples))


# --------------------------------------------------------------------------------------------------------------- tables
def _headline_rows(found: Headline, accuracy: Table) -> tuple[list[dict[str, Any]], list[str]]:
    texts = {c.title: [c.text(row) for _, row in accuracy.frame.iterrows()] for c in accuracy.columns}
    columns = [c for c in accuracy.columns if c.title in HEADLINE_COLUMNS and set(texts[c.title]) != {"–"}]
    own, phases = looks(found), {arm.config_id: ", ".join(arm.phases()) for arm in found.arms}
    rows = [
        {"label": row["label"], "noise": str(row["train_noise"]).replace("+", ", "), "id": row["config_id"],
         "look": own.get(row["config_id"]), "is_baseline": row["config_id"] == found.baseline,
         "marks": {"method": row["method"], "phase": phases[row["config_id"]]},
         "cells": [_split_interval(column.text(row)) for column in columns]}
        for _, row in accuracy.frame.iterrows()
    ]  # fmt: skip
    return rows, [column.title for column in columns]


def _decision(table: Table, found: Headline) -> dict[str, Any]:
    own, cells = looks(found), cells_of(table)
    marks = [{"look": own.get(row["config_id"]), "chosen": row["chosen"]} for _, row in table.frame.iterrows()]
    return cells | {"looks": marks}


def _parts(text: str, *, is_number: bool) -> dict[str, str]:
    """A cell's parts; words stand as they are, whatever signs a class or a configuration has in its name."""
    return _split_interval(text) if is_number else {"value": text, "interval": "", "more": ""}


def _split_interval(text: str) -> dict[str, str]:
    """`61.2 [58.0, 64.1] fog` as value, interval and rest, so that the page can set them apart."""
    value, _, rest = text.partition(" [")
    interval, _, more = rest.partition("]")
    return {"value": value, "interval": interval.replace(", ", " – "), "more": more.strip()}


def _by_corruption(found: Headline, table: Table) -> dict[str, Any]:
    """The accuracy table on its side: a row for each corruption, since a page is narrow."""
    groups = found.groups()
    families = {c: f for arm in found.arms for c, f in zip(arm.rows["corruption"], arm.rows["family"], strict=True)}
    names = {"clean": "clean"} | {corruption_title(name): name for name in found.corruptions}
    names |= {f"real: {name}": f"real: {name}" for name in found.real}
    titles = [c for c in table.columns if c.title in names]
    return {
        "arms": [arm.label for arm in found.arms],
        "rows": [
            {"name": c.title, "group": groups.get(names[c.title], ""),
             "marks": {"group": groups.get(names[c.title], ""), "family": families.get(names[c.title], "")},
             "cells": [_split_interval(c.text(row)) for _, row in table.frame.iterrows()]}
            for c in titles
        ],
    }  # fmt: skip


def cells_of(table: Table, marks: Sequence[Mapping[str, str]] | None = None) -> dict[str, Any]:
    """A table with its estimates and intervals apart, and what each row answers to the page's filters."""
    rows = [[_parts(text, is_number=column.is_number) for text, column in zip(row, table.columns, strict=True)]
            for row in table.texts()]  # fmt: skip
    return {"titles": [column.title for column in table.columns], "rows": rows, "marks": marks or [{}] * len(rows)}


def _mean_marks(means: pd.DataFrame) -> list[dict[str, str]]:
    return [
        {"over": f"{row['over']}:{row['name']}"} if row["over"] != "relation" else {} for _, row in means.iterrows()
    ]


def _trials(table: Table, methods: Mapping[str, str]) -> dict[str, Any]:
    """The first trials of the table; a failed one's reason stands in a table of its own."""
    frame = table.frame.head(MOST_ROWS)
    columns = [column for column in table.columns if column.title != "error"]
    marks = [{"phase": row["phase"], "method": methods.get(str(row["trial"]), "")} for _, row in frame.iterrows()]
    return cells_of(Table(table.name, frame, columns), marks)


def _unfinished(trials: pd.DataFrame) -> list[dict[str, Any]]:
    """Trials that did not finish, a missing reason as an empty text."""
    if trials.empty:
        return []
    rows = trials[trials["status"] != "finished"]
    return rows.assign(error=rows["error"].fillna("")).to_dict("records")


def _trials_legend(trials: pd.DataFrame, files: Sequence[str]) -> str:
    same = f"; tables/trials.{files[0]} holds the same" if files else ""
    more = f" The first {MOST_ROWS} of {len(trials)}." if len(trials) > MOST_ROWS else ""
    return f"Every trial, whatever became of it{same}.{more}"


def _filters(found: Headline, methods: Mapping[str, str], trials: pd.DataFrame) -> list[dict[str, Any]]:
    """The lists that filter the page, those with something to choose."""
    own = sorted({*methods.values()})
    phases = list(dict.fromkeys(trials["phase"])) if len(trials) else []
    lists = (
        ("method", "Method", [("", "all methods"), *((name, name) for name in own)]),
        ("phase", "Phase", [("", "all phases"), *((name, name) for name in phases)]),
        ("over", "Noise", list(scopes(found).items()) if found.arms else []),
    )
    return [{"name": name, "title": title, "options": options} for name, title, options in lists if len(options) > 2]


# ---------------------------------------------------------------------------------------------------------------- words
def _mean_legend(found: Headline) -> str:
    """What the mean over noisy cells is over."""
    if noise_word(found) == LOWER:
        return "Mean lower sides: over all sides below full size."
    more = ", those of lower sides among them" if any(lower_sides(arm) for arm in found.arms) else ""
    return f"Mean noise: over all corruptions and severities{more}."


def _notes(found: Headline, accuracy: Table) -> list[str]:
    notes = [*found.notes, *(note for note in accuracy.notes if note.startswith(("mCE", "relative mCE")))]
    if len(found.arms) > figures.MAX_LINES:
        notes.append(
            f"drawn figures show the first {figures.MAX_LINES} of {len(found.arms)} configurations"
            + (f", interactive ones the first {MAX_ARMS}" if len(found.arms) > MAX_ARMS else "")
            + ", the tables all"
        )
    return notes
