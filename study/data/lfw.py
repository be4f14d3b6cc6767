"""Labeled Faces in the Wild as folders of persons, to tell persons apart.

Source: Huang et al. 2007, Labeled faces in the wild, UMass 07-49: PERSON/PERSON_0001.jpg below lfw, lfw_funneled or
lfw-deepfunneled. For its pairs see `study.data.pairs`.
"""

from __future__ import annotations

import re
from pathlib import Path

from study.data.listed import Entry, ListedSource, Table

HOMES = ("lfw", "lfw_funneled", "lfw-funneled", "lfw-deepfunneled", "lfw_deepfunneled")
"""What the archives unpack to, and two ways in which they are misspelt."""

NAME = re.compile(r"(?P<person>.+)_\d{4}")


def open_lfw(path: str, *, min_images: int) -> ListedSource:
    """The source of a folder of persons, each with `min_images` or more; there is no official split.

    Raises:
        ValueError: There is no such folder, there are two, or fewer than two persons have so many images.
    """
    home = find_home(Path(path).expanduser().resolve(), key="data.path")
    faces = list_faces(home)
    most = max(map(len, faces.values()))
    persons = {person: files for person, files in faces.items() if len(files) >= min_images}
    if len(persons) < 2:
        raise ValueError(
            f"data.min_images must leave two persons or more, but {len(persons)} of the {len(faces)} in {str(home)!r} "
            f"have {min_images} images (the most is {most}); lower it"
        )
    entries = [Entry(file, label, "", file) for label, files in enumerate(persons.values()) for file in files]
    return ListedSource(home, Table(entries, tuple(persons)), refuse=True)


def find_home(root: Path, *, key: str) -> Path:
    """The folder that the persons' folders stand in: the one given, or one in it by its official name.

    Args:
        key: The setting that named it, for errors.

    Raises:
        ValueError: There is none, or more than one.
    """
    if not root.is_dir():
        raise ValueError(f"{key} must be a folder, but got {str(root)!r}, which is none")
    below = [root / name for name in HOMES if (root / name).is_dir()]
    if len(below) > 1:
        here = ", ".join(folder.name for folder in below)
        raise ValueError(f"{key} must hold one version of LFW, but {str(root)!r} has {here}; name one of them")
    home = below[0] if below else root
    if (home / home.name).is_dir():  # some archives unpack to two folders of one name, one in the other
        home = home / home.name
    if not list_faces(home):
        raise ValueError(
            f"{key} must be the folder of LFW, with {', '.join(HOMES[:2])} or {HOMES[3]} or the persons' folders in it "
            f"(PERSON/PERSON_0001.jpg), but {str(home)!r} has none; correct the path"
        )
    return home


def list_faces(home: Path) -> dict[str, list[str]]:
    """Person -> sorted files below `home`, PERSON/PERSON_0001.jpg; all else is passed over."""
    found: dict[str, list[str]] = {}
    for file in sorted(home.glob("*/*.jpg")):
        person = file.parent.name
        match = NAME.fullmatch(file.stem)
        if match is not None and match["person"] == person:
            found.setdefault(person, []).append(f"{person}/{file.name}")
    return found
