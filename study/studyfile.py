"""From a study file and `--set` to a checked study; every mistake is told with its file, line and key at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from study.config import StudyConfig
from study.config_method import teacher_kind
from study.credentials import credential_problems, has_credentials, scrub
from study.override import assign, path_of
from study.problems import Path as KeyPath
from study.problems import Problem, dotted, near, shown
from study.readable import readable
from study.spaceread import read_domains
from study.studycheck import check_study
from study.yamlfile import MAX_CHARACTERS, YamlError, read_yaml

FILE_KEYS = {
    "data.path": ("data", "path"),
    "model.pretrained": ("model", "pretrained"),
    "noise.real": ("noise", "real"),
    "method.teacher": ("method", "teacher"),
    "method.direct_teacher": ("method", "direct_teacher"),
    "task.pairs": ("task", "pairs"),
    "task.images": ("task", "images"),
}
"""Settings that are paths; relative ones count from the study file, in --set from the working directory. A teacher
may also be a phase or a trial of another study, which stay."""

PRESETS = Path(__file__).parent / "presets"


class StudyFileError(ValueError):
    """All that is wrong with a study file, one line for each: `FILE:LINE: key: rule, but got VALUE`.

    Credentials are masked, since a message is shown and logged.
    """

    def __init__(self, text: str) -> None:
        super().__init__(scrub(text))


@dataclass(frozen=True)
class LoadedStudy:
    """A study that was read and checked.

    Attributes:
        text: The file as it is.
        path: The file as it was named.
        sources: Dotted key -> where it was written, `FILE:LINE` or `--set KEY=VALUE`.
    """

    config: StudyConfig
    text: str
    path: str
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass
class _Origins:
    """Where each value of the merged tree was written."""

    file: str
    lines: dict[KeyPath, int]
    sets: dict[KeyPath, str] = field(default_factory=dict)
    unread: set[KeyPath] = field(default_factory=set)

    def place(self, path: KeyPath) -> str:
        """The place of a value; of a missing one the section it belongs in, or the --set that reaches below."""
        above = [path[:length] for length in range(len(path), -1, -1)]
        for prefix in above:
            if prefix in self.sets:
                return self.sets[prefix]
            if prefix == path and prefix in self.lines:
                return f"{self.file}:{self.lines[prefix]}"
        below = [text for other, text in self.sets.items() if other[: len(path)] == path and path]
        if below:
            return below[-1]
        return f"{self.file}:{next((self.lines[prefix] for prefix in above if prefix in self.lines), 1)}"

    def set(self, path: KeyPath, label: str) -> None:
        """From now on a key and what stands below it come from the command line."""
        self.lines = {other: line for other, line in self.lines.items() if other[: len(path)] != path}
        self.sets[path] = label

    def line(self, problem: Problem) -> str:
        key = f"{dotted(problem.path)}: " if problem.path and problem.path not in self.unread else ""
        return f"{self.place(problem.path)}: {key}{problem.text}"

    def error(self, problems: Iterable[Problem]) -> StudyFileError:
        """All problems, in the order of the file, each once."""
        texts = dict.fromkeys(self.line(problem) for problem in sorted(problems, key=self._order))
        return StudyFileError("\n".join(texts))

    def _order(self, problem: Problem) -> tuple[bool, int]:
        place = self.place(problem.path)
        number = place.rpartition(":")[2]
        in_file = place.startswith(f"{self.file}:") and number.isdecimal()
        return not in_file, int(number) if in_file else 0

    def by_key(self) -> dict[str, str]:
        return {dotted(path): self.place(path) for path in {**self.lines, **self.sets} if path}


def load_study(path: str | Path, sets: Sequence[str] = (), name: str | None = None) -> LoadedStudy:
    """Read a study file, override keys, and check all of it: settings, search spaces and phases.

    Args:
        path: The file. Relative paths inside of it count from its folder.
        sets: `KEY=VALUE`, the value in YAML; relative paths count from the working directory.
        name: In place of the file's name.

    Raises:
        StudyFileError: With a line for each mistake; a ValueError.
    """
    file = str(path)
    text = _text(Path(path), file)
    data, lines = _yaml(text, file)
    origins = _Origins(file, lines)
    if not isinstance(data, dict):
        got = "it is empty" if data is None else f"got {'a list' if isinstance(data, list) else shown(data)}"
        text = f"a study file must map sections to settings, such as 'name: first', but {got}"
        raise origins.error([Problem((), text)])
    data = _absolute(data, Path(path).expanduser().resolve().parent)
    problems = [problem for item in sets for problem in _set(data, item, origins)]
    if name is not None:
        data["name"] = name
        origins.set(("name",), f"--name {name}")
    return _checked(data, problems, origins, text=text)


def load_study_text(config: Mapping[str, Any], *, text: str = "", path: str = "study.json") -> LoadedStudy:
    """The study that `study.json` records, checked again.

    Args:
        config: A whole config, as `StudyConfig.model_dump(mode="json")` gives it.
        text: The study file it came from.

    Raises:
        StudyFileError: The record is not of this version of Murk.
    """
    return _checked(dict(config), [], _Origins(path, {}), text=text)


def _checked(data: dict[str, Any], problems: list[Problem], origins: _Origins, *, text: str) -> LoadedStudy:
    if secrets := list(credential_problems(data)):
        raise origins.error(secrets)  # alone: what else is wrong could show them
    try:
        config = StudyConfig.model_validate(data)
    except ValidationError as error:
        raise origins.error([*problems, *readable(error, data), *_space_alone(data)]) from None
    problems = [*problems, *check_study(config)]
    if problems:
        raise origins.error(problems)
    return LoadedStudy(config, text, origins.file, origins.by_key())


def _space_alone(data: dict[str, Any]) -> list[Problem]:
    """What is wrong within the search space, where the rest cannot be read and so not be compared with."""
    search = data.get("search")
    space = search.get("space") if isinstance(search, dict) else None
    if not isinstance(space, dict):
        return []
    entries = {key: entry for key, entry in space.items() if isinstance(entry, dict)}
    return [problem._replace(path=("search", "space", *problem.path)) for problem in read_domains(entries)[1]]


def _text(path: Path, file: str) -> str:
    path = path.expanduser()
    if path.is_dir():
        raise StudyFileError(f"{file}: must be a study file, but is a folder{_files_near(path / '?')}")
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_CHARACTERS * 4 + 1)
    except FileNotFoundError:
        raise StudyFileError(f"{file}: must be a study file, but there is no such file{_files_near(path)}") from None
    except OSError as error:
        raise StudyFileError(f"{file}: must be a study file, but cannot be read ({error.strerror})") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        text = "must be text in UTF-8, but holds other bytes; is it a study file?"
        raise StudyFileError(f"{file}:{line}: {text}") from None


def _files_near(path: Path) -> str:
    folder = path.parent
    files = sorted(item.name for item in folder.glob("*.y*ml")) if folder.is_dir() else []
    found = (near(path.name, files) or files)[:3]
    presets = ", ".join(sorted(item.stem for item in PRESETS.glob("*.yaml")))
    return f"{f'; near: {chr(44).join(found)}' if found else ''}; study files that come with Murk: {presets}"


def _yaml(text: str, file: str) -> tuple[Any, dict[KeyPath, int]]:
    try:
        return read_yaml(text)
    except YamlError as error:
        place = f"{file}:{error.line}" if error.line else file
        key = f"{dotted(error.path)}: " if error.path else ""
        raise StudyFileError(f"{place}: {key}{error}") from None


def _set(data: dict[str, Any], item: str, origins: _Origins) -> list[Problem]:
    """Override one key in place."""
    key, equals, value_text = (part.strip() for part in item.partition("="))
    shown = f"{key}=***" if has_credentials(value_text) else item
    label = f"--set {shown if len(shown) <= 60 else shown[:56] + ' ...'}"
    if not equals or not all(key.split(".")):
        path = ("--set", item)
        origins.sets[path] = label
        origins.unread.add(path)
        return [Problem(path, "must be KEY=VALUE with a dotted key, such as optim.sam.rho=0.1")]
    path = path_of(key)
    try:
        value, _ = read_yaml(value_text)
    except YamlError as error:
        origins.sets[path] = label
        return [Problem(path, str(error))]
    tree = _absolute(_nested(path, value), Path.cwd())
    for part in path:
        tree = tree[part]
    try:
        path = assign(data, path, tree)
    except KeyError as error:
        origins.sets[path] = label
        return [Problem(path, str(error.args[0]))]
    origins.set(path, label)
    return []


def relative_paths(text: str, sets: Sequence[str] = ()) -> list[str]:
    """Dotted keys whose paths are relative in a valid study file or its --set, without those that a --set replaces."""
    found = _relative_keys(read_yaml(text)[0])
    for item in sets:
        key, _, value = (part.strip() for part in item.partition("="))
        found = [old for old in found if old != key and not old.startswith(f"{key}.")]
        found += _relative_keys(_nested(path_of(key), read_yaml(value)[0]))
    return sorted(set(found))


def _relative_keys(tree: Any) -> list[str]:
    """A relative path is one that moves with the folder it counts from."""
    one, other = (dict(_leaves(_absolute(tree, folder))) for folder in (Path("/one"), Path("/other")))
    return [key for key, value in one.items() if other[key] != value]


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of all values that hold no others."""
    if not isinstance(tree, dict | list):
        yield prefix, tree
        return
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))


