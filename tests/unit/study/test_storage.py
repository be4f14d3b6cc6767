"""Files are written whole or not at all, on a disk and on other file systems."""

import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from study.storage import Storage, StudyLockedError, atomic_file


@pytest.fixture(params=["disk", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "place") if request.param == "disk" else f"memory://{uuid.uuid4().hex}/place")


def test_a_file_reads_back_and_a_missing_one_is_none(storage: Storage) -> None:
    assert storage.read_bytes("a", "b.json") is None
    storage.write_bytes(b"one", "a", "b.json")
    storage.write_bytes(b"two", "a", "b.json")
    assert storage.read_bytes("a", "b.json") == b"two"
    assert storage.exists("a", "b.json")
    assert storage.folders() == ["a"]
    assert storage.folders("missing") == []


def test_lines_are_appended(storage: Storage) -> None:
    storage.append_line("one", "log")
    storage.append_line("two\n", "log")
    assert storage.read_bytes("log") == b"one\ntwo\n"


def test_a_line_torn_by_a_crash_stays_alone(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b'{"whole": 1}\n{"torn"')
    Storage(str(tmp_path)).append_line('{"next": 1}', "log")
    assert (tmp_path / "log").read_bytes().splitlines() == [b'{"whole": 1}', b'{"torn"', b'{"next": 1}']


@pytest.mark.parametrize("name", ["../outside", "a/../../outside", "/etc/passwd"])
def test_names_cannot_leave_the_root(storage: Storage, name: str) -> None:
    with pytest.raises(ValueError, match="must stay inside"):
        storage.path(name)


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_bytes(b"old")

    def write_and_fail() -> None:
        with atomic_file(place) as temporary:
            temporary.write_bytes(b"ne")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        write_and_fail()
    assert place.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_second_process_is_refused_and_a_dead_one_frees_the_lock(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom study.storage import Storage, StudyLockedError\n"
        f"try:\n    with Storage({str(tmp_path)!r}).lock('driver.lock'): print('held')\n"
        "except StudyLockedError as error: print('refused', error)\n"
    )
    root = Path(__file__).parents[3]
    storage = Storage(str(tmp_path))
    with storage.lock("driver.lock"):
        inside = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
        with pytest.raises(StudyLockedError, match="another process"), storage.lock("driver.lock"):
            pass
    after = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert inside.stdout.startswith("refused")
    assert "murk resume" in inside.stdout
    assert after.stdout.strip() == "held"
