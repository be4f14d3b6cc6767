"""Evaluation: the same pixels in any batch and on any number of workers, its measures by hand, and batch norms anew."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_calibration_error

from models.backbones import create_backbone
from study.data.image_set import ImageSet
from study.evaluate import Cell, calibration_error, evaluate, grid, reestimate_bn, subset
from study.ranks import Ranks
from tests.unit.study.workers import run_workers

CELLS = grid(["gaussian_noise", "motion_blur"], [2, 5])
CLASSES = ("a", "b", "c")


def image_set(count: int) -> ImageSet:
    rng = np.random.default_rng(0)
    return ImageSet(
        images=rng.integers(0, 256, (count, 12, 10, 3), dtype=np.uint8),
        labels=rng.integers(0, 3, count),
        ids=rng.permutation(1000)[:count],
        class_names=CLASSES,
    )


def predict(images_BCHW: Tensor) -> Tensor:
    """Logits that follow each image's own pixels closely."""
    return torch.stack([(images_BCHW * weight).sum((1, 2, 3)).sin() for weight in (1.0, 7.0, 31.0)], dim=1)


def run(ranks: Ranks, images: ImageSet, batch_size: int):
    return evaluate(predict, images, CELLS, split="test", seed=3, ranks=ranks, batch_size=batch_size,
                    keep_predictions=True)  # fmt: skip


