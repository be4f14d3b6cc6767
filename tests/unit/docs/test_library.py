"""The analysis is a library: every function of it that a person would call stands in an example that was run."""

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import pytest

from tests.unit.docs.blocks import PAGES, ROOT, blocks
from tests.unit.docs.test_snippets import NOT_EXECUTED

MODULES = (
    "adapted", "bootstrap", "calibration", "choices", "comparison", "contrasts", "decision", "effects", "embeddings",
    "explained", "factorial", "fidelity", "figures", "flips", "fronts", "heads", "importance", "interactions", "load",
    "meantables", "metrics", "networks", "otherrules", "pareto", "report", "scores", "selection", "severities",
    "sharpness", "similarity", "stats", "tablefiles", "tables", "trialframe", "trialtable", "wording",
)  # fmt: skip
"""Modules that a person imports from; the others draw the page, word it, or read the ledger for these."""

NO_EXAMPLE = {
    "adapted": {"adapted_lines": "the terminal's words"},
    "contrasts": dict.fromkeys(
        ("contrast_columns", "joint_text", "endpoint_title", "endpoint_phrase", "endpoint_cells", "family_error",
         "error_note", "check_note", "family"), "parts of contrast_table that the comparison of two studies shares",
    ),
    "effects": dict.fromkeys(
        ("linear_settings", "search_settings", "value_texts"), "which settings the page draws, and how"
    ),
    "embeddings": {"read_embeddings": "load_embeddings of a snapshot", "other_pairs": "the comparison's own check"},
    "explained": dict.fromkeys(("importance_charts", "effect_charts"), "the page's drawing"),
    "factorial": {"arm_interaction_table": "arm_interaction of a study's own arms, where four of them are corners"},
    "fidelity": dict.fromkeys(
        ("full_metrics", "chosen_value", "judged", "agreement_of"), "reads the ledger's events for a search"
    ),
    "figures": {"side_figure": "as severity_figure", "history_figure": "as severity_figure",
                "cost_figure": "as severity_figure", "example_figure": "as severity_figure",
                "plain": "a label's text", "styles": "colours of the report's figures"},
    "fronts": {"front_lines": "the terminal's words"},
    "heads": {"read_heads": "load_heads of a snapshot"},
    "load": {"history": "load_history of a snapshot", "parse_events": "the ledger's lines"},
    "metrics": {"headline": "what a trial reports of itself", "as_test": "names of a trial's metrics",
                "find_baseline": "the headline's own look for it"},
    "report": {"check_formats": "the command line's check", "draw_charts": "the page's drawing",
               "write_files": "the report's writing"},
    "similarity": {"read_similarity": "load_similarity of a snapshot"},
    "tables": dict.fromkeys(
        ("noise_column", "real_column", "corruption_title", "real_figures", "bounds", "interval_text", "accuracy_text",
         "real_text", "worst_text", "count_text", "value_text"), "how a table's cells are named and read",
    ),
    "trialframe": dict.fromkeys(("settings_of", "noise_strength"), "columns of trial_frame"),
    "wording": {"counted": "a number with its noun", "limit_words": "a part of what wording says"},
}  # fmt: skip
"""Module -> function -> why it has no example: the rendering's own, or another function's with a snapshot in hand."""


def _public(module: str) -> set[str]:
    tree = ast.parse((ROOT / "analysis" / f"{module}.py").read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
            and ast.get_docstring(node)}  # fmt: skip


def _executed() -> Iterator[str]:
    """The Python of a page or the notebook, joined."""
    for page in PAGES:
        mine = [block for block in blocks(page) if block.language == "python"]
        yield "\n".join(b.text for b in mine if (page, b.text.split("\n", 1)[0]) not in NOT_EXECUTED
                        and not b.text.startswith("# "))  # fmt: skip
    cells = json.loads((ROOT / "docs" / "from-study-to-paper.ipynb").read_text(encoding="utf-8"))["cells"]
    yield "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


@cache
def _used() -> set[tuple[str, str]]:
    """(module, function) of every function of `analysis` that an example imports and then names."""
    found = set()
    for text in _executed():
        tree = ast.parse(text)
        named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("analysis."):
                place = str(node.module).removeprefix("analysis.")
                found |= {(place, alias.name) for alias in node.names if (alias.asname or alias.name) in named}
    return found


@pytest.mark.parametrize("module", MODULES)
def test_every_function_that_a_person_would_call_is_in_an_example(module: str) -> None:
    used = {name for place, name in _used() if place == module}
    excepted = set(NO_EXAMPLE.get(module, {}))
    assert sorted(_public(module) - used - excepted) == []
    assert sorted(excepted - _public(module)) == [], "a function that is excepted is not there"
    assert sorted(excepted & used) == [], "a function that is excepted has an example"


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/analysis")])
def test_what_an_example_prints_stands_right_below_it(page: str) -> None:
    for code, below in pairwise(blocks(page)):
        if code.language == "python" and re.search(r"^(print|show|said)\(", code.text, re.MULTILINE):
            assert (below.language, below.is_below(code)) == ("text", True), code.place
