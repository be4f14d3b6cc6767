"""Lists of image pairs for verification: LFW's official text files, or a csv with a pair in a row.

Source of LFW's form: its README, http://vis-www.cs.umass.edu/lfw/README.txt. The first line of pairs.txt is the number
of folds and of same pairs in each, that of pairsDevTrain.txt and pairsDevTest.txt the number of same pairs alone. Then
follow, fold by fold, the same pairs (`person i j`) and as many different ones (`person1 i person2 j`).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

COLUMNS = ("fold", "same", "a", "b")
"""Of a csv: a whole number, 1 or 0, and the keys of two images."""


class Listed(NamedTuple):
    """One pair as its list has it.

    Attributes:
        first, second: Keys of the images, such as "Abel_Pacheco_0001".
        same: Whether both show one person.
        fold: Which fold it belongs to, from 0.
        said: Where it stands, for errors.
    """

    first: str
    second: str
    same: bool
    fold: int
    said: str


def read_pairs(path: Path) -> list[Listed]:
    """The pairs of a list, in its order.

    Raises:
        ValueError: It is not there or a line does not read as it should; names the line.
    """
    if not path.is_file():
        raise ValueError(f"pairs must be a list of pairs, such as pairs.txt, but there is no {str(path)!r}; correct it")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"pairs must be text in UTF-8, but {str(path)!r} is not (byte {error.start})") from None
    pairs = list(_csv_pairs(lines, path.name) if path.suffix.lower() == ".csv" else _lfw_pairs(lines, path.name))
    if not pairs:
        raise ValueError(f"pairs must hold a pair, but {str(path)!r} has none; fetch it again")
    for pair in pairs:
        if pair.first == pair.second:
            raise ValueError(f"pairs must be of two images, but {pair.said} has {pair.first!r} twice; correct it")
    return pairs


def _lfw_pairs(lines: Sequence[str], name: str) -> Iterator[Listed]:
    head = lines[0].split() if lines else []
    if len(head) not in (1, 2) or not all(text.isdecimal() and int(text) for text in head):
        raise ValueError(
            f"pairs must start with the number of folds and of same pairs in each (or the latter alone), but {name} "
            f"line 1 is {' '.join(head)!r}; fetch it again, or give a .csv with {', '.join(COLUMNS)}"
        )
    folds, each = (1, int(head[0])) if len(head) == 1 else map(int, head)
    rows = [(number, line) for number, line in enumerate(lines[1:], start=2) if line.strip()]
    for index, (number, line) in enumerate(rows):
        same = index % (2 * each) < each
        if index < 2 * each * folds:
            yield _lfw_pair(line.split(), f"{name} line {number}", same=same, fold=index // (2 * each))
    if len(rows) != 2 * each * folds:
        raise ValueError(
            f"pairs must be {folds} x 2 x {each} after line 1 of {name}, but there are {len(rows)}; fetch it again"
        )


def _lfw_pair(fields: list[str], said: str, *, same: bool, fold: int) -> Listed:
    form = "person i j" if same else "person1 i person2 j"
    numbers = fields[1:] if same else fields[1::2]
    if len(fields) != (3 if same else 4) or not all(number.isdecimal() for number in numbers):
        raise ValueError(f"pairs must be {form!r} there, but {said} is {' '.join(fields)!r}; fetch the list again")
    persons = (fields[0], fields[0] if same else fields[2])
    if not same and persons[0] == persons[1]:
        raise ValueError(f"pairs must be of two persons there, but {said} has {persons[0]!r} twice; correct it")
    first, second = (f"{person}_{int(number):04}" for person, number in zip(persons, numbers, strict=True))
    return Listed(first, second, same, fold, said)


def _csv_pairs(lines: Sequence[str], name: str) -> Iterator[Listed]:
    reader = csv.DictReader(lines)
    lacking = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
    if lacking:
        found = ", ".join(reader.fieldnames or ()) or "none"
        raise ValueError(f"pairs must have the columns {', '.join(COLUMNS)}, but {name} has {found}; add {lacking[0]}")
    for row in reader:
        said = f"{name} line {reader.line_num}"
        fold, same, first, second = (str(row[column] or "").strip() for column in COLUMNS)
        if not fold.isdecimal() or same.lower() not in ("0", "1", "false", "true") or not first or not second:
            raise ValueError(
                f"pairs must have a whole number as fold, 0 or 1 as same, and two keys, but {said} has "
                f"{[fold, same, first, second]}; correct it"
            )
        yield Listed(first, second, same.lower() in ("1", "true"), int(fold), said)
