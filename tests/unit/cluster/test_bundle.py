"""What a job takes along: Murk's rooms or a folder by its ignore files, no secrets, and not too much."""

from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

import murk
from cluster import bundle
from cluster.bundle import MAX_BYTES, looks_secret, make_bundle

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path):
    """A working directory with what should and what should not travel."""
    root = tmp_path / "work"
    files = {
        "murk.py": "x" * 100, ".gitignore": "*.log\nresults/\n", ".rayignore": "docs/\n!docs\n", "a.log": "log",
        "results/r.txt": "r", "docs/d.md": "d", "deep/.gitignore": "only_here.txt\n", "deep/only_here.txt": "o",
        "only_here.txt": "o", ".env": "PASSWORD=planted", "deep/.env.local": "planted", "server.pem": "planted",
        ".ssh/id_rsa": "planted", "deep/keep.yaml": "y", "__pycache__/m.pyc": "c", "big/data.bin": "b" * 5000,
    }  # fmt: skip
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def _sent(place: Path) -> set[str]:
    return {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}


def test_a_folder_goes_by_its_ignore_files_and_without_secrets(folder, tmp_path):
    (folder / ".rayignore").write_text("docs/\n")
    made = make_bundle(tmp_path / "out", working_dir=folder)
    assert _sent(tmp_path / "out") == {"murk.py", "only_here.txt", "deep/keep.yaml", "big/data.bin"} == set(made.sizes)
    assert made.left_out == (".env", ".ssh", "deep/.env.local", "server.pem")
    assert made.num_bytes == 100 + 1 + 1 + 5000
    assert "left out as they look like secrets: .env, .ssh" in made.text()
    assert all(b"planted" not in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())


def test_a_study_file_from_elsewhere_comes_along(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    make_bundle(out, working_dir=folder, study=("cars.yaml", b"name: cars"))
    assert (out / "cars.yaml").read_bytes() == b"name: cars"


def test_too_much_is_refused_with_what_is_large(folder, tmp_path):
    with pytest.raises(ValueError, match=r"--working-dir must hold less than .* is what Ray takes") as caught:
        make_bundle(tmp_path / "out", working_dir=folder, max_bytes=4000)
    assert "big 0.0 MiB, murk.py" in str(caught.value)
    assert "/.rayignore" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_no_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--working-dir must be a folder"):
        make_bundle(tmp_path / "out", working_dir=tmp_path / "none")


def test_murks_own_rooms_are_sent_alone_and_small(tmp_path):
    made = make_bundle(tmp_path / "out", working_dir=None)
    assert set(bundle.ROOMS) == set(murk.ROOMS)
    assert {name.split("/")[0] for name in made.sizes} == {*murk.ROOMS, "murk.py"}
    assert "study/presets/quickstart.yaml" in made.sizes
    assert made.num_bytes < 5 * 2**20
    assert made.left_out == ()


def test_murks_own_folder_is_small_by_its_rayignore(tmp_path):
    """What the plain `ray job submit --working-dir .` sends."""
    made = make_bundle(tmp_path / "out", working_dir=ROOT)
    assert {name.split("/")[0] for name in made.sizes} & {"tests", "docs", ".git", ".venv", "results"} == set()
    assert made.num_bytes < 5 * 2**20


def test_rays_own_limit():
    assert MAX_BYTES == GCS_STORAGE_MAX_SIZE


def test_the_rayignore_names_the_secrets_too():
    """The plain `ray job submit` knows only that file."""
    rules = {rule.rstrip("/") for rule in (ROOT / ".rayignore").read_text().splitlines()}
    assert set(bundle.SECRETS) <= rules


@pytest.mark.parametrize("name", [".env", ".ENV", "prod.env", "key.pem", "id_rsa.pub", ".aws", "auth_token"])
def test_what_looks_secret(name):
    assert looks_secret(name)


@pytest.mark.parametrize("name", ["environment.py", "keys.py", "keyed.py", "tokens.yaml", "murk.py"])
def test_what_does_not(name):
    assert not looks_secret(name)
