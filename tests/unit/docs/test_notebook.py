"""The notebook of the documentation runs from its first cell to its last, and becomes a page with what they gave."""

import base64
import importlib.util
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.unit.docs.blocks import ROOT

PLACE = ROOT / "docs" / "from-study-to-paper.ipynb"


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_notebook", ROOT / "docs" / "notebook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_from_a_study_to_a_table_and_a_figure(tmp_path: Path, hook: ModuleType) -> None:
    kept = nbformat.read(PLACE, as_version=4)
    assert not any(cell.get("outputs") for cell in kept.cells), "figures of some study would grow stale there"
    notebook = hook.executed(PLACE, tmp_path)
    table = (tmp_path / "decision.tex").read_text()
    assert table.startswith(r"\begin{tabular}{lrrr}")
    assert "gaussian\\_noise" in table
    assert max(len(line) for line in table.splitlines() if not line.startswith("%")) < 110
    assert (tmp_path / "differences.tex").read_text().startswith(r"\begin{tabular}{llrr}")
    assert (tmp_path / "severity.pdf").read_bytes().startswith(b"%PDF")
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in shown)


def test_outputs_become_markdown_and_pictures(hook: ModuleType) -> None:
    drawn = new_output("display_data", {"image/png": base64.b64encode(b"png").decode(), "text/plain": "<Image>"})
    frame = new_output("execute_result", {
        "text/html": '<div><style scoped>\n.a {}\n</style>\n<table border="1" class="dataframe"></table></div>',
        "text/plain": "a frame"})  # fmt: skip
    said = new_output("stream", name="stdout", text="0.61\n")
    cells = [new_markdown_cell("# Title"), new_code_cell("1 + 1", outputs=[said, frame]),
             new_markdown_cell("More."), new_code_cell("draw()", outputs=[drawn])]  # fmt: skip
    page, pictures = hook.as_page(new_notebook(cells=cells), "study")
    title, told, *rest = page.strip().split("\n\n")
    assert title == "# Title"
    assert "nothing in them was trained" in told
    assert rest == ["```python\n1 + 1\n```", "```text\n0.61\n```", "<div><table></table></div>", "More.",
                    "```python\ndraw()\n```", "![What the cell above draws](study-1.png)"]  # fmt: skip
    assert pictures == {"study-1.png": b"png"}
