"""LFW's own pairs: even a network that has learned nothing tells more of them than chance."""

import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from study.build import build_method
from study.data.hashing import image_id
from study.evaluate import grid
from study.ranks import Ranks
from study.validation_pairs import MadePairs
from study.verification import evaluate_pairs
from tests.unit.study.trials import tiny_config

FOLDS = 10


@pytest.fixture(scope="module")
def faces() -> MadePairs:
    """Each fold's first 30 pairs of both kinds, at 32 px."""
    folder = Path(os.environ.get("MURK_TEST_DATA", "missing"))
    if not (folder / "lfw-pairs.csv").is_file():
        pytest.skip("needs lfw-pairs.csv and its faces in the folder that MURK_TEST_DATA names")
    listed = pd.read_csv(folder / "lfw-pairs.csv").groupby(["fold", "same"]).head(30)
    keys = sorted({*listed["a"], *listed["b"]})
    content = pd.read_parquet(folder / "lfw-pairs-gray64.parquet").set_index("key")["jpeg"]
    pixels = [np.asarray(Image.open(io.BytesIO(content[key])).convert("RGB").resize((32, 32))) for key in keys]
    place = {key: index for index, key in enumerate(keys)}
    first, second = (listed[name].map(place).to_numpy() for name in ("a", "b"))
    ids = np.array([image_id(content[key]) for key in keys])
    return MadePairs(np.stack(pixels), ids, first, second, listed["same"].to_numpy(dtype=bool),
                     listed["fold"].to_numpy())  # fmt: skip


def test_an_untrained_network_is_better_than_chance(faces: MadePairs) -> None:
    method = build_method(tiny_config(), num_classes=3)
    method.network.eval()
    for reference in ("same", "clean"):
        found = evaluate_pairs(method.view, faces, grid(["resolution"], [3]), seed=0, ranks=Ranks(device="cpu"),
                               reference=reference)  # fmt: skip
        for row, extra in zip(found.cells, found.extra, strict=True):
            print(reference, row["corruption"], row["accuracy"], extra["standard_error"], extra["auc"], extra["tar"])
        assert found.cells[0]["accuracy"] > 0.5
        assert found.extra[0]["auc"] > 0.53
        assert 0 < found.extra[0]["standard_error"] < 0.05
        assert torch.isfinite(torch.tensor([extra["auc"] for extra in found.extra])).all()
