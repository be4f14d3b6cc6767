"""What the README says can be done: its own method and its own corruption, its study file, its tree."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from study.studyfile import load_study
from tests.e2e.studies import ROOT, SMALL, environment, murk

README = (ROOT / "README.md").read_text()
ROOMS = ("noise", "models", "study", "analysis", "cluster")


def _code(first_line: str) -> str:
    """The body of the README's Python block that begins with this comment."""
    for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL):
        head, _, body = block.partition("\n")
        if head == f"# {first_line}":
            return body
    raise AssertionError(f"the README has no block {first_line!r}")


def _add(root: Path, place: str, opening: str, imported: str) -> None:
    """Put the README's dict line after the dict's opening line, and the import on top of the file's own."""
    name, _, table = place.partition(", in ")
    path = root / name
    text = path.read_text().replace(opening, f"{opening}\n{_code(f'{name}, in {table}').rstrip()}", 1)
    first = re.search(r"^(from|import) (?!__future__)", text, flags=re.MULTILINE)
    assert first is not None
    path.write_text(f"{text[: first.start()]}{imported}\n{text[first.start() :]}")


@pytest.mark.e2e
def test_a_method_and_a_corruption_are_one_file_and_one_dict_line_each(tmp_path: Path) -> None:
    root = tmp_path / "murk"
    for room in ROOMS:
        shutil.copytree(ROOT / room, root / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "murk.py", root)
    for name in ("models/methods/flooding.py", "noise/vignette.py"):
        (root / name).write_text(_code(name))
    _add(root, "models/methods/registry.py, in METHODS", "METHODS: dict[str, MethodSpec] = {",
         "from models.methods.flooding import Flooding, FloodingSettings")  # fmt: skip
    _add(root, "noise/families.py, in CORRUPTIONS", "CORRUPTIONS: dict[str, Corruption] = {",
         "from noise.vignette import vignette")  # fmt: skip
    (root / "small.yaml").write_text(SMALL)
    command = [
        sys.executable, "-m", "murk", "train", "small.yaml", "--name", "toy",
        "--set", "method={name: flooding, level: 0.3}", "--set", "noise.test=[vignette]", "--set", "train.epochs=2",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=root, env=environment(PYTHONPATH=str(root)), capture_output=True, text=True,
                          timeout=300, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "flooding" in done.stdout
    assert "vignette" in (root / "results" / "toy" / "report.html").read_text()
    refused = [*command, "--set", "method.level=-1"]
    answer = subprocess.run(refused, cwd=root, env=environment(PYTHONPATH=str(root)), capture_output=True, text=True,
                            timeout=300, check=False)  # fmt: skip
    assert answer.returncode == 2
    assert "method.level" in answer.stderr


@pytest.mark.e2e
def test_the_noise_examples_run(tmp_path: Path) -> None:
    section = README.split("## The noise")[1].split("\n## ")[0]
    block = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)[0]
    found: dict[str, Any] = {}
    exec(block, found)
    assert found["noisy_BCHW"].shape == found["images_BCHW"].shape
    (tmp_path / "night").mkdir()
    spelled = [" ".join(text.split()) for text in re.findall(r"`(noise: \{.*?\}\}?\}?)`", section, flags=re.DOTALL)]
    assert len(spelled) == 3
    for text in spelled:
        (tmp_path / "s.yaml").write_text("name: s\n" + text.replace("/data/night", str(tmp_path / "night")) + "\n")
        assert load_study(tmp_path / "s.yaml").config.noise is not None


@pytest.mark.e2e
def test_the_study_file_explained_is_valid(tmp_path: Path) -> None:
    text = README.split("## A study file")[1].split("\n\n- ")[0]
    path = tmp_path / "plates.yaml"
    path.write_text("\n".join(line[4:] for line in text.splitlines()))
    (tmp_path / "images").mkdir()
    config = load_study(path).config
    assert config.name == "plates"
    assert [phase.kind for phase in config.phases] == ["search", "confirm"]


@pytest.mark.e2e
def test_the_commands_of_the_readme_exist(tmp_path: Path) -> None:
    named = set(re.findall(r"`murk ([a-z]+)", README))
    listed = murk("--help", cwd=tmp_path)
    assert listed.returncode == 0
    assert named
    assert {name for name in named if name not in listed.stdout} == set()
