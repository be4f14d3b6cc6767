"""The rooms import one way, importing does nothing, `murk --help` is light, and the README's tree tells the truth."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("noise", "models", "study", "analysis", "cluster")
ALLOWED_ROOMS = {
    "noise": set(),
    "models": set(),
    "analysis": set(),
    "study": {"noise", "models", "analysis"},
    "cluster": set(),
}
FORBIDDEN = {
    "noise": {"ray", "mlflow", "optuna", "pandas", "pydantic"},
    "models": {"ray", "mlflow", "optuna", "pandas", "pydantic", "kornia"},
    "analysis": {"torch", "ray", "optuna"},
    "study": set(),
    "cluster": {"torch", "torchvision", "mlflow", "optuna", "pandas", "pydantic", "numpy", "kornia"},
}
FILES = [(room, path) for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def _imports(path: Path) -> set[str]:
    """Top-level names of all modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize(("room", "path"), FILES, ids=[str(path.relative_to(ROOT)) for _, path in FILES])
def test_imports_follow_the_layers(room: str, path: Path) -> None:
    found = _imports(path)
    assert found & (set(ROOMS) - {room}) <= ALLOWED_ROOMS[room]
    assert not found & FORBIDDEN[room]


def test_one_module_each_stands_around_ray_tune_and_optuna() -> None:
    users = {name: {p.name for room, p in FILES if room == "study" and name in _imports(p)} for name in ("optuna",)}
    assert len(users["optuna"]) <= 3, users


@pytest.mark.slow
def test_an_init_is_one_docstring() -> None:
    for path in ROOT.glob("*/**/__init__.py"):
        if path.relative_to(ROOT).parts[0] in ROOMS:
            body = ast.parse(path.read_text()).body
            assert len(body) == 1, path
            assert isinstance(body[0], ast.Expr), path


def _python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nsys.argv = ['murk', '--help']\nimport murk\n"
        "try:\n    murk.main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'ray', 'mlflow', 'optuna', 'timm', 'kornia', 'pandas', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = _python(code, ROOT)
    assert done.returncode == 0, done.stderr
    assert "Run a study" in done.stdout


def test_a_strangers_package_before_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "__init__.py").write_text("")
    code = f"import sys\nsys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\nimport murk\nmurk.main()\n"
    done = _python(code, tmp_path)
    assert done.returncode == 2
    assert "must be Murk's own" in done.stderr
    assert str(tmp_path / "noise") in done.stderr


def test_the_readme_tree_names_every_file() -> None:
    tree = (ROOT / "README.md").read_text().split("## The tree")[1]
    assert {path.name for _, path in FILES if path.name != "__init__.py" and path.name not in tree} == set()


def test_the_lock_names_no_index() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert "--hash=sha256:" in text
