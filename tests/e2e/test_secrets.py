"""Secrets planted in the environment and in options of one small study: nothing that is written or said holds any."""

import base64
import io
import os
import re
import shutil
import sqlite3
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pytest

from tests.e2e.studies import ROOT, murk

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

SECRETS = {
    "MLFLOW_TRACKING_PASSWORD": "mlflow/Pa$$+planted-1",
    "MLFLOW_TRACKING_TOKEN": "mlflowtoken-planted-2",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+planted-3",
    "AWS_SESSION_TOKEN": "sessiontoken-planted-4",
    "RAY_AUTH_TOKEN": "5a" * 32,
    "PGPASSWORD": "pgpass planted-6",
}
IN_URLS = {"MLFLOW_TRACKING_URI": "uri-planted-7", "OPTUNA_STORAGE": "optuna-planted-8", "DATA_URL": "data-planted-9"}
COMMENT = "comment-planted-0"
USER = "planted-user"
STUDY = f"""
# the database's password: {COMMENT}
name: quiet
data: {{source: synthetic-vehicles, num_classes: 4, train_per_class: 12, test_per_class: 4, image_size: 32}}
model: {{backbone: test_resnet}}
noise: {{validation: [gaussian_noise], validation_severities: [3], test: [contrast], test_severities: [3]}}
train: {{epochs: 1, batch_size: 16}}
search:
  trials: 2
  optuna_storage: sqlite:///optuna.db
  space: {{optim.lr: {{log_uniform: [0.01, 0.02]}}}}
phases:
  - {{kind: search, name: search}}
  - {{kind: confirm, name: confirm, of: search, seeds: [7]}}
"""

# Python reads `sitecustomize` in the driver and in every worker: the second trial meets an error that tells all.
LOUD = """
import importlib.abc, importlib.util, os, sys

class Hook(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "study.trial":
            return None
        sys.meta_path.remove(self)
        found = importlib.util.find_spec(name)
        execute = found.loader.exec_module
        def changed(module):
            execute(module)
            run = module.run_trial
            def loud(spec, *more, **named):
                if spec.number == 1:
                    told = " ".join(f"{name}={os.environ[name]}" for name in NAMES)
                    plain = " and ".join(os.environ[name] for name in NAMES)
                    url = "s3://me:" + os.environ["AWS_SECRET_ACCESS_KEY"] + "@bucket/x?X-Amz-Signature=abc"
                    raise OSError(f"{url} said no: {told}; in words {plain}")
                return run(spec, *more, **named)
            module.run_trial = loud
        found.loader.exec_module = changed
        return found

sys.meta_path.insert(0, Hook())
NAMES = %r
"""


