"""Retrieval equals a count by hand, finds among equals the first, and is the same on any number of workers."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

import study.retrieval
from models.distillation.loss import View
from study.data.image_set import ImageSet
from study.evaluate import Cell, Evaluation, grid, level_of, noisy
from study.loop import device_images
from study.ranks import Ranks
from study.retrieval import NEVER, NONE, evaluate_retrieval, has_mate, neighbours, whole_classes
from tests.unit.study.workers import run_workers

CELLS = [*grid(["gaussian_noise", "motion_blur"], [2, 5]), Cell("clean", 0, 8), Cell("contrast", 2, 8)]
CPU = Ranks(device="cpu")
AT = (1, 2, 4, 100)


def image_set(count: int, classes: int = 4) -> ImageSet:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    labels = rng.integers(0, classes, count)
    return ImageSet(pixels, labels, rng.permutation(1000)[:count], tuple(f"c{i}" for i in range(classes)))


def view(images_BCHW: Tensor) -> View:
    """Six values that follow each image's own pixels closely, of other lengths for each image."""
    sums_B = images_BCHW.double().sum((1, 2, 3))
    values_BD = torch.stack([(sums_B * weight).sin() * (1 + weight) for weight in (1.0, 3.0, 7.0, 13.0, 17.0, 31.0)], 1)
    return View((), values_BD.float(), values_BD.float()[:, :2])


def run(images: ImageSet, ranks: Ranks = CPU, batch_size: int = 256, **options) -> Evaluation:
    return evaluate_retrieval(view, images, CELLS, split="test", seed=3, ranks=ranks, batch_size=batch_size, at=AT,
                              keep_predictions=True, **options)  # fmt: skip


def embeddings(images: ImageSet, cell: Cell) -> np.ndarray:
    clean = device_images(torch.from_numpy(images.images).permute(0, 3, 1, 2), torch.device("cpu"))
    return view(noisy(clean, cell, ids_B=torch.from_numpy(images.ids), seed=3, scale="nearest")).embedding_BD.numpy()


@pytest.mark.parametrize("reference", ["same", "clean"])
@pytest.mark.parametrize("normalise", [True, False])
def test_recall_is_a_count_by_hand(reference, normalise) -> None:
    images = image_set(40)
    found = run(images, reference=reference, normalise=normalise)
    clean, nearest_clean = embeddings(images, CELLS[0]), None
    for row, cell in zip(found.cells, CELLS, strict=True):
        queries = embeddings(images, cell)
        gallery = clean if reference == "clean" else queries
        nearest, hits = [], np.zeros(len(AT))
        for place, query in enumerate(queries):
            others = [i for i in range(40) if i != place]
            if normalise:
                far = [-query @ gallery[i] / np.linalg.norm(query) / np.linalg.norm(gallery[i]) for i in others]
            else:
                far = [np.linalg.norm(query - gallery[i]) for i in others]
            order = [images.labels[others[i]] for i in np.argsort(far, kind="stable")]
            nearest.append(order[0])
            hits += [images.labels[place] in order[:k] for k in AT]
        nearest_clean = np.array(nearest) if nearest_clean is None else nearest_clean
        assert row["correct"] == hits[0]
        assert row["flips"] == np.mean(np.array(nearest) != nearest_clean)
        mine = [
            extra for extra in found.extra if (extra["corruption"], extra["severity"]) == (cell.name, level_of(cell))
        ]
        assert [extra["correct"] for extra in mine] == hits.tolist()
        assert [extra["recall"] for extra in mine] == (hits / 40).tolist()
        assert [extra["k"] for extra in mine] == list(AT)
        assert {extra["left_out"] for extra in mine} == {0}


def test_nearest_are_those_that_scikit_learn_finds() -> None:
    vectors_GD = torch.randn(60, 5, generator=torch.Generator().manual_seed(2))
    labels_G, own_G = torch.arange(60), torch.arange(60)
    for normalise, metric in ((True, "cosine"), (False, "euclidean")):
        found = neighbours(vectors_GD, vectors_GD, query_labels_Q=labels_G, gallery_labels_G=labels_G, own_Q=own_G,
                           normalise=normalise)  # fmt: skip
        theirs = NearestNeighbors(n_neighbors=2, metric=metric).fit(vectors_GD).kneighbors(return_distance=False)
        assert found.nearest_Q.tolist() == theirs[:, 0].tolist()
        assert set(found.before_Q.tolist()) == {NEVER}  # no other image has the label


