"""From a layout to its table: lists of images, class folders, or MATLAB structs."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from study.data.image_folder import ImageFolderSource
from study.data.layouts import Folders, Layout, Lists, VehicleStructs
from study.data.listed import Entry, ListedSource, Table, classes_of, distinct
from study.data.matfile import read_variable, whole_numbers
from study.data.source import Box


def open_image_list(path: str, layout: Layout, *, name: str | None, crop: bool | None, refuse: bool) -> ListedSource:
    """The source of a set that lies as `layout` says.

    Args:
        path: The set's folder.
        name: The layout's name; None where it is the user's own.
        crop: Cut images to their boxes; None: where the layout always does.
        refuse: Whether a listed image that is not there is an error.

    Raises:
        ValueError: A file is not there or a line does not read as it should; says which, and the way out.
    """
    root = Path(path).expanduser().resolve()
    if not root.is_dir():
        raise ValueError(f"data.path must be a folder, but got {str(root)!r}, which is none")
    if isinstance(layout, VehicleStructs):
        return ListedSource(root, _read_structs(root, layout), refuse=refuse)
    if isinstance(layout, Folders):
        return ListedSource(root, _read_folders(root, layout, name), refuse=refuse)
    home = _home(root, layout, name)
    return ListedSource(home, _read_lists(home, layout, own=name is None, boxes=bool(crop)), refuse=refuse)


def _home(root: Path, layout: Lists, name: str | None) -> Path:
    """The folder that the layout's own paths count from."""
    files = list(layout.lists.values())
    for home in layout.homes:
        if (root / home / files[0]).is_file():
            return (root / home).resolve()
    if name is None:
        return root  # the list that lacks is named with its key
    places = " or ".join(repr(str(root / home / files[0])) for home in layout.homes)
    raise ValueError(f"data.path must be the folder of {name}, but there is no {places}; correct the path")


def _read_lists(home: Path, layout: Lists, *, own: bool, boxes: bool) -> Table:
    found: list[tuple[str, str, str, str]] = []
    for split, file in layout.lists.items():
        key = f"data.lists.{split}" if own else "data.path:"
        for number, line in _lines(home / file, key, skip=layout.skip_lines):
            said = f"{file} line {number}"
            found.append((*_read_line(line, layout, said, key), split, said))
    classes, labels = classes_of([label for _, label, _, _ in found])
    entries = [
        Entry((PurePosixPath(layout.images) / path).as_posix(), number, split, said, None)
        for number, (path, _, split, said) in zip(classes, found, strict=True)
    ]
    if boxes and layout.boxes is not None:
        folder = PurePosixPath(layout.boxes)
        entries = [
            entry._replace(box=_box(home / folder / PurePosixPath(path).with_suffix(".txt"), entry.said))
            for entry, (path, *_) in zip(entries, found, strict=True)
        ]
    return Table(entries, _class_names(home, layout, labels))


