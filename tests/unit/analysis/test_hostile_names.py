"""A report of records full of hostile names: markup stays text, and every file stays in the report's folder."""

import io
import json
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.report import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:constrained_layout not applied"),  # such names are long
]
MARK = "planted"
PAYLOADS = (
    f"<script>{MARK}()</script>", f'"><img src=x onerror={MARK}()>', f"'><svg/onload={MARK}()>",
    f"</script><script>{MARK}()//", f"</style></title></pre>--><iframe src=javascript:{MARK}()>",
    f"javascript:{MARK}()", f'";{MARK}();//', f"${{{MARK}()}}`{MARK}()`", "{{ 7 * 191 }}{% raw %}",
    f"\u202egnp.{MARK}\u2066\u200f", f"\x1b]0;{MARK}\x07\x08\x00", "&lt;b&gt;&#60;i&#62;", "$x^2$ \\frac{",
)  # fmt: skip
HOSTILE = " ".join(PAYLOADS)
STRUCTURE = {"key", "trials", "selected", "finalists", "kind", "status", "role", "goal", "metric", "event",
             "algorithm", "phase", "time", "fingerprint"}  # fmt: skip
"""Entries that records refer to each other by, or that Murk itself decides by."""
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def poisoned(tree: Any, name: str = "") -> Any:
    """A record whose every text, and whose names of things, end in all payloads."""
    if isinstance(tree, dict):
        inner = {key: poisoned(item, key) for key, item in tree.items()}
        more = {HOSTILE: HOSTILE} if name in {"params", "versions", "groups", "method", "optim", "noise"} else {}
        return inner | more
    if isinstance(tree, list) and name not in STRUCTURE:
        return [poisoned(item, name) for item in tree]
    return f"{tree}{HOSTILE}" if isinstance(tree, str) and name not in STRUCTURE else tree


def poison(folder: Path) -> None:
    """Change the records of a study as somebody could who sends it."""
    place = folder / "study.json"
    study = poisoned(json.loads(place.read_text()))
    study["real"] = {HOSTILE: {"fingerprint": HOSTILE, "num_images": 3, "num_known": 1, "num_skipped": 1}}
    study["baseline"] = {"method.name": f"plain{HOSTILE}"}
    study["config"]["report"]["baseline"] = study["baseline"]
    place.write_text(json.dumps(study))
    for trial in folder.glob("trials/*"):
        record = json.loads((trial / "trial.json").read_text())
        for name in ("config", "params", "created"):
            record[name] = poisoned(record[name], name)
        (trial / "trial.json").write_text(json.dumps(record))
        lines = (trial / "events.jsonl").read_text().splitlines()
        (trial / "events.jsonl").write_text("".join(json.dumps(poisoned(json.loads(line))) + "\n" for line in lines))
        for table in trial.glob("*.parquet"):
            rows = pd.read_parquet(table)
            for column in {"corruption", "group", "table", "family"} & set(rows):
                own = ~rows[column].isin(["clean", ""])
                rows[column] = rows[column].where(~own, rows[column] + HOSTILE.replace("\x00", ""))
            rows.to_parquet(table, index=False)
        if (trial / "examples.npz").exists():
            with np.load(trial / "examples.npz") as packed:
                arrays = dict(packed)
            arrays["class_names"] = np.array([f"{name}{HOSTILE}" for name in arrays["class_names"]])
            arrays["corruption"] = np.array([f"{name}{HOSTILE}" for name in arrays["corruption"]])
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **arrays)
            (trial / "examples.npz").write_bytes(buffer.getvalue())


