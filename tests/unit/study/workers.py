"""Several workers as threads of one process, for tests of what they share."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from study.ranks import Ranks

_WAIT_S = 60.0  # a worker that does not come to a shared call breaks the others' wait


class ThreadGroup:
    """Stands in for `torch.distributed` in `study.ranks`."""

    def __init__(self, world: int) -> None:
        self._barrier = threading.Barrier(world)
        self._place = threading.local()
        self._slots: list[Any] = [None] * world

    def enter(self, rank: int) -> None:
        self._place.rank = rank

    def all_reduce(self, values: torch.Tensor) -> None:
        parts = self._exchange(values.clone())
        values.copy_(torch.stack(parts).sum(0))

    def all_gather_object(self, parts: list[Any], value: Any) -> None:
        parts[:] = self._exchange(value)

    def barrier(self) -> None:
        self._barrier.wait(_WAIT_S)

    def _exchange(self, value: Any) -> list[Any]:
        self._slots[self._place.rank] = value
        self._barrier.wait(_WAIT_S)
        found = list(self._slots)
        self._barrier.wait(_WAIT_S)
        return found


def run_workers(world: int, work: Callable[[Ranks], Any], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `work` returns on each worker."""
    group = ThreadGroup(world)
    monkeypatch.setattr("study.ranks.dist", group)
    results: list[Any] = [None] * world
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        group.enter(rank)
        try:
            results[rank] = work(Ranks(rank, world, "cpu"))
        except Exception as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
