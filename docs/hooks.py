"""What MkDocs makes when it builds pages: `<!-- generated: ... -->` from the code, ```formula blocks as HTML."""

import html
import re
from collections.abc import Callable, Iterator
from typing import Any

_PLACE = re.compile(r"^<!-- generated: (.+) -->$", re.MULTILINE)


def on_config(config: Any) -> Any:
    """MkDocs' hook: how a block of the language `formula` is written."""
    fence = {"name": "formula", "class": "formula", "format": _formula}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]
    return config


def _formula(source: str, *_: Any, **__: Any) -> str:
    return f'<pre class="formula">{formula(source)}</pre>'


def formula(text: str) -> str:
    """A formula in plain text as HTML: what follows `_`, a word or something in braces, is set low."""
    return re.sub(r"_(?:\{([^}]*)\}|(\w+))", lambda found: f"<sub>{found[1] or found[2]}</sub>", html.escape(text))


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs' hook: a page's text, its places filled in."""
    return filled(markdown)


def filled(markdown: str) -> str:
    """The text with what is generated in its places.

    Raises:
        ValueError: A place names nothing that can be made.
    """
    return _PLACE.sub(lambda match: _made(match[1]), markdown)


def _made(name: str) -> str:
    if name not in GENERATED:
        raise ValueError(f"a page can ask for {', '.join(GENERATED)}, but got {name!r}")
    return GENERATED[name]()


def study_file() -> str:
    """Every key of a study file."""
    from study.reference import reference

    return reference()


def commands() -> str:
    """Every sub-command of `murk` with its arguments and options."""
    import typer.main

    from cluster.cli import mount
    from study.cli import app

    if not any(info.callback and info.callback.__name__ == "submit" for info in app.registered_commands):
        mount(app)
    return "\n\n".join(_of_group("murk", typer.main.get_command(app)))


def _of_group(name: str, group: Any) -> Iterator[str]:
    for word, command in group.commands.items():
        whole = f"{name} {word}"
        if hasattr(command, "commands"):
            yield from _of_group(whole, command)
        else:
            yield f"## `{whole}`\n\n{command.help}\n\n{_parameters(command)}".rstrip()


def _parameters(command: Any) -> str:
    rows = []
    for parameter in command.params:
        is_option = parameter.param_type_name == "option"
        shown = ", ".join(parameter.opts) if is_option else (parameter.metavar or parameter.name.upper())
        value = "" if not is_option or parameter.is_flag else (parameter.metavar or parameter.name.upper())
        default = "" if parameter.default in (None, False, ()) or parameter.required else f"`{parameter.default}`"
        many = " (may be repeated)" if parameter.multiple or parameter.nargs == -1 else ""
        cells = f"`{f'{shown} {value}'.strip()}`", "**required**" if parameter.required else default, parameter.help
        rows.append("| " + " | ".join((cell or "").replace("|", "\\|") for cell in cells) + f"{many} |")
    return "| argument | default | meaning |\n|---|---|---|\n" + "\n".join(rows) if rows else ""


GENERATED: dict[str, Callable[[], str]] = {"study-file": study_file, "commands": commands}
