"""A disk that fills up, an image that cannot be read, a second driver: refused or survived, and said."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from study.ledger import Ledger
from tests.e2e import counts
from tests.e2e.faults import wait_for
from tests.e2e.heads import process
from tests.e2e.studies import ROOT, environment, murk
from tests.integration import projected

pytestmark = pytest.mark.e2e

FILL = """
import os, sys
from pathlib import Path
from study.ledger import Ledger
from study.loop import Stopped
from study.trial import run_trial
from tests.e2e.counts import count, expect_once
from tests.integration.projected import write_study
from tests.unit.study.trials import ledger_of, tiny_config, tiny_spec

place = Path(sys.argv[1])  # 40 MB of memory as a disk
cache = Path(sys.argv[2])
mlflow = f"sqlite:///{cache}/mlflow.db"
spec = tiny_spec(place, tiny_config(train={"epochs": 3}), cache=cache)
ledger = ledger_of(spec)

def stop_after(count):
    calls = iter(range(1, count + 1))
    return lambda: next(calls) == count

def run(stop=None):
    try:
        return run_trial(spec, **({"should_stop": stop_after(stop)} if stop else {}))
    except Stopped:
        return None

write_study(Path(spec.storage), spec.study)
run(4)  # an epoch and a batch
before = count(ledger, mlflow)
good = ledger.read_bytes(spec.key, "checkpoint.pt")
room = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
(place / "filler").write_bytes(bytes(room - len(good) // 2))  # half a checkpoint fits
run(5)
assert ledger.read_bytes(spec.key, "checkpoint.pt") == good, "the last good checkpoint is gone"
left = sorted(path.name for path in Path(ledger.path(spec.key)).iterdir())
assert not [name for name in left if name.startswith(".")], left
names = [event["event"] for event in ledger.events(spec.key)]
assert "unsaved" in names, names
(place / "filler").unlink()
run()
names = [event["event"] for event in ledger.events(spec.key)]
epochs = [event["epoch"] for event in ledger.events(spec.key) if event["event"] == "epoch"]
assert epochs == [1, 2, 3], epochs
assert ledger.status(spec.key) == "finished"
after = count(ledger, mlflow)
assert before.epochs == [(spec.key, 1)], before
expect_once(after, [before], epochs={spec.key: 3})
print("checkpoint bytes", len(good), "events", names)
"""


def _can_mount() -> bool:
    tried = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _can_mount(), reason="this machine lets no test mount a disk of its own")
def test_a_disk_that_is_full_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    """The disk is a real one of 40 MB in a name space of its own, gone with the process."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f'mount -t tmpfs -o size=40m tmpfs "{disk}" && exec "{sys.executable}" -c "$0" "{disk}" "{tmp_path}/cache"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, FILL], cwd=ROOT, env=environment(),
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "No space left on device" in done.stderr
    assert "it goes on without" in done.stderr
    print(done.stdout)


WHOLE = """
name: whole
data: {source: synthetic-vehicles, num_classes: 3, train_per_class: 10, test_per_class: 4, image_size: 32}
model: {backbone: test_resnet}
noise: {validation: [gaussian_noise], validation_severities: [3], test: [contrast], test_severities: [3]}
train: {epochs: 1, batch_size: 8}
phases:
  - {kind: train, name: train, seeds: [1, 2, 3, 4]}
"""

CROWD = """
import os, subprocess, sys, time
from pathlib import Path
from study.ledger import Ledger

place = Path(sys.argv[1])  # 16 MB of memory as a disk
ledger = Ledger(str(place), "whole")
murk = [sys.executable, "-m", "murk"]
run = subprocess.Popen([*murk, "run", "whole.yaml", "--storage", str(place)], cwd=sys.argv[2], stderr=subprocess.PIPE,
                       text=True)
while run.poll() is None and not any(ledger.status(key) == "finished" for key in ledger.keys()):
    time.sleep(0.02)
with (place / "filler").open("wb", buffering=0) as filler:
    try:
        while True:
            filler.write(bytes(4096))
    except OSError as error:
        print(error, flush=True)
    said = run.communicate()[1]
    finished = sum(ledger.status(key) == "finished" for key in ledger.keys())
    print("code", run.returncode, "finished", finished, flush=True)
    print(said, file=sys.stderr)
(place / "filler").unlink()
resumed = subprocess.run([*murk, "resume", "whole", "--storage", str(place)], cwd=sys.argv[2], check=False)
ends = [[e["event"] for e in ledger.events(key)][-1] for key in ledger.keys()]
print("resumed", resumed.returncode, ends)
"""


@pytest.mark.skipif(not _can_mount(), reason="this machine lets no test mount a disk of its own")
def test_a_disk_that_is_full_for_the_driver_too_ends_in_one_line_and_the_study_goes_on_later(tmp_path: Path) -> None:
    """Not one page is left for a line of the ledger; the trial cannot write its end, nor can the driver."""
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "whole.yaml").write_text(WHOLE)
    own = {"PYTHONPATH": str(ROOT), "MURK_CACHE": str(tmp_path / "cache")}
    script = f'mount -t tmpfs -o size=16m tmpfs "{disk}" && exec "{sys.executable}" -c "$0" "{disk}" "{tmp_path}"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, CROWD], cwd=ROOT,
        env=environment(**own), capture_output=True, text=True, timeout=550, check=False,
    )  # fmt: skip
    assert "code 2 finished" in done.stdout, done.stdout + done.stderr
    assert "finished 4" not in done.stdout, "the disk was full too late"
    said = [line for line in done.stderr.splitlines() if line.startswith("murk: ")]
    assert len(said) == 1, done.stderr
    assert said[0].startswith("murk: the disk must have room for what a study writes, but ")
    assert said[0].endswith(f"then: murk resume whole --storage {disk}")
    assert "Traceback" not in done.stderr, done.stderr
    assert "resumed 0 ['final', 'final', 'final', 'final']" in done.stdout, done.stdout + done.stderr


