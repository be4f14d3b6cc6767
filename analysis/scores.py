"""From a snapshot to arms: the configurations that the headline compares, with their scores by seed and image.

Two populations. Where trials read the test split (a confirmation, a single training), those are the arms, their seeds
together. Else the best finished search trial of each method, on the validation figures it was chosen by: optimistic,
and labelled so. Folders of real noisy images are cells of other images: they stand apart from every mean over noise.
"""
# pandas ships no stubs, and pyright takes an indexed frame for any of four types:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportReturnType=false

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.chosen import small_grid_words
from analysis.load import Snapshot, iter_predictions
from analysis.metrics import (
    ALEXNET_CLASSES,
    ALEXNET_IMAGE_SIZE,
    by_corruption,
    find_baseline,
    main_rows,
    own_images,
)
from analysis.records import GROUP_ORDER, REAL, TrialRecord, known_groups, side_of, ungrouped
from analysis.searches import can_be_chosen, current, figures_of, objectives_of
from analysis.stats import Interval, Term, crossed, crossed_mean, from_counts
from analysis.validated import best_of_methods, whole_grid

CLEAN, NOISE = "clean", "noise_mean"
Cell = tuple[str, int]


@dataclass(frozen=True)
class Arm:
    """One configuration over its seeds.

    Attributes:
        rows: its rows of the headline's split, one for each trial and cell.
        scores: cell -> correct (0 or 1) by seed and image; empty where predictions were not kept.
        trials: keys of the trials that the scores are of, in their order.
        whole: the same with the networks that further phases trained of the same settings with the same seeds; they
            are equal, so no figure counts them as further seeds. None where there are none.
    """

    config_id: str
    label: str
    rows: pd.DataFrame
    scores: Mapping[Cell, np.ndarray] = field(default_factory=dict)
    trials: tuple[str, ...] = ()
    whole: Arm | None = None

    def phases(self) -> list[str]:
        """The phases that have a trial of it."""
        return [str(name) for name in (self.whole or self).rows["phase"].unique()]

    def of_phase(self, phase: str) -> Arm:
        """Its trials of one phase alone: phases of the same settings are one configuration, but each has its seeds."""
        whole = self.whole or self
        return whole.of_trials(set(whole.rows["trial"][whole.rows["phase"] == phase]))

    def of_trials(self, keys: Collection[str]) -> Arm:
        """These of its trials alone."""
        mine = [place for place, trial in enumerate(self.trials) if trial in keys]
        return Arm(
            self.config_id, self.label, self.rows[self.rows["trial"].isin(list(keys))],
            {cell: scores_SI[mine] for cell, scores_SI in self.scores.items()},
            tuple(self.trials[place] for place in mine),
        )  # fmt: skip

    @property
    def cells(self) -> list[Cell]:
        """Every corruption x severity of this arm, clean among them."""
        return sorted({(str(c), int(s)) for c, s in zip(self.rows.corruption, self.rows.severity, strict=True)})

    def noisy(self) -> list[Cell]:
        """The cells of the noise made here, on the clean images."""
        real = set(self.real())
        return [cell for cell in self.cells if cell[0] != CLEAN and cell not in real]

    def real(self) -> list[Cell]:
        """The folders of real noisy images, each with images of its own."""
        names = set(self.rows.corruption[self.rows["group"] == REAL])
        return [cell for cell in self.cells if cell[0] in names]

    def among(self, column: str, value: str) -> list[Cell]:
        """The noisy cells of a group, family or relation."""
        names = set(self.rows.corruption[self.rows[column] == value])
        return [cell for cell in self.noisy() if cell[0] in names]

    def measure(self, column: str, cells: list[Cell]) -> float:
        """Mean of `ece` or `flips` over cells and seeds; NaN where there is none."""
        wanted = set(cells)
        mine = [cell in wanted for cell in zip(self.rows.corruption, self.rows.severity, strict=True)]
        return float(self.rows.loc[mine, column].mean())

    def of(self, corruption: str) -> list[Cell]:
        return [cell for cell in self.cells if cell[0] == corruption]

    def relations(self) -> dict[str, str]:
        return dict(zip(self.rows.corruption, self.rows.relation, strict=True))

    def mean_scores(self, cells: list[Cell]) -> np.ndarray:
        """Share of these cells that a network got right, by seed and image (S, I)."""
        return np.mean([self.scores[cell] for cell in cells], axis=0)

    def mean(self, cells: list[Cell]) -> Interval | None:
        """Mean accuracy over cells with its interval; None where there is no such cell."""
        if not cells:
            return None
        if all(cell in self.scores for cell in cells):
            return crossed_mean(self.mean_scores(cells))
        wanted = pd.MultiIndex.from_tuples(cells)
        mine = self.rows[pd.MultiIndex.from_frame(self.rows[["corruption", "severity"]].astype(object)).isin(wanted)]
        return from_counts(mine.groupby("trial")["accuracy"].mean().tolist(), int(mine["n"].min()))


