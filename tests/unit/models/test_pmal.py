"""PMAL's updates against a straightforward computation of each, in float64."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.methods.method import Batch, Context
from models.methods.pmal import Pmal, PmalSettings
from models.sam import SamSettings, sam_step

SETTINGS = PmalSettings(stages=3, head_widths=(6, 8), classifier_width=5, decoder_widths=(8, 8, 4), alpha=0.7)
SMOOTHING = 0.1
NUM_CLASSES = 3
LAYERS = ("layer1", "layer2", "layer3", "layer4")


@dataclass(frozen=True)
class Pair:
    target_BCHW: Tensor
    input_BCHW: Tensor


def sampler(images_BCHW: Tensor, keys_B: Tensor, *, draw: int = 0, level: float = 1.0) -> Pair:
    """Noise that depends on the key and the draw; the target is not the image either."""
    generators = [torch.Generator().manual_seed(int(key) * 100 + draw) for key in keys_B]
    fields = [torch.randn(images_BCHW.shape[1:], generator=generator) for generator in generators]
    return Pair(images_BCHW * 0.9, images_BCHW * 0.9 + 0.05 * torch.stack(fields).to(images_BCHW))


def make(settings: PmalSettings = SETTINGS, **changes: Any) -> Pmal:
    context = Context(
        "test_resnet", num_classes=NUM_CLASSES, image_size=32, sampler=sampler, label_smoothing=SMOOTHING, seed=2
    )
    method = Pmal(replace(context, **changes), settings)
    method.network.double()
    return method


def make_batch(height: int = 32, width: int = 32) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images_BCHW = torch.rand(4, 3, height, width, generator=generator, dtype=torch.float64)
    return Batch(images_BCHW, labels_B=torch.tensor([0, 2, 1, 2]), keys_B=torch.arange(7, 11))


# The straightforward computation: every layer of the network in turn, all of it every time.


def norm(x: Tensor, module: Any) -> Tensor:
    return F.batch_norm(x, None, None, module.weight, module.bias, training=True, eps=module.eps)


def features_by_hand(method: Pmal, signed_BCHW: Tensor) -> list[Tensor]:
    model = method.network.backbone.model
    mean, std = (
        torch.tensor(value, dtype=torch.float64).view(3, 1, 1)
        for value in (method.network.backbone.mean, method.network.backbone.std)
    )
    x = model.maxpool(model.act1(model.bn1(model.conv1(((signed_BCHW + 1) / 2 - mean) / std))))
    features = []
    for name in LAYERS:
        x = getattr(model, name)(x)
        features.append(x)
    return features


def head_by_hand(head: Any, feature: Tensor) -> Tensor:
    x = F.relu(norm(F.conv2d(feature, head.convolutions[0].weight), head.convolutions[1]))
    x = F.relu(norm(F.conv2d(x, head.convolutions[3].weight, padding=1), head.convolutions[4]))
    x = norm(x.flatten(2).max(dim=2).values, head.classifier[0])
    x = F.linear(x, head.classifier[1].weight, head.classifier[1].bias)
    return F.linear(F.elu(norm(x, head.classifier[2])), head.classifier[4].weight, head.classifier[4].bias)


def decoder_by_hand(decoder: Any, feature: Tensor, images: Tensor) -> Tensor:
    x = feature
    weights = [module.weight for module in decoder.restoration if isinstance(module, nn.Conv2d)]
    if weights[0].shape[2] == 1:
        x = F.conv2d(x, weights.pop(0))
    x = F.pixel_shuffle(x, images.shape[2] // 8 // feature.shape[2])
    for weight in weights[:-1]:
        x = F.pixel_shuffle(F.leaky_relu(F.conv2d(x, weight, padding=1), 0.1), 2)
    x = F.leaky_relu(F.conv2d(x, weights[-1], padding=1), 0.1)
    first, last = decoder.skip[0].weight, decoder.skip[2].weight
    skip = F.leaky_relu(F.conv2d(F.leaky_relu(F.conv2d(images, first, padding=1), 0.1), last, padding=1), 0.1)
    return skip + x


def entropy_by_hand(logits: Tensor, labels: Tensor) -> Tensor:
    target = torch.full_like(logits, SMOOTHING / (NUM_CLASSES - 1))
    target[torch.arange(len(labels)), labels] = 1 - SMOOTHING
    return -(target * logits.log_softmax(1)).sum(1).mean()


def step_by_hand(method: Pmal, settings: PmalSettings, batch: Batch, step: int) -> Tensor:
    network: Any = method.network
    if step == settings.stages:
        features = features_by_hand(method, batch.images_BCHW * 2 - 1)
        last = features[-1].mean(dim=(2, 3))
        losses = [
            entropy_by_hand(head_by_hand(head, feature), batch.labels_B)
            for head, feature in zip(network.heads, features[-settings.stages :], strict=True)
        ]
        own = F.linear(last, network.backbone.model.fc.weight, network.backbone.model.fc.bias)
        return sum(losses, 2 * entropy_by_hand(own, batch.labels_B))
    pair = sampler(batch.images_BCHW, batch.keys_B, draw=step + 1)
    target, noisy = pair.target_BCHW * 2 - 1, pair.input_BCHW * 2 - 1
    layer = len(LAYERS) - settings.stages + step
    feature = features_by_hand(method, noisy)[layer]
    restored = decoder_by_hand(network.decoders[step], feature, noisy)
    difference = restored - target
    distance = difference.square().mean()
    if settings.restoration_loss == "charbonnier":
        distance = (difference.square() + 1e-12).sqrt().mean()
    again = restored.detach() if settings.detach_restored else restored
    return (
        entropy_by_hand(head_by_hand(network.heads[step], feature), batch.labels_B)
        + settings.alpha * distance
        + entropy_by_hand(head_by_hand(network.heads[step], features_by_hand(method, again)[layer]), batch.labels_B)
    )


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        replace(SETTINGS, stages=2, restoration_loss="mse"),
        replace(SETTINGS, stages=1, detach_restored=True),
    ],
    ids=["charbonnier", "mse", "detached"],
)
def test_every_loss_and_gradient_is_the_formula(settings: PmalSettings) -> None:
    method, batch = make(settings), make_batch()
    names = [name for name, _ in method.network.named_parameters()]
    parameters = list(method.network.parameters())
    steps = list(method.objectives(batch))
    assert [objective.name for objective in steps] == [
        *(f"stage{step + 1}" for step in range(settings.stages)),
        "clean",
    ]
    for step, objective in enumerate(steps):
        loss = objective.loss(slice(0, 4))
        expected = step_by_hand(method, settings, batch, step)
        assert loss.count == 4
        torch.testing.assert_close(loss.total / 4, expected, rtol=1e-10, atol=1e-12)
        ours = torch.autograd.grad(loss.total / 4, parameters, allow_unused=True)
        theirs = torch.autograd.grad(expected, parameters, allow_unused=True)
        reached = {id(parameter) for parameter in objective.parameters}
        for name, parameter, our, their in zip(names, parameters, ours, theirs, strict=True):
            assert (our is None) == (their is None) == (id(parameter) not in reached), f"{objective.name} {name}"
            if our is not None:
                torch.testing.assert_close(our, their, rtol=1e-8, atol=1e-11, msg=f"{objective.name} {name}")


def test_a_batch_of_updates_is_the_formula() -> None:
    """Two batches of S + 1 updates by SAM and SGD with momentum and weight decay, from the losses by hand."""
    rho, lr, momentum, decay = 0.05, 0.01, 0.9, 0.01
    settings = replace(SETTINGS, stages=2)
    method, hand, batch = make(settings), make(settings), make_batch()
    optimizer = torch.optim.SGD(method.network.parameters(), lr=lr, momentum=momentum, weight_decay=decay)
    parameters = dict(hand.network.named_parameters())
    velocity: dict[str, Tensor] = {}

    def gradients(step: int) -> dict[str, Tensor]:
        loss = step_by_hand(hand, settings, batch, step)
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        return {name: gradient for name, gradient in zip(parameters, found, strict=True) if gradient is not None}

    for _ in range(2):
        for step, objective in enumerate(method.objectives(batch)):
            closure = lambda objective=objective: objective.loss(slice(0, 4)).total / 4  # noqa: E731
            sam = SamSettings(rho=rho)
            sam_step(optimizer, closure, parameters=objective.parameters, sam=sam, modules=method.network)

            first = gradients(step)
            norm = torch.stack([gradient.square().sum() for gradient in first.values()]).sum().sqrt()
            before = {name: parameters[name].detach().clone() for name in first}
            with torch.no_grad():
                for name, gradient in first.items():
                    parameters[name] += rho * gradient / (norm + 1e-12)
            second = gradients(step)
            with torch.no_grad():
                for name, gradient in second.items():
                    velocity[name] = momentum * velocity.get(name, 0.0) + gradient + decay * before[name]
                    parameters[name].copy_(before[name] - lr * velocity[name])
    for name, parameter in method.network.named_parameters():
        torch.testing.assert_close(parameter, parameters[name], rtol=1e-7, atol=1e-10, msg=name)


def test_each_update_moves_what_it_reaches_and_nothing_else() -> None:
    method, batch = make(), make_batch()
    optimizer = torch.optim.SGD(method.network.parameters(), lr=0.01, momentum=0.9, weight_decay=0.01)
    deepest = {0: "layer2", 1: "layer3", 2: "layer4"}
    for _ in range(2):  # the second time there is momentum
        for step, objective in enumerate(method.objectives(batch)):
            before = {name: value.detach().clone() for name, value in method.network.named_parameters()}
            closure = lambda objective=objective: objective.loss(slice(0, 4)).total / 4  # noqa: E731
            sam_step(optimizer, closure, parameters=objective.parameters, sam=SamSettings(), modules=method.network)
            moved = {name for name, value in method.network.named_parameters() if not torch.equal(before[name], value)}
            for name in before:
                part, _, rest = name.partition(".")
                if part == "backbone":
                    layer = rest.removeprefix("model.").partition(".")[0]
                    expected = step == 3 or (layer != "fc" and (layer not in LAYERS or layer <= deepest[step]))
                else:
                    expected = part == "heads" if step == 3 else rest.startswith(f"{step}.")
                assert (name in moved) == expected, f"{objective.name} {name}"


def test_statistics_see_both_forwards_of_the_first_pass_and_none_of_the_second() -> None:
    method, batch = make(), make_batch()
    optimizer = torch.optim.SGD(method.network.parameters(), lr=0.01)
    seen: dict[str, int] = {}
    for step, objective in enumerate(method.objectives(batch)):
        closure = lambda objective=objective: objective.loss(slice(0, 4)).total / 4  # noqa: E731
        sam_step(optimizer, closure, parameters=objective.parameters, sam=SamSettings(), modules=method.network)
        counts = {n: int(b) for n, b in method.network.named_buffers() if n.endswith("num_batches_tracked")}
        assert len(counts) > 3 * 4
        for name, count in counts.items():
            part, _, rest = name.partition(".")
            if part == "backbone":
                layer = rest.removeprefix("model.").partition(".")[0]
                is_reached = layer not in LAYERS or layer <= LAYERS[min(step + 1, 3)]
            else:
                is_reached = step == 3 or rest.startswith(f"{step}.")
            assert count - seen.get(name, 0) == is_reached * (1 if step == 3 else 2), f"{objective.name} {name}"
        seen = counts


def test_a_prediction_is_the_sum_of_all_logits() -> None:
    method, batch = make(), make_batch()
    method.network.eval()
    network: Any = method.network
    signed = batch.images_BCHW * 2 - 1
    features = features_by_hand(method, signed)[1:]
    expected = sum(head(feature) for head, feature in zip(network.heads, features, strict=True))
    expected = expected + network.backbone.logits(signed)
    logits = method.predict(batch.images_BCHW)
    torch.testing.assert_close(logits, expected.detach())
    assert not logits.requires_grad


def test_restorations_come_from_each_stage_in_range() -> None:
    method, batch = make(), make_batch()
    method.network.eval()
    restored = [method.restore(batch.images_BCHW, head=head) for head in range(3)]
    deepest = method.restore(batch.images_BCHW)
    assert deepest is not None
    assert torch.equal(deepest, restored[2])  # type: ignore[arg-type]
    assert not torch.equal(deepest, restored[0])  # type: ignore[arg-type]
    assert deepest.min() >= 0
    assert deepest.max() <= 1


def test_every_update_has_noise_of_its_own_and_both_passes_the_same() -> None:
    draws: list[int] = []

    def counting(images_BCHW: Tensor, keys_B: Tensor, *, draw: int = 0, level: float = 1.0) -> Pair:
        draws.append(draw)
        return sampler(images_BCHW, keys_B, draw=draw)

    method, batch = make(sampler=counting), make_batch()
    steps = method.objectives(batch)
    first = next(steps)
    losses = [first.loss(slice(0, 4)).total.detach() for _ in range(2)]
    assert torch.equal(losses[0], losses[1])
    assert draws == [1]
    list(steps)
    assert draws == [1, 2, 3]


def test_without_a_sampler_an_image_is_its_own_target() -> None:
    method, batch = make(sampler=None), make_batch()
    same = make(sampler=lambda images_BCHW, keys_B, *, draw=0, level=1.0: Pair(images_BCHW, images_BCHW))
    for ours, theirs in zip(method.objectives(batch), same.objectives(batch), strict=True):
        assert torch.equal(ours.loss(slice(0, 4)).total, theirs.loss(slice(0, 4)).total)


@pytest.mark.slow
def test_cost_is_the_share_of_operations() -> None:
    """One stage, the last: by hand from the multiplications of each convolution and linear layer."""
    settings = replace(SETTINGS, stages=1)
    method = make(settings, image_size=32)
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    network: Any = method.network
    macs: dict[str, int] = {}
    prefix = {id(module): name for name, module in network.named_modules()}

    def count(module: Any, inputs: Any, output: Tensor) -> None:
        macs[prefix[id(module)]] = output.numel() * module.weight[0].numel()

    hooks = [
        module.register_forward_hook(count)
        for module in network.modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    network.all_logits(images)
    network.restore(images, 0)
    for hook in hooks:
        hook.remove()
    stem = macs["backbone.model.conv1.0"]
    whole = sum(value for name, value in macs.items() if name.startswith("backbone"))
    classifier = macs["backbone.model.fc"]
    head = sum(value for name, value in macs.items() if name.startswith("heads"))
    decoder = sum(value for name, value in macs.items() if name.startswith("decoders"))
    # A backward pass is twice a forward one, but the images themselves need no gradient: minus the first layers once.
    first_skip = macs["decoders.0.skip.0"]
    body = whole - classifier
    noisy = 3 * body - stem + 3 * head + 3 * decoder - first_skip
    restored = 3 * body + 3 * head
    clean = 3 * whole - stem + 3 * head
    expected = (noisy + restored + clean) / (3 * whole - stem)
    assert method.passes_per_image() == pytest.approx(expected, rel=1e-9)
    assert method.passes_per_image() is method.passes_per_image()


def test_a_batch_of_one_is_explained() -> None:
    method, batch = make(), make_batch()
    with pytest.raises(ValueError, match=r"at least 2 images .* but got 1: raise the batch size"):
        next(method.objectives(batch)).loss(slice(0, 1))


def test_too_many_stages_are_explained() -> None:
    with pytest.raises(ValueError, match=r"stages must be between 1 and 3 for backbone 'levit_128s'.*but got 4"):
        make(replace(SETTINGS, stages=4), backbone="levit_128s", image_size=224)


def numbers(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def test_each_head_costs_what_an_early_exit_computes() -> None:
    """test_resnet at 32 px: its maps are 16 (stem), 8, 4, 2 and 1 wide; stages 1 to 3 end at 4, 2 and 1."""
    method = make()
    heads, model = method.network.heads, method.network.backbone.model
    macs = 256 * (16 * 3 * 9 + 16 * 16 * 9 + 32 * 16 * 9) + 64 * 2 * (32 * 32 * 9)  # stem, layer1
    macs += 16 * (48 * 32 * 9 + 48 * 48 * 9 + 48 * 32)  # layer2
    parameters = numbers(model.conv1, model.bn1, model.layer1, model.layer2)
    first = 16 * (6 * 48 + 8 * 6 * 9) + 5 * 8 + NUM_CLASSES * 5
    expected = {"stage1": (parameters + numbers(heads[0]), macs + first)}
    macs += 16 * (48 * 48) + 4 * (48 * 48 * 9 + 192 * 48 + 192 * 48)  # layer3, whose first convolution sees 4 x 4
    parameters += numbers(model.layer3)
    second = 4 * (6 * 192 + 8 * 6 * 9) + 5 * 8 + NUM_CLASSES * 5
    expected["stage2"] = (parameters + numbers(heads[1]), macs + second)
    macs += 96 * 192 * 9 + 96 * 96 * 9 + 96 * 192  # layer4
    parameters += numbers(model.layer4)
    third = 6 * 96 + 8 * 6 * 9 + 5 * 8 + NUM_CLASSES * 5
    expected["stage3"] = (parameters + numbers(heads[2]), macs + third)
    macs += NUM_CLASSES * 96
    parameters += 97 * NUM_CLASSES
    expected["backbone"] = (parameters, macs)
    expected["sum"] = (parameters + numbers(heads), macs + first + second + third)
    assert {name: tuple(cost) for name, cost in method.head_costs().items()} == expected
    decoders = numbers(method.network.decoders)
    assert expected["sum"][0] == numbers(method.network) - decoders


def test_an_early_exit_answers_as_its_head_in_the_whole_pass() -> None:
    method = make()
    method.network.eval()
    images_BCHW = make_batch().images_BCHW
    found = method.heads(images_BCHW)
    assert list(found) == ["stage1", "stage2", "stage3", "backbone", "sum"]
    with torch.no_grad():
        for head in range(3):
            alone_BN = method.network.exit_logits(images_BCHW * 2 - 1, head)
            torch.testing.assert_close(found[f"stage{head + 1}"], alone_BN)
        torch.testing.assert_close(found["backbone"], method.network.backbone.logits(images_BCHW * 2 - 1))
    torch.testing.assert_close(found["sum"], sum(found[name] for name in list(found)[:-1]))
