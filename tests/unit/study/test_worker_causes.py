"""Which of several workers' errors was the cause, and which are only broken connections."""

import pytest
from ray.exceptions import ActorDiedError

from study.loop import Diverged
from study.memory import OutOfMemory
from study.worker import cause_of, is_loss

GLOO = RuntimeError("[/pytorch/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:17000")


class GroupError(Exception):
    """As Ray Train raises it."""

    def __init__(self, **failures: Exception) -> None:
        super().__init__("a worker failed")
        self.worker_failures = {int(name[1:]): failure for name, failure in failures.items()}


@pytest.mark.parametrize("cause", [ActorDiedError(), OutOfMemory("too many"), Diverged("not finite")])
def test_a_broken_connection_is_a_consequence(cause: Exception) -> None:
    assert cause_of(GroupError(r0=GLOO, r1=cause)) is cause


def test_a_connection_that_broke_alone_is_a_lost_worker() -> None:
    assert cause_of(GroupError(r0=GLOO)) is GLOO
    assert is_loss(GLOO)
    assert not is_loss(Diverged("not finite"))
    assert not is_loss(OutOfMemory("too many"))
    assert not is_loss(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_memory_comes_before_what_else_went_wrong() -> None:
    spent = OutOfMemory("too many")
    assert cause_of(GroupError(r0=ValueError("other"), r1=spent)) is spent
