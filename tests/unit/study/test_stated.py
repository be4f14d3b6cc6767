"""What a study file states of its report and its arms: endpoints that are measured, and no run counted as two seeds."""

from pathlib import Path
from typing import Any

import pytest

from study import phases
from study.config import StudyConfig
from study.studycheck import check_study
from study.studyfile import load_study, load_study_text

TWO = """
name: two
report: {endpoints: [clean, "group:noise"], contrasts: [{arm: A, against: B}]}
phases:
  - {kind: train, name: A, seeds: [1, 2]}
  - {kind: train, name: B, seeds: [1, 2], set: {optim.sam.rho: 0}}
"""


def problems(*, report: dict[str, Any] | None = None, other: dict[str, Any] | None = None) -> list[str]:
    first = {"kind": "train", "name": "A", "seeds": [1, 2]}
    second = {"kind": "train", "name": "B", "seeds": [2, 3], "set": {"optim.sam.rho": 0}} | (other or {})
    contrasts = [{"arm": "A", "against": "B"}]
    noise = {"validation": ["fog"], "test": ["gaussian_noise", "shot_noise", "frost"]}
    stated = {"contrasts": contrasts} if report is None else report
    tree = {"name": "a", "phases": [first, second], "report": stated, "noise": noise}
    found = check_study(StudyConfig.model_validate(tree))
    return [f"{'.'.join(map(str, problem.path))}: {problem.text}" for problem in found]


@pytest.mark.parametrize(
    ("endpoints", "message"),
    [
        (
            ["clean", "group:blur"],
            "report.endpoints.1: must be measured by a corruption of the test, which has noise",
        ),
        (["outside:noise+weather"], "but outside:noise+weather has none there"),
        (["clean", "noise", "clean"], "report.endpoints.2: stands twice: clean"),
    ],
)
def test_an_endpoint_that_nothing_measures_is_refused(endpoints: list[str], message: str) -> None:
    (found,) = problems(report={"contrasts": [{"arm": "A", "against": "B"}], "endpoints": endpoints})
    assert message in found


def test_endpoints_judge_stated_contrasts_only() -> None:
    assert problems(report={"endpoints": ["clean"]}) == [
        "report.endpoints: has no effect without report.contrasts; state some or take it out"
    ]
    assert problems() == []


def test_no_seed_of_the_same_settings_is_trained_as_two() -> None:
    (found,) = problems(other={"set": {}})
    assert found == "phases.1: has the settings of A, and seeds [2] too; give it other seeds or settings"
    assert problems(other={"set": {}, "seeds": [3]}) == []


def test_early_stopping_by_epochs_is_refused_with_a_searched_budget_too() -> None:
    search = {"scheduler": {"name": "asha"}, "space": {"train.budget.passes": {"choice": [500, 900]}}}
    found = check_study(StudyConfig.model_validate({"name": "a", "search": search}))
    assert [".".join(map(str, problem.path)) for problem in found] == ["search.scheduler"]


def test_a_single_trial_of_a_study_with_contrasts_can_be_resumed(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(TWO)
    alone = phases.single_trial(load_study(path, ()), named=False)
    again = load_study_text(alone.config.model_dump(mode="json"), text=alone.text).config
    assert again == alone.config
    assert [phase.name for phase in again.phases] == ["train"]
