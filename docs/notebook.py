"""The notebooks as pages of the site: MkDocs runs each when it builds; a page shows its cells with what they gave."""

import base64
import os
import re
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_TIMEOUT_S = 300
_STYLE = re.compile(r"<style.*?</style>\s*", re.DOTALL)


def on_files(files: Any, *, config: Any) -> Any:
    """MkDocs' hook: a page, and its pictures, for each notebook; the notebook itself stays to be fetched."""
    from mkdocs.structure.files import File

    for place in sorted(Path(config.docs_dir).glob("*.ipynb")):
        text, pictures = as_page(executed(place), place.stem)
        for name, content in {f"{place.stem}.md": text, **pictures}.items():
            files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """MkDocs' hook: another page's link to a notebook is one to its page."""
    own = page.file.src_uri.removesuffix(".md")
    return re.sub(rf"\]\((?!{re.escape(own)}\.)(\S+)\.ipynb\)", r"](\1.md)", markdown)


def executed(place: Path, folder: Path | None = None) -> Any:
    """The notebook with what its cells gave, on the records of a made study.

    Args:
        folder: Where it runs and leaves its files; left out, one that is removed.

    Raises:
        CellExecutionError: A cell failed.
    """
    import nbformat
    from nbclient import NotebookClient

    from tests.unit.analysis.conftest import write_study

    if folder is None:
        with tempfile.TemporaryDirectory(prefix="murk-") as own:
            return executed(place, Path(own))
    write_study(folder / "results", name="quickstart")
    notebook = nbformat.read(place, as_version=4)
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        notebook, timeout=_TIMEOUT_S, startup_timeout=_TIMEOUT_S, kernel_name="python3", resources=resources
    )
    return client.execute(env={**os.environ, "PYTHONPATH": paths})


def as_page(notebook: Any, stem: str) -> tuple[str, dict[str, bytes]]:
    """Markdown of an executed notebook, and the pictures it shows by their names.

    Args:
        stem: Of the notebook's name, which those of its pictures begin with.
    """
    title, *cells = notebook.cells
    told = (
        f"The cells were run when this page was built, on the records of a small made study: nothing in them was "
        f"trained. [The notebook]({stem}.ipynb) is for your own studies."
    )
    parts, pictures = [title.source, told], {}
    for cell in cells:
        parts.append(cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```")
        for output in cell.get("outputs", []):
            parts.append(_shown(output, f"{stem}-{len(pictures) + 1}.png", pictures))
    return "\n\n".join(parts) + "\n", pictures


def _shown(output: Any, name: str, pictures: dict[str, bytes]) -> str:
    """One output in Markdown: a picture before a table, a table before text."""
    data = output.get("data", {})
    if "image/png" in data:
        pictures[name] = base64.b64decode(data["image/png"])
        return f"![What the cell above draws]({name})"
    if "text/html" in data:
        return _STYLE.sub("", data["text/html"]).replace(' border="1" class="dataframe"', "")
    return f"```text\n{(output.get('text') or data.get('text/plain', '')).rstrip()}\n```"
