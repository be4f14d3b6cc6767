"""Command lines read by the programs' own parsers, without running them."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import typer.main

from cluster.cli import mount
from study.cli import app
from tests.unit.docs.blocks import ROOT

OTHERS = {
    "kubectl": "a cluster's own program; the manifests that are named are tested in tests/unit/cluster",
    "docker": "as kubectl",
    "sbatch": "Slurm's; cluster/slurm.sh is tested in tests/unit/cluster/test_slurm.py",
    "optuna-dashboard": "a package of its own, which Murk does not need",
    ".": "the shell's own",
}
"""Programs that are not here to parse their options, and why that is well."""


def statements(text: str) -> Iterator[list[str]]:
    """Each command's words, without comments, assignments, redirections and what is behind a pipe's bar apart."""
    joined = re.sub(r"\$\([^)]*\)", "X", text.replace("\\\n", " "))
    for line in joined.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("&|;"):
                if found := _without_extras(words):
                    yield found
                words = []
            else:
                words.append(word)


def _without_extras(words: list[str]) -> list[str]:
    end = next((at for at, word in enumerate(words) if set(word) <= set("<>") and word), len(words))
    start = next((at for at, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)), len(words))
    return [] if words[:1] == ["export"] else words[start:end]


def murk_words(words: list[str]) -> list[str] | None:
    """What follows `murk` or `python -m murk`; None for another program."""
    if words[0] == "murk":
        return words[1:]
    return words[3:] if words[:3] == ["python", "-m", "murk"] else None


def parse(words: list[str]) -> None:
    """Raise where a program would refuse these words."""
    program, rest = words[0], words[1:]
    if (own := murk_words(words)) is not None:
        _parse_group(murk_commands(), own)
    elif program == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert set(rest) <= targets, f"make has no {rest}"
    elif program == "python":
        _parse_python(rest)
    elif program in {"ray", "mlflow"}:
        _parse_group(_foreign(program), rest)
    else:
        assert program in OTHERS, f"say in tests/unit/docs how {program!r} is to be tested"


def _parse_python(words: list[str]) -> None:
    """The script or module is there, and so are the repository's files that it is given."""
    if words[0] == "-m":
        is_ours = (ROOT / Path(*words[1].split("."))).with_suffix(".py").is_file()
        assert is_ours or importlib.util.find_spec(words[1]), f"there is no module {words[1]}"
    given = [word for word in words if re.fullmatch(r"[\w/.-]+/[\w.-]+\.(py|yaml)", word) or word == words[0] != "-m"]
    missing = [word for word in given if not (ROOT / word).is_file()]
    assert missing == [], f"there is no {missing}"


def murk_commands() -> Any:
    """The command line's own tree."""
    if not any(info.callback and info.callback.__name__ == "submit" for info in app.registered_commands):
        mount(app)
    return typer.main.get_command(app)


@cache
def _foreign(program: str) -> Any:
    if program == "ray":
        from ray.scripts.scripts import cli

        return cli
    from mlflow.cli import cli as mlflow

    return mlflow


def _parse_group(group: Any, words: list[str]) -> None:
    if words == ["--help"]:
        return
    command = group
    while hasattr(command, "commands"):
        inner = command.get_command(None, words[0]) if words else None  # MLflow's own knows aliases too
        assert inner is not None, f"there is no command {words[:1]}"
        command, words = inner, words[1:]
    entry = words[words.index("--") + 1 :] if "--" in words else []
    command.make_context(command.name, list(words))  # parses all, runs nothing
    if entry:
        parse(entry)


def known_options(words: list[str]) -> set[str]:
    """The options of a command of Murk's, of words that may hold placeholders."""
    command = murk_commands()
    for word in words:
        if not hasattr(command, "commands"):
            break
        assert word in command.commands, f"murk has no command {word!r}"
        command = command.commands[word]
    return {option for parameter in command.params for option in parameter.opts}
