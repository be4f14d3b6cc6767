"""Small jobs on what exists: a trained model on other images, an image set, the noise of one picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import TypeAdapter

from analysis.metrics import headline
from noise.families import find
from study.config_data import DataConfig
from study.data.image_set import ImageSet
from study.data.inspect import inspect_data
from study.data.prepare import prepare_data
from study.evaluate import evaluate, grid
from study.places import resolve_places
from study.ranks import Ranks
from study.storage import atomic_file
from study.studyfile import load_study
from study.trained import TrainedModel, load_model


def evaluate_model(
    model: str, *, data: str | None, corruptions: Sequence[str] | None, storage: str | None, out: Path | None
) -> str:
    """Accuracy under noise of a trained model; returns a table as text.

    On the trial's own validation images, or on all images of `data`. The trial's test images are not read: a study
    reads them once, in its own report.

    Raises:
        ValueError: Unknown model, corruption or classes.
    """
    trained = load_model(model, storage=storage)
    names = list(corruptions or trained.config.noise.validation)
    for name in names:
        find(name)
    images, source = _images(trained, data)
    trained.method.network.to(Ranks().torch_device())
    lower, side = trained.config.resolution, trained.config.data.image_size
    cells = grid(
        list(dict.fromkeys(names)), (1, 2, 3, 4, 5), noise_at_sides=lower.with_noise,
        sides=[one for one in lower.validation or lower.train if one < side],
    )  # fmt: skip
    result = evaluate(
        trained.method.predict, images, cells, split="validation", lens=lower.evaluation_lens,
        seed=trained.config.noise.seed, ranks=Ranks(), scale=trained.config.noise.scale,
        batch_size=trained.config.train.eval_batch_size,
    )  # fmt: skip
    table = pd.DataFrame(result.cells)
    lines = [f"{trained.config.method.name} from {trained.place}", f"{len(images)} images: {source}", ""]
    lines.append(_table(table))
    figures = headline(result.cells)
    lines.append("  ".join(f"{name} {value:.1%}" for name, value in figures.items()))
    if out is not None:
        _write_table(table.drop(columns="split"), out)
        lines.append(f"rows written to {out}")
    return "\n".join(lines)


def _images(trained: TrainedModel, data: str | None) -> tuple[ImageSet, str]:
    cache_dir = _cache_dir()
    if data is None:
        if trained.config.data.unseen_classes is not None:
            raise ValueError(
                "the model's validation images are of classes that it never learned (data.unseen_classes), so its "
                "classifier has no accuracy on them; name images of its own classes with --data"
            )
        own = prepare_data(trained.config.data, cache_dir=cache_dir)
        if own.fingerprint != trained.fingerprint:
            raise ValueError(
                f"the images at {getattr(trained.config.data, 'path', trained.config.data.source)} are not those that "
                "the model was trained with (their fingerprint differs); name images of your own with --data"
            )
        return own.validation, "the trial's validation images"
    config = data_config(Path(data), image_size=trained.config.data.image_size)
    splits = prepare_data(config, cache_dir=cache_dir)
    if splits.class_names != trained.class_names:
        strange = sorted(set(splits.class_names) ^ set(trained.class_names))[:6]
        raise ValueError(f"{data} must have the model's {len(trained.class_names)} classes; these differ: {strange}")
    parts = (splits.train, splits.validation, splits.test)
    labels, ids = (np.concatenate([getattr(part, name) for part in parts]) for name in ("labels", "ids"))
    seen, note = _seen_in_training(trained, ids, cache_dir)
    if seen.all():
        raise ValueError(f"all {len(ids)} images at {data} are training images of the model, which tell nothing")
    images = np.concatenate([part.images for part in parts])[~seen]
    return ImageSet(images, labels[~seen], ids[~seen], splits.class_names), f"{data}{note}"


def _seen_in_training(trained: TrainedModel, ids: np.ndarray, cache_dir: Path) -> tuple[np.ndarray, str]:
    """bool (n,), which images the model was trained on, and in words what that means for the figures."""
    unknown = np.zeros(len(ids), dtype=bool), " (the model's own images are not here, so copies of them are not found)"
    try:
        own = prepare_data(trained.config.data, cache_dir=cache_dir)
    except (ValueError, OSError):
        return unknown
    if own.fingerprint != trained.fingerprint:
        return unknown
    seen = np.isin(ids, own.train.ids)
    chosen, tested = (int(np.isin(ids, part.ids).sum()) for part in (own.validation, own.test))
    counts = {
        "of the model's training images are left out": int(seen.sum()),
        "are of its validation images": chosen,
        "are of its test images, so this is no first look at them": tested,
    }
    said = "; ".join(f"{count} {what}" for what, count in counts.items() if count)
    return seen, f" ({said})" if said else ""


def data_config(path: Path, *, image_size: int = 64) -> Any:
    """The data section of a class folder or a parquet file.

    Raises:
        ValueError: It is neither.
    """
    if path.is_dir():
        section = {"source": "image-folder"}
    elif path.suffix == ".parquet" and path.is_file():
        section = {"source": "parquet"}
    else:
        raise ValueError(f"images must be a class folder or a .parquet file, but got {str(path)!r}")
    tree = {**section, "path": str(path.resolve()), "image_size": image_size}
    return TypeAdapter(DataConfig).validate_python(tree)


def _table(cells: pd.DataFrame) -> str:
    wide = cells.pivot_table(index="corruption", columns="severity", values="accuracy", sort=False)
    return (wide * 100).to_string(float_format="%.1f", na_rep="") + "\n"


def _write_table(table: pd.DataFrame, out: Path) -> None:
    writers = {".csv": lambda place: table.to_csv(place, index=False), ".parquet": table.to_parquet}
    if out.suffix not in writers:
        raise ValueError(f"--out must end in {' or '.join(writers)}, but got {str(out)!r}")
    with atomic_file(out.resolve()) as temporary:
        writers[out.suffix](temporary)


def inspect_source(source: str, *, sets: Sequence[str], sheet: Path | None) -> str:
    """Counts of a study's images, or of a class folder or parquet file; returns them as text.

    Raises:
        ValueError: The source is none of these, or cannot be read.
    """
    return inspect_data(_source_config(source, sets), cache_dir=_cache_dir(), sheet=sheet)


def duplicates_in(
    source: str, *, sets: Sequence[str], distance: int | None, sheet: Path | None, as_json: bool = False
) -> str:
    """Images of a study, class folder or parquet file that stand in two splits; returns them as text or JSON.

    Args:
        distance: Bits of the perceptual hash up to which two images are told; None: a sensible one.
        sheet: PNG file to write the nearest pairs to.

    Raises:
        ValueError: The source is none of these or cannot be read, or the distance is out of range.
    """
    from study.data.duplicate_report import audit_json, audit_text, pair_sheet
    from study.data.duplicates import DEFAULT_DISTANCE, find_duplicates

    if sheet is not None and sheet.suffix.lower() != ".png":
        raise ValueError(f"--sheet must end in .png, but got {str(sheet)!r}")
    distance = DEFAULT_DISTANCE if distance is None else distance
    audit = find_duplicates(_source_config(source, sets), cache_dir=_cache_dir(), distance=distance)
    if sheet is not None:
        pair_sheet(audit).save(sheet)
    if as_json:
        return json.dumps(audit_json(audit), indent=1)
    return audit_text(audit) + (f"\ncontact sheet: {sheet}" if sheet is not None else "")


def _source_config(source: str, sets: Sequence[str]) -> Any:
    if Path(source).suffix in {".yaml", ".yml"}:
        return load_study(source, sets).config.data
    if sets:
        raise ValueError("--set goes with a study file; a folder or parquet file is taken as it is")
    return data_config(Path(source))


def _cache_dir() -> Path:
    return resolve_places(None, cwd=Path.cwd()).cache_dir
