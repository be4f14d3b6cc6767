"""Plain training: what it exports is timm's, and it sees the sampler's input."""

import json
from dataclasses import dataclass

import pytest
import timm
import torch
from torch import Tensor

from models.losses import smoothed_cross_entropy
from models.methods.method import Batch, Context
from models.methods.plain import Plain, PlainSettings
from models.methods.pmal import Pmal, PmalSettings
from models.methods.registry import load_export, method_spec


@dataclass(frozen=True)
class Pair:
    target_BCHW: Tensor
    input_BCHW: Tensor


def darker(images_BCHW: Tensor, keys_B: Tensor, *, draw: int = 0, level: float = 1.0) -> Pair:
    return Pair(images_BCHW, images_BCHW * 0.5 - draw - 0.01 * keys_B.view(-1, 1, 1, 1))


@pytest.fixture
def batch() -> Batch:
    images_BCHW = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return Batch(images_BCHW, labels_B=torch.tensor([0, 2, 1, 2]), keys_B=torch.arange(4))


def test_export_loads_into_a_plain_timm_model(batch: Batch) -> None:
    method = Plain(Context("test_resnet", num_classes=3, image_size=32, seed=5), PlainSettings())
    method.network.eval()
    export = method.export()
    config = json.loads(json.dumps(export.config))
    model = timm.create_model(config["backbone"], num_classes=config["num_classes"], **config["timm"]).eval()
    model.load_state_dict(export.state_dict)
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(method.predict(batch.images_BCHW), model((batch.images_BCHW - mean) / std))


def test_fixed_size_networks_export_their_size(batch: Batch) -> None:
    method = Plain(Context("test_vit", num_classes=3, image_size=32), PlainSettings())
    assert method.export().config["timm"] == {"img_size": 32}
    method.network.eval()
    loaded = load_export(method.export().state_dict, method.export().config)
    assert torch.equal(loaded.predict(batch.images_BCHW), method.predict(batch.images_BCHW))


def test_loss_is_of_the_samplers_input(batch: Batch) -> None:
    context = Context("test_resnet", num_classes=3, image_size=32, sampler=darker, label_smoothing=0.1)
    method = Plain(context, PlainSettings())
    method.network.eval()
    (objective,) = method.objectives(batch)
    seen_BCHW = darker(batch.images_BCHW, batch.keys_B).input_BCHW
    expected = smoothed_cross_entropy(method.predict(seen_BCHW), batch.labels_B, smoothing=0.1)
    torch.testing.assert_close(objective.loss(slice(1, 4)).total, expected[1:].sum())


def test_methods_of_one_seed_start_from_one_backbone() -> None:
    context = Context("test_resnet", num_classes=3, image_size=32, seed=11)
    plain = Plain(context, PlainSettings())
    pmal = Pmal(context, PmalSettings(stages=1, head_widths=(4, 4), classifier_width=4, decoder_widths=(4, 4, 4)))
    ours = pmal.network.backbone.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in plain.network.state_dict().items())


def test_plain_costs_one_pass_and_restores_nothing(batch: Batch) -> None:
    method = Plain(Context("test_resnet", num_classes=3, image_size=32), PlainSettings())
    assert method.passes_per_image() == 1
    assert method.restore(batch.images_BCHW) is None


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(ValueError, match=r"method must be one of .*'plain', 'pmal'.*, but got 'pml'"):
        method_spec("pml")
