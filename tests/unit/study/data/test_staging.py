"""Images at a URL come to each machine once, whole, and by one process; what goes wrong is said."""

import contextlib
import errno
import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from study.config_data import ImageFolder, Parquet
from study.data.prepare import prepare_data
from study.data.staging import is_remote, staged

ROOT = Path(__file__).parents[4]
CONTENT = bytes(range(256)) * 400


class _Server:
    """A web server on this machine; `pause_s` makes each file come in two halves, `short` keeps the second back."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.gets: Counter[str] = Counter()
        self.pause_s, self.short = 0.0, False
        self.away, self.status, self.asked = 0, 503, 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                outer.gets[self.path] += 1
                self._answer(body=True)

            def _answer(self, *, body: bool) -> None:
                data = outer.files.get(self.path)
                outer.asked += 1
                if outer.asked <= outer.away:
                    self.send_error(outer.status)
                    return
                if data is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if body:
                    half = len(data) // 2
                    self.wfile.write(data[:half])
                    self.wfile.flush()
                    time.sleep(outer.pause_s)
                    if not outer.short:
                        self.wfile.write(data[half:])

            def log_message(self, format: str, *args: object) -> None:
                pass

            def handle(self) -> None:
                with contextlib.suppress(ConnectionError):  # a stager that was killed
                    super().handle()

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch) -> None:
    monkeypatch.setattr("study.data.staging._WAITS_S", (0.0, 0.0, 0.0, 0.0))


@pytest.fixture
def server() -> Iterator[_Server]:
    made = _Server()
    yield made
    made.close()


@pytest.fixture
def memory(tmp_path) -> Iterator[str]:
    """A place in fsspec's memory file system."""
    name = f"memory://{tmp_path.name}"
    yield name
    files = fsspec.filesystem("memory")
    if files.exists(name):
        files.rm(name, recursive=True)


def _put(url: str, data: bytes) -> None:
    with fsspec.open(url, "wb") as file:
        file.write(data)


def _picture(number: int) -> bytes:
    noise, buffer = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8), io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def _start(url: str, cache: Path) -> subprocess.Popen[str]:
    code = (
        f"from pathlib import Path\nfrom study.data.staging import staged\nprint(staged({url!r}, Path({str(cache)!r})))"
    )
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def _parts(cache: Path) -> list[Path]:
    return [path for path in (cache / "staged").glob(".*") if path.is_dir()]


@pytest.mark.parametrize(
    ("place", "remote"),
    [("cars.parquet", False), ("/mnt/cars", False), ("file:///mnt/cars", False), ("s3://bucket/cars", True)],
)
def test_what_is_remote(place, remote):
    assert is_remote(place) is remote


def test_a_local_place_stays(tmp_path):
    assert staged(str(tmp_path)) == str(tmp_path)
    assert staged(f"file://{tmp_path}") == str(tmp_path)


def test_a_file_is_copied_once(server, tmp_path):
    server.files["/cars.parquet"] = CONTENT
    first = staged(f"{server.url}/cars.parquet", tmp_path)
    assert Path(first).name == "cars.parquet"
    assert Path(first).read_bytes() == CONTENT
    assert staged(f"{server.url}/cars.parquet", tmp_path) == first
    assert server.gets["/cars.parquet"] == 1


def test_a_folder_keeps_its_names(memory, tmp_path):
    _put(f"{memory}/train/a/1.jpg", b"one")
    _put(f"{memory}/train/b/2.jpg", b"two")
    found = Path(staged(memory, tmp_path))
    assert sorted(str(path.relative_to(found)) for path in found.rglob("*.jpg")) == ["train/a/1.jpg", "train/b/2.jpg"]
    assert (found / "train/b/2.jpg").read_bytes() == b"two"


def test_other_files_at_the_url_are_copied_anew(memory, tmp_path):
    _put(f"{memory}/1.jpg", b"one")
    before = staged(memory, tmp_path)
    _put(f"{memory}/1.jpg", b"other")
    after = staged(memory, tmp_path)
    assert after != before
    assert (Path(after) / "1.jpg").read_bytes() == b"other"


def test_a_damaged_copy_is_made_anew(server, tmp_path, caplog):
    server.files["/cars"] = CONTENT
    copy = Path(staged(f"{server.url}/cars", tmp_path))
    copy.write_bytes(CONTENT[:7])
    assert Path(staged(f"{server.url}/cars", tmp_path)).read_bytes() == CONTENT
    assert "was damaged" in caplog.text


