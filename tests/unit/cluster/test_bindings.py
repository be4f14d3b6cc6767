"""What can be reached from where: Murk serves nothing itself, and the files of cluster/ bind this machine or a network
of their own, with passwords and tokens from the environment."""

import ast
import re

import pytest
import yaml

from murk import ROOMS
from tests.unit.cluster.manifests import CLUSTER, ROOT

COMPOSE = yaml.safe_load((CLUSTER / "compose.yaml").read_text())
SLURM = (CLUSTER / "slurm.sh").read_text()
DOCKERFILE = (CLUSTER / "Dockerfile").read_text().replace("\\\n", " ")
SERVERS = {"http.server", "socketserver", "xmlrpc.server", "uvicorn", "flask", "gunicorn", "wsgiref", "aiohttp.web"}
_SECRET = re.compile(r"PASSWORD|TOKEN|SECRET|CREDENTIAL|_KEY\b")


@pytest.mark.slow
def test_no_module_serves_anything() -> None:
    for path in (ROOT / room for room in ROOMS):
        for file in path.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                names = [item.name for item in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not SERVERS & set(names), file
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    assert node.func.attr not in {"listen", "create_server", "start_server", "serve_forever"}, file


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_compose_publishes_to_this_machine_only(name: str) -> None:
    service = COMPOSE["services"][name]
    assert "network_mode" not in service
    for port in service.get("ports", ()):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), port
    published = {port.rsplit(":", 1)[1] for port in service.get("ports", ())}
    assert published <= {"5000", "8265"}, "PostgreSQL and Ray's own ports stay within compose's network"


def test_compose_takes_every_secret_from_the_environment_and_starts_without_none() -> None:
    found = []
    for name, service in COMPOSE["services"].items():
        for variable, value in service["environment"].items():
            if _SECRET.search(variable):
                assert re.fullmatch(r"\$\{(\w+):\?set \1\}", value), (name, variable)
                found.append(variable)
        assert not re.search(r"://[^/\s]+:[^/\s]+@", str(service.get("command", ""))), name
    assert sorted(found) == ["PGPASSWORD", "POSTGRES_PASSWORD", "RAY_AUTH_TOKEN"]


def test_the_slurm_script_makes_a_token_of_its_own_before_ray_starts() -> None:
    lines = [line for line in SLURM.splitlines() if not line.startswith("#")]
    code = "\n".join(lines)
    start = code.index('"$ray" start')
    assert 0 < code.index("export RAY_AUTH_MODE=token") < start
    assert 0 < code.index("umask 077 && ") < code.index("secrets.token_hex(32)") < start
    assert 'rm -f "$RAY_AUTH_TOKEN_PATH"' in code
    assert re.findall(r"--dashboard-host=(\S+)", code) == ["127.0.0.1"]
    assert "0.0.0.0" not in code
    assert "--ray-client-server-port" not in code
    named = [name for name in re.findall(r"\b([A-Z][A-Z_]*)=", code) if _SECRET.search(name)]
    assert set(named) == {"RAY_AUTH_TOKEN_PATH"}, "a path, no token"


def test_the_image_holds_no_secret_opens_no_port_and_is_not_root() -> None:
    words = [line.split(maxsplit=1) for line in DOCKERFILE.splitlines() if line and line[0] not in "# "]
    assert "EXPOSE" not in {word[0] for word in words}
    assert [rest for word, rest in words if word == "USER"][-1] == "murk"
    settings = " ".join(rest for word, rest in words if word in {"ENV", "ARG"})
    assert "RAY_AUTH_MODE=token" in settings
    assert not _SECRET.search(settings)
    copied = " ".join(rest for word, rest in words if word in {"COPY", "ADD"})
    assert not re.search(r"(^|\s)\.\s", copied), "the whole folder would take what lies around"
