"""Example images for the page: clean, noisy and restored side by side, with what the network said of each."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

MOST_CARDS = 6
MOST_PIXELS = 128
"""Side at which an example is kept; a larger picture is shrunk, since noise does not compress."""
KINDS = ("clean", "noisy", "restored")


class Said(NamedTuple):
    """What one head alone predicts."""

    head: str
    name: str
    is_right: bool


class Example(NamedTuple):
    """One picture of a card; `said` is the predicted class, empty where nothing was predicted; `heads` of each head."""

    kind: str
    uri: str
    alt: str
    said: str
    is_right: bool
    side: int
    heads: tuple[Said, ...] = ()


class Card(NamedTuple):
    """One test image under one corruption."""

    title: str
    label: str
    images: list[Example]


def cards(examples: Mapping[str, np.ndarray]) -> list[Card]:
    """One card for each corruption, with another image on each.

    Args:
        examples: the arrays of `examples.npz`: `clean`, `noisy` and perhaps `restored` (n, H, W, 3) uint8, `labels`,
            `predicted_clean`, `predicted_noisy`, `corruption`, `severity`, `class_names` and, of several heads,
            `head_names` (H,) and `predicted_heads` (n, H).
    """
    classes, corruption = [str(name) for name in examples["class_names"]], examples["corruption"]
    found = []
    for column, name in enumerate(list(dict.fromkeys(str(name) for name in corruption))[:MOST_CARDS]):
        places = np.flatnonzero(corruption == name)
        place = int(places[column % len(places)])
        title = f"{name} {int(examples['severity'][place])}"
        label = classes[int(examples["labels"][place])]
        images = [_example(examples, kind, place, title, label, classes) for kind in KINDS if kind in examples]
        found.append(Card(title, label, images))
    return found


def _example(
    examples: Mapping[str, np.ndarray], kind: str, place: int, title: str, label: str, classes: Sequence[str]
) -> Example:
    predicted: Any = examples.get(f"predicted_{kind}")
    said = "" if predicted is None else classes[int(predicted[place])]
    alt = f"{label}, {kind}" + (f" under {title}" if kind != "clean" else "") + (f": predicted {said}" if said else "")
    uri, side = _uri(examples[kind][place])
    heads = _said_by_heads(examples, place, label, classes) if kind == "noisy" else ()
    return Example(kind, uri, alt, said, said == label, side, heads)


def _said_by_heads(
    examples: Mapping[str, np.ndarray], place: int, label: str, classes: Sequence[str]
) -> tuple[Said, ...]:
    if "predicted_heads" not in examples or "head_names" not in examples:
        return ()
    said = [classes[int(number)] for number in examples["predicted_heads"][place]]
    return tuple(Said(str(head), name, name == label) for head, name in zip(examples["head_names"], said, strict=True))


def _uri(pixels_HWC: np.ndarray) -> tuple[str, int]:
    image = Image.fromarray(pixels_HWC)
    if max(image.size) > MOST_PIXELS:
        image.thumbnail((MOST_PIXELS, MOST_PIXELS), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}", min(150, max(image.size) * 4)
