"""What a trial is judged by: the same cells for its classifier, for retrieval and for verification."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from models.methods.method import Method, Viewed
from study.config import TrialConfig
from study.config_task import Retrieval, Verification
from study.data.image_set import DataSplits, ImageSet
from study.data.pairs import prepare_pairs
from study.data.staging import staged
from study.evaluate import Cell, Evaluation, Heads, evaluate, share_by_class, subset
from study.ranks import Ranks
from study.retrieval import evaluate_retrieval, has_mate, whole_classes
from study.validation_pairs import validation_pairs
from study.verification import PairSet, check_pairs, evaluate_pairs


def evaluate_task(
    config: TrialConfig,
    method: Method,
    images: ImageSet,
    cells: Sequence[Cell],
    *,
    split: Literal["validation", "test"],
    ranks: Ranks,
    heads: Heads | None = None,
    pairs: PairSet | None = None,
    most: int | None = None,
    keep_predictions: bool | None = None,
) -> Evaluation:
    """Evaluate a method on every cell by the task of its config; its network is in evaluation mode already.

    Validation reads at most `noise.validation_images` images, or the pairs that verification makes of them; test reads
    all and keeps predictions.

    Args:
        heads: Of a method with several classifiers, for the task `classification`.
        pairs: What verification is tested on, in place of `images`.
        most: Validation images to read at most, of those that validation reads, by their classes' shares.
        keep_predictions: Left out: those of the test.
    """
    noise, task, lens = config.noise, config.task, config.resolution.evaluation_lens
    is_test, limit, keyed = split == "test", noise.validation_images, config.data.split_seed
    keep = is_test if keep_predictions is None else keep_predictions
    if task.name == "classification":
        positions = None if is_test else subset(images, limit, seed=keyed)
        if positions is not None and most is not None:
            positions = share_by_class(images, positions, most, seed=keyed)
        return evaluate(
            method.predict, images, cells, split=split, seed=noise.seed, ranks=ranks, scale=noise.scale, lens=lens,
            batch_size=config.train.eval_batch_size, positions=positions, keep_predictions=keep, heads=heads,
        )  # fmt: skip
    assert isinstance(method, Viewed)
    if isinstance(task, Retrieval):
        return evaluate_retrieval(
            method.view, images, cells, split=split, seed=noise.seed, ranks=ranks, scale=noise.scale, lens=lens,
            batch_size=config.train.eval_batch_size, at=task.at, reference=task.reference, normalise=task.normalise,
            positions=None if is_test else whole_classes(images, min(limit, most or limit), seed=keyed),
            keep_predictions=keep,
        )  # fmt: skip
    if not is_test:
        count = min(task.validation_pairs, most or task.validation_pairs)
        pairs = validation_pairs(images, count=count, seed=keyed)
    assert pairs is not None
    return evaluate_pairs(
        method.view, pairs, cells, split=split, seed=noise.seed, ranks=ranks, scale=noise.scale, lens=lens,
        batch_size=config.train.eval_batch_size, reference=task.reference, keep_predictions=keep,
    )  # fmt: skip


def prepare_task(config: TrialConfig, data: DataSplits, *, cache_dir: Path, tested: bool) -> PairSet | None:
    """Refuse what the task cannot be judged by, before anything is trained; gives the pairs that verification tests.

    Args:
        tested: Whether the trial reads test images, or pairs, at its end.

    Raises:
        ValueError: No class has two images, there are too few pairs, or persons of the pairs were trained on.
    """
    task = config.task
    if isinstance(task, Retrieval):
        limit, keyed = config.noise.validation_images, config.data.split_seed
        has_mate(data.validation.labels[whole_classes(data.validation, limit, seed=keyed)], split="validation")
        has_mate(data.test.labels, split="test")
    if not isinstance(task, Verification):
        return None
    validation_pairs(data.validation, count=task.validation_pairs, seed=config.data.split_seed)
    if not tested:
        return None
    pairs = read_pairs(task, image_size=config.data.image_size, cache_dir=cache_dir)
    try:
        check_pairs(pairs)
    except ValueError as error:
        raise ValueError(f"task.pairs: {error}") from error
    if not task.allow_overlap:
        _refuse_known(pairs, tuple(dict.fromkeys((*data.class_names, *data.validation.class_names))))
    return pairs


def read_pairs(task: Verification, *, image_size: int, cache_dir: Path) -> PairSet:
    """The pairs that verification is tested on, their images square at the working size; those at URLs are copied.

    Raises:
        ValueError: They cannot be read.
    """
    pairs, path = (_here(name, place, cache_dir) for name, place in pair_places(task).items())
    try:
        return prepare_pairs(path, pairs, image_size=image_size, cache_dir=cache_dir)
    except ValueError as error:
        key, _, rest = str(error).partition(" ")
        setting = {"path": "images", "path:": "images", "pairs": "pairs"}.get(key)
        raise ValueError(f"task.{setting}: {rest}" if setting else f"task.images: {error}") from error


def pair_places(task: Verification) -> dict[str, str]:
    """Where the list of pairs lies and where their images; left out, these are in the list's own folder."""
    beside = task.pairs.rpartition("/")[0] if "://" in task.pairs else str(Path(task.pairs).parent)
    return {"pairs": task.pairs, "images": task.images or beside}


def _here(name: str, place: str, cache_dir: Path) -> str:
    try:
        return staged(place, cache_dir)
    except ValueError as error:
        raise ValueError(f"task.{name}: {error}") from error


def fingerprint_of(pairs: PairSet | None) -> str:
    """What tells these pairs from others; empty without pairs."""
    return str(getattr(pairs, "fingerprint", ""))


def _refuse_known(pairs: PairSet, class_names: Sequence[str]) -> None:
    """Refuse pairs that say of themselves that they hold persons who are training classes."""
    find_known = getattr(pairs, "known", None)
    if find_known is not None and all(name.isdecimal() for name in class_names):
        raise ValueError(
            f"task.pairs: must hold no person who is trained on, which cannot be told, as the classes go by numbers "
            f"({class_names[0]}, ...); name their column in data.name_column, or set task.allow_overlap: true"
        )
    known = list(find_known(class_names)) if find_known is not None else []
    if known:
        shown = ", ".join(known[:3]) + (", ..." if len(known) > 3 else "")
        raise ValueError(
            f"task.pairs: must be of persons that are not trained on, but {len(known)} of the {len(class_names)} "
            f"training classes stand in the pairs ({shown}); take them out of the training images, or set "
            "task.allow_overlap: true"
        )
