"""What a finished trial leaves beside its tables: the deployed weights and a few pictures of what it saw."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from models.methods.method import SUM, Headed, Method
from noise.low_resolution import enlarge
from study.config import TrialConfig
from study.data.image_set import ImageSet
from study.evaluate import CLEAN, Cell, level_of, noisy, subset
from study.loop import device_images

_EXAMPLE_SEVERITY = 3
_EXAMPLE_CELLS, _EXAMPLE_SIDES = 6, 3


def export_files(
    method: Method, config: TrialConfig, *, class_names: tuple[str, ...], fingerprint: str
) -> dict[str, bytes]:
    """`model.safetensors` and `model.json` of the deployed network; `fingerprint` is that of the images it saw."""
    export = method.export()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in export.state_dict.items()}
    facts = {"class_names": list(class_names), "trial": config.model_dump(mode="json"), "fingerprint": fingerprint}
    description = {**export.config, **facts}
    return {
        "model.safetensors": safetensors_bytes(tensors),
        "model.json": json.dumps(description, indent=1).encode(),
    }


def head_table(method: Method, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row for each head x cell, with what an image costs that stops at the head."""
    assert isinstance(method, Headed)
    costs = method.head_costs()
    return pd.DataFrame([{**row, **costs[row["head"]]._asdict()} for row in rows])


@torch.inference_mode()
def example_images(method: Method, config: TrialConfig, images: ImageSet, count: int) -> bytes:
    """A few test images clean, noisy and, where the method can, restored, with its predictions, as `.npz`.

    Arrays: `clean`, `noisy`, `restored` uint8 (n, H, W, 3), one row for each corruption x image; `labels`,
    `predicted_clean`, `predicted_noisy` int64; `corruption` str; `severity` int64; `class_names` str. Of a method with
    several heads also `head_names` str (H,) and `predicted_heads` int64 (n, H): what each alone says of `noisy`.
    """
    noise, lens = config.noise, config.resolution.evaluation_lens
    level = _EXAMPLE_SEVERITY if _EXAMPLE_SEVERITY in noise.test_severities else noise.test_severities[0]
    lower = [Cell(CLEAN, 0, side) for side in config.resolution.test[:_EXAMPLE_SIDES]]
    cells = [*[Cell(name, level) for name in noise.test][: _EXAMPLE_CELLS - len(lower)], *lower]
    take = subset(images, count, seed=noise.seed)
    device = next(method.network.parameters()).device
    raw = torch.from_numpy(np.ascontiguousarray(images.images[take])).permute(0, 3, 1, 2)
    clean_BCHW = device_images(raw, device)
    ids_B = torch.from_numpy(np.asarray(images.ids[take]))
    predicted_clean = method.predict(clean_BCHW).argmax(1).cpu().numpy()
    rows: dict[str, list[np.ndarray]] = {}
    names = {"class_names": np.asarray(images.class_names)}
    for cell in cells:
        noisy_BCHW = noisy(clean_BCHW, cell, ids_B=ids_B, seed=noise.seed, scale=noise.scale, lens=lens)
        restored_BCHW = method.restore(noisy_BCHW)
        heads = {name: logits_BN.argmax(1).cpu().numpy() for name, logits_BN in _heads(method, noisy_BCHW).items()}
        predicted_B = heads.pop(SUM) if heads else method.predict(noisy_BCHW).argmax(1).cpu().numpy()
        if noisy_BCHW.shape != clean_BCHW.shape:  # pictures of one array have one size
            noisy_BCHW = enlarge(noisy_BCHW, clean_BCHW.shape[-1])
        found = {
            "clean": _pixels(clean_BCHW),
            "noisy": _pixels(noisy_BCHW),
            "labels": np.asarray(images.labels[take]),
            "predicted_clean": predicted_clean,
            "predicted_noisy": predicted_B,
            "corruption": np.full(len(take), cell.name),
            "severity": np.full(len(take), level_of(cell)),
        }
        if restored_BCHW is not None and restored_BCHW.shape == clean_BCHW.shape:
            found["restored"] = _pixels(restored_BCHW)
        if heads:
            names["head_names"] = np.asarray(list(heads))
            found["predicted_heads"] = np.stack(list(heads.values()), axis=1)
        for column, values in found.items():
            rows.setdefault(column, []).append(values)
    buffer = io.BytesIO()
    arrays = {column: np.concatenate(values) for column, values in rows.items()}
    np.savez_compressed(buffer, **names, **arrays)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


def _heads(method: Method, images_BCHW: Tensor) -> dict[str, Tensor]:
    return method.heads(images_BCHW) if isinstance(method, Headed) else {}


def _pixels(images_BCHW: Tensor) -> np.ndarray:
    return images_BCHW.float().clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def parquet_bytes(table: pd.DataFrame) -> bytes:
    """A frame as parquet."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()
