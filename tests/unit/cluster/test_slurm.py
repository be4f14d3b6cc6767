"""The Slurm script: shellcheck's word, and its order of steps with stand-ins for Slurm's programs and Ray."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "cluster" / "slurm.sh"
STUBS = {
    "scontrol": 'printf "node-a\\nnode-b\\n"\n',
    "hostname": 'case "$1" in -I) echo "${OWN_ADDRESSES:-}" ;; *) echo "${NAMED_ADDRESS:-127.0.1.1}" ;; esac\n',
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n',
    "ray": 'echo "ray $*" >>"$LOG"\nexec sleep 600\n',
    "murk-python": """
case "$1" in
-c) printf "%064d\\n" 7 ;;
-) cat >/dev/null  # the real one waits for the nodes
    until grep -q "start --address" "$LOG" && grep -q "start --head" "$LOG"; do sleep 0.01; done
    echo "joined $2 $3" >>"$LOG" ;;
-m) trap 'sleep 0.5; echo saved >>"$LOG"; exit 130' TERM
    echo "study $*" >>"$LOG"; stat -c "token %a" "$RAY_AUTH_TOKEN_PATH" >>"$LOG"
    if [ -n "${FOREVER:-}" ]; then while :; do sleep 0.1; done; fi
    exit "${CODE:-0}" ;;
esac
""",
}


@pytest.fixture
def slurm(tmp_path):
    """An environment with stand-ins; what they were called with is in `log`."""
    for name, body in STUBS.items():
        path = tmp_path / name
        path.write_text(f"#!/usr/bin/env bash\n{body}")
        path.chmod(0o755)
    (tmp_path / "log").write_text("")
    return {
        **os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(tmp_path / "log"), "SLURM_JOB_ID": "77",
        "SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_CPUS_PER_TASK": "4", "SLURM_GPUS_ON_NODE": "2",
        "MURK_PYTHON": str(tmp_path / "murk-python"), "MURK_TOKEN_DIR": str(tmp_path), "MURK_WAIT_S": "0.01",
        "MURK_TRIES": "3",
    }  # fmt: skip


def test_shellcheck_has_nothing_to_say():
    shellcheck = Path(sys.executable).parent / "shellcheck"
    if not shellcheck.exists():
        pytest.skip("shellcheck is of the extra `dev`")
    done = subprocess.run([str(shellcheck), str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert SCRIPT.stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize("code", ["0", "1"])
def test_a_head_then_the_other_nodes_then_the_study_which_gives_the_code(slurm, tmp_path, code):
    done = subprocess.run([str(SCRIPT), "cars", "--storage", "/scratch"], env={**slurm, "CODE": code}, timeout=60,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == int(code), done.stderr
    lines = (tmp_path / "log").read_text().splitlines()
    heads = [line for line in lines if "start --head" in line]
    assert len(heads) == 1
    assert "--num-cpus=4 --num-gpus=2" in heads[0]
    assert len([line for line in lines if "start --address=127.0.0.1:20077" in line]) == 1
    assert "joined 127.0.0.1:20077 2" in lines
    assert lines.index("joined 127.0.0.1:20077 2") < lines.index(
        "study -m murk run cars --storage /scratch --address 127.0.0.1:20077"
    )
    assert "token 600" in lines
    assert list(tmp_path.glob(".murk-ray-token*")) == []


@pytest.mark.parametrize(
    ("named", "own", "expected"),
    [
        ("192.0.2.7", "198.51.100.9 ", "192.0.2.7"),
        ("127.0.1.1", "fe80::1 192.0.2.7 198.51.100.9", "192.0.2.7"),
        ("::1 127.0.1.1", "192.0.2.7", "192.0.2.7"),
        ("127.0.1.1", "", "127.0.0.1"),
    ],
)
def test_the_head_listens_where_other_nodes_find_it(slurm, tmp_path, named, own, expected):
    tried = {**slurm, "NAMED_ADDRESS": named, "OWN_ADDRESSES": own, "MURK_TRIES": "0"}
    subprocess.run([str(SCRIPT), "cars"], env=tried, timeout=60, check=True, capture_output=True)
    lines = (tmp_path / "log").read_text().splitlines()
    assert f"joined {expected}:20077 2" in lines
    assert any(f"--node-ip-address={expected} " in line for line in lines)


def test_the_warning_before_the_time_limit_reaches_the_study(slurm, tmp_path):
    process = subprocess.Popen([str(SCRIPT), "cars"], env={**slurm, "FOREVER": "1"})
    end = time.monotonic() + 60
    while "token 600" not in (tmp_path / "log").read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert "saved" in (tmp_path / "log").read_text()
    assert list(tmp_path.glob(".murk-ray-token*")) == []


def test_without_a_study_or_outside_slurm(slurm):
    none = subprocess.run([str(SCRIPT)], env=slurm, capture_output=True, text=True, check=False)
    assert none.returncode == 2
    assert "usage: sbatch slurm.sh STUDY" in none.stderr
    outside = {name: value for name, value in slurm.items() if name != "SLURM_JOB_ID"}
    done = subprocess.run([str(SCRIPT), "cars"], env=outside, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "start it by sbatch" in done.stderr
