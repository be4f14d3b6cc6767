"""Write the message of every broken study file beside it: python tests/golden/renew_broken_studies.py.

Read each one that changes as a newcomer would: place, value and way out must all be there.
"""

import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "broken_studies"


def message(path: Path) -> str:
    """What is said to a study file, its own name written as FILE."""
    from study.studyfile import StudyFileError, load_study

    try:
        load_study(path)
    except StudyFileError as error:
        return f"{error}\n".replace(str(path), "FILE")
    raise AssertionError(f"{path.name} must be refused, but is taken")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    for study in sorted(FOLDER.glob("*.yaml")):
        study.with_suffix(".txt").write_text(message(study), encoding="utf-8")
