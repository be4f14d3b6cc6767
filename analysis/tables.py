"""The tables of a study as numbers (CSV, parquet) and as text (Markdown), all from one frame.

Accuracies and their bounds, calibration errors and flips are shares in [0, 1] in CSV and parquet, and per cent in
Markdown.
"""
# pandas ships no stubs, and pyright takes an indexed frame for any of four types:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportReturnType=false

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.metrics import alexnet_corruption_error, mean_corruption_error, worst_family
from analysis.scores import CLEAN, NOISE, Arm, Headline, corruption_error
from analysis.sides import full_size_noise, noise_word
from analysis.stats import Interval

MARKS = {"seen": "●", "similar": "◐", "unseen": ""}
"""How a table marks what training noise has to do with a corruption."""
UNSEEN = "unseen_by_all"
"""Mean over the corruptions that are unseen for every configuration shown."""
ALEXNET_TITLE = "mCE by AlexNet (imagecorruptions, not ImageNet-C)"
MEASURE_LEGEND = (
    "ECE: expected calibration error of the predicted class, 15 bins, in per cent, mean over seeds and cells (biased "
    "upwards where images are few). Flips: per cent of images whose prediction under noise or at a lower side is not "
    "the one on the clean image, right or wrong."
)
REAL_LEGEND = (
    "Folders of real noisy images, each of images of its own, without clean ones beside them: these figures stand in "
    "no mean and in no mCE, and their distance from clean accuracy is not the effect of noise alone."
)
_TITLES = {"configuration", "seeds", "images", CLEAN, "unseen by all", "worst", "mCE", "relative mCE", "flips",
           "passes", "seconds", ALEXNET_TITLE, ALEXNET_TITLE.replace("mCE", "relative mCE")}  # fmt: skip
"""Titles of the accuracy table that no corruption may have."""
KEEPS_MARGIN = 0.01
"""One point: how much clean accuracy a configuration may lose and still be said to keep it."""


@dataclass(frozen=True)
class Column:
    """A column for people: its title, and how a row of the frame reads in it."""

    title: str
    text: Callable[[pd.Series], str]
    is_number: bool = True


@dataclass(frozen=True)
class Table:
    """A frame of numbers with the columns people read."""

    name: str
    frame: pd.DataFrame
    columns: Sequence[Column]
    notes: Sequence[str] = ()

    def texts(self) -> list[list[str]]:
        """The rows as people read them."""
        return [[column.text(row) for column in self.columns] for _, row in self.frame.iterrows()]

    def markdown(self) -> str:
        """A pipe table and its notes."""
        head = [_cell(column.title) for column in self.columns]
        rule = ["---:" if column.is_number else "---" for column in self.columns]
        lines = [head, rule, *([_cell(text) for text in row] for row in self.texts())]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return "\n\n".join([table, *(_cell(note) for note in self.notes)]) + "\n"

    def csv(self) -> str:
        """The frame's numbers; without rows the titles that people read, so that a file is never without a header."""
        return self._numbers().to_csv(index=False, lineterminator="\n")

    def parquet(self) -> bytes:
        """The same as parquet."""
        buffer = io.BytesIO()
        self._numbers().to_parquet(buffer, index=False)
        return buffer.getvalue()

    def _numbers(self) -> pd.DataFrame:
        is_bare = not len(self.frame) and not len(self.frame.columns)
        return pd.DataFrame(columns=[column.title for column in self.columns], dtype="str") if is_bare else self.frame


def _cell(text: str) -> str:
    safe = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(safe.replace("|", "\\|").split())


# ------------------------------------------------------------------------------------------------ accuracy under noise
def accuracy_table(found: Headline) -> Table:
    """Rows are configurations; columns clean, each corruption, mean over noise, worst corruption, mCE and cost.

    In the frame a corruption's accuracy is `noise_column(name)`, that of a folder of real images `real_column(name)`.
    """
    baseline = next((arm for arm in found.arms if arm.config_id == found.baseline), None)
    notes: list[str] = []
    rows = [_accuracy_row(arm, baseline, found, notes) for arm in found.arms]
    word = noise_word(found)
    columns = [
        Column("configuration", lambda row: row["label"], is_number=False),
        Column("seeds", lambda row: str(row["n_seeds"])),
        Column("images", lambda row: str(row["n_images"])),
        Column("clean", accuracy_text(CLEAN)),
        *(Column(corruption_title(name), accuracy_text(noise_column(name), mark=True)) for name in found.corruptions),
        *(Column(f"real: {name}", real_text(name)) for name in found.real),
        Column(f"mean {word}", accuracy_text(NOISE)),
        Column("unseen by all", accuracy_text(UNSEEN)),
        Column("worst", worst_text),
        Column("mCE", interval_text("mce", scale=1.0, digits=2)),
        Column("relative mCE", interval_text("relative_mce", scale=1.0, digits=2)),
        *_published_columns(found),
        *_measure_columns(rows, word),
        Column("passes", lambda row: count_text(row["cost_passes"])),
        Column("seconds", lambda row: count_text(row["cost_seconds"])),
    ]
    legend = [found.small_grid] if found.small_grid else []
    legend += ["Accuracy in per cent [95 % interval]. ● trained on this very corruption, ◐ on one of its group."]
    legend += [MEASURE_LEGEND] if _measure_columns(rows, word) else []
    legend += [REAL_LEGEND] if found.real else []
    return Table("accuracy", pd.DataFrame(rows), columns, [*legend, *dict.fromkeys(notes)])


