"""Drawn vehicles are told apart by shape: a small network learns them, a linear model on the pixels does not."""

import numpy as np
import pytest
import timm
import torch
from sklearn.linear_model import LogisticRegression

from noise.keyed import image_keys
from study.config_data import SyntheticVehicles
from study.config_train import AugmentConfig
from study.data.augment import augment
from study.data.image_set import ImageSet
from study.data.loader import batches, steps_per_epoch
from study.data.prepare import prepare_data

NUM_CLASSES, NUM_EPOCHS, BATCH_SIZE = 20, 15, 32
SETTINGS = SyntheticVehicles(
    num_classes=NUM_CLASSES, train_per_class=100, test_per_class=15, image_size=32, validation_share=0.2
)


def pixels(images):
    return np.asarray(images, dtype=np.float32).reshape(len(images), -1) / 127.5 - 1


def linear_accuracy(train: ImageSet, test: ImageSet) -> float:
    models = [LogisticRegression(C=c, max_iter=300).fit(pixels(train.images), train.labels) for c in (1e-4, 1e-3, 1e-2)]
    return max(model.score(pixels(test.images), test.labels) for model in models)


def network_accuracy(train: ImageSet, test: ImageSet) -> float:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("test_resnet", num_classes=NUM_CLASSES)
    steps = NUM_EPOCHS * steps_per_epoch(len(train), batch_size=BATCH_SIZE)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.2)
    for epoch in range(NUM_EPOCHS):
        for batch in batches(train, batch_size=BATCH_SIZE, seed=0, epoch=epoch):
            keys = image_keys(batch.ids, seed=0, salt=f"epoch {epoch}")
            images = augment(batch.images / 255, keys, settings=AugmentConfig(crop_padding=4))
            loss = torch.nn.functional.cross_entropy(network(images * 2 - 1), batch.labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.no_grad():
        whole = next(batches(test, batch_size=len(test), seed=0, epoch=0, shuffle=False))
        return float((network(whole.images / 127.5 - 1).argmax(1) == whole.labels).float().mean())


@pytest.mark.e2e
def test_a_linear_model_stays_under_half_of_a_small_network(tmp_path):
    splits = prepare_data(SETTINGS, cache_dir=tmp_path)
    linear = linear_accuracy(splits.train, splits.test)
    network = network_accuracy(splits.train, splits.test)
    print(f"linear {linear:.1%}, network {network:.1%}")
    assert network > 0.5
    assert linear < network / 2
