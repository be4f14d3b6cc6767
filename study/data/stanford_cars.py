"""Stanford Cars in its official layout: the devkit's annotations, boxes and split.

Source: Krause et al. 2013, 3D object representations for fine-grained categorization, 3dRR-13; the devkit's README. The
labels of the test images are a file of their own, published beside the devkit, so it is also found there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from study.data.listed import Entry, ListedSource, Table
from study.data.matfile import read_variable, whole_numbers
from study.data.source import Box

ANNOTATIONS = {
    "train": ("cars_train", ("devkit/cars_train_annos.mat",)),
    "test": ("cars_test", ("devkit/cars_test_annos_withlabels.mat", "cars_test_annos_withlabels.mat")),
}
"""Split -> folder of its images, and the places of its annotations."""

META = "devkit/cars_meta.mat"
FIELDS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")


def open_stanford_cars(path: str, *, crop_to_box: bool, refuse: bool) -> ListedSource:
    """The source of a folder that holds cars_train, cars_test and devkit.

    Args:
        crop_to_box: Cut each image to its annotated box.
        refuse: Whether a listed image that is not there is an error.

    Raises:
        ValueError: A file of the layout is not there or does not read as it should, or images are missing.
    """
    root = Path(path).expanduser().resolve()
    return ListedSource(root, read_devkit(root, boxes=crop_to_box), refuse=refuse)


def read_devkit(root: Path, *, boxes: bool) -> Table:
    """What the annotations list, without a look at the images.

    Labels count from 1 in the files and from 0 here; boxes hold their last row and column there, and not here.

    Raises:
        ValueError: A file of the layout is not there or does not read as it should.
    """
    names = tuple(str(name) for name in read_variable(_find(root, (META,)), "class_names"))
    entries = []
    for split, (folder, places) in ANNOTATIONS.items():
        file = _find(root, places)
        for number, item in enumerate(read_variable(file, "annotations", fields=FIELDS), start=1):
            said = f"{file.relative_to(root).as_posix()} entry {number}"
            label = _label(item["class"], said, len(names))
            box = _box(item, said) if boxes else None
            entries.append(Entry(f"{folder}/{item['fname']}", label, split, said, box))
    return Table(entries, names)


def _box(item: Any, said: str) -> Box:
    x1, y1, x2, y2 = whole_numbers(item, FIELDS[:4], said)
    return x1 - 1, y1 - 1, x2, y2


def _find(root: Path, places: tuple[str, ...]) -> Path:
    found = next((root / place for place in places if (root / place).is_file()), None)
    if found is None:
        hint = ""
        if (root / "devkit/cars_test_annos.mat").is_file() and places == ANNOTATIONS["test"][1]:
            hint = " (devkit/cars_test_annos.mat is there, but has no labels)"
        raise ValueError(
            f"data.path must be the folder of Stanford Cars, with cars_train, cars_test and devkit in it, but "
            f"{str(root)!r} has no {' or '.join(places)}{hint}; put it there, or correct the path"
        )
    return found


def _label(value: object, said: str, num_classes: int) -> int:
    label = int(str(value)) if str(value).isdecimal() else 0
    if not 1 <= label <= num_classes:
        raise ValueError(
            f"data.path must hold labels from 1 to {num_classes}, the classes in {META}, but {said} has {value!r}; "
            "fetch the devkit again"
        )
    return label - 1