def _lines(path: Path, key: str, *, skip: int = 0) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text of each line that is not empty; a tab at its start is an empty first column."""
    if not path.is_file():
        raise ValueError(f"{key} must be a text file with an image a line, but there is no {str(path)!r}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{key} must be text in UTF-8, but {str(path)!r} is not (byte {error.start})") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if number > skip and line.strip():
            yield number, line


def _read_line(line: str, layout: Lists, said: str, key: str) -> tuple[str, str]:
    """Path and label of a line."""
    fields = [line.strip()] if layout.path_column is None else _fields(line, layout.separator)
    column = layout.path_column or 0
    needed = max(column, layout.label_column or 0) + 1
    if len(fields) < needed:
        between = "white space" if layout.separator is None else repr(layout.separator)
        raise ValueError(
            f"{key} must have {needed} columns or more, with {between} between them, but {said} is {line!r}; correct "
            "it, or set data.separator and data.columns"
        )
    path = PurePosixPath(fields[column].replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{key} must name images by paths below data.path, but {said} is {line!r}; correct it")
    label = _label_in_path(path, layout, said, key) if layout.label_column is None else fields[layout.label_column]
    if not label or (layout.label_base is not None and not (label.isdecimal() and int(label) >= layout.label_base)):
        rule = "a label" if layout.label_base is None else f"a whole number from {layout.label_base} on as its label"
        raise ValueError(f"{key} must give each image {rule}, but {said} has {label!r}; correct it")
    return path.as_posix(), label if layout.label_base is None else str(int(label))


def _fields(line: str, separator: str | None) -> list[str]:
    if separator is None or (separator.isspace() and separator != "\t"):
        return line.split()
    return [text.strip() for text in next(csv.reader([line], delimiter=separator, skipinitialspace=True))]


def _label_in_path(path: PurePosixPath, layout: Lists, said: str, key: str) -> str:
    parts = path.parts
    if not all(-len(parts) <= part < len(parts) for part in layout.label_parts):
        raise ValueError(
            f"{key} must name images with the label in part {max(layout.label_parts, key=abs)} of their path, but "
            f"{said} has {len(parts)} parts: {path.as_posix()!r}"
        )
    return "/".join(parts[part] for part in layout.label_parts)


def _box(path: Path, said: str) -> Box:
    """The box in the third line of a label file, `x1 y1 x2 y2` with the last row and column in it, from 1."""
    lines = [line for _, line in _lines(path, "data.crop_to_box")]
    numbers = lines[2].split() if len(lines) > 2 else []
    if len(numbers) != 4 or not all(number.isdecimal() for number in numbers):
        got = lines[2] if len(lines) > 2 else f"{len(lines)} lines"
        raise ValueError(
            f"data.crop_to_box needs four whole numbers x1 y1 x2 y2 in the third line of {str(path)!r}, of the image "
            f"at {said}, but got {got!r}; correct it, or leave crop_to_box out"
        )
    x1, y1, x2, y2 = map(int, numbers)
    return x1 - 1, y1 - 1, x2, y2


def _class_names(home: Path, layout: Lists, labels: list[str]) -> tuple[str, ...]:
    if layout.names is None:
        return tuple(labels)
    if layout.names_kind == "compcars":
        return _compcars_names(home / layout.names, labels)
    if layout.names_kind == "compcars-surveillance":
        return _surveillance_names(home / layout.names, labels)
    base = layout.label_base or 0
    names = [name.strip() for _, name in _lines(home / layout.names, "data.class_names")]
    beyond = next((label for label in labels if int(label) - base >= len(names)), None)
    if beyond is not None:
        raise ValueError(
            f"data.class_names must have a line for each label, from {base} to {base + len(names) - 1}, but the lists "
            f"have {beyond}; add the names, or correct data.label_base"
        )
    return distinct([names[int(label) - base] for label in labels], labels)


def _compcars_names(path: Path, labels: list[str]) -> tuple[str, ...]:
    """Of make/model; some models of the set have no name, and keep their numbers."""
    makes, models = (_texts(read_variable(_there(path), name)) for name in ("make_names", "model_names"))
    pairs = [label.split("/") for label in labels]
    names = [f"{_name(makes, make)} {_name(models, model)}" for make, model in pairs]
    short = [
        model if model.startswith(make) else name
        for name, (make, model) in zip(names, ((_name(makes, a), _name(models, b)) for a, b in pairs), strict=True)
    ]
    return distinct(short, labels)


def _name(names: list[str], number: str) -> str:
    index = int(number) - 1 if number.isdecimal() else -1
    return names[index] if 0 <= index < len(names) and names[index] else number


def _surveillance_names(path: Path, labels: list[str]) -> tuple[str, ...]:
    rows = np.atleast_2d(read_variable(_there(path), "sv_make_model_name"))
    beyond = next((label for label in labels if int(label) > len(rows)), None)
    if beyond is not None:
        raise ValueError(f"data.path: {str(path)!r} must name every model, but has {len(rows)} and the lists {beyond}")
    pairs = [_texts(rows[int(label) - 1][:2]) for label in labels]
    return distinct([model if model.startswith(make) else f"{make} {model}" for make, model in pairs], labels)


def _texts(cells: np.ndarray) -> list[str]:
    """Cells as text; MATLAB's empty cells are empty arrays."""
    return [str(cell).strip() if np.size(cell) else "" for cell in cells]


def _there(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"data.path must hold the names of the classes, but there is no {str(path)!r}; put it there")
    return path


def _read_folders(root: Path, layout: Folders, name: str | None) -> Table:
    folder = ImageFolderSource(str(root))
    labels, official, names = folder.listing()
    if layout.num_classes not in (None, len(names)):
        some = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        raise ValueError(
            f"data.path must be the folder that holds the {layout.num_classes} class folders of {name}, but "
            f"{str(root)!r} has {len(names)}: {some}; correct the path, or use source: image-folder"
        )
    rows = zip(labels.tolist(), official.tolist(), strict=True)
    entries = [Entry(folder.place(row), label, split, folder.place(row)) for row, (label, split) in enumerate(rows)]
    return Table(entries, names)


def _read_structs(root: Path, layout: VehicleStructs) -> Table:
    path = root / layout.file
    if not path.is_file():
        raise ValueError(f"data.path must be the folder of {layout.file}, but {str(root)!r} has none; correct the path")
    index: Mapping[str, int] = {name: number for number, name in enumerate(layout.categories)}
    entries = []
    structs = read_variable(path, layout.variable, fields=("name", "vehicles"))
    for number, item in enumerate(structs, start=1):
        for vehicle in np.atleast_1d(item["vehicles"]):
            said = f"{layout.file} entry {number}"
            category = str(vehicle["category"]).strip()
            if category not in index:
                known = ", ".join(layout.categories)
                raise ValueError(f"data.path must hold vehicles of {known}, but {said} has {category!r}; correct it")
            left, top, right, bottom = whole_numbers(vehicle, ("left", "top", "right", "bottom"), said)
            box = (max(left - 1, 0), max(top - 1, 0), right, bottom)
            entries.append(Entry(str(item["name"]), index[category], "", said, box))
    return Table(entries, layout.categories)
