"""An MLflow client that counts its calls, and some of whose calls fail for a while."""

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient


class Flaky:
    """A client whose named calls fail for a while: before (nothing is done) or after (the answer is lost)."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client
        self.calls: dict[str, int] = {}
        self.fail: dict[str, tuple[str, Exception]] = {}

    def __getattr__(self, name):
        real = getattr(self._client, name)

        def call(*args, **kwargs):
            self.calls[name] = self.calls.get(name, 0) + 1
            when, error = self.fail.get(name) or self.fail.get("*") or ("", None)
            if when == "before" and error is not None:
                raise error
            answer = real(*args, **kwargs)
            if when == "after" and error is not None:
                raise error
            return answer

        return call


def away() -> MlflowException:
    return MlflowException("API request to http://me:hidden@host failed: connection refused")
