"""A disk without room for the driver's records: one clear error that names the place and the way out."""

import errno
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from study.cli import app
from study.fulldisk import FullDiskError, full_disk_in, full_disk_said
from study.storage import Storage

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/records/a/study.json")
STUDY = """
name: tiny
data: {source: synthetic-vehicles, num_classes: 3, train_per_class: 10, test_per_class: 4, image_size: 32}
model: {backbone: test_resnet}
noise: {validation: [gaussian_noise], validation_severities: [3], test: [contrast], test_severities: [2]}
train: {epochs: 1, batch_size: 8}
phases: [{kind: train, name: train}]
"""


def raised(*errors: BaseException, by_cause: bool = True) -> BaseException:
    """The last of errors, each of which came from the one before it."""
    for first, second in itertools.pairwise(errors):
        second.__cause__, second.__context__ = (first, None) if by_cause else (None, first)
    return errors[-1]


@pytest.mark.parametrize("by_cause", [True, False])
def test_it_is_found_behind_what_others_made_of_it(by_cause: bool) -> None:
    assert full_disk_in(raised(FULL, KeyError("t"), RuntimeError("tune"), by_cause=by_cause)) is FULL
    quota = OSError(errno.EDQUOT, "Disk quota exceeded")
    assert full_disk_in(quota) is quota
    assert full_disk_in(OSError(errno.EACCES, "no")) is None
    loop = RuntimeError()
    loop.__context__ = raised(loop, ValueError())
    assert full_disk_in(loop) is None


def test_every_other_error_stays_as_it_is() -> None:
    with pytest.raises(KeyError), full_disk_said("/records/a", way_out="murk resume a"):
        raise KeyError("x")
    with (
        pytest.raises(FullDiskError, match=r"must have room .* s3://\*\*\*@b/a could .* then: murk resume a$"),
        full_disk_said("s3://me:secret@b/a", way_out="murk resume a"),
    ):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")


def no_room(monkeypatch: pytest.MonkeyPatch, fits: Callable[[str], bool]) -> None:
    """Writing whole files fails as on a full disk, unless their names fit."""
    write = Path.write_bytes

    def fail(self: Path, data: Any) -> int:
        if fits(self.name):
            return write(self, data)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "write_bytes", fail)


def test_a_study_that_finds_no_room_says_so_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MURK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tiny.yaml").write_text(STUDY)
    no_room(monkeypatch, lambda name: "study.json" not in name)

    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("study.phases.start_ray", started)
    found = CliRunner().invoke(app, ["run", "tiny.yaml"])
    assert found.exit_code == 2, found.output
    (line,) = [line for line in found.stderr.splitlines() if line.startswith("murk: ")]
    assert "the disk must have room for what a study writes, but " in line
    assert "study.json" in line
    assert "could not be written (No space left on device)" in line
    assert line.endswith("then: murk resume tiny")
    assert "Traceback" not in found.output
    assert not list((tmp_path / "results" / "tiny").glob(".study*"))


def test_other_commands_end_in_one_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> str:
        raise FULL

    monkeypatch.setattr("study.reporting.report", full)
    found = CliRunner().invoke(app, ["report", "a"])
    assert found.exit_code == 2
    assert found.stderr.startswith("murk: [Errno 28] No space left on device: '/records/a/study.json'; free some space")


def test_a_line_without_room_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as the system says it, without a file

    storage = Storage(str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        with pytest.raises(OSError, match=r"No space left on device: '.*events\.jsonl'"):
            storage.append_line("line", "trials", "k", "events.jsonl")
