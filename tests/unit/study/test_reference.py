"""The study file's reference: every key of every model, each with a meaning, and every link with its target."""

import re

import pytest

from study.config import StudyConfig
from study.reference import reference

TEXT = reference()
ROWS = [line for line in TEXT.splitlines() if re.match(r"\| (\[)?`", line)]
SCHEMA = StudyConfig.model_json_schema()
MODELS = {"StudyConfig": SCHEMA, **SCHEMA["$defs"]}


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


def test_every_row_says_what_its_key_means():
    assert len(ROWS) > 200
    assert [row for row in ROWS if not _cells(row)[-1]] == []
    assert [row for row in ROWS if not _cells(row)[1]] == []


@pytest.mark.parametrize("name", MODELS)
def test_every_key_of_every_model_is_there(name):
    choosers = {"source", "name", "kind"}
    for key, field in MODELS[name].get("properties", {}).items():
        shown = [row for row in ROWS if re.match(rf"\| \[?`{key}`", row)]
        assert shown or ("const" in field and key in choosers), key
        if "description" in field and not field["description"].startswith("A name of"):
            first = field["description"].split()[0].replace("*", "\\*")
            assert any(first in row for row in shown), key


def test_links_within_the_page_have_targets():
    targets = set(re.findall(r"\{#([\w-]+)\}", TEXT))
    assert len(targets) == len(re.findall(r"\{#", TEXT))
    assert set(re.findall(r"\]\(#([\w-]+)\)", TEXT)) - targets == set()


@pytest.mark.parametrize(
    "row",
    [
        "| `rho` | number | ≥ 0, ≤ 10 | `0.05` | Radius of the ascent; 0 turns SAM off. |",
        "| `lr` | number | > 0, ≤ 10 | `0.05` | Learning rate of heads and classifier at the start. |",
        "| `name` | `sgd`, `adamw` |  | `sgd` | The base optimiser, which SAM stands around. |",
        "| `of` | text |  | **required** | Name of the search phase to choose from. |",
        "| `clip_norm` | number | > 0 | none | Greatest norm of the gradient of an update; left out: not clipped. |",
        "| `decoder_widths` | 3 of: whole number | ≥ 4, a multiple of 4 | `[256, 128, 64]` | channels of a decoder's "
        "steps from an eighth of the image up; multiples of 4 |",
    ],
)
def test_a_row_has_type_range_default_and_meaning(row):
    assert row in ROWS


def test_a_default_that_is_made_anew_is_shown():
    assert any(row.startswith("| `baseline` | map |  | `{method.name: plain}` |") for row in ROWS)
    assert "Without this section it is `plain`." in TEXT


def test_a_null_that_means_something_is_shown():
    assert any(row.startswith("| `hang_timeout_s` | number or null | ≥ 1 | `1800` |") for row in ROWS)


def test_a_section_that_stands_in_two_places_is_written_once():
    assert TEXT.count("## `search` {#") == 1
    assert "| [`search`](#search) | section |  | none | In place of the study's `search`. |" in ROWS