def _nested(path: KeyPath, value: Any) -> Any:
    for part in reversed(path):
        value = {part: value}
    return value


def _absolute(tree: Any, folder: Path) -> Any:
    """A copy of a tree in which the settings of FILE_KEYS are absolute, in spaces and phases as well."""
    if isinstance(tree, list):
        return [_absolute(item, folder) for item in tree]
    if not isinstance(tree, dict):
        return tree
    copy = {
        key: _from(value, folder, key) if key in FILE_KEYS else _absolute(value, folder) for key, value in tree.items()
    }
    for key, (section, name) in FILE_KEYS.items():
        if isinstance(copy.get(section), dict) and name in copy[section]:
            copy[section][name] = _from(copy[section][name], folder, key)
    return copy


def _from(value: Any, folder: Path, setting: str) -> Any:
    """A path, or a domain or list of paths, counted from a folder; URLs, absolute paths and what is no path stay."""
    if isinstance(value, list):
        return [_from(item, folder, setting) for item in value]
    if isinstance(value, dict):
        return {
            key: _absolute(item, folder) if key == "when" else _from(item, folder, setting)
            for key, item in value.items()
        }
    if not isinstance(value, str) or not value or "://" in value:
        return value
    if setting.endswith("teacher") and teacher_kind(value) != "place":
        return value
    path = Path(value).expanduser()
    return str(path if path.is_absolute() else (folder / path).resolve())
