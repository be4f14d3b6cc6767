"""An audit of duplicates for people and programs: text, a dict for JSON, and a contact sheet."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from study.data.duplicates import BITS, MAX_PAIRS, Audit, Member, Pair

MAX_LINES = 40
STEP = 4
BEYOND = 6
"""Steps past the chosen distance that the table still shows, so that a person sees what a wider one would bring."""

PER_STEP = 12
MAX_ON_SHEET = 96
COLUMNS = 4
SIDE = 128
CAPTION = 46
CAPTION_LETTERS = 44
GAP = 8


def audit_text(audit: Audit) -> str:
    """Counts at each distance, the images that are touched, and the nearest pairs."""
    return "\n".join([*_heading(audit), "", *_table(audit), "", *_touched(audit), "", *_pairs(audit)])


def _heading(audit: Audit) -> list[str]:
    sizes = {name: len(part) for name, part in audit.splits.by_name().items()}
    side = audit.splits.train.images.shape[1]
    return [
        f"fingerprint   {audit.splits.fingerprint}",
        f"images        {', '.join(f'{name} {size}' for name, size in sizes.items())}, compared at {side} x {side}",
        f"pairs         {audit.counts.sum():,} across splits; told: up to {audit.distance} bits of {BITS} apart",
        *([f"left out      {len(audit.splits.skipped)} images that cannot be read"] if audit.splits.skipped else []),
    ]


def _table(audit: Audit) -> list[str]:
    lines = [f"{'bits apart':>10} {'pairs':>10} {'one class':>10} {'up to here':>11} {'one class':>10}"]
    sums, same_sums = np.cumsum(audit.counts), np.cumsum(audit.same_class)
    told = sorted({*range(0, audit.distance + 1, STEP), audit.distance})
    beyond = [audit.distance + STEP * step for step in range(1, BEYOND + 1)]
    before = -1
    for end in [bits for bits in (*told, *beyond) if bits <= BITS]:
        inside = slice(before + 1, end + 1)
        bits = f"{end}" if end == before + 1 else f"{before + 1} to {end}"
        mark = "" if end <= audit.distance else "  (not told)"
        lines.append(
            f"{bits:>10} {audit.counts[inside].sum():>10,} {audit.same_class[inside].sum():>10,} {sums[end]:>11,} "
            f"{same_sums[end]:>10,}{mark}"
        )
        before = end
    return lines


def _touched(audit: Audit) -> list[str]:
    before = {"validation": "train", "test": "train or validation"}
    lines = []
    for name, counts in audit.nearest.items():
        near, size = int(counts[: audit.distance + 1].sum()), int(counts.sum())
        lines.append(f"{near} of {size} {name} images ({near / size:.1%}) have such a neighbour in {before[name]}")
    same = sum(pair.same_bytes for pair in audit.pairs)
    return [*lines, f"{same} of the pairs are the same bytes"]


def _pairs(audit: Audit) -> list[str]:
    if not audit.pairs:
        return ["no such pair"]
    lines = [_line(pair) for pair in audit.pairs[:MAX_LINES]]
    more = int(audit.counts[: audit.distance + 1].sum()) - len(lines)
    if more > 0:
        lines.append(f"... and {more:,} more; --json lists the nearest {MAX_PAIRS:,}")
    return lines


def _line(pair: Pair) -> str:
    kind = "same bytes" if pair.same_bytes else "near"
    classes = pair.first.class_name if pair.same_class else f"{pair.first.class_name} | {pair.second.class_name}"
    first, second = (f"{member.split} {member.place}" for member in (pair.first, pair.second))
    return f"{pair.distance:>3}  {kind:<10}  {first}  =  {second}  [{classes}]"


def audit_json(audit: Audit) -> dict[str, Any]:
    """The whole audit in JSON's types; `by_distance` goes from 0 to 256 bits."""
    return {
        "fingerprint": audit.splits.fingerprint,
        "images": {name: len(part) for name, part in audit.splits.by_name().items()},
        "image_size": int(audit.splits.train.images.shape[1]),
        "distance": audit.distance,
        "by_distance": [
            {"distance": distance, "pairs": int(count), "same_class": int(same)}
            for distance, (count, same) in enumerate(zip(audit.counts, audit.same_class, strict=True))
        ],
        "nearest": {name: counts.tolist() for name, counts in audit.nearest.items()},
        "pairs": [
            {
                "distance": pair.distance, "same_bytes": pair.same_bytes, "same_class": pair.same_class,
                "first": _member(pair.first), "second": _member(pair.second),
            }
            for pair in audit.pairs
        ],
        "all_pairs_listed": len(audit.pairs) == int(audit.counts[: audit.distance + 1].sum()),
        "skipped": [list(item) for item in audit.splits.skipped],
    }  # fmt: skip


def _member(member: Member) -> dict[str, str]:
    return {"split": member.split, "place": member.place, "class": member.class_name}


def pair_sheet(audit: Audit) -> Image.Image:
    """The nearest pairs side by side, a few of each step of distance; distance, places and classes below."""
    chosen = _chosen(audit.pairs)
    width, height = 2 * SIDE + GAP, SIDE + CAPTION
    rows = max(1, -(-len(chosen) // COLUMNS))
    sheet = Image.new("RGB", (COLUMNS * (width + GAP), rows * (height + GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    if not chosen:
        pen.text((GAP, GAP), f"no pair up to {audit.distance} bits apart", fill="black")
    for number, pair in enumerate(chosen):
        left, top = number % COLUMNS * (width + GAP), number // COLUMNS * (height + GAP)
        for offset, member in ((0, pair.first), (SIDE, pair.second)):
            image = Image.fromarray(np.asarray(audit.splits.by_name()[member.split].images[member.index]))
            sheet.paste(image.resize((SIDE, SIDE)), (left + offset, top))
        for line, text in enumerate(_caption(pair)):
            pen.text((left + 2, top + SIDE + 1 + 14 * line), text[:CAPTION_LETTERS], fill="black")
    return sheet


def _caption(pair: Pair) -> tuple[str, ...]:
    kind = "same bytes" if pair.same_bytes else f"{pair.distance} bits"
    agree = "one class" if pair.same_class else "TWO CLASSES"
    return f"{kind}, {agree}", *(_caption_line(member) for member in (pair.first, pair.second))


def _caption_line(member: Member) -> str:
    """Split, the end of the place, and as much of the class as fits."""
    place = member.place if len(member.place) <= 18 else f"..{member.place[-16:]}"
    return f"{member.split} {place}: {member.class_name}"


def _chosen(pairs: tuple[Pair, ...]) -> list[Pair]:
    """A few of each step of distance, so that the farthest are seen as well where there are many."""
    taken: Counter[int] = Counter()
    chosen = []
    for pair in pairs:
        taken[pair.distance // STEP] += 1
        if taken[pair.distance // STEP] <= PER_STEP:
            chosen.append(pair)
    return chosen[:MAX_ON_SHEET]