class Echo(BaseHTTPRequestHandler):
    """A server that refuses everybody and repeats who asked, as some proxies do in their pages."""

    seen: list[str]

    def answer(self) -> None:
        given = self.headers.get("Authorization", "")
        type(self).seen.append(given)
        plain = given
        if given.startswith("Basic "):
            plain += " that is " + base64.b64decode(given.split()[1]).decode()
        body = f"<p>not allowed: Authorization: {plain}</p>".encode()
        self.send_response(401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def refusing() -> Iterator[tuple[str, list[str]]]:
    """Such a server's URL, and the credentials it was shown."""
    seen: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OwnEcho", (Echo,), {"seen": seen}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", seen
    server.shutdown()
    server.server_close()


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder for Ray and all temporary files; Ray's sockets lie there, whose paths have a limit."""
    folder = Path(tempfile.mkdtemp(prefix="mk"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def planted(tmp_path: Path, short: Path) -> dict[str, str]:
    """An environment with every secret, in which all that is written lies in the two folders."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(LOUD % (tuple(SECRETS),))
    urls = {
        "MLFLOW_TRACKING_URI": f"http://{USER}:{IN_URLS['MLFLOW_TRACKING_URI']}@127.0.0.1:9",
        "OPTUNA_STORAGE": f"postgresql://{USER}:{IN_URLS['OPTUNA_STORAGE']}@127.0.0.1:9/optuna",
        "DATA_URL": f"s3://{USER}:{IN_URLS['DATA_URL']}@bucket/cars.parquet",
    }
    places = {
        "HOME": tmp_path / "home", "MURK_CACHE": tmp_path / "cache", "XDG_CACHE_HOME": tmp_path / "cache",
        "TMPDIR": short, "RAY_TMPDIR": short,
    }  # fmt: skip
    for place in places.values():
        place.mkdir(exist_ok=True)
    return {
        **SECRETS, **urls, **{name: str(place) for name, place in places.items()},
        "MLFLOW_TRACKING_USERNAME": USER, "RAY_AUTH_MODE": "token",
        "PYTHONPATH": f"{tmp_path / 'hook'}{os.pathsep}{ROOT}",
    }  # fmt: skip


FORMS = {
    form
    for secret in (*SECRETS.values(), *IN_URLS.values(), COMMENT)
    for form in (secret, quote(secret), quote(secret, safe=""))
} | {base64.b64encode(f"{USER}:{SECRETS['MLFLOW_TRACKING_PASSWORD']}".encode()).decode()}


def told(text: str | bytes) -> set[str]:
    """The secrets in a text, in any of the forms that URLs and headers give them."""
    data = text.encode() if isinstance(text, str) else text
    halves = {found.decode() for found in re.findall(rb"planted-\d", data)}
    return halves | {form for form in FORMS if form.encode() in data}


def contents(path: Path) -> Iterator[bytes]:
    """A file's bytes, and what lies packed in it."""
    data = path.read_bytes()
    yield data
    if path.suffix == ".parquet":
        yield pd.read_parquet(io.BytesIO(data)).to_csv().encode()
    elif zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            yield from (archive.read(name) for name in archive.namelist())
    elif data.startswith(b"SQLite format 3"):
        database = sqlite3.connect(path)
        yield "\n".join(database.iterdump()).encode()
        database.close()


def leaks(*folders: Path) -> tuple[dict[str, set[str]], set[str]]:
    """File -> secrets in it, and the names of all files that were read."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    files = [path for path in files if path.suffix != ".pyc"]
    found = {str(path): set().union(*map(told, contents(path))) for path in files}
    return {name: secrets for name, secrets in found.items() if secrets}, {path.name for path in files}


def test_nothing_written_or_said_holds_a_secret(
    tmp_path: Path, short: Path, refusing: tuple[str, list[str]]
) -> None:  # fmt: skip
    environment, (server, seen) = planted(tmp_path, short), refusing
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "quiet.yaml").write_text(STUDY)

    def say(*args: str, code: int, **extra: str) -> str:
        done = murk(*args, cwd=work, **{**environment, **extra})
        output = done.stdout + done.stderr
        assert told(output) == set(), args
        assert done.returncode == code, output
        return output

    # A study whose second trial fails and whose MLflow refuses, with all of Ray's own logs kept.
    ran = say("run", "../quiet.yaml", "--verbose", "--set", f"tracking.uri={server}", code=1)
    assert "OSError: s3://***@bucket/x?X-Amz-Signature=*** said no: " in ran
    assert f"MLflow at {server} is away" in ran
    assert any(given.startswith("Basic ") for given in seen), "the server was never shown the password"
    (key,) = {path.parent.name for path in work.glob("results/quiet/trials/*/predictions.parquet")}

    # What other commands write, and what they say of a server that refuses.
    say("report", "quiet", code=0)
    say("sync", "quiet", "--tracking", f"sqlite:///{work}/own.db", code=0)
    assert "401" in say("sync", "quiet", code=2)
    assert "401" in say("sync", "quiet", code=2, MLFLOW_TRACKING_USERNAME="", MLFLOW_TRACKING_PASSWORD="")
    assert any(given.startswith("Bearer ") for given in seen), "the server was never shown the token"
    assert "401" in say("pull", "quiet", "--tracking", server, "--out", "pulled", code=2)
    say("pull", "quiet", "--storage", str(work / "results"), "--out", "copied", code=0)
    say("pull", "quiet", "--tracking", f"sqlite:///{work}/own.db", "--out", "pulled", code=0)
    say("optuna", "quiet", code=0)
    say("export", f"quiet/{key}", "--format", "safetensors", code=0)
    say("evaluate", f"quiet/{key}", code=0)

    found, names = leaks(work, short, tmp_path / "home", tmp_path / "cache")
    assert found == {}
    wanted = {"events.jsonl", "study.json", "study.yaml", "report.html", "own.db", "optuna.db", "cells.parquet",
              "raylet.out", "gcs_server.out", "model.safetensors"}  # fmt: skip
    assert wanted - names == set(), "not all was looked at"
    assert "***" in (work / "results" / "quiet" / "report.html").read_text()

    # The look finds what is there.
    (work / "control").write_text(f"x{SECRETS['PGPASSWORD']}y")
    assert set(leaks(work)[0]) == {str(work / "control")}