def noise_column(name: str) -> str:
    """A corruption's column in the accuracy frame, apart from every other: `noise/fog/accuracy`, its bounds with `_low`
    and `_high`, its relation to the training noise with `_relation`. Own noises may have any name, even `fog_low`.
    """
    return f"noise/{name}/accuracy"


def real_column(name: str) -> str:
    """The same of a folder of real images: `real/camera/accuracy`, with `_low`, `_high`, `_n` (images) and `_ece`."""
    return f"real/{name}/accuracy"


def corruption_title(name: str) -> str:
    """A corruption's title, its name; `noise: worst` where another column of the table is called so."""
    is_taken = name in _TITLES or name.startswith(("mean ", "ECE ", "noise: ", "real: "))
    return f"noise: {name}" if is_taken else name


def _published_columns(found: Headline) -> list[Column]:
    if found.normaliser != "alexnet":
        return []
    relative = ALEXNET_TITLE.replace("mCE", "relative mCE")
    return [
        Column(ALEXNET_TITLE, interval_text("mce_alexnet", scale=1.0, digits=2)),
        Column(relative, interval_text("relative_mce_alexnet", scale=1.0, digits=2)),
    ]


def _measure_columns(rows: Sequence[dict], word: str) -> list[Column]:
    """Calibration and flips, those that the records have."""
    columns = {"ECE clean": "ece_clean", f"ECE {word}": "ece_noise", "flips": "flips_noise"}
    return [
        Column(title, interval_text(name))
        for title, name in columns.items()
        if any(not math.isnan(row[name]) for row in rows)
    ]


def _accuracy_row(arm: Arm, baseline: Arm | None, found: Headline, notes: list[str]) -> dict:
    first, trials = arm.rows.iloc[0], arm.rows.drop_duplicates("trial")
    clean, noise = arm.mean(arm.of(CLEAN)), arm.mean(arm.noisy())
    some = clean or noise
    row: dict = {"config_id": arm.config_id, "label": arm.label}
    row |= {name: first[name] for name in ("method", "backbone", "stages", "rho")}
    row |= {"train_noise": first["train_noise"], "split": first["split"], "n_seeds": len(trials)}
    row |= {"n_images": some.n_images if some else 0, "population": some.population if some else ""}
    row |= bounds(CLEAN, clean)
    relations = arm.relations()
    for name in found.corruptions:
        key = noise_column(name)
        row |= bounds(key, arm.mean(arm.of(name))) | {f"{key}_relation": relations.get(name)}
    row |= bounds(NOISE, noise)
    row |= bounds(UNSEEN, arm.mean([cell for name in found.unseen_by_all() for cell in arm.of(name)]))
    for relation in MARKS:
        row |= bounds(f"{relation}_mean", arm.mean(arm.among("relation", relation)))
    row |= {"ece_clean": arm.measure("ece", arm.of(CLEAN)), "ece_noise": arm.measure("ece", arm.noisy())}
    row |= {"flips_noise": arm.measure("flips", arm.noisy())}
    for name in found.real:
        row |= real_figures(arm, name, prefix=real_column(name))
    worst = worst_family(arm.rows)[0] if arm.noisy() else None
    row |= {"worst_corruption": worst} | bounds("worst", arm.mean(arm.of(worst)) if worst else None)
    row |= bounds("mce", None) | {"relative_mce": math.nan} | _published(arm, found, notes)
    if baseline is not None and _paired_cells(arm) == _paired_cells(baseline):
        plain = mean_corruption_error(arm.rows, baseline.rows)
        relative = mean_corruption_error(arm.rows, baseline.rows, relative=True)
        row |= bounds("mce", corruption_error(arm, baseline)) | {"mce": plain.value, "relative_mce": relative.value}
        notes += [f"mCE, {note}" for note in plain.notes] + [f"relative mCE, {note}" for note in relative.notes]
    return row | {name: float(trials[name].mean()) for name in ("cost_passes", "cost_seconds")}


def _paired_cells(arm: Arm) -> set[tuple[str, int]]:
    return {*arm.of(CLEAN), *arm.noisy()}


