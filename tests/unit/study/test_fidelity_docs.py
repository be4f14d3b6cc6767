"""The study files that docs/search-fidelity.md shows are valid, and so is the one that it measured."""

import re
from pathlib import Path

import pytest

from study.studyfile import load_study

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "search-fidelity.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("text", BLOCKS, ids=[block.splitlines()[0] for block in BLOCKS])
def test_a_shown_study_file_is_valid(text: str, tmp_path: Path) -> None:
    path = tmp_path / "shown.yaml"
    path.write_text(text)
    assert load_study(path).config.name == text.splitlines()[0].removeprefix("name: ")


def test_the_study_to_be_measured_is_valid() -> None:
    config = load_study(ROOT / "docs" / "studies" / "search-fidelity.yaml").config
    assert config.search.fidelity is not None
    assert len(BLOCKS) == 3
