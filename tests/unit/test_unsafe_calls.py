"""Nothing is unpickled, evaluated or handed to a shell: the source has no such call."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "murk.py", *(p for room in ("noise", "models", "study", "analysis", "cluster")
                             for p in sorted((ROOT / room).rglob("*.py")))]  # fmt: skip
GUARDED = {"study/data/cifar_pickle.py"}
"""The one file that reads pickles, by an Unpickler that names nothing but its own classes."""

FORBIDDEN = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads",
             "cloudpickle.load", "cloudpickle.loads", "joblib.load", "marshal.loads", "shelve.open", "yaml.load",
             "yaml.unsafe_load", "pandas.read_pickle", "torch.jit.load", "torch.package.PackageImporter",
             "shutil.unpack_archive", "tarfile.open", "zipfile.ZipFile"}  # fmt: skip


def aliases(tree: ast.AST) -> dict[str, str]:
    """Name in this file -> the full name that it was imported as."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {item.asname: item.name for item in node.names if item.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {item.asname or item.name: f"{node.module}.{item.name}" for item in node.names}
    return found


def unsafe(tree: ast.AST) -> list[str]:
    """The calls that must not be there."""
    found, known = [], aliases(tree)

    def full(node: ast.expr) -> str:
        first, dot, rest = ast.unparse(node).partition(".")
        return f"{known.get(first, first)}{dot}{rest}"

    for node in ast.walk(tree):
        if isinstance(node, (ast.Attribute, ast.Name)) and full(node) == "pickle.Unpickler":
            found.append("pickle.Unpickler")
        if not isinstance(node, ast.Call):
            continue
        name = full(node.func)
        given = {item.arg: ast.unparse(item.value) for item in node.keywords if item.arg}
        if name in FORBIDDEN:
            found.append(name)
        if name == "torch.load" and given.get("weights_only") != "True":
            found.append("torch.load without weights_only=True")
        if name == "numpy.load" and given.get("allow_pickle") != "False":
            found.append("np.load without allow_pickle=False")
        if given.get("shell", "False") != "False":
            found.append("shell=True")
        if name.rpartition(".")[2] == "YAML" and given.get("typ") not in {"'safe'", None}:
            found.append("YAML that is not safe")
    return found


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_no_unsafe_call(path: Path) -> None:
    found = unsafe(ast.parse(path.read_text(encoding="utf-8")))
    if str(path.relative_to(ROOT)) in GUARDED:
        found = [name for name in found if name != "pickle.Unpickler"]
    assert not found


@pytest.mark.parametrize(
    "code",
    ["torch.load(f)", "torch.load(f, weights_only=False)", "import numpy as np; np.load(f)", "pickle.loads(b)",
     "import pickle as p; p.loads(b)", "from torch import load; load(f)", "from pickle import loads as read; read(b)",
     "from pickle import Unpickler as U; U(f)", "import pandas as pd; pd.read_pickle(f)",
     "import os as o; o.popen(x)", "eval(x)", "os.system(x)",
     "subprocess.run(x, shell=True)", "class U(pickle.Unpickler): pass", "YAML(typ='unsafe')"],
)  # fmt: skip
def test_the_check_finds_what_it_looks_for(code: str) -> None:
    assert unsafe(ast.parse(code))