def _published(arm: Arm, found: Headline, notes: list[str]) -> dict[str, float]:
    """mCE by AlexNet's published errors, where the study asks for it and may have it."""
    if found.normaliser != "alexnet" or not arm.noisy():
        return {}
    if found.split != "test":
        notes.append("mCE by AlexNet: only of test figures, which have all severities")
        return {}
    plain, relative = (alexnet_corruption_error(arm.rows, relative=kind) for kind in (False, True))
    notes.append(
        f"mCE by AlexNet: over {len(plain.by_corruption)} of ImageNet-C's 15 corruptions; our errors are under the "
        "suite imagecorruptions, AlexNet's on the ImageNet-C files, so it is not the official ImageNet-C mCE"
    )
    notes += [f"mCE by AlexNet, {note}" for note in plain.notes]
    return {"mce_alexnet": plain.value, "relative_mce_alexnet": relative.value}


def real_figures(arm: Arm, name: str, *, prefix: str) -> dict[str, float]:
    """Accuracy on a folder of real images with its interval, its own number of images, and its calibration error."""
    mean = arm.mean(arm.of(name))
    figures = bounds(prefix, mean) | {f"{prefix}_n": math.nan if mean is None else float(mean.n_images)}
    return figures | {f"{prefix}_ece": arm.measure("ece", arm.of(name))}


def bounds(name: str, found: Interval | None) -> dict[str, float]:
    """An estimate and its bounds as three columns; NaN where there is none."""
    if found is None:
        return {name: math.nan, f"{name}_low": math.nan, f"{name}_high": math.nan}
    return {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}


def interval_text(
    name: str, *, scale: float = 100.0, digits: int = 1, mark: bool = False, without: str = ""
) -> Callable[[pd.Series], str]:
    """How an estimate and its bounds read: `61.2 [58.0, 64.1]`, a dash where it is missing.

    Args:
        mark: whether the mark of a corruption's relation to the training noise follows.
        without: what stands in place of bounds that are missing.
    """

    def text(row: pd.Series) -> str:
        if pd.isna(row[name]):
            return "–"
        shown = f"{row[name] * scale:.{digits}f}"
        if not pd.isna(row.get(f"{name}_low")):
            shown += f" [{row[f'{name}_low'] * scale:.{digits}f}, {row[f'{name}_high'] * scale:.{digits}f}]"
        else:
            shown += without
        sign = MARKS.get(row.get(f"{name}_relation"), "") if mark else ""
        return f"{shown} {sign}".rstrip()

    return text


def accuracy_text(name: str, *, mark: bool = False) -> Callable[[pd.Series], str]:
    """How an accuracy reads, as `interval_text`; of one image it says that there is no interval."""
    return interval_text(name, mark=mark, without=" [no interval]")


def real_text(name: str) -> Callable[[pd.Series], str]:
    """A folder of real images: accuracy with its interval, and how many images it is of."""

    def text(row: pd.Series) -> str:
        shown = accuracy_text(real_column(name))(row)
        return shown if shown == "–" else f"{shown} n={row[f'{real_column(name)}_n']:.0f}"

    return text


def worst_text(row: pd.Series) -> str:
    """The worst corruption with its interval and its name."""
    if pd.isna(row["worst"]):
        return "–"
    return f"{accuracy_text('worst')(row)} {row['worst_corruption']}"


def count_text(value: float) -> str:
    """A cost in few characters: 0.04, 3.1, 940, 12.3k, 4.5M; in the next unit where rounding would reach a thousand."""
    if pd.isna(value):
        return "–"
    for least, size, unit in ((999.5e9, 1e12, "T"), (999.5e6, 1e9, "G"), (999.5e3, 1e6, "M"), (9999.5, 1e3, "k")):
        if value >= least:
            return f"{value / size:.3g}{unit}"
    if value >= 9.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 0.95 or value == 0 else f"{value:.2g}"


def value_text(name: str, value: float) -> str:
    """A metric's value for people: accuracies in per cent, latencies in three digits, costs in few characters."""
    if pd.isna(value):
        return "–"
    if name == "cost/latency_ms":
        return f"{value:.3g}"
    return f"{value * 100:.1f}" if name.startswith("acc/") else count_text(value)


def severity_means(arm: Arm) -> pd.DataFrame:
    """Accuracy with its interval by severity, of images at full size; severity 0 is clean."""
    noisy = full_size_noise(arm)
    levels = sorted({severity for _, severity in noisy})
    cells = [(0, arm.of(CLEAN)), *((level, [cell for cell in noisy if cell[1] == level]) for level in levels)]
    rows = [{"severity": level} | bounds("accuracy", arm.mean(some)) for level, some in cells]
    return pd.DataFrame(rows).dropna(subset=["accuracy"])