class Structure(HTMLParser):
    """What a browser would build of a page: its tags with the names of their attributes, links, scripts and texts."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[tuple[str, ...]] = Counter()
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self._within = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag, *sorted(name for name, _ in attrs)] += 1
        self.links += [value or "" for name, value in attrs if name in {"href", "src", "action", "xlink:href"}]
        self.texts += [value for _, value in attrs if value and not value.startswith("data:")]
        self._within = tag

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        (self.scripts if self._within == "script" else self.texts).append(data)


def names(structure: Structure) -> set[str]:
    """Names of tags and attributes."""
    return {name for tag in structure.tags for name in tag}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Structure, Structure, str]:
    """The report of a study as it should be and of the same with hostile names, and the latter's text."""
    from tests.unit.analysis.conftest import write_study

    plain = write_study(tmp_path_factory.mktemp("plain"), num_images=20)
    hostile = write_study(tmp_path_factory.mktemp("hostile"), num_images=20)
    poison(hostile)
    texts = [Path(write_report(folder).html).read_text(encoding="utf-8") for folder in (plain, hostile)]
    return Structure(texts[0]), Structure(texts[1]), texts[1]


def test_hostile_names_make_no_tag_and_no_attribute(pages: tuple[Structure, Structure, str]) -> None:
    plain, hostile, _ = pages
    assert names(hostile) - names(plain) == set()
    assert not [name for name in names(hostile) if name.startswith("on")]
    for tag in ("script", "iframe", "style", "img", "svg", "object", "link", "base", "form", "meta"):
        count = [sum(n for (name, *_), n in page.tags.items() if name == tag) for page in (plain, hostile)]
        assert count[0] == count[1], tag


def test_hostile_names_are_no_links_and_no_code(pages: tuple[Structure, Structure, str]) -> None:
    _, hostile, _ = pages
    assert not [link for link in hostile.links if MARK in link]
    for script in hostile.scripts:
        if MARK in script:  # data of charts: all of it stands in texts
            assert MARK not in re.sub(r'"(?:[^"\\]|\\.)*"', '""', script)


def test_hostile_names_are_shown_as_they_are(pages: tuple[Structure, Structure, str]) -> None:
    _, hostile, html = pages
    shown = "".join(hostile.texts)
    for payload in PAYLOADS[:9]:
        assert payload in shown, payload
    assert "1337" not in html, "a template was evaluated"


def test_no_character_turns_or_hides_what_is_read(pages: tuple[Structure, Structure, str]) -> None:
    assert _CONTROL.findall(pages[2]) == []
    assert "\\u202egnp." in pages[2]


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of a report's time."""
    monkeypatch.setattr("analysis.report.draw", lambda *_: [])


@pytest.mark.parametrize(
    "change",
    [
        lambda study, trial: study["phases"][0].update(name="../../../evil"),
        lambda study, trial: study.update(study="../../evil"),
        lambda study, trial: trial.update(phase="../../evil"),
        lambda study, trial: trial.update(phase="a/b"),
        lambda study, trial: trial.update(key="../../evil"),
        lambda study, trial: study["phases"][0].update(trials=["../../evil"]),
        lambda study, trial: study["phases"][0].update(name="/etc/evil"),
        lambda study, trial: study["phases"][0].update(name="evil\x00.png"),
    ],
)  # fmt: skip
def test_no_name_of_a_record_leaves_the_reports_folder(
    tmp_path: Path, write_ledger: Callable[..., Path], without_pictures: None, change: Callable[[dict, dict], None]
) -> None:
    folder = write_ledger(tmp_path / "a" / "b" / "storage", num_images=10)
    first = next(iter(sorted(folder.glob("trials/*/trial.json"))))
    study, trial = json.loads((folder / "study.json").read_text()), json.loads(first.read_text())
    change(study, trial)
    (folder / "study.json").write_text(json.dumps(study))
    first.write_text(json.dumps(trial))
    before = set(tmp_path.rglob("*"))
    out = tmp_path / "a" / "b" / "report"
    said = "a record must be as Murk wrote it or a report's files must lie in its folder"
    try:
        write_report(folder, out=out)
    except ValueError as error:
        said = str(error)
    assert re.search("a record must be as Murk wrote it|must lie in its folder", said)
    new = set(tmp_path.rglob("*")) - before
    assert not [path for path in new if path != out and not path.is_relative_to(out)]
