"""What a report says in words: what was run, what was found, and what a reader has to know to believe it."""
# pandas ships no stubs, and pyright takes an indexed frame for any of four types:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportReturnType=false

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from analysis import provenance
from analysis.choice import choice_of
from analysis.chosen import adaptive_remarks, fidelity_remarks
from analysis.contrasts import endpoint_phrase
from analysis.load import Snapshot
from analysis.records import TrialRecord, config_id
from analysis.scores import CLEAN, Arm, Headline
from analysis.searches import search_of
from analysis.sides import LOWER, Word, full_size_noise, lower_sides, noise_at_sides, noise_word
from analysis.stats import Interval
from analysis.tables import Table
from analysis.unfinished import has_open_tests, unfinished
from analysis.wording import LEAST_SEEDS, counted

TPE_STARTUP = 10
SKIPPED_SHOWN = 10


class Facts(NamedTuple):
    """The words of a report.

    Attributes:
        unfinished: the phases that had not ended, as a sentence; empty where all had.
        reading: sentences on what was found.
        run: (name, value) pairs on what was run.
        remarks: what limits the figures.
        best_yaml: the configuration that the search chose; empty where nothing finished.
    """

    name: str
    subtitle: str
    written: str
    unfinished: str
    reading: list[str]
    run: list[tuple[str, str]]
    remarks: list[str]
    best_yaml: str
    best_of: str
    skipped: list[tuple[str, str]]


def gather(snapshot: Snapshot, found: Headline, contrasts: Table) -> Facts:
    """All words of a report."""
    study = snapshot.study
    record, source = chosen_record(snapshot)
    still = unfinished(snapshot)
    skipped = study.get("skipped") or []
    return Facts(
        name=str(study.get("study", snapshot.name)),
        subtitle=provenance.subtitle(snapshot),
        written=now(),
        unfinished=still,
        reading=reading(snapshot, found, contrasts.frame),
        run=provenance.what_ran(snapshot, found),
        remarks=[*([still] if still else []), *_remarks(snapshot, found)],
        best_yaml="" if record is None else yaml_text(record.info["config"]),
        best_of=source,
        skipped=[(str(place), str(reason)) for place, reason in skipped[:SKIPPED_SHOWN]],
    )


