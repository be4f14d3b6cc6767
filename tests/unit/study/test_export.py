"""`murk export`: files that other programs run, equal to the network, and nothing half-written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner, Result

from study.artifacts import export_files
from study.build import build_method
from study.cli import BAD_INPUT, app
from study.export import TOLERANCE, export_model, make_program, onnx_predict
from study.trained import read_model
from tests.unit.study.trials import PMAL, tiny_config

pytestmark = pytest.mark.slow
CLASSES = ("car", "lorry", "van")
SIDE = 32
PMD = {"name": "pmd", "stages": 2, "teacher": "some/trial"}


def _murk(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def _trial(folder: Path, method: dict[str, Any] | None = None, *, backbone: str = "test_resnet") -> Path:
    """What a finished trial leaves of a network whose batch norms have seen some images."""
    config = tiny_config(method=method or {"name": "plain"}, model={"backbone": backbone})
    built = build_method(config, num_classes=len(CLASSES))
    generator = torch.Generator().manual_seed(0)
    built.network.train()
    for _ in range(3):
        built.predict(torch.rand(8, 3, SIDE, SIDE, generator=generator))
    built.network.eval()
    folder.mkdir(parents=True)
    for name, content in export_files(built, config, class_names=CLASSES, fingerprint="f" * 64).items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _trial(tmp_path_factory.mktemp("models") / "teacher", PMAL)


@pytest.fixture(scope="module")
def exported(trial: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """All formats of a PMAL teacher, and what was said."""
    out = tmp_path_factory.mktemp("out") / "deploy" / "car"
    done = _murk("export", str(trial), "--out", str(out))
    assert done.exit_code == 0, done.output
    return out, done.stdout


def _images(count: int) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))


def test_every_format_gives_the_teachers_summed_logits_for_any_batch(exported: tuple[Path, str], trial: Path) -> None:
    out, said = exported
    assert sorted(p.name for p in out.iterdir()) == ["model.json", "model.onnx", "model.pt2", "model.safetensors"]
    assert [p.name for p in out.parent.iterdir()] == ["car"]
    network = read_model(str(trial)).method
    assert said.count("largest difference") == 3
    assert f"(B, 3, {SIDE}, {SIDE}), any B -> logits (B, 3)" in said
    program = torch.export.load(out / "model.pt2")
    runs: list[Callable[[Tensor], Tensor]] = [
        read_model(str(out)).method.predict, program.module(), onnx_predict(out / "model.onnx")
    ]  # fmt: skip
    for count in (1, 2, 5):
        images_BCHW = _images(count)
        lesson = network.lesson(images_BCHW, stages=2)  # type: ignore[attr-defined]
        assert len(lesson.logits) == 3
        for run in runs:
            torch.testing.assert_close(run(images_BCHW), sum(lesson.logits), rtol=TOLERANCE, atol=TOLERANCE)
    names = [*program.state_dict, *(tensor.name for tensor in onnx.load(out / "model.onnx").graph.initializer)]
    assert any("heads.0" in name for name in names)
    assert not [name for name in names if "decoder" in name]
    (given,) = onnx.load(out / "model.onnx").graph.input
    assert [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim] == ["batch", 3, SIDE, SIDE]
    for name in ("model.safetensors", "model.json"):
        assert (out / name).read_bytes() == (trial / name).read_bytes()


def test_a_student_is_exactly_the_plain_backbone(tmp_path: Path) -> None:
    folder = _trial(tmp_path / "student", PMD)
    student = timm.create_model("test_resnet", num_classes=len(CLASSES))
    expected = sum(parameter.numel() for parameter in student.parameters())
    export_model(str(folder), formats=["safetensors", "torch"], storage=None, out=tmp_path / "out")
    program = torch.export.load(tmp_path / "out" / "model.pt2")
    assert sum(parameter.numel() for parameter in program.parameters()) == expected
    student.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))  # timm's own names, none more or fewer
    student.eval()
    config = json.loads((tmp_path / "out" / "model.json").read_text())
    mean_C11, std_C11 = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        logits_BN = student((_images(3) - mean_C11) / std_C11)
        torch.testing.assert_close(program.module()(_images(3)), logits_BN, rtol=1e-4, atol=1e-4)


def test_a_transformer_becomes_a_program_too(tmp_path: Path) -> None:
    trained = read_model(str(_trial(tmp_path / "vit", backbone="test_vit")))
    run = make_program(trained).module()
    for count in (1, 3):
        with torch.no_grad():
            torch.testing.assert_close(run(_images(count)), trained.method.predict(_images(count)))


def test_a_file_that_disagrees_is_an_error_and_nothing_stays(
    trial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake(path: Path) -> Callable[[Tensor], Tensor]:
        assert path.exists()
        return lambda images_BCHW: read_model(str(trial)).method.predict(images_BCHW) + 0.01 * (len(images_BCHW) == 3)

    monkeypatch.setattr("study.export._write_onnx", lambda trained, program, path: path.write_bytes(b"onnx"))
    monkeypatch.setattr("study.export.onnx_predict", fake)
    answer = _murk("export", str(trial), "--out", str(tmp_path / "out"), "--format", "onnx", "--format", "safetensors")
    assert answer.exit_code == BAD_INPUT, answer.output
    assert "model.onnx must give the network's logits, but of 3 random image(s)" in answer.stderr
    assert "difference 0.01" in answer.stderr
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_and_unknown_formats_are_said_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("study.export.find_spec", lambda name: None if name == "onnxscript" else object())
    missing = _murk("export", "no/such")
    assert missing.exit_code == BAD_INPUT
    assert "onnxscript cannot be found; install them with: python -m pip install onnx onnxscript" in missing.stderr
    unknown = _murk("export", "no/such", "--format", "pickle")
    assert unknown.exit_code == BAD_INPUT
    assert "--format must be one of safetensors, torch, onnx, but got 'pickle'" in unknown.stderr
    (tmp_path / "taken").write_text("")
    for args, said in (
        (("no/such", "--format", "torch"), "has no trial 'such'"),
        ((str(tmp_path),), "holds no trained model"),
    ):
        answer = _murk("export", *args, "--format", "safetensors")
        assert answer.exit_code == BAD_INPUT
        assert said in answer.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_the_folder_is_named_after_the_trial_and_written_again(
    trial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        done = _murk("export", str(trial / "model.safetensors"), "--format", "safetensors")
        assert done.exit_code == 0, done.output
        assert sorted(p.name for p in (tmp_path / "teacher-export").iterdir()) == ["model.json", "model.safetensors"]
    (tmp_path / "taken").write_text("")
    taken = _murk("export", str(trial), "--format", "safetensors", "--out", "taken")
    assert taken.exit_code == BAD_INPUT
    assert "--out must be a folder" in taken.stderr
