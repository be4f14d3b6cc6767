"""The documentation site builds without a warning, has every page, and loads nothing from elsewhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from tests.unit.docs.blocks import ROOT

pytestmark = pytest.mark.slow

LOADED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("video", "src"), ("audio", "src"),
          ("object", "data"), ("embed", "src"), ("img", "srcset"), ("link", "href"), ("use", "href"),
          ("image", "href")}  # fmt: skip
"""What a browser fetches by itself; a link's `a href` it does not."""


class Loads(HTMLParser):
    """The places that a page fetches from."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []
        self.classes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.places += [value or "" for name, value in attrs if (tag, name) in LOADED]
        self.classes |= {word for name, value in attrs if name == "class" for word in (value or "").split()}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(place)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return place


def _is_elsewhere(place: str) -> bool:
    return re.match(r"([a-z]+:)?//", place.strip(), re.IGNORECASE) is not None


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        places = [*loads.places, *_of_styles(page.read_text(encoding="utf-8"))]
        assert [place for place in places if _is_elsewhere(place)] == [], page.name
        # The theme's script would fetch mermaid from a public server where a page asks for it.
        assert "mermaid" not in loads.classes, page.name


def test_no_style_loads_anything_from_elsewhere(site: Path) -> None:
    styles = list(site.rglob("*.css"))
    assert styles
    for style in styles:
        assert [place for place in _of_styles(style.read_text(encoding="utf-8")) if _is_elsewhere(place)] == []


def _of_styles(text: str) -> list[str]:
    return re.findall(r"url\(\s*['\"]?([^'\")]+)", text) + re.findall(r"@import\s+['\"]([^'\"]+)", text)


def test_an_external_style_is_seen() -> None:
    loads = Loads()
    loads.feed('<link rel="stylesheet" href="https://example.org/a.css"><a href="https://example.org">far</a>')
    assert [place for place in loads.places if _is_elsewhere(place)] == ["https://example.org/a.css"]
    assert _of_styles("@import 'https://example.org/b.css'; a {background: url(//example.org/c.png)}") == [
        "//example.org/c.png", "https://example.org/b.css",
    ]  # fmt: skip


def test_every_page_is_in_the_navigation() -> None:
    docs = ROOT / "docs"
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    pages = {path.relative_to(docs).with_suffix(".md").as_posix() for path in docs.rglob("*")
             if path.suffix in {".md", ".ipynb"}}  # fmt: skip
    assert pages == set(_leaves(nav))


def _leaves(tree: object) -> list[str]:
    if isinstance(tree, str):
        return [tree]
    inner = tree.values() if isinstance(tree, dict) else tree
    return [leaf for item in inner for leaf in _leaves(item)]  # type: ignore[attr-defined]


def test_the_notebook_is_a_page_with_what_its_cells_gave(site: Path) -> None:
    page = (site / "from-study-to-paper.html").read_text(encoding="utf-8")
    text = re.sub(r"<[^>]+>", "", page)
    assert "What may be said" in text
    assert "pmal S=3 rho=0.1 (chosen) &amp; " in text  # of the LaTeX table, an output
    assert re.search(r"<table>\s*<thead>\s*<tr[^>]*>\s*<th>corruption</th>", page)
    assert "<style scoped" not in page
    assert re.findall(r'<img alt="[^"]+" src="([^"]+)"', page) == ["from-study-to-paper-1.png"]
    assert (site / "from-study-to-paper-1.png").read_bytes().startswith(b"\x89PNG")
    assert (site / "from-study-to-paper.ipynb").is_file()
    links = re.findall(r'href="(from-study[^"]+)"', (site / "analysis.html").read_text(encoding="utf-8"))
    assert set(links) == {"from-study-to-paper.html"}


def test_generated_parts_are_there(site: Path) -> None:
    keys = (site / "study-file.html").read_text(encoding="utf-8")
    assert 'id="optim-sam"' in keys
    assert "generated:" not in keys
    assert "murk noise preview" in (site / "commands.html").read_text(encoding="utf-8")
