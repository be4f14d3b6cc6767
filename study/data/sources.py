"""Where images come from: one entry of `SOURCES` for each value of `data.source`.

A new source is one module with a class that follows `source.Source`, its section in `study.config_data` and one line
here; a new set that lists name is one entry of `layouts.LAYOUTS`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from study.data.cifar import open_cifar
from study.data.cub import open_cub
from study.data.image_folder import ImageFolderSource
from study.data.image_list import open_image_list
from study.data.layouts import LAYOUTS, Lists
from study.data.lfw import open_lfw
from study.data.parquet import ParquetSource
from study.data.source import Source
from study.data.staging import staged
from study.data.stanford_cars import open_stanford_cars
from study.data.svhn import open_svhn
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


def _stanford_cars(data: Any) -> Source:
    return open_stanford_cars(data.path, crop_to_box=data.crop_to_box, refuse=data.on_corrupt == "refuse")


def _cub(data: Any) -> Source:
    return open_cub(data.path, crop_to_box=data.crop_to_box, refuse=data.on_corrupt == "refuse")


def _cifar(data: Any) -> Source:
    return open_cifar(data.path, labels=data.labels)


def _svhn(data: Any) -> Source:
    return open_svhn(data.path, extra=data.extra)


def _lfw(data: Any) -> Source:
    return open_lfw(data.path, min_images=data.min_images)


def _image_list(data: Any) -> Source:
    layout = LAYOUTS[data.layout] if data.layout is not None else _own_lists(data)
    refuse = data.on_corrupt == "refuse"
    return open_image_list(data.path, layout, name=data.layout, crop=data.crop_to_box, refuse=refuse)


def _own_lists(data: Any) -> Lists:
    """The layout that a study file describes; columns left out are path and label, or the whole line is the path."""
    columns, has_part = data.columns, data.label_part is not None
    path_column = columns.path if columns else None if has_part and data.separator is None else 0
    return Lists(
        data.lists,
        images=data.images or ".",
        separator=data.separator,
        path_column=path_column,
        label_column=None if has_part else columns.label if columns else 1,
        label_parts=(data.label_part,) if has_part else (),
        label_base=data.label_base,
        skip_lines=data.skip_lines,
        names=data.class_names,
    )


SOURCES: dict[str, Callable[[Any], Source]] = {
    "synthetic-vehicles": _synthetic_vehicles,
    "image-folder": _image_folder,
    "parquet": _parquet,
    "stanford-cars": _stanford_cars,
    "image-list": _image_list,
    "cifar": _cifar,
    "svhn": _svhn,
    "cub-200": _cub,
    "lfw": _lfw,
}


def open_source(data: Any, *, cache_dir: Path | None = None) -> Source:
    """The source that a data section names; one at a URL is copied to this machine first.

    Args:
        cache_dir: Folder for the copy; left out: Murk's own cache.

    Raises:
        ValueError: The name is unknown, or nothing is found where the section points.
    """
    if data.source not in SOURCES:
        raise ValueError(f"data.source must be one of {', '.join(SOURCES)}, but got {data.source!r}")
    if "://" in (place := getattr(data, "path", "")):
        try:
            data = data.model_copy(update={"path": staged(place, cache_dir)})
        except ValueError as error:
            raise ValueError(f"data.path {error}") from error
    return SOURCES[data.source](data)
