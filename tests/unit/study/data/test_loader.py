"""The loader: each image once over all ranks, no batch of one, an interrupted epoch goes on where it stopped."""

import numpy as np
import pytest
import torch

from study.data.image_set import ImageSet
from study.data.loader import batches, steps_per_epoch


def image_set(count):
    images = np.arange(count * 12, dtype=np.int64).reshape(count, 2, 2, 3).astype(np.uint8)
    return ImageSet(images, np.arange(count) % 3, np.arange(count) * 7 + 1, ("a", "b", "c"))


def epoch_ids(count, **options):
    return [batch.ids.tolist() for batch in batches(image_set(count), **{"seed": 0, "epoch": 0} | options)]


@pytest.mark.parametrize(
    ("count", "batch_size", "world_size"), [(50, 8, 1), (49, 8, 1), (50, 8, 3), (41, 10, 4), (5, 8, 2)]
)
def test_each_image_comes_exactly_once_over_all_ranks(count, batch_size, world_size):
    ranks = [epoch_ids(count, batch_size=batch_size, world_size=world_size, rank=rank) for rank in range(world_size)]
    seen = [number for rank in ranks for batch in rank for number in batch]
    assert sorted(seen) == image_set(count).ids.tolist()
    assert {len(rank) for rank in ranks} == {steps_per_epoch(count, batch_size=batch_size, world_size=world_size)}


def test_the_workers_share_the_batches_of_one_worker():
    alone = epoch_ids(48, batch_size=8)
    together = zip(*(epoch_ids(48, batch_size=8, world_size=2, rank=rank) for rank in range(2)), strict=True)
    assert [sorted(batch) for batch in alone] == [sorted(one + other) for one, other in together]


@pytest.mark.parametrize(("count", "sizes"), [(16, [8, 8]), (17, [8, 9]), (18, [8, 8, 2]), (3, [3]), (1, [1])])
def test_a_last_batch_of_one_joins_the_one_before(count, sizes):
    assert [len(batch) for batch in epoch_ids(count, batch_size=8)] == sizes
    assert steps_per_epoch(count, batch_size=8) == len(sizes)


def test_going_on_at_a_step_gives_the_batches_of_an_epoch_never_interrupted():
    whole = epoch_ids(50, batch_size=8, epoch=3)
    assert epoch_ids(50, batch_size=8, epoch=3, start_step=2) == whole[2:]
    assert epoch_ids(50, batch_size=8, epoch=3, start_step=len(whole)) == []


def test_seed_and_epoch_decide_the_order():
    assert epoch_ids(50, batch_size=8) == epoch_ids(50, batch_size=8)
    orders = [str(epoch_ids(50, batch_size=8, seed=seed, epoch=epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4
    stored = epoch_ids(50, batch_size=8, seed=9, shuffle=False)
    assert [number for batch in stored for number in batch] == image_set(50).ids.tolist()


def test_the_order_is_that_of_earlier_versions():
    assert epoch_ids(10, batch_size=10) == [[22, 64, 50, 15, 57, 43, 36, 8, 1, 29]]


def test_a_batch_holds_the_images_that_its_ids_name():
    data = image_set(20)
    for batch in batches(data, batch_size=6, seed=0, epoch=0):
        rows = (batch.ids.numpy() - 1) // 7
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous()
        np.testing.assert_array_equal(batch.images.numpy(), data.images[rows].transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(batch.labels.numpy(), data.labels[rows])


def test_a_batch_moves_with_its_images_and_labels_and_leaves_its_ids():
    (batch,) = batches(image_set(4), batch_size=4, seed=0, epoch=0)
    for device in ("cpu", "meta"):
        moved = batch.to(torch.device(device))
        assert {moved.images.device.type, moved.labels.device.type} == {device}
        assert moved.ids is batch.ids
    assert torch.equal(batch.to(torch.device("cpu")).images, batch.images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 2, "world_size": 2}, "rank must be from 0 to world_size - 1 = 1, but got 2"),
        ({"world_size": 9}, "batch_size must be at least the 9 workers, but got 8"),
        ({"count": 3, "world_size": 4}, "each of 4 workers needs an image, but got 3"),
    ],
)
def test_what_cannot_be_shared_out_is_refused_at_once(options, message):
    count = options.pop("count", 20)
    with pytest.raises(ValueError, match=message):
        batches(image_set(count), **{"batch_size": 8, "seed": 0, "epoch": 0} | options)
