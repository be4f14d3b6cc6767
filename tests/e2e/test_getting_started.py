"""docs/getting-started.md from its first study to the exported model, each command as it stands there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.studies import ROOT, environment, murk
from tests.unit.docs import shells
from tests.unit.docs.blocks import blocks

PAGE = "docs/getting-started.md"


@pytest.mark.e2e
@pytest.mark.timeout(1500)
def test_the_page_runs(tmp_path: Path) -> None:
    ran: list[str] = []
    for block in blocks(PAGE):
        if block.language == "yaml" and (name := re.match(r"name: (\w+)", block.text)):
            (tmp_path / f"{name[1]}.yaml").write_text(block.text)
        elif block.language == "python":
            _python(block.text, tmp_path)
        elif block.language == "bash":
            for line in block.text.splitlines():
                ran += [words[0] for words in map(shells.murk_words, shells.statements(line)) if words]
                _run(line, tmp_path)
    assert {"check", "run", "evaluate", "export"} <= set(ran)
    assert (tmp_path / "results" / "first" / "report.html").is_file()
    assert list((tmp_path / "model").iterdir())


def _run(line: str, root: Path) -> None:
    for words in shells.statements(line):
        own = shells.murk_words(words)
        if own is None:
            continue  # make, mlflow and the shell's own
        done = murk(*[word.replace("KEY", _key(root)) for word in own], cwd=root)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
        if own[0] == "presets" and "> " in line:
            (root / line.split("> ")[1].strip()).write_text(done.stdout)


def _key(root: Path) -> str:
    trials = sorted((root / "results" / "first" / "trials").glob("*")) if (root / "results").is_dir() else []
    return trials[0].name if trials else "KEY"


def _python(text: str, root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", text], cwd=root, env=environment(PYTHONPATH=str(ROOT)),
                          capture_output=True, text=True, timeout=200, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "noisy" in done.stdout
