"""A trained network as files that other programs run: safetensors, a `torch.export` program, ONNX; each is checked."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from study.artifacts import export_files
from study.trained import MODEL_FILES, TrainedModel, load_model, read_model

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Predict = Callable[[Tensor], Tensor]

FORMATS = ("safetensors", "torch", "onnx")
TORCH_FILE, ONNX_FILE = "model.pt2", "model.onnx"
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4
"""Largest allowed difference of logits, times the largest logit where that is above 1: float32 in another order."""

_CHECKED_BATCHES = (1, 3)
_MAX_ONNX_BYTES = 2**31 - 2**20  # protobuf's 2 GiB, and room for the graph


class Exported(NamedTuple):
    """One format: its files, and the largest difference of its logits from the network's own."""

    files: tuple[str, ...]
    difference: float
    allowed: float


def export_model(name: str, *, formats: Sequence[str] | None, storage: str | None, out: Path | None) -> str:
    """Write a trial's deployed network in some formats; returns what was written, as text.

    The programs (`model.pt2`, `model.onnx`) take `images`, float32 in [0, 1], (B, 3, H, W) of the model's size and any
    B, and give `logits` (B, N): the normalisation is inside. Each file is read again and asked for B = 1 and B = 3
    images; only when all agree with the network are they moved to `out`.

    Args:
        name: `STUDY/KEY`, or the folder or URL of a trial, or its `model.safetensors`.
        formats: Of `FORMATS`; all when None.
        storage: Where studies lie, for `STUDY/KEY`.
        out: Folder to write into; `<trial>-export` here when None.

    Raises:
        ValueError: An unknown format, a missing package, no such model, or a file that disagrees with the network.
    """
    wanted = _known(formats)
    _require_packages(wanted)
    trained = load_model(name, storage=storage)
    folder = (out or Path(f"{trained.place.rstrip('/').rsplit('/', 1)[-1]}-export")).resolve()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out must be a folder, but {folder} is a file")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        found = write_formats(trained, Path(temporary), wanted)
        folder.mkdir(exist_ok=True)
        for exported in found.values():
            for file in exported.files:
                (Path(temporary) / file).replace(folder / file)
    return _text(trained, folder, found)


def write_formats(trained: TrainedModel, folder: Path, formats: Sequence[str]) -> dict[str, Exported]:
    """Write the files of each format into a folder and compare what they say with the network.

    Raises:
        ValueError: A file's logits are not the network's.
    """
    found: dict[str, Exported] = {}
    if "safetensors" in formats:
        facts = {"class_names": trained.class_names, "fingerprint": trained.fingerprint}
        for file, content in export_files(trained.method, trained.config, **facts).items():
            (folder / file).write_bytes(content)
        again = read_model(str(folder)).method.predict
        found["safetensors"] = Exported(MODEL_FILES, *compare(trained, again, what="model.safetensors"))
    if "torch" in formats or "onnx" in formats:
        program = make_program(trained)
        if "torch" in formats:
            torch.export.save(program, folder / TORCH_FILE)
            again = torch.export.load(folder / TORCH_FILE).module()
            found["torch"] = Exported((TORCH_FILE,), *compare(trained, again, what=TORCH_FILE))
        if "onnx" in formats:
            _write_onnx(trained, program, folder / ONNX_FILE)
            again = onnx_predict(folder / ONNX_FILE)
            found["onnx"] = Exported((ONNX_FILE,), *compare(trained, again, what=ONNX_FILE))
    return found


def make_program(trained: TrainedModel) -> ExportedProgram:
    """The network as a program of images_BCHW in [0, 1], any B, to logits_BN; on the CPU, in eval mode.

    Raises:
        ValueError: torch.export cannot make one of this backbone.
    """
    predictor = trained.method.predictor().cpu().eval()
    try:
        with torch.no_grad():
            # Two images, since an example of one would fix B to 1.
            return torch.export.export(
                predictor, (_images(trained, 2),), dynamic_shapes=({0: torch.export.Dim("batch")},)
            )
    except (RuntimeError, ValueError) as error:
        raise ValueError(_refusal(trained, "torch.export", error)) from error


