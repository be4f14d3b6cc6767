"""Cells of lower resolution: their names and rows, the same pixels in any batch, and what the network gets to see."""

import numpy as np
import pytest
import torch
from torch import Tensor

from noise.corruption import corrupt
from noise.keyed import image_keys
from noise.low_resolution import Lens, enlarge, shrink
from study.data.image_set import ImageSet
from study.evaluate import FULL, Cell, Evaluation, evaluate, grid, group_of, level_of, noisy
from study.ranks import Ranks
from tests.unit.study.workers import run_workers

SIDE = 24
CELLS = grid(["gaussian_noise", "motion_blur"], [2, 5], sides=[16, 8], noise_at_sides=True)
FULL_NAMES = ["clean", "gaussian_noise", "gaussian_noise", "motion_blur", "motion_blur"]
LOWER = ["16px", "gaussian_noise_16px", "gaussian_noise_16px", "motion_blur_16px", "motion_blur_16px"]


def image_set(count: int = 11) -> ImageSet:
    rng = np.random.default_rng(0)
    return ImageSet(
        images=rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8),
        labels=rng.integers(0, 3, count),
        ids=rng.permutation(1000)[:count],
        class_names=("a", "b", "c"),
    )


def predict(images_BCHW: Tensor) -> Tensor:
    """Logits that follow each image's own pixels closely, of any size."""
    return torch.stack([(images_BCHW * weight).mean((1, 2, 3)).mul(300).sin() for weight in (1.0, 7.0, 31.0)], dim=1)


def run(ranks: Ranks, images: ImageSet, batch_size: int = 256, lens: Lens = FULL) -> Evaluation:
    return evaluate(predict, images, CELLS, split="test", seed=3, ranks=ranks, batch_size=batch_size, lens=lens,
                    keep_predictions=True)  # fmt: skip


def float_images(images: ImageSet) -> Tensor:
    return torch.from_numpy(images.images).permute(0, 3, 1, 2).float() / 255


# ------------------------------------------------------------------------------------------------------------ the rows
def test_a_grid_names_its_lower_cells() -> None:
    assert [cell.name for cell in CELLS] == [*FULL_NAMES, *LOWER, *(name.replace("16px", "8px") for name in LOWER)]
    assert [cell.name for cell in grid(["fog"], [3], sides=[16])] == ["clean", "fog", "16px"]
    assert [cell.name for cell in grid([], [], sides=[16], noise_at_sides=True)] == ["clean", "16px"]


@pytest.mark.parametrize(
    ("cell", "name", "level", "group"),
    [
        (Cell("clean", 0), "clean", 0, "clean"),
        (Cell("clean", 0, 16), "16px", 1, "resolution"),
        (Cell("fog", 4, 16), "fog_16px", 4, "resolution-weather"),
        (Cell("kornia.rain", 2, 8), "kornia.rain_8px", 2, "resolution-weather"),
        (Cell("camera", 0), "camera", 0, "real"),
    ],
)
def test_what_rows_say_of_a_cell(cell: Cell, name: str, level: int, group: str) -> None:
    assert (cell.name, level_of(cell), group_of(cell)) == (name, level, group)


def test_rows_of_lower_cells_count_flips_from_full_size_and_have_their_own_table() -> None:
    found = run(Ranks(device="cpu"), image_set())
    rows = {(row["corruption"], row["severity"]): row for row in found.cells}
    assert len(rows) == len(CELLS)
    alone = rows["16px", 1]
    assert (alone["group"], alone["family"], alone["table"]) == ("resolution", "resolution", "")
    noise = rows["gaussian_noise_8px", 5]
    assert (noise["group"], noise["family"], noise["table"]) == ("resolution-noise", "imagecorruptions", "cifar")
    predictions = found.predictions
    clean = predictions["predicted"][predictions["corruption"] == "clean"]
    for (name, severity), row in rows.items():
        own = (predictions["corruption"] == name) & (predictions["severity"] == severity)
        assert own.sum() == row["n"] == 11
        assert row["flips"] == np.mean(predictions["predicted"][own] != clean)
    assert rows["8px", 1]["flips"] > 0


