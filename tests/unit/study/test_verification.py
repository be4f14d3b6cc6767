"""Verification equals the protocol by hand and scikit-learn's curves, and is the same on any number of workers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

from models.distillation.loss import View
from study.data.image_set import ImageSet
from study.evaluate import Evaluation, grid, level_of, noisy
from study.loop import device_images
from study.ranks import Ranks
from study.validation_pairs import MadePairs, validation_pairs
from study.verification import (
    area_under_curve,
    best_threshold,
    check_pairs,
    evaluate_pairs,
    judge,
    pair_ids,
    true_accepts,
)
from tests.unit.study.test_retrieval import CELLS, CPU, image_set, view
from tests.unit.study.workers import run_workers


def made(count: int = 40, folds: int = 4) -> MadePairs:
    return validation_pairs(image_set(60), count=count, folds=folds, seed=1)


def run(pairs: MadePairs, ranks: Ranks = CPU, batch_size: int = 256, **options) -> Evaluation:
    return evaluate_pairs(view, pairs, CELLS, seed=3, ranks=ranks, batch_size=batch_size, keep_predictions=True,
                          **options)  # fmt: skip


def likeness(pairs: MadePairs, cell, *, clean_second: bool) -> np.ndarray:
    clean = device_images(torch.from_numpy(pairs.images).permute(0, 3, 1, 2), torch.device("cpu"))
    seen = noisy(clean, cell, ids_B=torch.from_numpy(pairs.ids), seed=3, scale="nearest")
    first, second = view(seen[pairs.first]), view((clean if clean_second else seen)[pairs.second])
    return torch.nn.functional.cosine_similarity(
        first.embedding_BD.double(), second.embedding_BD.double(), dim=1
    ).numpy()


def by_trying(values: np.ndarray, same: np.ndarray) -> tuple[float, int]:
    """The lowest threshold of all that tell most pairs rightly, and how many."""
    sorted_values = np.unique(values)
    middles = [sorted_values[0] - 1, *(sorted_values[1:] + sorted_values[:-1]) / 2, sorted_values[-1]]
    right = [int(((values > threshold) == same).sum()) for threshold in middles]
    return middles[int(np.argmax(right))], max(right)


@pytest.mark.parametrize("reference", ["same", "clean"])
def test_accuracy_is_the_protocol_by_hand(reference) -> None:
    pairs = made()
    found = run(pairs, reference=reference)
    unchanged = None
    for cell, row, extra in zip(CELLS, found.cells, found.extra, strict=True):
        values = likeness(pairs, cell, clean_second=reference == "clean")
        predicted, accuracies = np.zeros(len(values), dtype=bool), []
        for fold in range(4):
            others = pairs.fold != fold
            predicted[~others] = values[~others] > by_trying(values[others], pairs.same[others])[0]
            accuracies.append(np.mean(predicted[~others] == pairs.same[~others]))
        unchanged = predicted if unchanged is None else unchanged
        assert (row["n"], row["correct"]) == (40, (predicted == pairs.same).sum())
        assert row["flips"] == np.mean(predicted != unchanged)
        assert np.isnan([row["nll"], row["ece"]]).all()
        assert extra["mean"] == pytest.approx(np.mean(accuracies))
        assert extra["standard_error"] == pytest.approx(np.std(accuracies, ddof=1) / 2)
        assert extra["auc"] == pytest.approx(roc_auc_score(pairs.same, values))
        assert (extra["folds"], extra["far"]) == (4, 0.01)
    if reference == "same":
        return
    assert found.extra[0] == run(pairs).extra[0]  # clean against clean


def test_the_threshold_is_the_best_of_all_and_the_lowest_of_equals() -> None:
    rng = np.random.default_rng(0)
    for count in (2, 3, 10, 101):
        for digits in (1, 6):
            values = rng.normal(size=count).round(digits)
            same = rng.random(count) < 0.5 + 0.2 * (values > 0)
            threshold, right = by_trying(values, same)
            assert best_threshold(values, same) == pytest.approx(threshold)
            assert ((values > best_threshold(values, same)) == same).sum() == right
    near = np.array([1.0, np.nextafter(1.0, 2.0)])
    assert ((near > best_threshold(near, np.array([False, True]))) == [False, True]).all()
    assert best_threshold(np.array([0.2, 0.4]), np.array([True, True])) == pytest.approx(-0.8)
    assert best_threshold(np.array([0.2, 0.4]), np.array([False, False])) == pytest.approx(0.4)
    assert best_threshold(np.array([0.1, 0.3, 0.5, 0.7]), np.array([False, True, False, True])) == pytest.approx(0.2)


def test_a_fold_is_told_by_the_others_alone() -> None:
    values = np.array([0.1, 0.9, 0.1, 0.9, 0.4, 0.6])
    same = np.array([False, True, False, True, True, False])
    found = judge(values, same, np.array([0, 0, 1, 1, 2, 2]))
    assert found.thresholds[2] == pytest.approx(0.5)  # the last fold's own pairs would have it at 0.25
    assert found.accuracies[2] == 0
    assert found.predicted_P.tolist()[4:] == [False, True]


def test_curves_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    for digits in (1, 8):
        same = rng.random(700) < 0.5
        values = (rng.normal(size=700) + 1.5 * same).round(digits)
        assert area_under_curve(values, same) == pytest.approx(roc_auc_score(same, values))
        false, true, _ = roc_curve(same, values, drop_intermediate=False)
        for far in (0.0, 0.01, 0.1, 1.0):
            assert true_accepts(values, same, far=far) == pytest.approx(true[false <= far].max())


def test_kept_rows_hold_the_similarity_of_each_pair() -> None:
    pairs = made()
    found = run(pairs)
    rows = found.predictions
    assert len(set(pair_ids(pairs).tolist())) == 40
    for cell, row in zip(CELLS, found.cells, strict=True):
        own = (rows["corruption"] == cell.name) & (rows["severity"] == level_of(cell))
        order = np.argsort(pair_ids(pairs))
        assert np.array_equal(rows["image_id"][own], pair_ids(pairs)[order])
        assert np.array_equal(rows["label"][own], pairs.same[order])
        values = likeness(pairs, cell, clean_second=False)[order]
        assert rows["confidence"][own] == pytest.approx((1 + values) / 2, abs=1e-6)
        assert rows["correct"][own].sum() == row["correct"]
    assert np.array_equal(rows["correct"], rows["predicted"] == rows["label"])
    turned = replace(pairs, first=pairs.second, second=pairs.first)
    assert not set(pair_ids(turned).tolist()) & set(pair_ids(pairs).tolist())


@pytest.mark.parametrize("reference", ["same", "clean"])
def test_batches_and_workers_do_not_matter(reference, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = made()
    whole = run(pairs, reference=reference)
    found = run_workers(3, lambda ranks: run(pairs, ranks, 5, reference=reference), monkeypatch)
    for other in [*found, run(pairs, batch_size=7, reference=reference)]:
        assert [(row["correct"], row["flips"]) for row in other.cells] == [
            (row["correct"], row["flips"]) for row in whole.cells
        ]
        for mine, theirs in zip(other.extra, whole.extra, strict=True):
            assert mine == pytest.approx(theirs, nan_ok=True)
        assert np.array_equal(other.predictions["predicted"], whole.predictions["predicted"])


def test_an_embedding_that_is_no_number_is_like_nothing() -> None:
    def broken(images_BCHW: Tensor) -> View:
        return View((), torch.full((len(images_BCHW), 3), torch.nan), images_BCHW[:, 0, 0])

    found = evaluate_pairs(broken, made(), grid(["contrast"], [1]), seed=0, ranks=CPU)
    assert [row["accuracy"] for row in found.cells] == [0.5, 0.5]


def test_pairs_that_cannot_be_judged_are_refused() -> None:
    pairs = made()
    check_pairs(pairs)
    for changed, said in (
        ({"fold": np.zeros(40, dtype=np.int64)}, "two folds or more"),
        (
            {"same": np.zeros(40, dtype=bool)},
            "fold 0 must be some the same and some different, but all are d",
        ),
        ({"first": pairs.first[[0, *range(39)]], "second": pairs.second[[0, *range(39)]]}, "but 1 stand again"),
    ):
        with pytest.raises(ValueError, match=said):
            check_pairs(replace(pairs, **changed))


def test_made_pairs_are_balanced_and_keyed() -> None:
    images = image_set(60)
    pairs = validation_pairs(images, count=100, seed=1)
    labels = images.labels
    assert np.array_equal(pairs.same, labels[pairs.first] == labels[pairs.second])
    assert pairs.same.sum() == 50
    assert all(pairs.same[pairs.fold == fold].sum() == 5 for fold in range(10))
    assert len({frozenset(pair) for pair in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)}) == 100
    assert len(set(np.concatenate([pairs.first, pairs.second]).tolist())) > 50
    turned = ImageSet(images.images[::-1], labels[::-1], images.ids[::-1].copy(), images.class_names)
    again = validation_pairs(turned, count=100, seed=1)
    assert np.array_equal(images.ids[pairs.first], turned.ids[again.first])
    other = validation_pairs(images, count=100, seed=2)
    assert not np.array_equal(pairs.first, other.first)


def test_few_images_give_all_their_pairs_each_once() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    images = ImageSet(np.zeros((6, 4, 4, 3), dtype=np.uint8), labels, np.arange(6), ("a", "b", "c"))
    pairs = validation_pairs(images, count=600, seed=0)  # 4 of one class, 11 of two
    assert len(pairs.first) == 8
    assert len(np.unique(pairs.fold)) == 4
    check_pairs(pairs)
    all_there = ImageSet(images.images, np.repeat([0, 1], 3), images.ids, ("a", "b"))
    assert len(validation_pairs(all_there, count=12, seed=0).first) == 12  # 6 and 6 of 9
    with pytest.raises(ValueError, match="of 6 classes give 0 and 15"):
        validation_pairs(ImageSet(images.images, np.arange(6), images.ids, tuple("abcdef")), count=30, seed=0)
