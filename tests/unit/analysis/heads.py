"""What PMAL trials write of their heads, put into a synthetic study."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

NUM_IMAGES = 20
CLEAN_RIGHT = {101: 10, 102: 12, 103: 14}
"""Seed -> how many of the 20 images stage1 gets right without noise: the first ones."""
NOISY_RIGHT = 8
"""Under noise stage1 gets the first eight right, whatever the seed and the noise."""
COSTS = {"stage1": (900, 40_000), "backbone": (11_200_000, 1_820_000_000), "sum": (12_000_000, 2_000_000_000)}


def add_heads(folder: Path) -> Path:
    """What PMAL trials write beside their cells: stage1 by the figures above, and a backbone that is their sum's."""
    for place in sorted(folder.glob("trials/*/predictions.parquet")):
        trial = json.loads((place.parent / "trial.json").read_text())
        if trial["config"]["method"]["name"] != "pmal":
            continue
        rows = pd.read_parquet(place)
        index = rows["image_id"] - 5000
        right = np.where(rows["corruption"] == "clean", index < CLEAN_RIGHT[trial["seed"]], index < NOISY_RIGHT)
        rows = rows.assign(correct_stage1=right, correct_backbone=rows["correct"])
        rows.to_parquet(place, index=False)
        cells = pd.read_parquet(place.with_name("cells.parquet")).assign(family="any")
        parts = []
        for head, (parameters, macs) in COSTS.items():
            own = cells.assign(head=head, parameters=parameters, macs=macs)
            if head == "stage1":
                own["correct"] = np.where(own["corruption"] == "clean", CLEAN_RIGHT[trial["seed"]], NOISY_RIGHT)
                own.loc[own["split"] == "validation", "correct"] = 50 + trial["seed"] % 100
                own["accuracy"] = own["correct"] / own["n"]
            parts.append(own)
        columns = ["head", "split", "corruption", "group", "family", "severity", "n", "correct", "accuracy",
                   "parameters", "macs", "bn"]  # fmt: skip
        pd.concat(parts)[columns].to_parquet(place.with_name("heads.parquet"), index=False)
    return folder
