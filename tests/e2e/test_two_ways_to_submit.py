"""`murk submit` and a plain `ray job submit` do the same; a planted secret is in nothing that the head wrote."""

import io
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from analysis.load import load
from study.ledger import Ledger
from tests.e2e.counts import look
from tests.e2e.heads import submit_plainly, thin_environment, whole_head
from tests.e2e.studies import SMALL, murk

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]
SETS = ["--set", "search.trials=2", "--set", "phases.confirm.seeds=[101]", "--set", "phases.confirm.per=null",
        "--set", "resources.max_concurrent=1"]  # fmt: skip
SHORT, LONG = ["--set", "train.epochs=2"], ["--set", "train.epochs=40"]
PLANTED = "planted-on-the-nodes"
SECRETS = {"AWS_SECRET_ACCESS_KEY": PLANTED, "PGPASSWORD": PLANTED, "A_TOKEN": PLANTED}
"""In the environment that the head is started in, and so in that of every job and trial."""
MEASURED = ("device_seconds", "peak_memory_bytes", "seconds", "latency", "started", "ended", "time")
"""Columns with these words hold what no second run repeats."""
# Every process of Python that sees the package says so.
PROBE = """
import os, sys
place = os.environ.get("PROBE_FOLDER")
if place:
    with open(f"{place}/{os.getpid()}", "w") as file:
        file.write(" ".join(sys.orig_argv))
"""


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder for all that Ray writes; its sockets lie there, whose paths have a limit."""
    folder = Path(tempfile.mkdtemp(prefix="mk"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _package(folder: Path) -> Path:
    """A requirements file that names a package which nobody has; Python imports it whenever it starts."""
    wheel = folder / "murk_probe-1.0-py3-none-any.whl"
    files = {
        "murk_probe.py": PROBE,
        "murk_probe.pth": "import murk_probe\n",
        "murk_probe-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: murk-probe\nVersion: 1.0\n",
        "murk_probe-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in (*files, "murk_probe-1.0.dist-info/RECORD"))
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in {**files, "murk_probe-1.0.dist-info/RECORD": record}.items():
            archive.writestr(name, text)
    listed = folder / "requirements.txt"
    listed.write_text(f"# what the nodes lack\nmurk-probe @ {wheel.as_uri()}\n")
    return listed


def _repeatable(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[[name for name in frame if not any(word in name for word in MEASURED)]]


def _wait_for_an_epoch(ledger: Ledger, timeout_s: float = 180) -> None:
    end = time.monotonic() + timeout_s
    while not any(event["event"] == "epoch" for key in ledger.keys() for event in ledger.events(key)):
        assert time.monotonic() < end, "no epoch came"
        time.sleep(0.3)


def _found_in(folder: Path, text: str) -> tuple[list[str], set[str]]:
    """Files that hold a text, packed ones too, and the names of all that were read."""
    found, names = [], set()
    for path in (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        data = path.read_bytes()
        parts = [data]
        if zipfile.is_zipfile(io.BytesIO(data)):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                parts += [archive.read(name) for name in archive.namelist()]
        names.add(path.name)
        if any(text.encode() in part for part in parts):
            found.append(str(path.relative_to(folder)))
    return found, names


def test_both_ways_leave_the_same_records_and_either_goes_on_with_the_other(tmp_path: Path, short: Path) -> None:
    study, elsewhere, seen = tmp_path / "small.yaml", tmp_path / "elsewhere", tmp_path / "seen"
    study.write_text(SMALL)
    for folder in (elsewhere, seen):
        folder.mkdir()
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    with whole_head(tmp_path, thin_environment(tmp_path / "thin"), RAY_TMPDIR=str(short), **SECRETS) as head:
        token = {name: head.env[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")}

        def submit(storage: Path, *args: str):
            return murk("submit", str(study), *SETS, *args, "--storage", str(storage), "--address", head.jobs,
                        cwd=elsewhere, **token)  # fmt: skip

        def plainly(storage: Path, *args: str):
            return submit_plainly(head.jobs, head.env, str(study), *SETS, *args, "--storage", str(storage))

        # By Murk, with a package that Ray installs for the job: in its driver and in the processes of its trials.
        ours = murk("submit", str(study), *SETS, *SHORT, "--storage", str(one), "--address", head.jobs, "--follow",
                    "--env", "PROBE_FOLDER", "--requirements", str(_package(tmp_path)),
                    cwd=elsewhere, PROBE_FOLDER=str(seen), **token)  # fmt: skip
        assert ours.returncode == 0, ours.stdout[-3000:] + ours.stderr[-3000:]
        started = [path.read_text() for path in seen.iterdir()]
        assert any("-m murk run" in text for text in started), started
        assert any("default_worker" in text for text in started), started

        # A plain submission finds all of it done, and one into a fresh place does it all again.
        first = Ledger(str(one), "small")
        before = look(first)
        assert len(before.trials) == 3
        again = plainly(one, *SHORT)
        assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
        assert look(first) == before
        fresh = plainly(two, *SHORT)
        assert fresh.returncode == 0, fresh.stdout[-3000:] + fresh.stderr[-3000:]
        after = look(Ledger(str(two), "small"))
        for name in ("trials", "epochs", "ends", "logged", "shown"):
            assert sorted(getattr(after, name)) == sorted(getattr(before, name)), name
        pd.testing.assert_frame_equal(_repeatable(load(two / "small")), _repeatable(load(one / "small")))

        # What Murk has running, a plain submission does not run beside it.
        assert submit(three, *LONG).returncode == 0
        running = Ledger(str(three), "small")
        _wait_for_an_epoch(running)
        refused = plainly(three, *LONG)
        assert refused.returncode != 0
        said = {line for line in (refused.stdout + refused.stderr).splitlines() if line.startswith("murk: ")}
        assert said == {
            f"murk: {three}/small is being run by another process; wait for it or stop it, then `murk resume`"
        }
        stopped = murk("jobs", "stop", "small", "--address", head.jobs, cwd=elsewhere, **token)
        assert stopped.returncode == 0, stopped.stderr
        kept = look(running)
        assert all(running.status(key) != "failed" for key in kept.trials)

        # And what was stopped, a plain submission goes on with.
        gone_on = plainly(three, *LONG)
        assert gone_on.returncode == 0, gone_on.stdout[-3000:] + gone_on.stderr[-3000:]
        whole = look(running)
        assert set(kept.trials) <= set(whole.trials)
        assert set(kept.runs) <= set(whole.runs)
        assert sorted(whole.epochs) == sorted({(key, epoch) for key in whole.trials for epoch in range(1, 41)})
        assert sorted(how for _, how in whole.ends) == ["final"] * 3

    found, names = _found_in(short, PLANTED)
    assert found == []
    assert {"raylet.out", "gcs_server.out", "dashboard.log", "runtime_env_agent.log"} <= names, "not all was looked at"
    assert any(name.startswith("job-driver-small-") for name in names), sorted(names)
    found, names = _found_in(tmp_path, PLANTED)  # records, and what the head printed
    assert found == []
    assert {"events.jsonl", "study.json", "mlflow.db", "ray.log"} <= names
    for done in (ours, again, fresh, refused, gone_on):
        assert PLANTED not in done.stdout + done.stderr
