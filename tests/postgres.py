"""A PostgreSQL of the tests' own, on this machine only: started in a temporary folder, ended with the block.

    with postgres_server() as server:
        url = server.database("mlflow")     # postgresql+psycopg://murk:...@127.0.0.1:PORT/mlflow, for SQLAlchemy
        server.restart()                    # same data, same port, same URL

Needs the programs of PostgreSQL (Debian: `apt-get install postgresql`); without them the test that asks is skipped.
PostgreSQL refuses to run as root, so root starts it as the user `postgres`, and its data lie in a folder of its own
below the temporary one: pytest's folders can be entered by nobody else. A password is asked for, as on a real server.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

USER = "murk"
_START_S, _STOP_S = 60, 30
_DEBIAN = Path("/usr/lib/postgresql")
# A test's data need not outlive the machine.
_SETTINGS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "shared_buffers=32MB", "max_connections=40")


class Postgres:
    """A cluster of databases below `folder`; started by `start`."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self.port = free_port()
        self.password = secrets.token_hex(8)
        self._binaries, self._folder = binaries, folder
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        """Make the empty cluster."""
        password_file = self._folder / "password"
        password_file.write_text(self.password)
        _give_away(password_file)
        self._call("initdb", "--pgdata", "data", "--username", USER, "--pwfile", str(password_file),
                   "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync")  # fmt: skip
        password_file.unlink()

    def start(self) -> None:
        """Start and wait until it answers."""
        settings = [word for setting in _SETTINGS for word in ("-c", setting)]
        command = [str(self._binaries / "postgres"), "-D", "data", "-p", str(self.port), "-h", "127.0.0.1",
                   "-k", str(self._folder), *settings]  # fmt: skip
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **_as_other(self._folder))
        end = time.monotonic() + _START_S
        while not self._answers():
            assert self._process.poll() is None, self._tail()
            assert time.monotonic() < end, f"no PostgreSQL after {_START_S} s: {self._tail()}"
            time.sleep(0.1)

    def stop(self) -> None:
        """End it; open connections are cut. A second time does nothing."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)  # PostgreSQL's "fast": cuts connections, writes all down
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(_STOP_S)
        self._process = None

    def restart(self) -> None:
        """Stop, then start on the same data and port."""
        self.stop()
        self.start()

    def database(self, name: str) -> str:
        """Make an empty database; its URL for SQLAlchemy."""
        self._execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def drop(self, name: str) -> None:
        """Remove a database, also while someone is connected."""
        self._execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def url(self, name: str) -> str:
        """The URL of a database for SQLAlchemy (so for MLflow and Optuna)."""
        return f"postgresql+psycopg://{USER}:{self.password}@127.0.0.1:{self.port}/{name}"

    @property
    def _log(self) -> Path:
        return self._folder / "server.log"

    def _tail(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-2000:]

    def _execute(self, statement: str) -> None:
        place = {"host": "127.0.0.1", "port": self.port, "user": USER, "password": self.password, "dbname": "postgres"}
        with psycopg.connect(**place, connect_timeout=5, autocommit=True) as connection:
            connection.execute(statement.encode())

    def _answers(self) -> bool:
        try:
            self._execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def _call(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._binaries / program), *arguments], capture_output=True, text=True, **_as_other(self._folder)
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """A running PostgreSQL on a free port of 127.0.0.1, ended and removed with the block.

    The test is skipped where PostgreSQL's programs are absent.
    """
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL's programs (initdb, postgres) are not on this machine; apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="murk-postgres-"))
    _give_away(folder)
    server = Postgres(binaries, folder)
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


def find_binaries() -> Path | None:
    """The folder of PostgreSQL's programs: on the path, or the newest of Debian's; None where there is none."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    versions = [path for path in _DEBIAN.glob("*/bin") if (path / "initdb").is_file()]
    return max(versions, key=_version, default=None)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody holds now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _version(binaries: Path) -> Sequence[int]:
    return [int(part) for part in binaries.parent.name.split(".") if part.isdigit()]


def _other_user() -> pwd.struct_passwd | None:
    """Who runs it in root's place; None for an ordinary user, who runs it himself."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    return known.get("postgres") or known["nobody"]


def _as_other(folder: Path) -> dict:
    user = _other_user()
    whom = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    return {"cwd": folder, "env": {"PATH": os.defpath, "LC_ALL": "C"}, "stdin": subprocess.DEVNULL, **whom}


def _give_away(path: Path) -> None:
    user = _other_user()
    if user is not None:
        os.chown(path, user.pw_uid, user.pw_gid)
