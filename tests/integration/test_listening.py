"""A Ray of Murk's own can be reached from this machine only: every socket on which its processes listen is loopback."""

import ipaddress
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's own tables of sockets"),
]

START = """
import sys
from study.config_search import ResourcesConfig
from study.runtime import start_ray, stop_ray

runtime = start_ray(ResourcesConfig())  # before anything imports Ray, as in `murk run`
import ray
started = ray.remote(lambda: 1).remote()  # a worker has a port of its own
assert ray.get(started) == 1
print("up", flush=True)
sys.stdin.read()
stop_ray(runtime)
"""


class Socket(NamedTuple):
    """A socket on which a process listens."""

    program: str
    address: str
    port: int


def address_of(text: str) -> str:
    """An address as the kernel writes it: hexadecimal words of four bytes, each in the machine's own order."""
    words = [bytes.fromhex(text[i : i + 8]) for i in range(0, len(text), 8)]
    return str(ipaddress.ip_address(b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)))


def is_loopback(address: str) -> bool:
    found = ipaddress.ip_address(address)
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def processes_below(root: int) -> list[int]:
    """A process and all that it started, as far as they live."""
    children: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = place.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(after_name[1]), []).append(int(place.parent.name))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found


def _target(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except OSError:  # closed since, as that of the listing itself
        return ""


def listening(root: int) -> set[Socket]:
    """The TCP sockets on which a process and those below it listen."""
    places: dict[str, tuple[str, int]] = {}
    for table in ("tcp", "tcp6"):
        lines = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        for fields in (line.split() for line in lines):
            if fields[3] == "0A":  # LISTEN
                address, _, port = fields[1].partition(":")
                places[f"socket:[{fields[9]}]"] = (address_of(address), int(port, 16))
    found = set()
    for process in processes_below(root):
        with suppress(OSError):  # it has ended
            program = Path(f"/proc/{process}/comm").read_text().strip()
            held = map(_target, list(Path(f"/proc/{process}/fd").iterdir()))
            found |= {Socket(program, *places[name]) for name in held if name in places}
    return found


def test_the_tables_are_read_right() -> None:
    import socket

    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        try:
            server = socket.create_server((host, 0), family=family)
        except OSError:
            continue  # a machine without IPv6
        with server:
            port = server.getsockname()[1]
            assert (host, port) in {(item.address, item.port) for item in listening(os.getpid())}
    assert [is_loopback(item) for item in ("127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "10.0.0.1")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip


def test_a_ray_of_our_own_listens_on_loopback_only() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    driver = subprocess.Popen(
        [sys.executable, "-c", START], cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "up\n"
        found: set[Socket] = set()
        for _ in range(5):  # the agents open their ports a little later
            found |= listening(driver.pid)
            time.sleep(1)
    finally:
        driver.communicate("", timeout=60)
    programs = {item.program for item in found}
    assert {"gcs_server", "raylet"} <= programs, json.dumps(sorted(found))
    assert [item for item in sorted(found) if not is_loopback(item.address)] == []