FOLDER = """
name: folder
data: {source: image-folder, path: images, image_size: 32}
model: {backbone: test_resnet}
noise: {validation: [gaussian_noise], validation_severities: [3], test: [contrast], test_severities: [1]}
train: {epochs: 1, batch_size: 8}
phases:
  - {kind: train, name: train}
"""


def test_a_corrupt_image_is_refused_or_left_out(tmp_path: Path) -> None:
    for name, value in (("cats", 40), ("dogs", 200)):
        for number in range(12):
            place = tmp_path / "images" / name / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), (value, 5 * number, 0)).save(place)
    broken = tmp_path / "images" / "dogs" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (tmp_path / "folder.yaml").write_text(FOLDER)
    refused = murk("run", "folder.yaml", cwd=tmp_path)
    assert refused.returncode == 2
    assert "dogs/3.png" in refused.stderr
    assert "on_corrupt: skip" in refused.stderr
    ledger = Ledger(str(tmp_path / "results"), "folder")
    uri = f"sqlite:///{tmp_path}/results/mlflow.db"
    assert ledger.keys() == counts.look(ledger, uri).runs == []
    done = murk("run", "folder.yaml", "--set", "data.on_corrupt=skip", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (key,) = ledger.keys()
    assert [e["event"] for e in ledger.events(key)] == ["start", "epoch", "final"]
    assert counts.settled(ledger, uri).shown == [key]


def test_a_second_driver_is_refused_and_touches_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").write_text(FOLDER.replace("image-folder, path: images", "synthetic-vehicles"))
    ledger = projected.write_study(tmp_path / "results", "folder")
    for number in range(2):
        projected.add_trial(ledger, f"trial{number}", "search", projected.config("plain", seed=number), number=number)
        projected.add_epoch(ledger, f"trial{number}", 1)
    projected.finish(ledger, "trial1")
    before, files = counts.count(ledger), _files(Path(ledger.root))
    with ledger.lock():
        second = murk("run", "folder.yaml", cwd=tmp_path)
    assert second.returncode == 2, second.stderr
    assert "is being run by another process" in second.stderr
    assert _files(Path(ledger.root)) == files
    assert counts.count(ledger) == before
    assert before.shown == ["trial0", "trial1"]


EPOCHS = 120
LONG = WHOLE.replace("epochs: 1", f"epochs: {EPOCHS}").replace("whole", "long").replace("[1, 2, 3, 4]", "[1, 2]")


@pytest.mark.timeout(1500)
def test_a_second_driver_beside_a_real_one_changes_nothing_of_its_study(tmp_path: Path) -> None:
    """The first one trains meanwhile, and ends as it would have; the second would go on with its study."""
    (tmp_path / "long.yaml").write_text(LONG)
    ledger = Ledger(str(tmp_path / "results"), "long")
    command = [sys.executable, "-m", "murk", "run", str(tmp_path / "long.yaml"), "--storage", ledger.storage]
    own = environment(PYTHONPATH=str(ROOT), MURK_CACHE=str(tmp_path / "cache"))
    log = tmp_path / "first.log"
    with process(command, log, own) as first:
        # Not before MLflow's database is whole: two first clients would make it at once.
        wait_for(lambda: first.poll() is not None or (_shown(ledger) and counts.look(ledger).logged), timeout_s=400)
        before = counts.look(ledger)
        ways = (("run", "long.yaml"), ("resume", "long"))
        with ThreadPoolExecutor(len(ways)) as pool:  # at once, while the first one trains
            for second in pool.map(lambda way: murk(*way, cwd=tmp_path), ways):
                assert second.returncode == 2, second.stderr
                assert "is being run by another process" in second.stderr
        assert first.poll() is None, "the first one ended too early: " + log.read_text()
        assert first.wait(900) == 0, log.read_text()
    assert before.logged
    found = counts.settled(ledger)
    counts.expect_once(found, [before], epochs=dict.fromkeys(ledger.keys(), EPOCHS))
    assert len(found.trials) == 2
    for key in found.trials:
        assert [event["event"] for event in ledger.events(key)] == ["start", *["epoch"] * EPOCHS, "final"]


def _shown(ledger: Ledger) -> bool:
    return any(ledger.read_bytes(key, "mlflow.json") for key in ledger.keys())


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
