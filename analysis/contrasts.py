"""Differences between configurations: those that the study file states beforehand, else each against the baseline."""
# pandas ships no stubs, and pyright takes an indexed frame for any of four types:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from analysis.bootstrap import crossed_bootstraps
from analysis.repeats import ADAPTIVE_ERROR
from analysis.scores import CLEAN, NOISE, Arm, Cell, Headline
from analysis.sides import LOWER, Word, noise_word
from analysis.stats import LEVEL, Interval, Term, crossed, holm, mcnemar, p_value, simultaneous, tost
from analysis.tables import KEEPS_MARGIN, Column, Table, bounds, interval_text
from analysis.wording import LEAST_SEEDS, wording

_ALL_NOISE = "noise"
MOST_DIFFERING = 3
"""Differences that are named where the bootstrap does not agree; the others are counted."""
P_NOTE = (
    " The reading follows the interval. p (Holm) steps down, which intervals cannot: it may be below 0.05 where the "
    "interval still holds 0."
)


class Contrast(NamedTuple):
    """One configuration minus another, under the names that a reader knows them by.

    `margin` is how much the first may lose and still be said to keep the second's accuracy; None where that is not
    asked.
    """

    arm: Arm
    label: str
    against: Arm
    against_label: str
    margin: float | None = None


def contrast_table(found: Headline, study: Mapping[str, Any] | None = None) -> Table:
    """The contrasts that the study's `report` states, or every configuration against the baseline.

    Each endpoint is one family, with simultaneous intervals over its contrasts. Empty for validation figures (the
    trials were chosen by them) and without predictions.
    """
    settings = ((study or {}).get("config") or {}).get("report") or {}
    stated, notes = _stated(found, settings.get("contrasts") or ())
    if settings.get("contrasts"):
        families = [(endpoint, stated) for endpoint in settings.get("endpoints") or (CLEAN, _ALL_NOISE)]
    else:
        against = _against_baseline(found)
        families = [(_ALL_NOISE, against), (CLEAN, [c._replace(margin=KEEPS_MARGIN) for c in against])]
    error = family_error(found, study or {})
    rows = [row for endpoint, contrasts in families for row in family(endpoint, contrasts, error)]
    note = f"Paired by image and noise; seeds and images random (for one seed: images only).{P_NOTE}{error_note(error)}"
    note += check_note(rows, noise=noise_word(found))
    if not rows and any(scores_SI.shape[1] == 1 for arm in found.arms for scores_SI in arm.scores.values()):
        notes = [*notes, "differences on one image, which tells nothing of others"]
    columns = contrast_columns(noise_word(found))
    return Table("contrasts", pd.DataFrame(rows), columns, [*([note] if rows else []), *notes])


def contrast_columns(word: Word = "noise") -> list[Column]:
    """How differences read."""
    return [
        Column("endpoint", lambda row: endpoint_title(row["endpoint"], noise=word), is_number=False),
        Column("configuration", lambda row: row["label"], is_number=False),
        Column("against", lambda row: row["baseline"], is_number=False),
        Column("difference in points", interval_text("difference")),
        Column("simultaneous 95 % interval", joint_text),
        Column("p (Holm)", _p_text),
        Column("seeds", lambda row: str(row["n_seeds"])),
        Column("images", lambda row: str(row["n_images"])),
        Column("reading", lambda row: row["verdict"], is_number=False),
    ]


def _p_text(row: pd.Series) -> str:
    value = float(row["p_holm"])
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def joint_text(row: pd.Series) -> str:
    """The simultaneous interval in points."""
    return _points(row, "joint")


def endpoint_title(endpoint: str, *, noise: Word = "noise") -> str:
    """An endpoint in a table's words; `noise` is what the noisy cells are."""
    kind, _, names = endpoint.partition(":")
    if kind == "group":
        return f"mean {names}"
    if kind == "outside":
        return f"mean outside {names.replace('+', ', ')}"
    if kind == "corruption":
        return names
    return f"mean {noise}" if endpoint in {_ALL_NOISE, NOISE} else endpoint


