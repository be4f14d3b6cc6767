"""A confirm phase never meets a seed that the search has seen."""

import pytest
from pydantic import ValidationError

from study.config import StudyConfig


@pytest.mark.parametrize(
    "search",
    [
        {"search": {"space": {"train.seed": {"int": [0, 200]}}}},
        {"phases": [{"kind": "search", "name": "search", "set": {"train.seed": 101}},
                    {"kind": "confirm", "name": "confirm", "of": "search"}]},
    ],
)  # fmt: skip
def test_a_search_that_changes_the_seed_cannot_be_confirmed(search: dict) -> None:
    with pytest.raises(ValidationError, match="a seed is not chosen by its figures"):
        StudyConfig.model_validate({"name": "seeds", **search})


def test_a_confirm_phase_with_the_searchs_seed_is_refused() -> None:
    with pytest.raises(ValidationError, match="must not hold the search's own seed 101"):
        StudyConfig.model_validate({"name": "seeds", "train": {"seed": 101}})