def onnx_predict(path: Path) -> Predict:
    """An ONNX file's logits, run by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def predict(images_BCHW: Tensor) -> Tensor:
        (logits_BN,) = session.run(["logits"], {"images": images_BCHW.numpy()})
        return torch.from_numpy(np.asarray(logits_BN))

    return predict


@torch.no_grad()
def compare(trained: TrainedModel, again: Predict, *, what: str) -> tuple[float, float]:
    """Largest difference of the logits of random images from the network's own, and the largest that is allowed.

    Raises:
        ValueError: It is larger.
    """
    largest, allowed = 0.0, 0.0
    for count in _CHECKED_BATCHES:
        images_BCHW = _images(trained, count)
        logits_BN, found_BN = trained.method.predict(images_BCHW), again(images_BCHW)
        limit = TOLERANCE * max(1.0, float(logits_BN.abs().max()))
        is_same_shape = found_BN.shape == logits_BN.shape
        difference = float((found_BN - logits_BN).abs().max()) if is_same_shape else float("nan")
        if not difference <= limit:
            raise ValueError(
                f"{what} must give the network's logits, but of {count} random image(s) it gives others (difference "
                f"{difference:.3g}, allowed {limit:.3g}; shapes {tuple(found_BN.shape)} and {tuple(logits_BN.shape)}); "
                "nothing was written; name other formats with --format"
            )
        largest, allowed = max(largest, difference), max(allowed, limit)
    return largest, allowed


def _write_onnx(trained: TrainedModel, program: ExportedProgram, path: Path) -> None:
    num_bytes = sum(value.numel() * value.element_size() for value in program.state_dict.values())
    if num_bytes > _MAX_ONNX_BYTES:
        raise ValueError(
            f"an ONNX file holds at most 2 GiB of weights, but the network has {num_bytes / 2**30:.1f} GiB; use "
            "--format torch"
        )
    try:
        found: Any = torch.onnx.export(
            program, dynamo=True, input_names=["images"], output_names=["logits"], dynamic_shapes=({0: "batch"},),
            external_data=False, verbose=False,
        )  # fmt: skip
    except RuntimeError as error:
        raise ValueError(_refusal(trained, "torch.onnx", error)) from error
    found.save(str(path))


def _refusal(trained: TrainedModel, tool: str, error: Exception) -> str:
    reason = next(iter(str(error).strip().splitlines()), "")
    return (
        f"{tool} must be able to follow the network, but cannot for backbone {trained.config.model.backbone!r} "
        f"({type(error).__name__}: {reason}); nothing was written; name other formats with --format"
    )


def _images(trained: TrainedModel, count: int) -> Tensor:
    side = trained.input_size
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(count))


def _known(formats: Sequence[str] | None) -> tuple[str, ...]:
    unknown = [name for name in formats or () if name not in FORMATS]
    if unknown:
        raise ValueError(f"--format must be one of {', '.join(FORMATS)}, but got {unknown[0]!r}")
    return tuple(name for name in FORMATS if not formats or name in formats)


def _require_packages(formats: Sequence[str]) -> None:
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None] if "onnx" in formats else []
    if missing:
        others = " ".join(f"--format {name}" for name in FORMATS if name != "onnx")
        raise ValueError(
            f"ONNX needs the packages {', '.join(ONNX_PACKAGES)}, but {', '.join(missing)} cannot be found; install "
            f"them with: python -m pip install {' '.join(ONNX_PACKAGES)}   (or leave ONNX out: {others})"
        )


def _text(trained: TrainedModel, folder: Path, found: dict[str, Exported]) -> str:
    side, classes = trained.input_size, len(trained.class_names)
    lines = [f"{trained.config.method.name} from {trained.place}", f"written to {folder}"]
    for name, exported in found.items():
        num_bytes = sum((folder / file).stat().st_size for file in exported.files)
        lines.append(
            f"  {name:<12} {', '.join(exported.files):<30} {num_bytes / 1e6:8.1f} MB   largest difference "
            f"{exported.difference:.1e} (allowed {exported.allowed:.1e})"
        )
    if set(found) - {"safetensors"}:
        lines.append(
            f"programs: images float32 in [0, 1], (B, 3, {side}, {side}), any B -> logits (B, {classes}); "
            "no other preprocessing"
        )
    return "\n".join(lines)
