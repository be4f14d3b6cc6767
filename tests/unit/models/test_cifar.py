"""The benchmark's small networks: published sizes, timm's interface, and every place that takes a backbone."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.backbones import StagedBackbone, check_backbone, create_backbone
from models.cifar.families import PreActivationBlock, ResidualBlock
from models.cifar.zoo import NAMES
from models.methods.common import backbone_view, to_signed
from models.methods.cost import forward_macs
from models.methods.method import Batch, Context
from models.methods.plain import Plain, PlainSettings
from models.methods.registry import load_export

CLASSES = 100
SIDE = 32
ONE_OF_EACH = ("cifar_resnet8x4", "cifar_wrn16_2", "cifar_vgg8_bn")
PUBLISHED = {  # parameters with 100 classes, in millions, as papers print them
    "cifar_resnet20": 0.28, "cifar_resnet32": 0.47, "cifar_resnet56": 0.86, "cifar_resnet110": 1.74,
    "cifar_resnet8x4": 1.23, "cifar_resnet32x4": 7.43, "cifar_wrn16_1": 0.18, "cifar_wrn16_2": 0.70,
    "cifar_wrn40_1": 0.57, "cifar_wrn40_2": 2.26, "cifar_vgg8_bn": 3.97, "cifar_vgg13_bn": 9.46,
}  # fmt: skip
PARAMETERS = {
    "cifar_resnet20": 278_324, "cifar_resnet32": 472_756, "cifar_resnet56": 861_620, "cifar_resnet110": 1_736_564,
    "cifar_resnet8x4": 1_233_540, "cifar_resnet32x4": 7_433_860, "cifar_wrn16_1": 180_916, "cifar_wrn16_2": 703_284,
    "cifar_wrn40_1": 569_780, "cifar_wrn40_2": 2_255_156, "cifar_vgg8_bn": 3_965_028, "cifar_vgg13_bn": 9_462_180,
}  # fmt: skip
MEGA_MACS = {"cifar_resnet20": 40.82, "cifar_resnet32": 69.13, "cifar_resnet56": 125.75}  # published, at 32 pixels


class Layer(NamedTuple):
    """A layer with weights: its parameters and the multiplications of one image."""

    parameters: int
    macs: int


def conv(given: int, made: int, side: int, *, kernel: int = 3, bias: bool = False) -> Layer:
    weights = kernel * kernel * given * made
    return Layer(weights + made * bias, weights * side * side)


def norm(channels: int) -> Layer:
    return Layer(2 * channels, 0)


def linear(given: int) -> Layer:
    return Layer((given + 1) * CLASSES, given * CLASSES)


def residual(depth: int, widths: tuple[int, ...]) -> Iterator[Layer]:
    """Every layer by hand: a stem, three stages of two-layer blocks, projections with a norm, a classifier."""
    yield from (conv(3, widths[0], SIDE), norm(widths[0]))
    for stage, side in enumerate((32, 16, 8), start=1):
        given, made = widths[stage - 1], widths[stage]
        for index in range((depth - 2) // 6):
            yield from (conv(made if index else given, made, side), norm(made), conv(made, made, side), norm(made))
        if given != made:
            yield from (conv(given, made, side, kernel=1), norm(made))
    yield linear(widths[-1])


def wide(depth: int, widening: int) -> Iterator[Layer]:
    """As above, with the norm before each convolution, bare projections, and a last norm."""
    widths = (16, 16 * widening, 32 * widening, 64 * widening)
    yield conv(3, 16, SIDE)
    for stage, side in enumerate((32, 16, 8), start=1):
        given, made = widths[stage - 1], widths[stage]
        for index in range((depth - 4) // 6):
            first = made if index else given
            yield from (norm(first), conv(first, made, side), norm(made), conv(made, made, side))
        if given != made:
            yield conv(given, made, side, kernel=1)
    yield from (norm(widths[-1]), linear(widths[-1]))


def vgg(repeats: int) -> Iterator[Layer]:
    given = 3
    for made, side in ((64, 32), (128, 16), (256, 8), (512, 4), (512, 4)):
        for _ in range(repeats):
            yield from (conv(given, made, side, bias=True), norm(made))
            given = made
    yield linear(512)


def by_hand(name: str) -> list[Layer]:
    kind, _, rest = name.removeprefix("cifar_").partition("_")
    if kind.startswith("vgg"):
        return list(vgg({"vgg8": 1, "vgg13": 2}[kind]))
    if kind.startswith("wrn"):
        return list(wide(int(kind.removeprefix("wrn")), int(rest)))
    depth, _, factor = kind.removeprefix("resnet").partition("x")
    return list(residual(int(depth), (32, 64, 128, 256) if factor else (16, 16, 32, 64)))


def images_of(side: int = SIDE, count: int = 2) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(side)) * 2 - 1


def seen(name: str, *, image_size: int = SIDE, num_classes: int = 5) -> StagedBackbone:
    """A backbone whose batch norms have seen some images, in evaluation mode."""
    torch.manual_seed(0)
    backbone = create_backbone(name, num_classes=num_classes, image_size=image_size)
    with torch.no_grad():
        backbone(images_of(image_size, 8))
    return backbone.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_multiplications_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=CLASSES)
        macs = forward_macs(model, torch.zeros(1, 3, SIDE, SIDE))
    layers = by_hand(name)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert num_parameters == sum(layer.parameters for layer in layers) == PARAMETERS[name]
    assert round(num_parameters / 1e6, 2) == PUBLISHED[name]
    assert macs == sum(layer.macs for layer in layers)
    assert round(macs / 1e6, 2) == MEGA_MACS.get(name, round(macs / 1e6, 2))


@pytest.mark.parametrize("side", [8, 16, 32, 64])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_images_of_many_sizes_run_forward_and_backward(name: str, side: int) -> None:
    backbone = create_backbone(name, num_classes=5, image_size=side)
    maps, logits_BN = backbone.forward_all(images_of(side), range(backbone.num_stages))
    sides = [side // stride for stride in backbone.strides]
    assert [tuple(value.shape[1:]) for value in maps] == list(zip(backbone.channels, sides, sides, strict=True))
    assert logits_BN.shape == (2, 5)
    logits_BN.square().sum().backward()
    for parameter_name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        # Two values with opposite signs after a batch norm of one pixel may cancel in what comes before it.
        assert side == 8 or parameter.grad.any(), parameter_name


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_stages_end_where_the_resolution_changes(name: str) -> None:
    stages = check_backbone(name, SIDE)
    wide_by = {"x4": 4, "_2": 2}.get(name[-2:], 1)
    if "vgg" in name:
        assert (stages.strides, stages.channels, stages.indices) == ((1, 2, 4, 8), (64, 128, 256, 512), (0, 1, 2, 4))
    else:
        assert (stages.strides, stages.indices) == ((1, 2, 4), (1, 2, 3))
        assert stages.channels == tuple(wide_by * width for width in (16, 32, 64))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_what_timm_asks_of_a_model(name: str) -> None:
    model = timm.create_model(name, num_classes=5).eval()
    images_BCHW = images_of()
    with torch.no_grad():
        features_BCHW = model.forward_features(images_BCHW)
        last, maps = model.forward_intermediates(images_BCHW)
        assert torch.equal(last, features_BCHW)
        assert torch.equal(model.forward_head(features_BCHW), model(images_BCHW))
        embedding_BD = model.forward_head(features_BCHW, pre_logits=True)
        torch.testing.assert_close(embedding_BD, features_BCHW.mean(dim=(2, 3)))
        assert len(model.forward_intermediates(images_BCHW, indices=2, intermediates_only=True)) == 2
        for info, map_BCHW in zip(model.feature_info, maps, strict=True):
            hooked: list[Tensor] = []
            part = model.get_submodule(info["module"])
            handle = part.register_forward_hook(lambda *args, hooked=hooked: hooked.append(args[-1]))
            model(images_BCHW)
            handle.remove()
            assert torch.equal(hooked[0], map_BCHW)
            assert map_BCHW.shape[1:] == (info["num_chs"], *[SIDE // info["reduction"]] * 2)
        (normed_BCHW,) = model.forward_intermediates(images_BCHW, [-1], norm=True, intermediates_only=True)
        assert torch.equal(normed_BCHW, features_BCHW)
    with pytest.raises(ValueError, match=r"indices must be of the \d feature maps, but got \[7\]"):
        model.forward_intermediates(images_BCHW, indices=[7])
    assert isinstance(model.get_classifier(), nn.Linear)
    model.reset_classifier(7)
    assert (model.num_classes, model(images_BCHW).shape) == (7, (2, 7))
    headless = timm.create_model(name, num_classes=0, global_pool="")
    assert headless(images_BCHW).shape == features_BCHW.shape
    pyramid = timm.create_model(name, features_only=True).eval()
    assert [value.shape for value in pyramid(images_BCHW)] == [value.shape for value in maps]
    assert pyramid.feature_info.reduction() == [info["reduction"] for info in model.feature_info]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_maps_of_all_passes_are_the_same_and_the_last_layer_reads_the_embedding(name: str) -> None:
    backbone, images_BCHW = seen(name), images_of()
    with torch.no_grad():
        maps, embedding_BD, logits_BN = backbone.look(images_BCHW, range(backbone.num_stages))
        for stage, map_BCHW in enumerate(maps):
            assert torch.equal(backbone.forward_to(images_BCHW, stage), map_BCHW)
        view = backbone_view(backbone, images_BCHW)
        assert view.classifier_ND is not None
        expected_BN = embedding_BD @ view.classifier_ND.T + backbone.model.get_classifier().bias
    torch.testing.assert_close(logits_BN, expected_BN)
    assert torch.equal(view.embedding_BD, embedding_BD)


def test_maps_are_taken_after_the_relu_but_of_wide_networks_before() -> None:
    for name in ONE_OF_EACH:
        maps, _ = seen(name).forward_all(images_of(), [0, 1, 2])
        assert {bool(value.min() < 0) for value in maps} == {"wrn" in name}


def standardised(x_BCHW: Tensor) -> Tensor:
    """A new batch norm in training."""
    mean, variance = (x_BCHW.mean((0, 2, 3), keepdim=True), x_BCHW.var((0, 2, 3), keepdim=True, correction=0))
    return (x_BCHW - mean) / (variance + 1e-5).sqrt()


@pytest.mark.parametrize(("channels", "stride"), [(4, 1), (6, 1), (6, 2)])
def test_blocks_are_their_formulas(channels: int, stride: int) -> None:
    x_BCHW = images_of(8, 4)[:, [0, 1, 2, 0]].double() - 0.3
    changes = channels != 4

    residual_block = ResidualBlock(4, channels, stride).double()
    branch_BCHW = standardised(residual_block.conv1(x_BCHW)).relu()
    branch_BCHW = standardised(residual_block.conv2(branch_BCHW))
    assert isinstance(residual_block.downsample, nn.Sequential) == changes
    short_BCHW = standardised(residual_block.downsample.get_submodule("0")(x_BCHW)) if changes else x_BCHW
    torch.testing.assert_close(residual_block(x_BCHW), (branch_BCHW + short_BCHW).relu())

    wide_block = PreActivationBlock(4, channels, stride).double()
    active_BCHW = standardised(x_BCHW).relu()
    branch_BCHW = wide_block.conv2(standardised(wide_block.conv1(active_BCHW)).relu())
    assert (wide_block.convShortcut is not None) == changes
    short_BCHW = wide_block.convShortcut(active_BCHW) if wide_block.convShortcut is not None else x_BCHW
    torch.testing.assert_close(wide_block(x_BCHW), branch_BCHW + short_BCHW)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_partial_pass_touches_no_deeper_statistics(name: str) -> None:
    backbone = create_backbone(name, num_classes=5, image_size=SIDE)
    for stage in range(backbone.num_stages):
        before = {key: value.clone() for key, value in backbone.model.named_buffers()}
        backbone.forward_to(images_of(), stage)
        changed = {key for key, value in backbone.model.named_buffers() if not torch.equal(value, before[key])}
        reached = {key.rpartition(".")[0] for key in backbone.stages.parameter_names[stage]}
        assert {key.rpartition(".")[0] for key in changed} <= reached
    frozen = create_backbone(name, num_classes=5, image_size=SIDE, frozen_batch_norm=True)
    before = {key: value.clone() for key, value in frozen.model.named_buffers()}
    frozen(images_of())
    assert all(torch.equal(value, before[key]) for key, value in frozen.model.named_buffers())


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_weights_start_by_the_number_of_outputs(name: str) -> None:
    torch.manual_seed(1)
    model = timm.create_model(name)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            spread = 4 / (2 * module.weight.numel()) ** 0.5  # four standard errors of a standard deviation
            assert module.weight.detach().std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=spread)
            assert module.bias is None or not module.bias.any()
    last = model.get_classifier()
    assert bool(last.bias.any()) == ("resnet" in name)
    expected = 0.01 if "vgg" in name else (3 * last.in_features) ** -0.5  # of uniform values up to D ** -0.5
    assert last.weight.detach().std().item() == pytest.approx(expected, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_seed_gives_the_same_network_and_a_plain_step_trains_it(name: str) -> None:
    context = Context(name, num_classes=3, image_size=16, seed=4)
    method, again = (Plain(context, PlainSettings()) for _ in range(2))
    start = {key: value.clone() for key, value in method.deployed.state_dict().items()}
    assert all(torch.equal(start[key], value) for key, value in again.deployed.state_dict().items())
    batch = Batch((images_of(16, 6) + 1) / 2, torch.tensor([0, 1, 2, 0, 1, 2]), torch.arange(6))
    optimizer = torch.optim.SGD(method.network.parameters(), lr=0.01)
    losses: list[float] = []
    for _ in range(4):
        (objective,) = method.objectives(batch)
        optimizer.zero_grad()
        loss = objective.loss(slice(None)).total / 6
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    method.network.eval()
    loaded = load_export(method.export().state_dict, method.export().config)
    assert torch.equal(loaded.predict(batch.images_BCHW), method.predict(batch.images_BCHW))
    assert method.passes_per_image() == 1


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_weights_of_a_file_come_back(name: str, tmp_path: Path) -> None:
    backbone, path = seen(name), str(tmp_path / "weights.safetensors")
    save_file(backbone.model.state_dict(), path)
    again = create_backbone(name, num_classes=5, image_size=SIDE, pretrained=path).eval()
    with torch.no_grad():
        assert torch.equal(again(images_of()), backbone(images_of()))
    other = create_backbone(name, num_classes=3, image_size=SIDE, pretrained=path)
    assert other(images_of()).shape == (2, 3)


def test_parameters_are_called_as_in_the_public_benchmark() -> None:
    wanted = {
        "cifar_resnet8x4": {
            "conv1.weight",
            "bn1.bias",
            "layer2.0.downsample.0.weight",
            "layer3.0.bn2.weight",
            "fc.bias",
        },
        "cifar_wrn16_2": {
            "block1.layer.1.conv2.weight",
            "block2.layer.0.convShortcut.weight",
            "bn1.weight",
            "fc.weight",
        },
        "cifar_vgg13_bn": {"block0.0.weight", "block4.3.bias", "block4.4.running_var", "classifier.weight"},
    }
    for name, names in wanted.items():
        assert names <= set(timm.create_model(name).state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_torch_can_export_them_for_any_batch(name: str) -> None:
    model = seen(name).model
    program = torch.export.export(model, (images_of(),), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    with torch.no_grad():
        for count in (1, 3):
            torch.testing.assert_close(program(images_of(SIDE, count)), model(images_of(SIDE, count)))


def test_images_are_normalised_as_in_the_benchmark() -> None:
    backbone = seen("cifar_resnet20")
    mean_C11, std_C11 = (torch.tensor(v).view(3, 1, 1) for v in ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)))
    images_BCHW = (images_of() + 1) / 2
    with torch.no_grad():
        expected_BN = backbone.model((images_BCHW - mean_C11) / std_C11)
        torch.testing.assert_close(backbone(to_signed(images_BCHW)), expected_BN, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("cifar_resnet21", "'cifar_resnet20'"),
        ("cifar_wrn40-2", "'cifar_wrn40_2'"),
        ("resnet20", r"\['cifar_resnet20', "),
        ("resnet8x4", r"\['cifar_resnet8x4', "),
        ("wrn-40-2", r"\['cifar_wrn40_2'"),
        ("WRN_16_2", r"\['cifar_wrn16_2'"),
        ("vgg8", r"\['cifar_vgg8_bn', "),
    ],
)
def test_a_typo_or_the_benchmarks_own_name_is_answered_with_ours(given: str, said: str) -> None:
    with pytest.raises(ValueError, match=rf"but got '{given}': did you mean one of .*{said}"):
        check_backbone(given, SIDE)


def test_what_they_cannot_do_is_refused_before_anything_is_built() -> None:
    with pytest.raises(ValueError, match=r"'cifar_vgg8_bn' cannot take images of 7 pixels .*its own size is 32"):
        check_backbone("cifar_vgg8_bn", 7)
    with pytest.raises(
        ValueError, match=r"timm has none for 'cifar_resnet20': .*pretrained=False, or another backbone"
    ):
        create_backbone("cifar_resnet20", num_classes=5, image_size=SIDE, pretrained=True)
    with pytest.raises(ValueError, match=r"stages must be between 1 and 3 for backbone 'cifar_wrn16_1'.*but got 4"):
        check_backbone("cifar_wrn16_1", SIDE, 4)
