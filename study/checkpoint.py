"""Checkpoints: one atomic file with weights, optimiser and place in the run; read with `weights_only`."""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
import warnings
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from study.config_search import MOST_KEPT
from study.ledger import Ledger
from study.ranks import Ranks, running_statistics

_log = logging.getLogger("murk")
_NEWEST = "checkpoint.pt"
_DIGEST_BYTES = 32
_ZIP = b"PK\x03\x04"
_UNREADABLE = (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError,
               AttributeError, ArithmeticError, MemoryError, ImportError, UserWarning, zipfile.BadZipFile)  # fmt: skip
"""What reading raises where the bytes were changed and the checksum with them; `weights_only` lets nothing run."""


@dataclass
class Progress:
    """Where a run stands. Order, augmentation and noise are functions of (seed, epoch, image), so no generator's state
    is part of it.

    Args:
        epoch: Epochs done.
        step: Batches done in the epoch that is under way.
        loss_sum: Sum over this epoch's updates of the objective sums, one entry for each objective name, and of what
            SAM's ascents added with the images behind it.
        count: Examples behind `loss_sum`.
        passes: Gradient passes so far (forward + backward of one image through the deployed backbone = 1).
        seconds: Training time so far.
        history: Metrics of each epoch done.
        directions: What LookSAM keeps of each objective; the same on every worker.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: dict[str, float] = field(default_factory=dict)
    count: int = 0
    passes: float = 0.0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    directions: dict[str, list[Tensor | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Share:
    """What one of several workers has of its own within an epoch: its sums, and its batch statistics on the CPU."""

    loss_sum: dict[str, float]
    count: int
    passes: float
    statistics: list[Tensor]


def shares_of(network: nn.Module, progress: Progress, ranks: Ranks) -> list[Share]:
    """The share of each worker, none where there is one worker; every worker must call it."""
    if ranks.world == 1:
        return []
    statistics = [buffer.detach().cpu().clone() for buffer in running_statistics(network)]
    return ranks.gather(Share(progress.loss_sum, progress.count, progress.passes, statistics))


def save(
    ledger: Ledger,
    key: str,
    *,
    network: nn.Module,
    optimizer: Optimizer,
    progress: Progress,
    shares: Sequence[Share] = (),
    kept: int = 2,
) -> None:
    """Write a trial's checkpoint; those before stay beside it, each until `kept` newer ones are there.

    Where it cannot be written (a full disk), the trial goes on with the ones it has: that costs nothing but the way
    back to them, should the process be lost. It is warned of, and the event `unsaved` says so if there is room for it.

    Args:
        progress: The first worker's.
        shares: Of all workers where there are several, from `shares_of`.
        kept: Checkpoints beside each other, 1 or more; with 1 there is no way back from a damaged one.
    """
    buffer = io.BytesIO()
    state = {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "progress": {**vars(progress)},
        "shares": [vars(share) for share in shares],
    }
    torch.save(state, buffer)
    data = buffer.getvalue()
    try:
        _write(ledger, key, hashlib.sha256(data).digest() + data, kept=kept)
    except OSError as error:
        _log.warning("the checkpoint of trial %s cannot be written (%s); it goes on without", key, error)
        with suppress(OSError):
            ledger.append(key, "unsaved", epoch=progress.epoch, step=progress.step, error=str(error))


def _name(place: int) -> str:
    """The file of the newest checkpoint (0), of the one before it (1), of the one before that (2) and so on."""
    return _NEWEST if place == 0 else f"checkpoint-before{'' if place == 1 else f'-{place}'}.pt"


def _write(ledger: Ledger, key: str, data: bytes, *, kept: int) -> None:
    before = ledger.read_bytes(key, _NEWEST) if kept > 1 else None
    if before is not None and _is_whole(before):  # a damaged one must not take the place of a good one
        with suppress(OSError):  # a disk with little room keeps fewer old ones, and the newest all the same
            for place in range(kept - 1, 1, -1):
                older = ledger.read_bytes(key, _name(place - 1))
                if older is not None:
                    ledger.write_bytes(key, _name(place), older)
        ledger.write_bytes(key, _name(1), before)
    ledger.write_bytes(key, _NEWEST, data)
    with suppress(OSError):  # it is saved, whether or not those of a larger setting go
        _remove_from(ledger, key, kept)


def _remove_from(ledger: Ledger, key: str, first: int) -> None:
    """Remove the checkpoints from this place on, the last one first: being cut off then leaves no gap."""
    end = first
    while end < MOST_KEPT and (end == 0 or ledger.files.exists("trials", key, _name(end))):
        end += 1
    for place in reversed(range(first, end)):
        ledger.remove(key, _name(place))


def _is_whole(data: bytes) -> bool:
    return hashlib.sha256(data[_DIGEST_BYTES:]).digest() == data[:_DIGEST_BYTES]


def restore(
    ledger: Ledger, key: str, *, network: nn.Module, optimizer: Optimizer, ranks: Ranks | None = None
) -> Progress | None:
    """Load the newest whole checkpoint into network and optimiser; None when there is none.

    As many workers as saved it go on to the bit, each with its own share. With another number all start from the mean
    of the batch statistics, and the first one goes on with the sums of all.

    A damaged file (its SHA-256 does not fit) is passed over for the one before it, with a warning; a trial whose files
    are all damaged starts anew.
    """
    is_damaged = False
    for name in map(_name, range(MOST_KEPT)):
        data = ledger.read_bytes(key, name)
        if data is None and name != _NEWEST:
            break  # there are none behind a gap
        state = None if data is None else _state(key, name, data)
        is_damaged |= data is not None and state is None
        if state is not None:
            network.load_state_dict(state["network"])
            optimizer.load_state_dict(state["optimizer"])
            shares = [Share(**share) for share in state.get("shares", ())]
            return _shared_out(Progress(**state["progress"]), shares, network, ranks or Ranks())
    if is_damaged:
        _log.warning("trial %s has no checkpoint that can be read, so it starts anew", key)
    return None


def _shared_out(progress: Progress, shares: list[Share], network: nn.Module, ranks: Ranks) -> Progress:
    """This worker's progress; its batch statistics go into the network."""
    mine = Share(progress.loss_sum, progress.count, progress.passes, [])
    if len(shares) == ranks.world:
        mine = shares[ranks.rank]
    elif shares:
        mine = _together(shares)
    if mine.statistics:
        for buffer, value in zip(running_statistics(network), mine.statistics, strict=True):
            buffer.copy_(value)
    if len(shares) != ranks.world and not ranks.is_first:
        mine = replace(mine, loss_sum=dict.fromkeys(mine.loss_sum, 0.0), count=0, passes=0.0)
    return replace(progress, loss_sum=mine.loss_sum, count=mine.count, passes=mine.passes)