# ---------------------------------------------------------------------------------------------------------- the pixels
@pytest.mark.parametrize("lens", [Lens("area"), Lens("bicubic"), Lens("bicubic", small=True)])
def test_noise_is_that_of_the_small_image(lens: Lens) -> None:
    images = image_set(5)
    clean_BCHW, ids_B = float_images(images), torch.from_numpy(images.ids)
    keys_B = image_keys(ids_B, seed=3, salt="evaluation")
    expected = shrink(clean_BCHW, 8, keys_B=keys_B, kernel=lens.kernel)
    expected = corrupt(expected, "gaussian_noise", 4, keys=keys_B, scale="nearest")
    expected = expected if lens.small else enlarge(expected, SIDE)
    found = noisy(clean_BCHW, Cell("gaussian_noise", 4, 8), ids_B=ids_B, seed=3, scale="nearest", lens=lens)
    assert torch.equal(found, expected)
    assert found.shape[-1] == (8 if lens.small else SIDE)


def test_pixels_do_not_depend_on_the_batch() -> None:
    images = image_set()
    clean_BCHW, ids_B = float_images(images), torch.from_numpy(images.ids)
    for cell in CELLS:
        whole = noisy(clean_BCHW, cell, ids_B=ids_B, seed=3, scale="nearest")
        parts = [
            noisy(clean_BCHW[take], cell, ids_B=ids_B[take], seed=3, scale="nearest")
            for take in torch.randperm(11, generator=torch.Generator().manual_seed(1)).split(4)
        ]
        order = torch.randperm(11, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(torch.cat(parts), whole[order], rtol=0, atol=1e-6)


@pytest.mark.parametrize("small", [False, True])
def test_batches_and_workers_do_not_matter(small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    images, lens = image_set(), Lens("area", small=small)
    whole = run(Ranks(device="cpu"), images, lens=lens)
    others = [
        run(Ranks(device="cpu"), images, 4, lens),
        *run_workers(2, lambda r: run(r, images, 2, lens), monkeypatch),
    ]
    for other in others:
        for name in ("corruption", "group", "severity", "n", "correct"):
            assert [row[name] for row in other.cells] == [row[name] for row in whole.cells], name
        for name in ("nll", "ece", "flips"):
            assert [row[name] for row in other.cells] == pytest.approx([row[name] for row in whole.cells], rel=1e-3)
        for name in ("image_id", "predicted", "corruption", "severity"):
            assert np.array_equal(other.predictions[name], whole.predictions[name]), name


@pytest.mark.parametrize("small", [False, True])
def test_the_network_is_shown_small_images_only_by_a_lens_that_keeps_them_small(small: bool) -> None:
    seen: list[int] = []

    def watching(images_BCHW: Tensor) -> Tensor:
        seen.append(images_BCHW.shape[-1])
        return predict(images_BCHW)

    evaluate(watching, image_set(), grid(["fog"], [3], sides=[16, 8], noise_at_sides=True), split="validation", seed=0,
             ranks=Ranks(device="cpu"), lens=Lens(small=small))  # fmt: skip
    assert seen == ([24, 24, 16, 16, 8, 8] if small else [24] * 6)


def test_the_kernel_is_the_lenses() -> None:
    clean_BCHW = float_images(image_set(3))
    shown = [
        noisy(clean_BCHW, Cell("clean", 0, 12), ids_B=torch.arange(3), seed=0, scale="nearest", lens=Lens(kernel))
        for kernel in ("area", "bilinear", "bicubic")
    ]
    assert not any(torch.equal(one, other) for one, other in ((shown[0], shown[1]), (shown[1], shown[2])))
