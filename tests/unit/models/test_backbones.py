"""Backbones cut into stages: partial passes, checks before anything is built, weights from a file."""

import os
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from models.backbones import check_backbone, create_backbone

NAME = "test_resnet"


@pytest.fixture
def images_BCHW() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_images_are_turned_to_the_weights_own_range(images_BCHW: torch.Tensor) -> None:
    backbone = create_backbone("resnet10t", num_classes=3, image_size=32).eval()
    mean, std = torch.tensor(timm.data.IMAGENET_DEFAULT_MEAN), torch.tensor(timm.data.IMAGENET_DEFAULT_STD)
    normalised = ((images_BCHW + 1) / 2 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(backbone.logits(images_BCHW), backbone.model(normalised))


def test_a_partial_pass_leaves_deeper_statistics_alone(images_BCHW: torch.Tensor) -> None:
    backbone = create_backbone(NAME, num_classes=3, image_size=32)
    before = {name: buffer.clone() for name, buffer in backbone.model.named_buffers()}
    backbone.forward_to(images_BCHW, 2)
    changed = {name for name, buffer in backbone.model.named_buffers() if not torch.equal(buffer, before[name])}
    assert any(name.startswith("layer2") for name in changed)
    assert not any(name.startswith(("layer3", "layer4")) for name in changed)


def test_stage_parameters_are_those_with_gradients(images_BCHW: torch.Tensor) -> None:
    backbone = create_backbone(NAME, num_classes=3, image_size=32)
    for stage in range(backbone.num_stages):
        backbone.zero_grad()
        backbone.forward_to(images_BCHW, stage).sum().backward()
        touched = [id(parameter) for parameter in backbone.model.parameters() if parameter.grad is not None]
        assert [id(parameter) for parameter in backbone.stage_parameters(stage)] == touched
    classifier = {id(parameter) for parameter in backbone.classifier_parameters()}
    assert len(classifier) == 2
    assert not classifier & set(touched)


def test_unknown_names_are_refused_with_near_ones() -> None:
    with pytest.raises(ValueError, match=r"but got 'resnet5O'.*'resnet50'"):
        check_backbone("resnet5O", 64)
    with pytest.raises(ValueError, match=r"known tag of weights, but got 'nope'.*resnet50\.a1_in1k"):
        check_backbone("resnet50.nope", 64)


@pytest.mark.parametrize(("name", "size"), [("test_vit", 40), ("inception_v3", 32), ("halonet26t", 32)])
def test_sizes_that_do_not_fit_are_refused(name: str, size: int) -> None:
    with pytest.raises(ValueError, match=rf"{name}.* cannot take images of {size} pixels .*its own size is \d+"):
        check_backbone(name, size)


def test_too_many_stages_are_refused() -> None:
    with pytest.raises(ValueError, match=r"stages must be between 1 and 4 for backbone 'test_convnext'.*but got 5"):
        check_backbone("test_convnext", 32, 5)


def test_a_check_builds_no_weights_and_is_remembered() -> None:
    # 304 million parameters: on the meta device they take neither memory nor time.
    stages = check_backbone("vit_large_patch16_224.augreg_in21k_ft_in1k", 64, 4)
    assert stages.strides == (16, 16, 16, 16)
    assert stages.indices == (5, 11, 17, 23)
    assert check_backbone("vit_large_patch16_224.augreg_in21k_ft_in1k", 64) is stages


def test_missing_published_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pretrained=True needs published weights.*one of \[.lcnet_0"):
        create_backbone("lcnet_035", num_classes=3, image_size=32, pretrained=True)


def test_weights_of_a_file_are_loaded_with_another_classifier(tmp_path: Path) -> None:
    stored = timm.create_model(NAME, num_classes=7).state_dict()
    path = str(tmp_path / "weights.safetensors")
    save_file(stored, path)
    same = create_backbone(NAME, num_classes=7, image_size=32, pretrained=path).model.state_dict()
    assert all(torch.equal(same[name], value) for name, value in stored.items())
    other = create_backbone(NAME, num_classes=3, image_size=32, pretrained=path).model.state_dict()
    assert other["fc.weight"].shape[0] == 3
    assert all(torch.equal(other[name], value) for name, value in stored.items() if not name.startswith("fc."))


@pytest.mark.skipif("MURK_TEST_DATA" not in os.environ, reason="MURK_TEST_DATA names no folder of real data")
def test_published_weights_are_loaded() -> None:
    path = str(Path(os.environ["MURK_TEST_DATA"]) / "weights" / "tf_efficientnet_lite0.safetensors")
    stored = load_file(path)
    backbone = create_backbone("tf_efficientnet_lite0", num_classes=5, image_size=32, pretrained=path)
    assert backbone.model.classifier.weight.shape[0] == 5
    kept = [name for name in stored if not name.startswith("classifier.")]
    state = backbone.model.state_dict()
    assert all(torch.equal(state[name], stored[name]) for name in kept)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "weights.safetensors")
    stored = timm.create_model(NAME, num_classes=7).state_dict()
    stored["more"] = torch.zeros(1)
    stored["conv1.0.weight"] = torch.zeros(1, 2)
    del stored["bn1.bias"]
    save_file(stored, path)
    with pytest.raises(ValueError, match=r"1 missing \(bn1\.bias\); 1 unexpected \(more\); 1 other shapes \(conv1\.0"):
        create_backbone(NAME, num_classes=3, image_size=32, pretrained=path)
    with pytest.raises(ValueError, match=r"path of a \.safetensors file, but got 'weights\.pt'"):
        create_backbone(NAME, num_classes=3, image_size=32, pretrained="weights.pt")


def test_models_need_no_other_room() -> None:
    forbidden = {"noise", "study", "analysis", "pydantic", "ray", "mlflow", "optuna"}
    source = Path(sys.modules["models.backbones"].__file__ or "").parent
    imports = [
        line.split()[1].partition(".")[0]
        for file in source.rglob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.startswith(("import ", "from "))
    ]
    assert imports
    assert not forbidden & set(imports)
