"""The halved micro-batch of a trial that ran out of memory: decided here, kept in the ledger, read at every start."""

from __future__ import annotations

from study.config import TrialConfig
from study.config_method import is_decomposable
from study.ledger import Ledger, TrialSpec
from study.memory import OutOfMemory, half

EVENT = "out_of_memory"


def micro_batch_of(ledger: Ledger, key: str) -> int | None:
    """The micro-batch that a trial was left with, in images on each worker; None where it never ran out of memory."""
    found = [event["micro_batch"] for event in ledger.events(key) if event["event"] == EVENT]
    return int(found[-1]) if found else None


def why_not_halved(config: TrialConfig) -> str | None:
    """Why a trial's batches cannot be cut into micro-batches; None where they can."""
    if not is_decomposable(config.method):
        return f"the loss of method.name: {config.method.name} compares the images of a batch with each other"
    if config.model.batch_norm == "sync":
        return "with model.batch_norm: sync uneven workers would have other numbers of slices"
    return None


def halve(ledger: Ledger, spec: TrialSpec, error: OutOfMemory) -> int:
    """Record that a trial goes on with half as many images in a forward pass; gives their number.

    Args:
        error: That of the micro-batch which did not fit, with that number; raised again where no smaller one
            is possible.

    Raises:
        OutOfMemory: The method's loss cannot be cut, or two images are too many; the message says which.
    """
    config = TrialConfig.model_validate(spec.config)
    reason = why_not_halved(config)
    if reason is not None:
        raise OutOfMemory(f"{error}; this trial's batches are not halved: {reason}") from error
    used = error.micro_batch  # what it was, not what the settings would make it: an elastic group has any size
    smaller = half(used)
    if smaller is None:
        raise OutOfMemory(f"{error}; {used} images on a worker cannot be halved") from error
    ledger.append(spec.key, EVENT, micro_batch=smaller, before=used, error=str(error))
    return smaller