@dataclass(frozen=True)
class Headline:
    """What the report leads with.

    Attributes:
        split: "test", or "validation" where nothing was tested: figures that the trials were chosen by.
        arms: configurations, the baseline first.
        baseline: its config id; None where no arm matches the study's baseline.
        normaliser: what mCE is divided by besides the baseline: "alexnet", or "baseline" for nothing else.
        notes: what a reader has to know.
        empty: why there are no arms, in words.
        small_grid: of what part of the validation grid figures are, in a sentence; empty where they are of the whole.
    """

    split: Literal["test", "validation"]
    arms: list[Arm]
    baseline: str | None
    notes: list[str]
    normaliser: Literal["baseline", "alexnet"] = "baseline"
    small_grid: str = ""
    empty: str = "no finished trial yet"

    @property
    def corruptions(self) -> list[str]:
        """Noisy corruptions of the arms, by group, side and name; without the folders of real images."""
        return self._names({name for arm in self.arms for name, _ in arm.noisy()})

    @property
    def real(self) -> list[str]:
        """Folders of real noisy images, by name."""
        return self._names({name for arm in self.arms for name, _ in arm.real()})

    def _names(self, wanted: set[str]) -> list[str]:
        known = {group: place for place, group in enumerate(GROUP_ORDER)}
        groups = self.groups()
        places = {name: (known.get(groups[name], len(known)), groups[name]) for name in wanted}
        return sorted(wanted, key=lambda name: (*places[name], side_of(name, groups[name]), name))

    def groups(self) -> dict[str, str]:
        """Corruption -> group."""
        return {c: g for arm in self.arms for c, g in zip(arm.rows.corruption, arm.rows.group, strict=True)}

    def unseen_by_all(self) -> list[str]:
        """Corruptions that no arm trained on, nor on one of their group: the same list for all, so comparable."""
        known = [arm.relations() for arm in self.arms]
        return [name for name in self.corruptions if all(found.get(name) == "unseen" for found in known)]

    def reference(self) -> Arm | None:
        """The arm that the others are compared with: the baseline, else the one chosen first."""
        return next((arm for arm in self.arms if arm.config_id == self.baseline), self.arms[0] if self.arms else None)


def headline(snapshot: Snapshot) -> Headline:
    """The arms of a study, see the module's first lines."""
    frame, notes = snapshot.frame(), list(snapshot.notes)
    own = {record.key for record in current(snapshot.trials, snapshot.study)}
    frame = frame[frame["trial"].isin(own) & (frame["status"] == "finished")]
    tested = main_rows(frame[frame["role"] != "search"], split="test")
    if len(tested):
        split, rows, small_grid = "test", tested, ""
    else:
        best = best_of_methods(snapshot)
        split, rows = "validation", main_rows(whole_grid(snapshot, frame, best), split="validation")
        small_grid = small_grid_words(snapshot, best)
        notes += [small_grid] if small_grid else []
    is_stated = bool(((snapshot.study.get("config") or {}).get("report") or {}).get("contrasts"))
    arms = [_arm(part, by_phase=is_stated) for _, part in rows.groupby("config_id", sort=False)]
    if split == "test":
        arms = _with_scores(snapshot, arms, notes)
    arms = [_once(arm, notes) for arm in arms]
    baseline = _baseline(snapshot, arms, notes)
    arms.sort(key=lambda arm: arm.config_id != baseline)
    groups = known_groups(snapshot.trials, snapshot.study)
    types = {name for arm in arms for name in arm.rows["train_noise"].iloc[0].split("+") if name != "none"}
    notes += [f"the group of training noise {name} is not known, so nothing is similar to it"
              for name in ungrouped(types, groups)]  # fmt: skip
    return Headline(split, arms, baseline, notes, _normaliser(snapshot.study, notes), small_grid,
                    _why_empty(snapshot))  # fmt: skip