@pytest.mark.parametrize(("count", "world"), [(11, 3), (2, 3)], ids=["uneven", "a worker without images"])
def test_batches_and_workers_do_not_matter(count: int, world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = image_set(count)
    whole = run(Ranks(device="cpu"), images, 256)
    assert [row["n"] for row in whole.cells] == [count] * len(CELLS)
    assert len(whole.predictions["image_id"]) == count * len(CELLS)
    found = [run(Ranks(device="cpu"), images, 4), *run_workers(world, lambda ranks: run(ranks, images, 2), monkeypatch)]
    for other in found:
        assert [row["correct"] for row in other.cells] == [row["correct"] for row in whole.cells]
        for name in ("nll", "ece", "flips"):
            assert [row[name] for row in other.cells] == pytest.approx([row[name] for row in whole.cells], rel=1e-4)
        assert other.predictions.keys() == whole.predictions.keys()
        for name in ("image_id", "label", "predicted", "corruption", "severity"):
            assert np.array_equal(other.predictions[name], whole.predictions[name]), name


def test_cells_count_what_the_rows_say() -> None:
    result = run(Ranks(device="cpu"), image_set(20), 8)
    rows = result.predictions
    assert np.array_equal(rows["correct"], rows["predicted"] == rows["label"])
    for cell in result.cells:
        own = (rows["corruption"] == cell["corruption"]) & (rows["severity"] == cell["severity"])
        assert cell["correct"] == rows["correct"][own].sum()
        assert cell["accuracy"] == cell["correct"] / 20
        assert cell["table"] == {"clean": "", "gaussian_noise": "cifar", "motion_blur": "scaled"}[cell["corruption"]]


def test_calibration_error_by_hand() -> None:
    confidence = torch.tensor([0.95, 0.95, 0.95, 0.95, 0.55, 0.55, 1.0])
    correct = torch.tensor([True, True, True, False, False, True, False])
    # Bins of 1/15: four at 0.95 with accuracy 0.75, two at 0.55 with 0.5, and 1.0 in the last, which is wrong.
    expected = (4 * abs(0.75 - 0.95) + 2 * abs(0.5 - 0.55) + 1 * abs(0.0 - 1.0)) / 7
    assert calibration_error(confidence, correct) == pytest.approx(expected)
    assert calibration_error(torch.ones(3), torch.ones(3, dtype=torch.bool)) == pytest.approx(0.0)
    assert np.isnan(calibration_error(torch.tensor([0.5, torch.nan]), torch.tensor([True, False])))


def test_calibration_error_is_that_of_the_probabilities_of_all_classes() -> None:
    generator = torch.Generator().manual_seed(1)
    logits_BN, labels_B = 2 * torch.randn(400, 7, generator=generator), torch.randint(7, (400,), generator=generator)
    confidence_B, predicted_B = logits_BN.softmax(1).max(1)
    whole = multiclass_calibration_error(logits_BN, labels_B, num_classes=7, n_bins=15, norm="l1")
    assert calibration_error(confidence_B, predicted_B == labels_B) == pytest.approx(float(whole), abs=1e-6)


class _Steps:
    """Predicts the class that stands next in a list, sure by 3 / 4, whatever it is shown."""

    def __init__(self, *classes: int) -> None:
        self.left = list(classes)

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        classes = torch.tensor([self.left.pop(0) for _ in images_BCHW])
        return nn.functional.one_hot(classes, 3) * torch.tensor(6.0).log()  # e^l / (e^l + 2) = 3 / 4


def test_flips_by_hand_count_changes_from_clean_right_or_wrong() -> None:
    images = image_set(4)
    images = ImageSet(images.images, np.array([0, 0, 1, 2]), images.ids, CLASSES)
    cells = [Cell("contrast", 1), Cell("clean", 0), Cell("contrast", 5)]
    predict = _Steps(0, 1, 1, 0, 0, 2, 1, 0, 1, 0, 2, 0)  # clean is asked first: right, wrong, right, wrong
    found = evaluate(predict, images, cells, split="test", seed=0, ranks=Ranks(device="cpu"))
    assert [row["flips"] for row in found.cells] == [1 / 4, 0.0, 3 / 4]  # of these flips one is from wrong to wrong
    assert [row["correct"] for row in found.cells] == [2, 2, 1]
    assert [row["ece"] for row in found.cells] == pytest.approx([1 / 4, 1 / 4, 1 / 2])
    assert [row["family"] for row in found.cells] == ["imagecorruptions", "clean", "imagecorruptions"]


def test_real_images_are_taken_as_they_are_and_flip_against_nothing() -> None:
    images = image_set(5)
    found = evaluate(predict, images, [Cell("camera", 0)], split="test", seed=0, ranks=Ranks(device="cpu"),
                     keep_predictions=True)  # fmt: skip
    (row,) = found.cells
    assert (row["group"], row["family"], row["severity"], row["table"], row["n"]) == ("real", "real", 0, "", 5)
    assert np.isnan(row["flips"])
    clean = evaluate(predict, images, [Cell("clean", 0)], split="test", seed=0, ranks=Ranks(device="cpu"))
    assert row["nll"] == clean.cells[0]["nll"]
    assert set(found.predictions["corruption"]) == {"camera"}


def test_a_subset_is_chosen_by_id_and_not_by_place() -> None:
    images = image_set(20)
    chosen = set(images.ids[subset(images, 6, seed=0)].tolist())
    assert len(chosen) == 6
    moved = ImageSet(images.images[::-1], images.labels[::-1], images.ids[::-1].copy(), CLASSES)
    assert set(moved.ids[subset(moved, 6, seed=0)].tolist()) == chosen
    assert set(images.ids[subset(images, 6, seed=1)].tolist()) != chosen


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(3, momentum=0.01)
        self.second = nn.BatchNorm2d(3, momentum=0.3)
        self.unused = nn.BatchNorm2d(3)
        for norm in (self.first, self.second, self.unused):
            norm.running_mean.fill_(5.0)  # type: ignore[union-attr]
            norm.running_var.fill_(9.0)  # type: ignore[union-attr]
            norm.num_batches_tracked.fill_(4)  # type: ignore[union-attr]

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.second(self.first(images_BCHW).relu())


def test_statistics_become_plain_means_over_the_batches() -> None:
    batches = list(torch.rand(3, 4, 3, 5, 5, generator=torch.Generator().manual_seed(0)))
    network = _Network().eval()
    assert reestimate_bn(network, network, batches, Ranks(device="cpu"))
    first_mean = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    first_var = torch.stack([batch.transpose(0, 1).flatten(1).var(1) for batch in batches]).mean(0)
    torch.testing.assert_close(network.first.running_mean, first_mean)
    torch.testing.assert_close(network.first.running_var, first_var)
    # The second layer sees what the first gives when it normalises by the batch.
    seen = [nn.functional.batch_norm(batch, None, None, training=True).relu() for batch in batches]
    second_mean = torch.stack([batch.mean((0, 2, 3)) for batch in seen]).mean(0)
    torch.testing.assert_close(network.second.running_mean, second_mean)


def test_reestimation_leaves_momentum_mode_and_unused_layers_as_they_were() -> None:
    network = _Network().eval()
    reestimate_bn(network, network, [torch.rand(4, 3, 5, 5)], Ranks(device="cpu"))
    assert (network.first.momentum, network.second.momentum) == (0.01, 0.3)
    assert not any(module.training for module in network.modules())
    assert torch.equal(network.unused.running_mean, torch.full((3,), 5.0))  # type: ignore[arg-type]
    assert torch.equal(network.unused.running_var, torch.full((3,), 9.0))  # type: ignore[arg-type]
    assert network.unused.num_batches_tracked == 4


def test_frozen_statistics_are_not_reestimated() -> None:
    network = nn.Sequential(create_backbone("test_resnet", num_classes=3, image_size=32, frozen_batch_norm=True))
    network.append(nn.BatchNorm1d(3)).eval()
    kept = {name: buffer.clone() for name, buffer in network[0].named_buffers()}
    batches = [torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))]
    assert reestimate_bn(network, network, batches, Ranks(device="cpu"))
    assert all(torch.equal(kept[name], buffer) for name, buffer in network[0].named_buffers())
    torch.testing.assert_close(network[1].running_mean, network[0](batches[0]).mean(0))
    assert not any(module.training for module in network.modules())
    assert not reestimate_bn(network[0], network[0], batches, Ranks(device="cpu"))


def test_a_worker_without_images_keeps_all_workers_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(ranks: Ranks) -> tuple[bool, Tensor]:
        network = _Network().eval()
        batches = [torch.rand(4, 3, 5, 5)] if ranks.is_first else []
        return reestimate_bn(network, network, batches, ranks), network.first.running_mean  # type: ignore[return-value]

    for is_done, mean in run_workers(2, work, monkeypatch):
        assert not is_done
        assert torch.equal(mean, torch.full((3,), 5.0))
    assert not reestimate_bn(nn.Linear(2, 2), nn.Identity(), [torch.rand(2, 2)], Ranks(device="cpu"))