@pytest.mark.slow
def test_of_two_processes_one_copies_and_the_other_waits(server, tmp_path):
    server.files["/cars"], server.pause_s = CONTENT, 3.0
    both = [_start(f"{server.url}/cars", tmp_path) for _ in range(2)]
    places = {process.communicate(timeout=120)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(places) == 1
    assert Path(places.pop()).read_bytes() == CONTENT
    assert server.gets["/cars"] == 1


def test_a_killed_stager_leaves_no_lock_and_nothing_that_looks_whole(server, tmp_path):
    server.files["/cars"], server.pause_s = CONTENT, 60.0
    process = _start(f"{server.url}/cars", tmp_path)
    end = time.monotonic() + 60
    while not _parts(tmp_path):
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(_parts(tmp_path)) == 1
    server.pause_s = 0.0
    assert Path(staged(f"{server.url}/cars", tmp_path)).read_bytes() == CONTENT
    assert _parts(tmp_path) == []


def test_a_file_that_breaks_off_is_refused(server, tmp_path):
    server.files["/cars"], server.short = CONTENT, True
    with pytest.raises(ValueError, match=r"(broke off at|must be copied whole, but) cars"):
        staged(f"{server.url}/cars", tmp_path)
    assert list((tmp_path / "staged").iterdir()) == []
    assert server.gets["/cars"] == 3


def test_a_server_that_is_away_for_a_moment_is_asked_again(server, tmp_path):
    server.files["/cars"], server.away = CONTENT, 8  # at each try fsspec asks by HEAD, then by GET
    assert Path(staged(f"{server.url}/cars", tmp_path)).read_bytes() == CONTENT


def test_a_server_that_stays_away_is_told_after_some_tries(server, tmp_path):
    server.files["/cars"], server.away = CONTENT, 1000
    with pytest.raises(ValueError, match=r"/cars cannot be reached \(its server answers with status 503\)"):
        staged(f"{server.url}/cars", tmp_path)
    assert server.asked == 10


def test_a_copy_serves_while_the_server_is_away(server, tmp_path, caplog):
    server.files["/cars"] = CONTENT
    copy = staged(f"{server.url}/cars", tmp_path)
    server.away = 1000
    assert staged(f"{server.url}/cars", tmp_path) == copy
    assert "status 503); its images are read from the copy" in caplog.text
    server.close()
    assert staged(f"{server.url}/cars", tmp_path) == copy


def test_of_two_copies_the_last_serves(server, tmp_path):
    copies = []
    for content in (CONTENT, CONTENT[:99]):
        server.files["/cars"] = content
        copies.append(staged(f"{server.url}/cars", tmp_path))
    server.away = 1000
    assert len(set(copies)) == 2
    assert staged(f"{server.url}/cars", tmp_path) == copies[1]


def test_a_cache_that_cannot_be_written_to_serves(server, tmp_path, monkeypatch):
    server.files["/cars"] = CONTENT
    copy = staged(f"{server.url}/cars", tmp_path)
    (last,) = (tmp_path / "staged").glob("*.last")
    last.unlink()

    def refuse(path: Path, *_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "write_text", refuse)
    assert staged(f"{server.url}/cars", tmp_path) == copy
    assert not last.exists()


def test_an_empty_note_of_the_last_copy_names_none(server, tmp_path):
    server.files["/cars"] = CONTENT
    staged(f"{server.url}/cars", tmp_path)
    (last,) = (tmp_path / "staged").glob("*.last")
    last.write_text("")  # of a machine that lost its power
    server.away = 1000
    with pytest.raises(ValueError, match="cannot be reached"):
        staged(f"{server.url}/cars", tmp_path)


def test_a_damaged_copy_serves_nobody(server, tmp_path):
    server.files["/cars"] = CONTENT
    Path(staged(f"{server.url}/cars", tmp_path)).write_bytes(CONTENT[:7])
    server.away = 1000
    with pytest.raises(ValueError, match="cannot be reached"):
        staged(f"{server.url}/cars", tmp_path)


@pytest.mark.parametrize(("status", "words"), [(404, "there is none"), (403, "is refused by its server")])
def test_images_that_were_taken_away_are_not_replaced_by_a_copy(server, tmp_path, status, words):
    server.files["/cars"] = CONTENT
    staged(f"{server.url}/cars", tmp_path)
    server.away, server.status, server.asked = 1000, status, 0
    with pytest.raises(ValueError, match=words):
        staged(f"{server.url}/cars", tmp_path)
    assert server.asked == 2, "it was asked again"


def test_sums_at_the_place_are_compared(server, memory, tmp_path):
    good, bad = hashlib.sha256(CONTENT).hexdigest(), "0" * 64
    server.files |= {"/cars": CONTENT, "/cars.sha256": f"{good}  cars\n".encode()}
    staged(f"{server.url}/cars", tmp_path / "a")
    server.files["/cars.sha256"] = f"{bad}  cars\n".encode()
    with pytest.raises(ValueError, match=r"must hold what cars\.sha256 says, cars with SHA-256 000000000000"):
        staged(f"{server.url}/cars", tmp_path / "b")
    _put(f"{memory}/1.jpg", CONTENT)
    _put(f"{memory}/SHA256SUMS", f"{good}  1.jpg\n{bad}  2.jpg\n".encode())
    with pytest.raises(ValueError, match=r"2\.jpg with SHA-256 000000000000\.\.\., but there is no such file"):
        staged(memory, tmp_path / "c")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("http://127.0.0.1:9/cars", "cannot be reached"),
        ("memory://nowhere-at-all", "there is none"),
        ("nonsense://x/y", "must be a URL that fsspec can open here"),
        ("http://me:secret@127.0.0.1/x", "must hold no user"),
    ],
)
def test_refusals(place, words, tmp_path):
    with pytest.raises(ValueError, match=words) as caught:
        staged(place, tmp_path)
    assert "secret" not in str(caught.value)


def test_data_at_a_url_are_those_of_the_file(server, tmp_path):
    table = {"jpeg": [_picture(number) for number in range(20)], "label": [number % 2 for number in range(20)]}
    pq.write_table(pa.table(table), tmp_path / "cars.parquet")
    server.files["/cars.parquet"] = (tmp_path / "cars.parquet").read_bytes()
    here = Parquet(source="parquet", image_size=8, path=str(tmp_path / "cars.parquet"))
    there = here.model_copy(update={"path": f"{server.url}/cars.parquet"})
    here, there = (prepare_data(data, cache_dir=tmp_path / name) for name, data in (("one", here), ("two", there)))
    assert there.fingerprint == here.fingerprint
    np.testing.assert_array_equal(there.train.images, here.train.images)


def test_a_missing_url_is_told_with_its_key(tmp_path):
    with pytest.raises(ValueError, match=r"data\.path memory://none must be a file or folder, but there is none"):
        prepare_data(ImageFolder(source="image-folder", path="memory://none"), cache_dir=tmp_path)