def _why_empty(snapshot: Snapshot) -> str:
    """Why a study has nothing to show, where it has not."""
    ended = [r for r in current(snapshot.trials, snapshot.study) if r.status == "finished"]
    if not ended:
        return "no finished trial yet"
    metrics = {r.key: next(iter(objectives_of(snapshot.study, r.info["phase"]))) for r in ended}
    known = [r for r in ended if np.isfinite(figures_of(r).get(metrics[r.key], math.nan))]
    said = f"{len(ended)} trial{'s' if len(ended) != 1 else ''} finished, but none"
    if not known:
        return f"{said} has a figure for {' or '.join(dict.fromkeys(metrics.values()))}"
    return f"{said} keeps the constraints" if not any(can_be_chosen(r, snapshot.study) for r in known) else (
        f"{said} has accuracies that could be read"
    )  # fmt: skip


def _normaliser(study: Mapping[str, Any], notes: list[str]) -> Literal["baseline", "alexnet"]:
    """What the study file asks for; a record whose images are not ImageNet's at 224 px does not get it."""
    if ((study.get("config") or {}).get("report") or {}).get("normaliser") != "alexnet":
        return "baseline"
    data = study.get("data") or {}
    if (data.get("num_classes"), data.get("image_size")) == (ALEXNET_CLASSES, ALEXNET_IMAGE_SIZE):
        return "alexnet"
    notes.append(
        f"report.normaliser: alexnet is for ImageNet's {ALEXNET_CLASSES:,} classes at {ALEXNET_IMAGE_SIZE} px, and "
        f"these data have {data.get('num_classes')} at {data.get('image_size')} px, so mCE by AlexNet is missing"
    )
    return "baseline"


def _arm(rows: pd.DataFrame, *, by_phase: bool) -> Arm:
    """One configuration; where contrasts or its labels name phases, under the names of all that trained it."""
    labels = dict(zip(rows["phase"].astype(str), rows["label"].astype(str), strict=True))
    bare = [label.removeprefix(f"{phase}: ") for phase, label in labels.items()]
    is_named = by_phase or bare != list(labels.values())
    label = f"{', '.join(labels)}: {max(bare, key=len)}" if is_named else bare[0]
    return Arm(str(rows["config_id"].iloc[0]), label, rows)


def _once(arm: Arm, notes: list[str]) -> Arm:
    """The arm with one trial of each seed, the first; the same settings and seed make the same network."""
    trials = arm.rows.drop_duplicates("trial")
    twins = trials[trials["seed"].notna() & trials.duplicated("seed")]
    if twins.empty:
        return arm
    phases, count = ", ".join(dict.fromkeys(trials["phase"])), twins["seed"].nunique()
    notes.append(
        f"{arm.label}: phases {phases} trained the same settings with {count} seed{'s' * (count != 1)} in common; such "
        "networks are equal, so each seed counts once"
    )
    return replace(arm.of_trials(set(trials["trial"]) - set(twins["trial"])), whole=arm)


def _with_scores(snapshot: Snapshot, arms: list[Arm], notes: list[str]) -> list[Arm]:
    """The arms with their predictions, if all have them on the same images."""
    wanted = {str(t): arm.config_id for arm in arms for t in arm.rows["trial"].unique()}
    real = sorted({cell for arm in arms for cell in arm.real()})
    kept: dict[str, list[dict[Cell | None, pd.DataFrame]]] = {arm.config_id: [] for arm in arms}
    order: dict[str, list[str]] = {arm.config_id: [] for arm in arms}
    for trial, predictions in iter_predictions(snapshot, trials=sorted(wanted)):
        kept[wanted[trial]].append(_grids(predictions, real))
        order[wanted[trial]].append(trial)
    every = [grids for found in kept.values() for grids in found]
    if len(every) < len(wanted):
        notes.append(
            "predictions of some trials are missing: intervals come from counts, are wider, and nothing is paired"
        )
        return arms
    if not _same_images([grids[None] for grids in every]):
        notes.append("trials were tested on different images: intervals come from counts, and nothing is paired")
        return arms
    differ = [cell for cell in real if not _same_images([grids[cell] for grids in every])]
    notes += [f"trials read different images of {name}: its intervals come from counts" for name, _ in differ]
    scored = []
    for arm in arms:
        found = kept[arm.config_id]
        mine = [cell for cell in arm.cells if cell not in differ]
        places = {cell: cell if cell in real else None for cell in mine}
        cells = {cell: np.stack([g[places[cell]][cell].to_numpy(dtype=float) for g in found]) for cell in mine}
        _agree(arm, cells)
        scored.append(Arm(arm.config_id, arm.label, arm.rows, cells, tuple(order[arm.config_id])))
    return scored


