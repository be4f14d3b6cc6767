"""The study that docs/search-fidelity.md measured is valid."""

from pathlib import Path

from study.studyfile import load_study

STUDY = Path(__file__).parents[3] / "docs" / "studies" / "search-fidelity.yaml"


def test_the_study_to_be_measured_is_valid() -> None:
    assert load_study(STUDY).config.search.fidelity is not None
