"""Options with a user, a password or a token, which others see: each command refuses them and does not show them."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cluster.cli import mount
from study.cli import app

SECRET = "Xy7-planted"
STUDY = """
name: quiet
data: {source: synthetic-vehicles, num_classes: 3, image_size: 32}
model: {backbone: test_resnet}
noise: {validation: [gaussian_noise], validation_severities: [3], test: [contrast], test_severities: [3]}
search: {trials: 2, space: {optim.lr: {log_uniform: [0.01, 0.02]}}}
phases: [{kind: search, name: search}]
"""
REFUSED = [
    ("run", "quiet.yaml", "--set", "tracking.uri=http://me:SECRET@127.0.0.1:9"),
    ("run", "quiet.yaml", "--set", "search.optuna_storage=postgresql://me:SECRET@127.0.0.1:9/o"),
    ("run", "quiet.yaml", "--set", "data={source: parquet, path: 's3://me:SECRET@bucket/x.parquet'}"),
    ("run", "quiet.yaml", "--storage", "s3://me:SECRET@bucket"),
    ("run", "quiet.yaml", "--address", "ray://me:SECRET@127.0.0.1:9"),
    ("check", "quiet.yaml", "--address", "http://me:SECRET@127.0.0.1:9"),
    ("check", "quiet.yaml", "--address", "ray://me:SECRET@127.0.0.1:9"),
    ("resume", "quiet", "--storage", "s3://me:SECRET@bucket"),
    ("resume", "quiet", "--address", "ray://127.0.0.1:9/?auth_token=SECRET"),
    ("report", "s3://me:SECRET@bucket/quiet"),
    ("report", "quiet", "--tracking", "http://me:SECRET@127.0.0.1:9"),
    ("sync", "quiet", "--tracking", "http://127.0.0.1:9/?token=SECRET"),
    ("pull", "quiet", "--tracking", "postgresql://me:SECRET@127.0.0.1:9/m"),
    ("pull", "quiet", "--storage", "s3://me:SECRET@bucket"),
    ("optuna", "quiet", "--storage-url", "mysql://me:SECRET@127.0.0.1:9/o"),
    ("export", "s3://me:SECRET@bucket/quiet/trials/1"),
    ("evaluate", "s3://me:SECRET@bucket/quiet/trials/1"),
    ("jobs", "list", "--address", "http://me:SECRET@127.0.0.1:9"),
    ("jobs", "logs", "quiet", "--address", "ray://me:SECRET@127.0.0.1:9"),
    ("jobs", "status", "quiet", "--address", "http://127.0.0.1:9/?token=SECRET"),
]


@pytest.fixture(scope="module")
def commands() -> typer.Typer:
    """All of Murk's commands, as `murk.main` puts them together."""
    whole = typer.Typer()
    whole.add_typer(app)
    mount(whole)
    return whole


@pytest.mark.parametrize("args", REFUSED, ids=lambda args: " ".join(args[:1] + args[2:3]))
def test_an_option_with_a_secret_is_refused_and_not_shown(
    args: tuple[str, ...], commands: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MURK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "quiet.yaml").write_text(STUDY)
    if args[0] in {"resume", "optuna"} and "s3://" not in args[-1]:
        _opened(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    found = CliRunner().invoke(commands, [part.replace("SECRET", SECRET) for part in args])
    assert SECRET not in found.output + found.stderr
    assert found.exit_code == 2, found.output
    assert "must hold no user" in found.stderr
    assert "Traceback" not in found.stderr
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written"


def _opened(folder: Path) -> None:
    """A study whose records are there."""
    from study.ledger import Ledger
    from study.studyfile import load_study

    config = load_study(folder / "quiet.yaml").config.model_dump(mode="json")
    Ledger(str(folder / "results"), "quiet").write_json("study.json", {"study": "quiet", "config": config})