def now() -> str:
    """The time, as pages say when they were written."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())


# ---------------------------------------------------------------------------------------------------- what was chosen
def chosen_record(snapshot: Snapshot) -> tuple[TrialRecord | None, str]:
    """A trial of the chosen configuration, a tested one where it was confirmed, and in words by what it was chosen.

    Never the best on test; None where nothing was chosen.
    """
    choice = choice_of(snapshot)
    return choice.record, choice.words


def chosen_arm(snapshot: Snapshot, found: Headline) -> Arm | None:
    """The arm of the chosen configuration; None where nothing was chosen, or that was not tested."""
    choice = choice_of(snapshot)
    record = choice.record if found.split == "test" else choice.origin
    wanted = None if record is None else config_id(record.info["config"])
    return next((arm for arm in found.arms if arm.config_id == wanted), None)


def example_arm(snapshot: Snapshot, found: Headline) -> Arm | None:
    """An arm to show examples of, under its own label: the chosen one, else the first but the baseline, if any."""
    others = [arm for arm in found.arms if arm.config_id != found.baseline]
    return chosen_arm(snapshot, found) or next(iter([*others, *found.arms]), None)


# ---------------------------------------------------------------------------------------------------- what was found
def reading(snapshot: Snapshot, found: Headline, contrasts: pd.DataFrame) -> list[str]:
    """The answer in sentences, never none: the chosen configuration, its differences from the baseline, its price.

    Where no configuration shown was chosen, the differences of all from the baseline, and why there is no choice.
    """
    if not found.arms:
        why = "No trial has finished yet" if found.empty == "no finished trial yet" else found.empty
        return [f"{why}, so there is nothing to read."]
    chosen = chosen_arm(snapshot, found)
    said = [] if chosen is None else _accuracies(chosen, found)
    if found.split == "validation":
        said += [found.small_grid] if found.small_grid else []
        return [*said, "No difference is claimed from validation figures; a confirm phase gives test figures."]
    is_stated = bool(((snapshot.study.get("config") or {}).get("report") or {}).get("contrasts"))
    if has_open_tests(snapshot.study):
        said += ["No difference is judged before all phases that are tested have finished."]
    elif len(contrasts):
        mine = contrasts.iloc[:0] if chosen is None else contrasts[contrasts["config_id"] == chosen.config_id]
        parts = contrasts.groupby("endpoint", sort=False) if is_stated or mine.empty else ()
        said += [_stated(str(endpoint), part, noise_word(found)) for endpoint, part in parts]
        said += [] if len(parts) else [_comparison(row, noise_word(found)) for _, row in mine.iterrows()]
    if chosen is not None:
        return said if is_stated else [*said, *_price(chosen, found)]
    if not is_stated or not said:
        reference = found.reference()
        said += [] if reference is None else _accuracies(reference, found)
    missing = choice_of(snapshot).missing
    return [*said, f"{missing[0].upper()}{missing[1:]}."] if missing else said


def _accuracies(arm: Arm, found: Headline) -> list[str]:
    """What an arm got right: under noise and clean, then on each folder of real images."""
    clean, noise = arm.mean(arm.of(CLEAN)), arm.mean(arm.noisy())
    name, said = f"{arm.label}{', the baseline,' if arm.config_id == found.baseline else ''}", []
    some = noise or clean
    if noise is not None:
        where = "at lower sides" if noise_word(found) == LOWER else "under noise"
        what = (
            f"got {_percent(noise)} of {found.split} images right {where}, the mean over {_what_noise(arm)}"
            + (f", and {_percent(clean)} of them clean" if clean is not None else "")
        )  # fmt: skip
    else:
        what = f"got {_percent(clean)} of clean {found.split} images right" if clean is not None else ""
    if some is not None:
        said.append(f"{name} {what} ({counted(some.n_images, 'image')}, {counted(some.n_seeds, 'seed')}).")
    for folder in found.real:
        if (real := arm.mean(arm.of(folder))) is not None:
            said.append(
                f"On {counted(real.n_images, 'real noisy image')} of {folder} it got {_percent(real)} right; these are "
                "other images than the clean ones, so the two figures are not compared."
            )
    return said or [f"{name} has no figure on {found.split} images."]


def _price(chosen: Arm, found: Headline) -> list[str]:
    base = next((arm for arm in found.arms if arm.config_id == found.baseline), None)
    if base is None or base is chosen:
        return []
    own, price = (float(arm.rows.drop_duplicates("trial")["cost_passes"].mean()) for arm in (chosen, base))
    known = price > 0 and own == own
    return [f"Its training took {own / price:.1f} times the baseline's gradient passes."] if known else []


def _what_noise(arm: Arm) -> str:
    """What the mean over an arm's noisy cells is over."""
    noisy, sides = full_size_noise(arm), lower_sides(arm)
    parts = []
    if noisy:
        levels = len({severity for _, severity in noisy})
        names = counted(len({name for name, _ in noisy}), "corruption")
        parts.append(f"{names} at {counted(levels, 'severity', 'severities')}")
    if sides:
        pixels = ", ".join(str(side) for side in sides)
        also = ", with and without noise" if noise_at_sides(arm) else ""
        parts.append(f"{counted(len(sides), 'lower side')} ({pixels} px{also})")
    return " and ".join(parts)


def _stated(endpoint: str, contrasts: pd.DataFrame, noise: Word) -> str:
    """The stated contrasts of one endpoint: what they decide, then those that they leave open."""
    decided, left_open = [], []
    for _, row in contrasts.iterrows():
        first, second, read = row["label"], row["baseline"], str(row["verdict"])
        if read.startswith("not distinguishable"):
            left_open.append(f"{first} and {second}")
            continue
        word, _, scope = read.partition(" ")
        how = "keeps the accuracy of" if word == "keeps" else f"is {word} than"
        bounds = f"{row['joint_low'] * 100:+.1f} to {row['joint_high'] * 100:+.1f}"
        inside = scope.partition("(")[2].removesuffix(")")
        limit = inside.partition("; ")[2] if word == "keeps" else inside  # how much is kept stands in the interval
        more = f"; {limit}" if limit else ""
        decided.append(f"{first} {how} {second} ({row['difference'] * 100:+.1f} points, {bounds}{more})")
    phrase = endpoint_phrase(endpoint, noise=noise)
    counted = f"{_range(contrasts['n_images'], 'image')}, {_range(contrasts['n_seeds'], 'seed')}"
    head = f"{phrase[0].upper()}{phrase[1:]} ({counted}; simultaneous 95 % intervals)"
    said = f"{head}: {'; '.join(decided) or 'nothing is decided'}."
    return f"{said} Not distinguishable: {', '.join(left_open)}." if left_open else said


