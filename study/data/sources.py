"""Where images come from: one entry of `SOURCES` for each value of `data.source`.

A new source is one module with a class that follows `source.Source`, its section in `study.config` and one line here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from study.data.image_folder import ImageFolderSource
from study.data.parquet import ParquetSource
from study.data.source import Source
from study.data.synthetic import SyntheticSource


def _image_folder(data: Any) -> Source:
    return ImageFolderSource(data.path)


def _parquet(data: Any) -> Source:
    return ParquetSource(
        data.path,
        image_column=data.image_column,
        label_column=data.label_column,
        name_column=data.name_column,
        split_column=data.split_column,
    )


def _synthetic_vehicles(data: Any) -> Source:
    return SyntheticSource(
        num_classes=data.num_classes,
        train_per_class=data.train_per_class,
        test_per_class=data.test_per_class,
        seed=data.seed,
    )


SOURCES: dict[str, Callable[[Any], Source]] = {
    "synthetic-vehicles": _synthetic_vehicles,
    "image-folder": _image_folder,
    "parquet": _parquet,
}


def open_source(data: Any) -> Source:
    """The source that a data section names.

    Raises:
        ValueError: The name is unknown, or nothing is found where the section points.
    """
    if data.source not in SOURCES:
        raise ValueError(f"data.source must be one of {', '.join(SOURCES)}, but got {data.source!r}")
    return SOURCES[data.source](data)