def test_rows_have_what_the_reports_read() -> None:
    found = run(image_set(40))
    assert [(row["corruption"], row["severity"]) for row in found.cells] == [
        (cell.name, level_of(cell)) for cell in CELLS
    ]
    for row in found.cells:
        assert row["n"] == 40
        assert np.isnan([row["nll"], row["ece"]]).all()
        assert row["accuracy"] == row["correct"] / 40
    assert found.cells[0]["flips"] == 0
    rows = found.predictions
    assert set(rows) == {"image_id", "label", "predicted", "confidence", "correct", "corruption", "severity"}
    assert np.array_equal(rows["correct"], rows["predicted"] == rows["label"])
    assert rows["confidence"].min() >= 0
    assert rows["confidence"].max() <= 1
    for row in found.cells:
        own = (rows["corruption"] == row["corruption"]) & (rows["severity"] == row["severity"])
        assert rows["correct"][own].sum() == row["correct"]


@pytest.mark.parametrize(("count", "world"), [(41, 3), (5, 3)], ids=["uneven", "few"])
@pytest.mark.parametrize("reference", ["same", "clean"])
def test_batches_and_workers_do_not_matter(count, world, reference, monkeypatch: pytest.MonkeyPatch) -> None:
    images = image_set(count, classes=2)
    whole = run(images, reference=reference)
    found = run_workers(world, lambda ranks: run(images, ranks, 2, reference=reference), monkeypatch)
    monkeypatch.setattr(study.retrieval, "_SCORES_AT_ONCE", 3 * count)
    for other in [*found, run(images, batch_size=4, reference=reference)]:
        assert [(row["n"], row["correct"], row["flips"]) for row in other.cells] == [
            (row["n"], row["correct"], row["flips"]) for row in whole.cells
        ]
        assert list(other.extra) == list(whole.extra)
        for name in ("image_id", "label", "predicted", "corruption", "severity"):
            assert np.array_equal(other.predictions[name], whole.predictions[name]), name


def test_among_equals_the_first_is_nearest() -> None:
    gallery_GD = torch.tensor([[1.0, 0.0], [0.6, 0.8], [3.0, 4.0], [0.3, 0.4], [0.0, 1.0]])
    labels_G = torch.tensor([0, 1, 0, 1, 2])
    found = neighbours(gallery_GD, gallery_GD, query_labels_Q=labels_G, gallery_labels_G=labels_G,
                       own_Q=torch.arange(5), normalise=True)  # fmt: skip
    assert found.nearest_Q.tolist() == [1, 2, 1, 1, 1]
    assert found.before_Q.tolist() == [1, 1, 3, 0, NEVER]
    by_distance = neighbours(gallery_GD, gallery_GD, query_labels_Q=labels_G, gallery_labels_G=labels_G,
                             own_Q=torch.arange(5), normalise=False)  # fmt: skip
    assert by_distance.nearest_Q.tolist() == [3, 3, 1, 1, 1]


def test_an_embedding_that_is_no_number_is_never_right() -> None:
    gallery_GD = torch.tensor([[torch.nan, 0.0], [1.0, 0.0], [1.0, 0.1]])
    labels_G = torch.tensor([0, 0, 0])
    found = neighbours(gallery_GD, gallery_GD, query_labels_Q=labels_G, gallery_labels_G=labels_G,
                       own_Q=torch.arange(3), normalise=True)  # fmt: skip
    assert found.nearest_Q.tolist() == [NONE, 2, 1]
    assert found.before_Q.tolist() == [NEVER, 0, 0]


def test_images_without_company_are_no_queries_but_stay_in_the_gallery() -> None:
    images = image_set(20, classes=3)
    labels = np.array([9, *images.labels[1:]])
    found = run(ImageSet(images.images, labels, images.ids, tuple("abcdefghij")))
    assert {row["n"] for row in found.cells} == {19}
    assert {row["left_out"] for row in found.extra} == {1}
    assert images.ids[0] not in found.predictions["image_id"]
    with pytest.raises(ValueError, match="needs a class with two images, but the 3 test images are of 3 classes"):
        has_mate(np.array([4, 1, 2]), split="test")


def test_a_subset_is_of_images_with_company_and_the_same_in_any_order() -> None:
    images = image_set(300, classes=60)
    chosen = whole_classes(images, 48, seed=0)
    counts = np.bincount(images.labels[chosen])
    everywhere = np.bincount(images.labels)
    assert 30 <= len(chosen) <= 48
    assert all(count in (0, 4, everywhere[label]) for label, count in enumerate(counts))
    turned = ImageSet(images.images[::-1], images.labels[::-1], images.ids[::-1].copy(), images.class_names)
    assert set(images.ids[chosen]) == set(turned.ids[whole_classes(turned, 48, seed=0)])
    assert set(images.ids[chosen]) != set(images.ids[whole_classes(images, 48, seed=1)])
    assert np.array_equal(whole_classes(images, 300, seed=0), np.arange(300))
    few = whole_classes(image_set(300, classes=3), 60, seed=0)
    assert np.bincount(image_set(300, classes=3).labels[few]).tolist() == [20, 20, 20]