def _comparison(row: pd.Series, noise: Word) -> str:
    other, read, phrase = row["baseline"], str(row["verdict"]), endpoint_phrase(row["endpoint"], noise=noise)
    if read.startswith(("better", "worse")):
        word, _, scope = read.partition(" ")
        what = f"is {word} than {other}" + (f" {scope}" if scope else "")
    elif read.startswith("keeps"):
        what = f"keeps the accuracy of {other}, {read.partition('(')[2].rstrip(')').replace('loses', 'losing')}"
    else:
        what = f"is not distinguishable from {other}{read.removeprefix('not distinguishable')}"
    return (
        f"{phrase[0].upper()}{phrase[1:]} it {what}: "
        f"{row['difference'] * 100:+.1f} points (simultaneous 95 % interval {row['joint_low'] * 100:+.1f} to "
        f"{row['joint_high'] * 100:+.1f}; {counted(row['n_images'], 'image')}, {counted(row['n_seeds'], 'seed')})."
    )


def _percent(found: Interval) -> str:
    if found.low != found.low:
        return f"{found.estimate * 100:.1f} % (no interval)"
    return f"{found.estimate * 100:.1f} % (95 % interval {found.low * 100:.1f} to {found.high * 100:.1f})"


def _range(counts: pd.Series, one: str) -> str:
    """A count of each contrast, or the least and the most where they differ: of each its arm that has fewest."""
    least, most = int(counts.min()), int(counts.max())
    return counted(least, one) if least == most else f"{least:,} to {most:,} {one}s"


# ------------------------------------------------------------------------------------------------ what limits it
def _remarks(snapshot: Snapshot, found: Headline) -> list[str]:
    said = []
    if (again := provenance.times_read(snapshot)) > 1:
        said.append(
            f"The test split was read {again} times (--again). Choices made in between may have seen test figures, so "
            "these are no longer a first look."
        )
    seeds = [arm.rows["trial"].nunique() for arm in found.arms]
    if seeds and min(seeds) == 1:
        said.append(
            "With one seed the intervals are for these trained networks on further images, not for the method: "
            "another seed may differ by more."
        )
    elif seeds and min(seeds) < LEAST_SEEDS:
        said.append(f"{min(seeds)} seeds are few: {LEAST_SEEDS} are the least for a claim on a method, 8 are better.")
    said += _search_remarks(snapshot)
    said.append(
        "The corruptions are Murk's own suite after the public package imagecorruptions, not the ImageNet-C files: no "
        "figure here compares with published ImageNet-C errors. mCE is normalised by this study's baseline (1 is as "
        "the baseline, lower is better)."
        + (
            " mCE by AlexNet divides by AlexNet's errors on the ImageNet-C files: it is no official ImageNet-C figure."
            if found.normaliser == "alexnet"
            else ""
        )
    )
    said.append(
        "Every network saw the same noisy pixels of each image. Intervals of a mean treat seeds and images as random, "
        "crossed (two-way random effects, Satterthwaite); the interval of the worst corruption is that corruption's "
        "own."
    )
    return said


def _search_remarks(snapshot: Snapshot) -> list[str]:
    said = []
    trials = Counter(r.info["phase"] for r in snapshot.trials if r.info["role"] == "search")
    for phase, count in trials.items():
        search = search_of(snapshot.study, phase)
        if search.get("algorithm") == "tpe" and count <= TPE_STARTUP:
            said.append(
                f"TPE draws its first {TPE_STARTUP} trials at random, so phase {phase} with {counted(count, 'trial')} "
                "was a random search."
            )
    return [*said, *fidelity_remarks(snapshot), *adaptive_remarks(snapshot)]


def yaml_text(config: Mapping[str, Any]) -> str:
    """The configuration in block style, in its own order, with lists in one line."""
    writer = YAML()
    writer.width = 100
    buffer = io.StringIO()
    writer.dump(_flow_lists(config), buffer)
    return buffer.getvalue()


def _flow_lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _flow_lists(item) for key, item in value.items()}
    if isinstance(value, list):
        items = CommentedSeq([_flow_lists(item) for item in value])
        items.fa.set_flow_style()
        return items
    return value
