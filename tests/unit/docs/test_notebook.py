"""The notebook of the documentation runs from its first cell to its last, on the records of a finished study."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.unit.analysis.conftest import write_study

ROOT = Path(__file__).parents[3]
PLACE = ROOT / "docs" / "from-study-to-paper.ipynb"


@pytest.mark.slow
def test_from_a_study_to_a_table_and_a_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_study(tmp_path / "results", name="quickstart")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(PLACE, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "figures of some study would grow stale there"
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    table = (tmp_path / "decision.tex").read_text()
    assert table.startswith(r"\begin{tabular}")
    assert "gaussian\\_noise" in table
    assert (tmp_path / "severity.pdf").read_bytes().startswith(b"%PDF")
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in shown)