def endpoint_phrase(endpoint: str, *, noise: Word = "noise") -> str:
    """An endpoint in a sentence's words; `noise` is what the noisy cells are."""
    kind, _, names = endpoint.partition(":")
    if kind == "group":
        return f"under the corruptions of the group {names}"
    if kind == "corruption":
        return _corruption_phrase(names)
    if kind == "outside":
        groups = names.split("+")
        plural = "s" if len(groups) > 1 else ""
        return f"under the corruptions outside the group{plural} {' and '.join(groups)}"
    if endpoint == CLEAN:
        return "on clean images"
    return "at lower sides" if noise == LOWER else "under noise"


def _corruption_phrase(name: str) -> str:
    base, _, side = name.rpartition("_")
    if not (side.endswith("px") and side.removesuffix("px").isdecimal()):
        return f"under {name}"
    return f"{f'under {base} ' if base else ''}at {side.removesuffix('px')} px"


def endpoint_cells(arm: Arm, endpoint: str) -> list[Cell]:
    """The corruption x severity cells whose mean an endpoint is: clean, noise, group:NAME, outside:NAME+NAME or
    corruption:NAME.
    """
    kind, _, names = endpoint.partition(":")
    if kind == "group":
        return arm.among("group", names)
    if kind == "corruption":
        return arm.of(names)
    if kind == "outside":
        left_out = {cell for name in names.split("+") for cell in arm.among("group", name)}
        return [cell for cell in arm.noisy() if cell not in left_out]
    return arm.of(CLEAN) if endpoint == CLEAN else arm.noisy()


def _stated(found: Headline, stated: Sequence[Mapping[str, Any]]) -> tuple[list[Contrast], list[str]]:
    """The contrasts of the study file whose phases have been tested, and a note for each that cannot be drawn yet."""
    if found.split != "test":
        return [], []
    by_phase = {phase: arm.of_phase(phase) for arm in found.arms if arm.scores for phase in arm.phases()}
    tested = {phase for arm in found.arms for phase in arm.phases()}
    contrasts, notes = [], []
    for item in stated:
        missing = [name for name in (item["arm"], item["against"]) if name not in by_phase]
        if missing:
            what = "predictions" if set(missing) <= tested else "tested trials"
            notes.append(f"{item['arm']} against {item['against']}: no {what} of {' and '.join(missing)} yet")
            continue
        margin = item.get("margin_points")
        loss = None if margin is None else float(margin) / 100
        contrasts.append(Contrast(by_phase[item["arm"]], item["arm"], by_phase[item["against"]], item["against"], loss))
    return contrasts, notes


def _against_baseline(found: Headline) -> list[Contrast]:
    reference = found.reference()
    if reference is None or not reference.scores:
        return []
    others = [arm for arm in found.arms if arm is not reference and arm.scores]
    return [Contrast(arm, arm.label, reference, reference.label) for arm in others]


def family_error(found: Headline, study: Mapping[str, Any]) -> float:
    """What a family may err: less where looks at validation figures decided the seeds of an arm."""
    looked = {phase["name"] for phase in study.get("phases") or [] if len(phase.get("looks") or ()) > 1}
    phases = {phase for arm in found.arms for phase in arm.phases()}
    return ADAPTIVE_ERROR if looked & phases else 1 - LEVEL


def error_note(error: float) -> str:
    """What is said where a family may err less than 5 %, to follow another sentence; else nothing."""
    if error >= 1 - LEVEL:
        return ""
    return (
        f" Validation decided how many seeds there are, so simultaneous intervals are drawn at {1 - error:.0%} to hold "
        f"what {LEVEL:.0%} says (by simulation), and p (Holm) is multiplied by {(1 - LEVEL) / error:.2f}, so that it "
        f"too is read against {1 - LEVEL:.2f}."
    )


