"""Every command, study file and Python snippet of README and docs is read, and run where that is cheap."""

import importlib
import json
import os
import re
import shlex
import shutil
import textwrap
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.nn.functional as F
import yaml
from PIL import Image
from typer.testing import CliRunner

from study.cli import PRESETS, app
from study.studyfile import load_study
from tests.unit.docs import shells
from tests.unit.docs.blocks import LANGUAGES, PAGES, ROOT, SHELL, Block, blocks, commands_in_lines
from tests.unit.docs.studies import write_studies
from tests.unit.noise.pictures import scenes

HEAD = """name: example
data: {source: synthetic-vehicles, num_classes: 3, train_per_class: 10, test_per_class: 4, image_size: 64}
"""
"""Stands before a part of a study file."""

NOT_RUN = {
    "murk run": "trains; tests/e2e/test_getting_started.py, test_readme.py and others do",
    "murk check": "times training steps; tests/unit/study/test_plan.py does, here the study file is loaded",
    "murk submit": "needs a cluster; tests/e2e/test_submit.py",
    "murk jobs": "as murk submit",
    "murk optuna": "needs a search; tests/unit/study/test_warmstart.py, tests/integration/test_optuna_postgres.py",
    "murk pull": "needs a study's records; tests/unit/study/test_pull.py",
    "murk evaluate": "needs a trained model; tests/e2e/test_getting_started.py",
    "murk export": "needs a trained model; tests/e2e/test_getting_started.py",
    "murk data duplicates PATH": "needs Stanford Cars; tests/unit/study/data",
}
"""Commands that are parsed but not run here, and why."""

NOT_EXECUTED = {
    ("docs/tracking.md", "import mlflow, pandas as pd"): "needs a server with a model; tests/integration/tracking",
    ("docs/tracking.md", "from study.registry import load_registered"): "the same",
    ("docs/getting-started.md", "from analysis.load import load"): "needs its study; tests/e2e/test_getting_started.py",
}
"""Python that is compiled but not run here, by page and first line, and why."""


