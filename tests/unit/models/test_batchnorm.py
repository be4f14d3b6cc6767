"""Batch norms in training: frozen in the backbone, or shared over workers."""

import copy

import pytest
import timm
import torch
from torch import Tensor, nn

from models.backbones import check_backbone, create_backbone
from models.batchnorm import batch_norms, is_synchronised, synchronise
from models.methods.method import Batch, Context
from models.methods.pmal import Pmal, PmalSettings
from models.sam import SamSettings, sam_step

SMALL = PmalSettings(stages=2, head_widths=(8, 8), classifier_width=8, decoder_widths=(8, 8, 8))


def make_images() -> Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def spread(network: nn.Module) -> None:
    """Statistics that no batch has, and scales without timm's zeros, which let no gradient through."""
    generator = torch.Generator().manual_seed(5)
    for norm in batch_norms(network):
        assert norm.running_mean is not None
        nn.init.ones_(norm.weight)
        norm.running_mean.copy_(torch.randn(norm.running_mean.shape, generator=generator))


def statistics(network: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in network.named_buffers() if "running" in name or "num_b" in name}


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_a_frozen_backbone_trains_by_its_own_statistics(name: str) -> None:
    backbone = create_backbone(name, num_classes=3, image_size=32, frozen_batch_norm=True).double()
    spread(backbone)
    before, images_BCHW = statistics(backbone), make_images() * 2 - 1
    expected = copy.deepcopy(backbone).eval().logits(images_BCHW)
    for network in (backbone, backbone.train(), backbone.eval().train(True)):
        assert network.training
        torch.testing.assert_close(network.logits(images_BCHW), expected)
    assert all(torch.equal(before[name], value) for name, value in statistics(backbone).items())
    backbone.logits(images_BCHW).square().sum().backward()
    for norm in batch_norms(backbone):
        for parameter in (norm.weight, norm.bias):
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0


def test_frozen_is_the_backbone_and_heads_follow_the_batch() -> None:
    context = Context("test_resnet", num_classes=3, image_size=32, seed=2, frozen_batch_norm=True)
    method = Pmal(context, SMALL)
    method.network.double()
    spread(method.network.backbone)
    method.network.eval()
    method.network.train()
    before = statistics(method.network)
    batch = Batch(make_images(), labels_B=torch.tensor([0, 2, 1, 2]), keys_B=torch.arange(4))
    optimizer = torch.optim.SGD(method.network.parameters(), lr=0.01)
    for objective in method.objectives(batch):
        closure = lambda objective=objective: objective.loss(slice(0, 4)).total / 4  # noqa: E731
        sam_step(optimizer, closure, parameters=objective.parameters, sam=SamSettings(), modules=method.network)
    after = statistics(method.network)
    unchanged = {name for name, value in before.items() if torch.equal(after[name], value)}
    assert unchanged == {name for name in before if name.startswith("backbone.")}
    counts = {int(after[name]) for name in after if name.startswith("heads.") and "num_batches" in name}
    assert counts == {2 + 1}  # the first passes of its own update, and that of the clean one


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_shared_norms_are_the_same_parameters_under_the_same_names(name: str) -> None:
    network = nn.Sequential(create_backbone(name, num_classes=3, image_size=32), nn.BatchNorm1d(3))
    parameters, state = list(network.parameters()), copy.deepcopy(network.state_dict())
    images_BCHW = make_images().float()
    expected = copy.deepcopy(network).eval()(images_BCHW)
    assert not is_synchronised(network)
    synchronise(network, device_type="cuda")
    assert is_synchronised(network)
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in batch_norms(network))
    assert [id(parameter) for parameter in network.parameters()] == [id(parameter) for parameter in parameters]
    assert list(network.state_dict()) == list(state)
    torch.testing.assert_close(network.eval()(images_BCHW), expected)  # timm's activations are kept


def test_what_cannot_be_shared_or_frozen_is_refused() -> None:
    backbone = create_backbone("test_vit", num_classes=3, image_size=32)
    with pytest.raises(ValueError, match=r"batch_norm must be train or frozen on a CPU.*but got sync; give .* GPUs"):
        synchronise(create_backbone("test_resnet", num_classes=3, image_size=32), device_type="cpu")
    with pytest.raises(ValueError, match="batch_norm must be left out for a network without batch norms"):
        synchronise(backbone, device_type="cuda")
    with pytest.raises(ValueError, match="batch_norm frozen has no effect on backbone 'test_vit': it has no batch"):
        create_backbone("test_vit", num_classes=3, image_size=32, frozen_batch_norm=True)
    assert check_backbone("test_resnet", 32, frozen_batch_norm=True).num_batch_norms == len(
        batch_norms(timm.create_model("test_resnet"))
    )
