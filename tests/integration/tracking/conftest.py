"""One SQLite MLflow for the tests of the projection, and a study of its own for each."""

import hashlib
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from study.ledger import Ledger
from study.tracking import connect
from tests.integration.projected import write_study


@pytest.fixture(scope="session")
def storage(tmp_path_factory) -> Path:
    """One storage place with one database for all of these tests: making a database takes seconds."""
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="session")
def uri(storage) -> str:
    return f"sqlite:///{storage}/mlflow.db"


@pytest.fixture(scope="session")
def client(uri) -> MlflowClient:
    return connect(uri)


@pytest.fixture
def ledger(storage, request) -> Ledger:
    """An empty study of the test's own."""
    return write_study(storage, "s" + hashlib.sha256(request.node.name.encode()).hexdigest()[:12])
