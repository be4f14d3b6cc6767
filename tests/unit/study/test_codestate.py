"""Which code runs: named by who shipped it, else by git, else unknown."""

import subprocess
from pathlib import Path

import pytest

from study.codestate import UNKNOWN, CodeState, code_state, commit_variable

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *words], check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "codestate.py").write_text("a = 1\n")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    return tmp_path


def test_git_tells_commit_and_whether_files_were_changed(checkout):
    (checkout / "notes.txt").write_text("files that git does not know are no part of the code")
    commit = git(checkout, "rev-parse", "HEAD").strip()
    assert code_state({}, root=checkout) == CodeState(commit, dirty=False)
    assert commit_variable(code_state({}, root=checkout)) == {"MURK_COMMIT": commit}


def test_changed_files_are_told(checkout):
    (checkout / "study" / "codestate.py").write_text("a = 2\n")
    state = code_state({}, root=checkout)
    assert state.dirty is True
    again = code_state(commit_variable(state), root=Path("/nowhere"))
    assert again == state, "the submitter's word goes to where .git is not"


def test_an_installed_copy_inside_a_strangers_checkout_is_not_his_commit(checkout):
    inside = checkout / "venv"
    (inside / "study").mkdir(parents=True)
    (inside / "study" / "codestate.py").write_text("a = 1\n")
    assert code_state({}, root=inside) == CodeState(UNKNOWN, None)


def test_the_environment_comes_first(checkout):
    assert code_state({"MURK_COMMIT": COMMIT}, root=checkout) == CodeState(COMMIT, dirty=False)
    assert code_state({"MURK_COMMIT": f"{COMMIT}-dirty"}, root=checkout) == CodeState(COMMIT, dirty=True)
    with pytest.raises(ValueError, match=r"must be a commit in hexadecimal.*got 'main'.*leave it out"):
        code_state({"MURK_COMMIT": "main"}, root=checkout)


def test_without_git_it_is_unknown(tmp_path):
    assert code_state({}, root=tmp_path) == CodeState(UNKNOWN, None)
    assert commit_variable(CodeState(UNKNOWN, None)) == {}
