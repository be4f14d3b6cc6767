"""The files of cluster/ as data, for their tests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
CLUSTER = ROOT / "cluster"
KUBERNETES = sorted((CLUSTER / "kuberay").glob("*.yaml"))


def documents(path: Path) -> list[dict[str, Any]]:
    """The documents of a manifest."""
    return [item for item in yaml.safe_load_all(path.read_text()) if item is not None]


ALL = [(path.name, item) for path in KUBERNETES for item in documents(path)]
IDS = [f"{name}-{item['kind']}-{item['metadata']['name']}" for name, item in ALL]


def of_kind(kind: str) -> list[dict[str, Any]]:
    """All documents of a kind."""
    return [item for _, item in ALL if item["kind"] == kind]


def walk(tree: Any) -> Iterator[dict[str, Any]]:
    """All mappings of a tree."""
    if isinstance(tree, dict):
        yield tree
    for item in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from walk(item)


def pod_templates(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The pod templates within a document."""
    return [item for item in walk(document) if "containers" in (item.get("spec") or {})]


def locked(package: str) -> str:
    """A package's version in requirements.lock."""
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if line.startswith(f"{package}=="):
            return line.split("==")[1].split()[0]
    raise AssertionError(package)
