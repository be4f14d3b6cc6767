"""Starting and joining Ray where it does not work: one clear error with the way out."""

import pytest
import ray
from ray.exceptions import AuthenticationError

from study.runtime import join

OVERLOADED = "The current node timed out during startup. This could happen because some of the raylet failed to startup"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Exception(OVERLOADED + "\nmore"), r"did not start \(The current node timed out.*startup\).*less to do"),
        (ConnectionError("refused"), r"no Ray cluster answers at '127.0.0.1:1'.*leave the address out"),
        (AuthenticationError("bad"), "refuses the token.*RAY_AUTH_TOKEN_PATH"),
    ],
    ids=["overloaded", "absent", "token"],
)
def test_it_is_said_in_words(monkeypatch: pytest.MonkeyPatch, error: Exception, said: str) -> None:
    def init(**_: object) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ValueError, match=said):
        join({"address": "127.0.0.1:1"})


def test_other_errors_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise TypeError("unknown argument")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(TypeError, match="unknown argument"):
        join({"address": "local"})