def _blocks_of(page: str) -> list[Block]:
    return list(blocks(page))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders that pages speak of: class folders of images, noisy images of one camera, and studies in `results`."""
    root = tmp_path_factory.mktemp("pictures")
    write_studies(root)
    images = (F.avg_pool2d(scenes(12, 256, 256), 2) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    noise = np.random.default_rng(0).normal(0, 6, images.shape)
    for index, image in enumerate(images):
        for folder in (f"images/{'ab'[index % 2]}", f"night/{'ab'[index % 2]}"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / folder / f"{index}.png")
        (root / "camera").mkdir(exist_ok=True)
        noisy = (image + noise[index]).clip(0, 255).round().astype("uint8")
        Image.fromarray(noisy).save(root / "camera" / f"{index}.png")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_page_does_what_it_says(
    page: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(pictures, tmp_path, dirs_exist_ok=True)
    (tmp_path / "docs").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    above, printed = Block(page, 0, "", ""), None
    for block in _blocks_of(page):
        assert block.language in LANGUAGES, f"{block.place}: {block.language!r} is no language that is tested"
        if block.language == "yaml":
            _load(block, tmp_path)
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "python":
            capsys.readouterr()
            _execute(block, space, monkeypatch)
        elif block.language == "text" and above.language == "python" and block.is_below(above):
            assert _plain(capsys.readouterr().out) == _plain(block.text), f"{block.place}: this is not what is printed"
        elif block.language in SHELL:
            answers = [_shell(block, words) for words in shells.statements(block.text)]
            printed = None if None in answers else "\n".join(map(str, answers))
        elif block.language == "text" and above.language in SHELL and block.is_below(above) and printed is not None:
            lines = {line.strip() for line in printed.splitlines()}
            missing = [line for line in block.text.splitlines() if line.strip() not in lines]
            assert missing == [], f"{block.place}: this is not printed"
        else:
            assert not re.search(r"^(\$ |murk [a-z]|import |from \w+ import )", block.text, re.MULTILINE), block.place
        above = block


def test_what_an_example_does_not_print_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "work").mkdir()
    for language, code in (("python", "print(' 1  2')"), ("bash", "murk presets")):
        for said, is_right in (("1  2" if language == "python" else "Run one:   murk run NAME [--set KEY=VALUE]", True),
                               ("1  3", False)):  # fmt: skip
            shown = [Block("page", 1, language, code), Block("page", 4, "text", said)]
            monkeypatch.setattr(f"{__name__}._blocks_of", lambda page, shown=shown: shown)
            with nullcontext() if is_right else pytest.raises(AssertionError, match=r"page:4: this is not"):
                test_a_page_does_what_it_says("page", tmp_path / "pictures", tmp_path / "work", monkeypatch, capsys)


def _plain(text: str) -> list[str]:
    """Lines without what indents them all, and without spaces at their ends."""
    return [line.rstrip() for line in textwrap.dedent(text).strip("\n").splitlines()]


def _load(block: Block, root: Path) -> None:
    """A study file, or a part of one, is read as `murk check` reads it."""
    tree = yaml.safe_load(block.text)
    text = block.text if isinstance(tree, dict) else "phases:\n" + block.text
    is_whole = isinstance(tree, dict) and "name" in tree
    head = "" if is_whole else HEAD.split("\n", 1)[0] + "\n" if isinstance(tree, dict) and "data" in tree else HEAD
    path = root / (f"{tree['name']}.yaml" if is_whole else "example.yaml")
    path.write_text(head + text)
    assert load_study(path).config.phases, block.place


def _execute(block: Block, space: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run it in the page's own space; a line for a dict of Murk's is put into that dict until the test ends."""
    first = block.text.split("\n", 1)[0]
    if (block.page, first) in NOT_EXECUTED:
        compile(block.text, block.place, "exec")
        return
    if match := re.fullmatch(r"# (\S+)\.py, in (\w+)", first):
        module = importlib.import_module(match[1].replace("/", "."))
        for name, value in eval("{" + block.text + "}", {**vars(module), **space}).items():
            monkeypatch.setitem(getattr(module, match[2]), name, value)
        return
    exec(compile(block.text, block.place, "exec"), space)


def _shell(block: Block, words: list[str]) -> str | None:
    """Parse it; load the study that it names; run it where it is one of the cheap ones, and give what it prints.

    None where it was not run.
    """
    try:
        shells.parse(words)
    except (Exception, SystemExit) as error:
        raise AssertionError(f"{block.place}: {shlex.join(words)}: {error}") from error
    own = shells.murk_words(words)
    if own is None:
        return None
    if own[0] in {"run", "check", "submit", "train"} and "..." not in own[1]:
        _load_named(block, own)
    if any(shlex.join(["murk", *own]).startswith(start) for start in NOT_RUN):
        return None
    answer = CliRunner().invoke(app, own)
    assert answer.exit_code == 0, f"{block.place}: {shlex.join(words)}: {answer.output}"
    if own[0] == "presets" and len(own) == 2:
        Path("mine.yaml").write_text(answer.output)
    if own[-2:-1] == ["--out"] and (ROOT / own[-1]).is_file():
        _compare(Path(own[-1]), ROOT / own[-1])
    return answer.output


def _compare(made: Path, kept: Path) -> None:
    """A picture of docs is what its command draws, but for rounding on another machine."""
    levels = [np.asarray(Image.open(path).convert("RGB"), dtype=float) for path in (made, kept)]
    assert levels[0].shape == levels[1].shape
    assert np.abs(levels[0] - levels[1]).mean() < 0.5, f"{kept} is not what its command draws; draw it anew"