def _grids(predictions: pd.DataFrame, real: list[Cell]) -> dict[Cell | None, pd.DataFrame]:
    """Image x cell -> correct: of the study's own test images (None), and of each folder of real images."""
    names = [name for name, _ in real]
    grids: dict[Cell | None, pd.DataFrame] = {None: _wide(predictions[~predictions["corruption"].isin(names)])}
    for cell in real:
        grids[cell] = _wide(predictions[predictions["corruption"] == cell[0]])
    return grids


def _wide(part: Any) -> pd.DataFrame:
    wide = part.pivot(index="image_id", columns=["corruption", "severity"], values="correct")
    return wide.sort_index().astype("float32")


def _same_images(grids: list[pd.DataFrame]) -> bool:
    return all(grid.index.equals(grids[0].index) and not grid.isna().any(axis=None) for grid in grids)


def _agree(arm: Arm, cells: Mapping[Cell, np.ndarray]) -> None:
    means = arm.rows.groupby(["corruption", "severity"])["accuracy"].mean()
    for cell, scores_SI in cells.items():
        if abs(float(scores_SI.mean()) - float(means[cell])) > 1e-5:
            raise ValueError(
                f"predictions and cells must agree, but for {arm.label} at {cell} predictions.parquet says "
                f"{scores_SI.mean():.4f} and cells.parquet {means[cell]:.4f}; evaluate its trials again"
            )


def _baseline(snapshot: Snapshot, arms: list[Arm], notes: list[str]) -> str | None:
    named = snapshot.study.get("baseline")
    mine = {str(t) for arm in arms for t in arm.rows["trial"]}
    records: list[TrialRecord] = [record for record in snapshot.trials if record.key in mine]
    if not named:
        notes.append("the study names no baseline, so mCE is missing")
        return None
    try:
        return find_baseline(records, named)
    except LookupError:
        notes.append(f"no configuration shown here matches the baseline {named}, so mCE is missing")
        return None


def corruption_error(arm: Arm, baseline: Arm) -> Interval | None:
    """Interval of the mCE against the baseline, both estimated on the same images (delta method).

    With r_c = E_c / B_c the ratio of a corruption's errors, its change is (dE_c - r_c dB_c) / B_c: a weighted
    difference of the two arms' scores, so the crossed interval applies. None for the baseline itself (1 by definition),
    without predictions, of one image, and where no denominator is positive.
    """
    if arm.config_id == baseline.config_id or not arm.scores or not baseline.scores:
        return None
    own, base = (1 - by_corruption(own_images(one.rows)) for one in (arm, baseline))
    usable = [c for c in own.index if c != CLEAN and float(base[c]) > 0]
    if not usable:
        return None
    own_SI = np.mean([(1 - arm.mean_scores(arm.of(c))) / float(base[c]) for c in usable], axis=0)
    base_SI = np.mean(
        [(1 - baseline.mean_scores(baseline.of(c))) * float(own[c]) / float(base[c]) ** 2 for c in usable], axis=0
    )
    if own_SI.shape[1] < 2:
        return None
    terms: list[Term] = [(1.0, own_SI), (-1.0, base_SI)]
    found, value = crossed(terms), float(np.mean([float(own[c]) / float(base[c]) for c in usable]))
    half = found.high - found.estimate
    return Interval(value, max(0.0, value - half), value + half, found.se, found.df, found.n_images, found.n_seeds,
                    found.population, found.seed_variance)  # fmt: skip
