"""A registered model as MLflow runs it: a frame of image bytes in, one row of class and confidence for each out.

Murk's own packages (`study`, `models`, `noise`) must be importable where it is loaded; MLflow runs no code of theirs
that lies in the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from torch import Tensor

from study.data.decode import CorruptImageError, decode_square
from study.loop import device_images
from study.ranks import Ranks
from study.trained import TrainedModel, read_model

IMAGE = "image"
ARTIFACT = "model"
BATCH = 256


class ImageModel(PythonModel):
    """Loads a trial's network from its two files and classifies images."""

    trained: TrainedModel

    def load_context(self, context: PythonModelContext) -> None:
        """Read the network; on the GPU where there is one."""
        self.trained = read_model(context.artifacts[ARTIFACT])
        self.trained.method.network.to(Ranks().torch_device())

    def predict(
        self, context: PythonModelContext | None, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """See `classify`; it has no params."""
        del context, params
        return classify(self.trained, model_input)


@torch.inference_mode()
def classify(trained: TrainedModel, frame: pd.DataFrame) -> pd.DataFrame:
    """Classes of images.

    Args:
        frame: Column `image` holds the bytes of PNG, JPEG or other files that Pillow knows; any size, colour or grey.
            Each is brought to the side that the network was trained on as a study's images are: scaled to cover the
            square, the middle cut out.

    Returns:
        One row for each row, with its index: `predicted` (the class's name), `class` (its number), `confidence` in
        [0, 1], `probabilities` (of all classes, in the order of `class_names`).

    Raises:
        ValueError: No column `image`, or a row that holds no readable image.
    """
    if IMAGE not in frame.columns:
        raise ValueError(f"the frame must have a column {IMAGE!r} of image bytes, but has {list(frame.columns)}")
    parts = [trained.method.predict(images).softmax(1).cpu() for images in _batches(trained, frame)]
    probabilities_BN = torch.cat(parts).double().numpy() if parts else np.zeros((0, len(trained.class_names)))
    classes = probabilities_BN.argmax(1)
    columns = {
        "predicted": [trained.class_names[number] for number in classes],
        "class": classes.astype(np.int64),
        "confidence": probabilities_BN.max(1) if len(classes) else np.zeros(0),
        "probabilities": list(probabilities_BN),
    }
    return pd.DataFrame(columns, index=frame.index)


def _batches(trained: TrainedModel, frame: pd.DataFrame) -> Iterator[Tensor]:
    device = next(trained.method.network.parameters()).device
    contents = list(frame[IMAGE])
    for start in range(0, len(contents), BATCH):
        rows = [
            _decoded(content, start + i, trained.input_size)
            for i, content in enumerate(contents[start : start + BATCH])
        ]
        yield device_images(torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2), device)


def _decoded(content: Any, row: int, image_size: int) -> np.ndarray:
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise ValueError(
            f"column {IMAGE!r} must hold the bytes of image files, but row {row} (from 0) holds a "
            f"{type(content).__name__}; read a file with pathlib.Path(...).read_bytes()"
        )
    try:
        return decode_square(bytes(content), image_size=image_size)[0]
    except CorruptImageError as error:
        raise ValueError(
            f"each row must hold an image that can be read, but row {row} (from 0) does not: {error}; leave it out"
        ) from error