def _together(shares: list[Share]) -> Share:
    return Share(
        loss_sum={name: sum(share.loss_sum[name] for share in shares) for name in shares[0].loss_sum},
        count=sum(share.count for share in shares),
        passes=sum(share.passes for share in shares),
        statistics=[torch.stack(values).mean(0) for values in zip(*(s.statistics for s in shares), strict=True)],
    )


def remove(ledger: Ledger, key: str) -> None:
    """Remove the checkpoints of a trial that is finished or pruned; what cannot be removed is warned of."""
    try:
        _remove_from(ledger, key, 0)
    except OSError as error:
        _log.warning("the checkpoints of trial %s stay, as they cannot be removed: %s", key, error)


def _state(key: str, name: str, data: bytes) -> dict[str, Any] | None:
    if not _is_whole(data):
        _log.warning("%s of trial %s is damaged (its checksum does not fit) and passed over", name, key)
        return None
    try:
        if not data.startswith(_ZIP, _DIGEST_BYTES):  # torch would take it for a pickle of before 2020, and warn
            raise ValueError("it is no archive")
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Detected pickle protocol", category=UserWarning)
            state = torch.load(io.BytesIO(data[_DIGEST_BYTES:]), map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError("it holds no mapping")
        lacking = [part for part in ("network", "optimizer", "progress") if not isinstance(state.get(part), dict)]
        if lacking:
            raise ValueError(f"it lacks {lacking[0]}")
        Progress(**state["progress"])
    except _UNREADABLE as error:
        reason = f"{type(error).__name__}: {error}".split(". ")[0].splitlines()[0][:120]
        _log.warning("%s of trial %s cannot be read (%s) and is passed over", name, key, reason)
        return None
    return state
