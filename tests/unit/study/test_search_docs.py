"""docs/search.md: the tables name what there is, and the grid that it cites is whole."""

from pathlib import Path

import pytest

from analysis.constraints import NAMES
from study.algorithms import ABILITIES
from study.config_search import SearchConfig
from study.studyfile import load_study

DOCS = Path(__file__).parents[3] / "docs"
TEXT = (DOCS / "search.md").read_text()


def test_the_tables_name_every_metric_and_algorithm():
    rows = [line for line in TEXT.splitlines() if line.startswith("| `")]
    shown = " ".join(rows)
    assert all(f"| `{name}` | `{metric}` |" in shown for name, metric in NAMES.items())
    assert all(f"`{name}`" in shown for name in ABILITIES)
    for name, abilities in ABILITIES.items():
        row = next(line for line in rows if f"`{name}`" in line)
        assert ("refused" in row) == (not abilities.conditions)
        assert ("steers" in row) == abilities.uses_constraints


def test_the_table_of_trials_is_a_whole_grid():
    search = load_study(DOCS / "studies" / "search-table.yaml").config.search
    assert (search.algorithm, search.trials) == ("grid", 108)


def test_a_goal_left_out_follows_the_metric():
    search = SearchConfig.model_validate({"objectives": [{"metric": "acc/clean"}, {"metric": "cost/macs"}]})
    assert [item.goal for item in search.objectives] == ["maximise", "minimise"]
    with pytest.raises(ValueError, match="must not name a metric twice"):
        SearchConfig.model_validate({"objectives": [{"metric": "acc/clean"}, {"metric": "acc/clean"}]})
