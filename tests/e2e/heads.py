"""A Ray head with a token, and other servers of a test's own, each ended with its block by its own process group."""

import os
import signal
import site
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from tests.e2e.studies import ROOT, environment

BIN = Path(sys.executable).parent


def thin_environment(folder: Path) -> Path:
    """A virtual environment that sees this one's packages and has none of its own; gives the folder of its programs.

    Ray copies a whole virtual environment to install packages for a job: this one is small.
    """
    venv.EnvBuilder(symlinks=True).create(folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "of_the_tests.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return folder / "bin"


def submit_plainly(address: str, env: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    """`ray job submit --working-dir . -- python -m murk run ...` from Murk's own folder, followed to its end."""
    command = [
        str(BIN / "ray"), "job", "submit", "--address", address, "--working-dir", ".", "--",
        "python", "-m", "murk", "run", *args,
    ]  # fmt: skip
    for _ in range(10):  # the head answers before the agent that starts jobs is up
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=580, check=False)
        if "No available agent" not in done.stderr:
            break
        time.sleep(3)
    return done


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def process(command: list[str], log: Path, env: dict[str, str]) -> Iterator[subprocess.Popen]:
    """A process group of our own, ended with the block."""
    with log.open("w") as out:
        started = subprocess.Popen(command, stdout=out, stderr=out, env=env, start_new_session=True)
        try:
            yield started
        finally:
            with suppress(ProcessLookupError):  # it may have ended, and what it started may not
                os.killpg(started.pid, signal.SIGTERM)
            try:
                started.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(started.pid, signal.SIGKILL)
                started.wait(30)


def wait_for(url: str, process: subprocess.Popen, log: Path, timeout_s: float = 120) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=2)
        except urllib.error.HTTPError:
            return  # it answers: a token is wanted
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError(f"nothing answers at {url}: {log.read_text()[-2000:]}")


class Head(NamedTuple):
    """A Ray head: its job address, that of its cluster, the environment to use with it, and its first process."""

    jobs: str
    cluster: str
    env: dict[str, str]
    pid: int


@contextmanager
def head(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A Ray head that only this machine can reach, with a token; gives its job address and the environment to use."""
    with whole_head(tmp_path) as found:
        yield found.jobs, found.env


@contextmanager
def whole_head(tmp_path: Path, bin_folder: Path = BIN, **extra: str) -> Iterator[Head]:
    """The same with all that there is to know.

    Args:
        bin_folder: Where the Python lies that the head and its workers run by.
        extra: Goes into its environment.
    """
    env = environment(
        PATH=f"{bin_folder}:{os.environ['PATH']}",
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN_PATH=str(tmp_path / "token"),
        RAY_agent_register_timeout_ms="100000",
        **extra,
    )
    (tmp_path / "token").write_text("t" * 64)
    for left in reversed(range(3)):
        with ExitStack() as stack:
            try:
                found = stack.enter_context(_started_head(tmp_path / "ray.log", bin_folder, env))
            except AssertionError:  # a busy machine is too slow for the 30 s that Ray gives itself
                if not left:
                    raise
                continue
            yield found
            return


@contextmanager
def _started_head(log: Path, bin_folder: Path, env: dict[str, str]) -> Iterator[Head]:
    # Another Ray on this machine has the usual ones.
    port, dashboard, client, agent, grpc, environments, metrics = (free_port() for _ in range(7))
    command = [
        str(bin_folder / "python"), "-m", "ray.scripts.scripts", "start", "--head", "--block",
        f"--port={port}", "--node-ip-address=127.0.0.1",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}",
        # With ports of its own choice Ray waits 15 s for its agents to tell them, too short on a busy machine.
        f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={grpc}",
        f"--runtime-env-agent-port={environments}", f"--metrics-export-port={metrics}",
        "--num-cpus=2", "--object-store-memory=200000000", "--disable-usage-stats",
    ]  # fmt: skip
    with process(command, log, env) as started:
        address = f"http://127.0.0.1:{dashboard}"
        wait_for(f"{address}/api/version", started, log)
        while "Ray runtime started" not in log.read_text():  # the dashboard answers before the node has joined
            assert started.poll() is None, log.read_text()
            time.sleep(0.5)
        yield Head(address, f"127.0.0.1:{port}", env, started.pid)