def _load_named(block: Block, words: list[str]) -> None:
    """The study that a command names exists and takes its --set and --name."""
    study = next(
        (path for path in (Path(words[1]), ROOT / words[1], PRESETS / f"{words[1]}.yaml") if path.is_file()), None
    )
    if study is None:
        assert re.fullmatch(r"[A-Z]+(\.yaml)?", words[1]), f"{block.place}: there is no study {words[1]!r}"
        return
    values = [(word, words[at + 1]) for at, word in enumerate(words[:-1]) if word in {"--set", "--name"}]
    sets = [value for word, value in values if word == "--set" and value != "..."]
    load_study(study, sets, next((value for word, value in values if word == "--name"), None))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_commands_in_sentences_exist(page: str) -> None:
    for text in commands_in_lines(page):
        if not text.startswith("murk "):
            for words in shells.statements(text):
                shells.parse(words)
            continue
        words = re.sub(r"[\[\]|]", " ", text).split()[1:]
        options = shells.known_options([word for word in words if not word.startswith("-")])
        used = {word.rstrip(",") for word in words if word.startswith("--")}
        assert used <= {*options, "--help"}, f"{page}: `{text}`"


def test_a_misspelt_key_is_answered_as_the_first_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    texts = [block.text for block in blocks("docs/getting-started.md")]
    study = next(text for text in texts if text.startswith("name: first"))
    Path("first.yaml").write_text(study.replace("epochs", "epoch"))
    answer = CliRunner().invoke(app, ["check", "first.yaml"])
    assert answer.output.strip() == next(text for text in texts if text.startswith("murk: ")).strip()


@pytest.mark.slow
def test_what_is_not_run_is_there() -> None:
    shell = [shlex.join(words) for page in PAGES for block in blocks(page) if block.language in SHELL
             for words in shells.statements(block.text)]  # fmt: skip
    shell = [line.replace("python -m murk", "murk") for line in shell]
    idle = [start for start in NOT_RUN if not any(start in line for line in shell)]
    firsts = {(page, block.text.split("\n", 1)[0]) for page in PAGES for block in blocks(page)}
    assert (idle, set(NOT_EXECUTED) - firsts) == ([], set())
    assert os.sep == "/" or not shell


def test_the_gallery_shows_every_corruption() -> None:
    from noise.families import catalogue

    text = (ROOT / "docs" / "noise-gallery.md").read_text().replace("\\\n  ", "")
    made = re.findall(r"--families (\S+) --severities 1,3,5 --size 96 --out (\S+)", text)
    shown = {row.name for families, _ in made for row in catalogue(families.split(","))}
    assert shown == {row.name for row in catalogue(())}
    assert all((ROOT / place).is_file() and f"]({Path(place).name})" in text for _, place in made)


def test_the_methods_page_names_every_method() -> None:
    from models.methods.registry import METHODS

    text = (ROOT / "docs" / "methods.md").read_text()
    assert all(f"| `{name}` |" in text and f"\n## {name}" in text for name in METHODS)


def test_the_page_of_the_update_step_has_every_setting_of_sam_with_its_default() -> None:
    """In its table `optim.sam.adaptive`, `eta` | false, 0.01 are two settings and their defaults."""
    from study.config_train import SamConfig

    text = (ROOT / "docs" / "sam.md").read_text()
    shown: dict[str, str] = {}
    for names, defaults in re.findall(r"^\| (`optim\.sam\.[^|]+) \| ([^|]+) \|", text, re.MULTILINE):
        settings = [name.strip("` ").removeprefix("optim.sam.") for name in names.split(",")]
        shown |= dict(zip(settings, defaults.split(", "), strict=True))
    fields = SamConfig.model_fields
    assert shown == {name: str(field.default).replace("False", "false") for name, field in fields.items()}
    assert "docs/sam.md" in str(SamConfig.__doc__)
    assert "(sam.md)" in (ROOT / "docs" / "methods.md").read_text()


def test_the_page_of_studies_names_them_all() -> None:
    text = (ROOT / "docs" / "studies.md").read_text()
    assert all(f"(studies/{path.name})" in text for path in (ROOT / "docs" / "studies").glob("*.yaml"))