def check_note(rows: Sequence[Mapping[str, Any]], *, noise: Word = "noise") -> str:
    """What is said where the interval of a difference leaves out 0 and the crossed bootstrap's does not, or the other
    way round, to follow another sentence; else nothing. With fewer seeds than a claim needs the bootstrap is too narrow
    to tell.
    """
    differ = [row for row in rows if row["n_seeds"] >= LEAST_SEEDS
              and math.isfinite(row["bootstrap_low"]) and math.isfinite(row["difference_low"])
              and _leaves_out_0(row, "difference") != _leaves_out_0(row, "bootstrap")]  # fmt: skip
    if not differ:
        return ""
    told = [
        f"{row['label']} against {row['baseline']}, {endpoint_title(row['endpoint'], noise=noise)} "
        f"({_points(row, 'difference')} by the model, {_points(row, 'bootstrap')} by the bootstrap)"
        for row in differ[:MOST_DIFFERING]
    ]
    more = f"; and {len(differ) - MOST_DIFFERING} more" if len(differ) > MOST_DIFFERING else ""
    return (
        " A check without a model, the crossed bootstrap, does not agree on whether the single 95 % interval leaves 0 "
        f"out: {'; '.join(told)}{more}. Read these as close to the border."
    )


def _leaves_out_0(row: Mapping[str, Any], name: str) -> bool:
    return row[f"{name}_low"] > 0 or row[f"{name}_high"] < 0


def _points(row: Mapping[str, Any], name: str) -> str:
    return f"{row[f'{name}_low'] * 100:+.1f} to {row[f'{name}_high'] * 100:+.1f}"


def family(endpoint: str, contrasts: Sequence[Contrast], error: float) -> list[dict]:
    """The rows of one endpoint: each contrast with the interval that holds for all of them at once.

    Args:
        error: what the family may err. `p_holm` is multiplied by 0.05 / error, so that 0.05 is its border as it is that
            of the simultaneous intervals.
    """
    # By identity: two phases of the same settings are two arms.
    arms = {id(arm): arm for contrast in contrasts for arm in (contrast.arm, contrast.against)}
    cells = {name: endpoint_cells(arm, endpoint) for name, arm in arms.items()}
    if not contrasts or not all(cells.values()):
        return []
    scores = {name: arm.mean_scores(cells[name]) for name, arm in arms.items()}  # max-t knows an arm by its array
    if all(scores_SI.shape[1] < 2 for scores_SI in scores.values()):  # one image tells nothing of others
        return []
    terms: list[list[Term]] = [[(1.0, scores[id(c.arm)]), (-1.0, scores[id(c.against)])] for c in contrasts]
    joint = [pair[1] for pair in simultaneous(terms, level=1 - error)]
    pairs = [(crossed(term), interval) for term, interval in zip(terms, joint, strict=True)]
    adjusted = [min(1.0, p * (1 - LEVEL) / error) for p in holm([p_value(single) for single, _ in pairs])]
    rows = zip(contrasts, pairs, terms, crossed_bootstraps(terms), adjusted, strict=True)
    return [_row(endpoint, *found, check, p_holm=p_holm) for *found, check, p_holm in rows]


def _row(
    endpoint: str,
    contrast: Contrast,
    pair: tuple[Interval, Interval],
    terms: Sequence[Term],
    check: Interval,
    *,
    p_holm: float,
) -> dict:
    single, joint = pair
    margin = KEEPS_MARGIN if contrast.margin is None else contrast.margin
    row = {"endpoint": NOISE if endpoint == _ALL_NOISE else endpoint, "config_id": contrast.arm.config_id,
           "label": contrast.label, "baseline": contrast.against_label}  # fmt: skip
    row |= bounds("difference", single)
    row |= {"joint_low": joint.low, "joint_high": joint.high, "p": p_value(single), "p_holm": p_holm}
    within = tost(single, margin=margin)
    row |= {"p_not_worse": within.not_worse, "p_equivalent": within.equivalent, "p_mcnemar": math.nan, "margin": margin}
    row |= {"bootstrap_low": check.low, "bootstrap_high": check.high}
    row |= {"n_seeds": single.n_seeds, "n_images": single.n_images, "population": single.population}
    read = wording(joint, margin=contrast.margin)
    row |= {"seeds_needed": read.seeds_needed or 0, "reading": read.kind, "verdict": read.text}
    first_SI, second_SI = terms[0][1], terms[1][1]
    if endpoint == CLEAN and len(first_SI) == len(second_SI) == 1:
        gap_I = first_SI[0] - second_SI[0]
        row["p_mcnemar"] = mcnemar(int((gap_I > 0).sum()), int((gap_I < 0).sum()))
    return row
