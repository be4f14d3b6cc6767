"""A finished trial's deployed network, read from its two files wherever they lie."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from models.methods.method import Method
from models.methods.registry import load_export
from study.config import TrialConfig
from study.ledger import Ledger
from study.places import redact, refuse_credentials, resolve_places
from study.storage import Storage

_DAMAGED = (SafetensorError, LookupError, RuntimeError, TypeError, ValueError, AttributeError, ArithmeticError,
            MemoryError, AssertionError)  # fmt: skip
"""What changed files raise on the way to a network (RuntimeError: nested too deep, too)."""

MODEL_FILES = ("model.safetensors", "model.json")


@dataclass(frozen=True)
class TrainedModel:
    """A deployed network with what it was trained on.

    Attributes:
        place: Folder or URL of its trial.
        digest: Of its weights file.
    """

    method: Method
    class_names: tuple[str, ...]
    config: TrialConfig
    fingerprint: str
    place: str
    digest: str

    @property
    def input_size(self) -> int:
        """Side in pixels of the images that the network was trained on."""
        return self.config.resolution.input_size(self.config.data.image_size)


def load_model(name: str, *, storage: str | None = None) -> TrainedModel:
    """A trial's deployed network.

    Args:
        name: `STUDY/KEY`, or the folder or URL of a trial, or its `model.safetensors`.
        storage: Where studies lie, for `STUDY/KEY`.

    Raises:
        ValueError: There is no finished trial at the place, or its files are damaged.
    """
    folder = name if Path(name).name != MODEL_FILES[0] else name.removesuffix(MODEL_FILES[0]) or "."
    return read_model(_trial_place(folder, storage))


def read_model(place: str) -> TrainedModel:
    """The network in a trial's folder or URL, in eval mode on the CPU.

    Raises:
        ValueError: There is none, or its files cannot be read or are damaged.
    """
    shown = redact(place)
    try:
        files = Storage(place)
        weights, description = (files.read_bytes(file) for file in MODEL_FILES)
    except (OSError, ImportError) as error:
        raise ValueError(f"the model in {shown} cannot be read ({type(error).__name__}: {error})") from error
    if weights is None or description is None:
        raise ValueError(f"{shown} holds no trained model ({' and '.join(MODEL_FILES)}); has the trial finished?")
    try:
        facts = json.loads(description)
        method = load_export(load_safetensors(weights), facts)
        class_names, fingerprint = tuple(facts["class_names"]), facts["fingerprint"]
        config = TrialConfig.model_validate(facts["trial"])
    except _DAMAGED as error:
        raise ValueError(f"the model in {shown} is damaged or of another version: {error}") from error
    return TrainedModel(method, class_names, config, fingerprint, place, hashlib.sha256(weights).hexdigest())


def _trial_place(name: str, storage: str | None) -> str:
    refuse_credentials(name, "the model's place")
    if "://" in name:
        return name.rstrip("/")
    if Path(name).is_dir():
        return str(Path(name).resolve())
    study, _, key = name.rpartition("/")
    if not study or "/" in study:
        raise ValueError(f"the model must be STUDY/KEY or the folder of a trial, but got {name!r}")
    ledger = Ledger(str(resolve_places(None, cwd=Path.cwd(), storage=storage).storage), study)
    known = ledger.keys()
    if key not in known:
        raise ValueError(f"study {study!r} has no trial {key!r}; there are {', '.join(known[:8]) or 'none'}")
    return f"{ledger.root}/trials/{key}"
