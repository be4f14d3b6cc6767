"""Variables travel by name only, requirements without what the nodes have, and the commit says whether it is dirty."""

import subprocess
from pathlib import Path

import pytest
from ray.runtime_env import RuntimeEnv

from cluster.environment import COMMIT_VARIABLE, commit_of, packages_of, runtime_env

ROOT = Path(__file__).parents[3]


def test_only_named_variables_travel(tmp_path):
    made = runtime_env(folder=tmp_path, environment={"A": "a", "B": "b"}, names=["A"], commit="abc-dirty")
    assert made["working_dir"] == str(tmp_path)
    assert made["env_vars"]["A"] == "a"
    assert "B" not in made["env_vars"]
    assert made["env_vars"][COMMIT_VARIABLE] == "abc-dirty"
    assert int(made["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 60
    assert "pip" not in made


@pytest.mark.parametrize(
    ("name", "words"),
    [("A=planted", "must be the name of a variable.* with a value"), ("NOT_THERE", "there is no such variable")],
)
def test_a_value_is_never_repeated(name, words, tmp_path):
    with pytest.raises(ValueError, match=words) as caught:
        runtime_env(folder=tmp_path, environment={}, names=[name])
    assert "planted" not in str(caught.value)


def test_requirements_keep_their_hashes_and_leave_ray_to_the_nodes(tmp_path):
    lines = ["# made by uv", "ray==2.60.0 \\", "    --hash=sha256:aa", "torch==2.13 ; python_version > '3' \\",
             "    --hash=sha256:bb \\", "    --hash=sha256:cc", "    # via murk", "", "timm==1.0  # why"]  # fmt: skip
    path = tmp_path / "requirements.lock"
    path.write_text("\n".join(lines))
    assert packages_of(path) == [
        "torch==2.13 ; python_version > '3' --hash=sha256:bb --hash=sha256:cc", "timm==1.0",
    ]  # fmt: skip


def test_ray_takes_the_lock_as_it_is_made(tmp_path):
    made = runtime_env(folder=tmp_path, environment={}, requirements=ROOT / "requirements.lock")
    checked = RuntimeEnv(pip=made["pip"], env_vars=made["env_vars"])
    packages = checked["pip"]["packages"]
    assert any(line.startswith("torch==") and "--hash=sha256:" in line for line in packages)
    assert not any(line.startswith("ray==") for line in packages)


@pytest.mark.parametrize(("text", "words"), [(None, "must be a file"), ("-r other.txt\n", "packages only")])
def test_requirements_that_are_none(text, words, tmp_path):
    path = tmp_path / "r.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=words):
        packages_of(path)


def test_the_commit_and_its_dirt(tmp_path):
    assert commit_of(tmp_path) is None

    def git(*args: str) -> str:
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *args]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    (tmp_path / "murk.py").write_text("one")
    git("add", "murk.py")
    git("commit", "--quiet", "--message", "one")
    assert commit_of(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "murk.py").write_text("two")
    assert commit_of(tmp_path) == git("rev-parse", "HEAD") + "-dirty"
