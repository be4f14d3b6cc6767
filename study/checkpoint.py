"""Checkpoints: one atomic file with weights, optimiser and place in the run; read with `weights_only`."""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from study.ledger import Ledger

_log = logging.getLogger("murk")
_NAMES = ("checkpoint.pt", "checkpoint-before.pt")
_DIGEST_BYTES = 32


@dataclass
class Progress:
    """Where a run stands. Order, augmentation and noise are functions of (seed, epoch, image), so no generator's state
    is part of it.

    Args:
        epoch: Epochs done.
        step: Batches done in the epoch that is under way.
        loss_sum: Sum over this epoch's updates of the objective sums, one entry for each objective name.
        count: Examples behind `loss_sum`.
        passes: Gradient passes so far (forward + backward of one image through the deployed backbone = 1).
        seconds: Training time so far.
        history: Metrics of each epoch done.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: dict[str, float] = field(default_factory=dict)
    count: int = 0
    passes: float = 0.0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def save(ledger: Ledger, key: str, *, network: nn.Module, optimizer: Optimizer, progress: Progress) -> None:
    """Write a trial's checkpoint; the one before stays beside it until the next."""
    buffer = io.BytesIO()
    state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "progress": asdict(progress)}
    torch.save(state, buffer)
    data = buffer.getvalue()
    before = ledger.read_bytes(key, _NAMES[0])
    if before is not None:
        ledger.write_bytes(key, _NAMES[1], before)
    ledger.write_bytes(key, _NAMES[0], hashlib.sha256(data).digest() + data)


def restore(ledger: Ledger, key: str, *, network: nn.Module, optimizer: Optimizer) -> Progress | None:
    """Load the newest whole checkpoint into network and optimiser; None when there is none.

    A damaged file (its SHA-256 does not fit) is passed over for the one before it, with a warning.
    """
    for name in _NAMES:
        state = _read(ledger, key, name)
        if state is not None:
            network.load_state_dict(state["network"])
            optimizer.load_state_dict(state["optimizer"])
            return Progress(**state["progress"])
    return None


def remove(ledger: Ledger, key: str) -> None:
    """Remove the checkpoints of a trial that has ended; its model stays. What cannot be removed is warned of."""
    try:
        for name in _NAMES:
            ledger.remove(key, name)
    except OSError as error:
        _log.warning("the checkpoints of finished trial %s stay, as they cannot be removed: %s", key, error)


def _read(ledger: Ledger, key: str, name: str) -> dict[str, Any] | None:
    data = ledger.read_bytes(key, name)
    if data is None:
        return None
    if hashlib.sha256(data[_DIGEST_BYTES:]).digest() != data[:_DIGEST_BYTES]:
        _log.warning("checkpoint %s is damaged (its checksum does not fit); the one before it is used", name)
        return None
    try:
        return torch.load(io.BytesIO(data[_DIGEST_BYTES:]), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        _log.warning("checkpoint %s cannot be read (%s); the one before it is used", name, error)
        return None
