"""PMD's updates against a straightforward computation of each, in float64; what is exported is timm's."""

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional as F

from models.losses import softened_divergence
from models.methods.method import Batch, Context, Teacher
from models.methods.plain import Plain, PlainSettings
from models.methods.pmal import Pmal, PmalSettings
from models.methods.pmd import Pmd, PmdSettings
from models.methods.registry import load_export
from models.sam import SamSettings, sam_step

SMOOTHING = 0.1
NUM_CLASSES = 3
LAYERS = ("layer1", "layer2", "layer3", "layer4")
CONTEXT = Context("test_resnet", num_classes=NUM_CLASSES, image_size=32, label_smoothing=SMOOTHING, seed=2)
SETTINGS = PmdSettings(stages=3, feature_weight=100.0, stage_weights=(1.0, 0.5, 2.0))
TEACHER = PmalSettings(stages=2, head_widths=(6, 8), classifier_width=5, decoder_widths=(8, 8, 4))


@dataclass(frozen=True)
class Pair:
    target_BCHW: Tensor
    input_BCHW: Tensor


def sampler(images_BCHW: Tensor, keys_B: Tensor, *, draw: int = 0, level: float = 1.0) -> Pair:
    """The target is the image turned, the input that and a shade of the key's."""
    turned_BCHW = images_BCHW.flip(3)
    return Pair(turned_BCHW, turned_BCHW - level * 0.02 * keys_B.view(-1, 1, 1, 1) - draw)


def pmal_teacher() -> Pmal:
    teacher = Pmal(replace(CONTEXT, seed=9), TEACHER)
    spread(teacher.network)
    return teacher


def vit_teacher() -> Plain:
    teacher = Plain(replace(CONTEXT, backbone="test_vit", seed=9), PlainSettings())
    teacher.network.eval()
    return teacher


def spread(network: torch.nn.Module) -> None:
    """Running statistics that differ from a batch's, so that eval mode is told from train mode."""
    generator = torch.Generator().manual_seed(5)
    for module in network.modules():
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            assert module.running_mean is not None
            module.running_mean.copy_(0.3 * torch.randn(module.running_mean.shape, generator=generator))


def make(settings: PmdSettings = SETTINGS, *, teacher: Teacher | None, **changes: Any) -> Pmd:
    method = Pmd(replace(CONTEXT, teacher=teacher, **changes), settings)
    method.network.double()
    return method


def make_batch(progress: float = 0.0, level: float = 1.0) -> Batch:
    images_BCHW = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Batch(images_BCHW, torch.tensor([0, 2, 1, 2]), torch.arange(7, 11), level, progress)


# The straightforward computation: every layer of the network in turn, all of it every time.


def maps_by_hand(backbone: Any, images: Tensor, *, running: bool) -> list[Tensor]:
    """Of images in [0, 1]; with batch statistics, or with running ones."""
    model = backbone.model.train(not running)
    mean, std = (torch.tensor(value, dtype=torch.float64).view(3, 1, 1) for value in (backbone.mean, backbone.std))
    x = model.maxpool(model.act1(model.bn1(model.conv1((images - mean) / std))))
    maps = []
    for name in LAYERS:
        x = getattr(model, name)(x)
        maps.append(x)
    return maps


def logits_by_hand(backbone: Any, last: Tensor) -> Tensor:
    return last.mean(dim=(2, 3)) @ backbone.model.fc.weight.T + backbone.model.fc.bias


def teacher_by_hand(teacher: Pmal, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    network: Any = teacher.network.double().eval()
    maps = maps_by_hand(network.backbone, images, running=True)
    heads = [head(feature) for head, feature in zip(network.heads, maps[-2:], strict=True)]
    return maps[-3:], [*heads, logits_by_hand(network.backbone, maps[-1])]


def entropy_by_hand(logits: Tensor, labels: Tensor) -> Tensor:
    target = torch.full_like(logits, SMOOTHING / (NUM_CLASSES - 1))
    target[torch.arange(len(labels)), labels] = 1 - SMOOTHING
    return -(target * logits.log_softmax(1)).sum(1).mean()


def distance_by_hand(settings: PmdSettings, student: Tensor, teacher: Tensor) -> Tensor:
    if settings.logit_loss == "mse":
        return ((student - teacher) ** 2).mean()
    soft = (teacher / settings.temperature).exp()
    soft = soft / soft.sum(1, keepdim=True)
    own = (student / settings.temperature).exp()
    own = own / own.sum(1, keepdim=True)
    return settings.temperature**2 * (soft * (soft.log() - own.log())).sum(1).mean()


def views_by_hand(settings: PmdSettings, batch: Batch) -> tuple[Tensor, Tensor]:
    if settings.student_input == "clean":
        return batch.images_BCHW, batch.images_BCHW
    pair = sampler(batch.images_BCHW, batch.keys_B, level=batch.noise_level)
    return pair.input_BCHW, pair.target_BCHW if settings.teacher_input == "clean" else pair.input_BCHW


def steps_by_hand(method: Pmd, settings: PmdSettings, batch: Batch, teacher: Pmal) -> list[Tensor]:
    seen, shown = views_by_hand(settings, batch)
    with torch.no_grad():
        wanted, targets = teacher_by_hand(teacher, shown)
    steps = []
    weights = settings.stage_weights or (1.0, 1.0, 1.0)
    for stage in range(3):
        own = maps_by_hand(method.backbone, seen, running=False)[-3 + stage]
        steps.append(settings.feature_weight * weights[stage] * ((own - wanted[stage]) ** 2).mean())
    logits = logits_by_hand(method.backbone, maps_by_hand(method.backbone, seen, running=False)[-1])
    distances = [distance_by_hand(settings, logits, target) for target in targets]
    return [*steps, settings.logit_weight * sum(distances) + entropy_by_hand(logits, batch.labels_B)]


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        replace(SETTINGS, logit_loss="kl", temperature=2.0, logit_weight=0.7, stage_weights=()),
        replace(SETTINGS, student_input="noisy"),
        replace(SETTINGS, student_input="noisy", teacher_input="same"),
    ],
    ids=["mse", "kl", "noisy", "same"],
)
def test_every_loss_and_gradient_is_the_formula(settings: PmdSettings) -> None:
    teacher, batch = pmal_teacher(), make_batch(level=0.5)
    method = make(settings, teacher=teacher, sampler=sampler)
    names, parameters = zip(*method.network.named_parameters(), strict=True)
    steps = list(method.objectives(batch))
    assert [objective.name for objective in steps] == ["stage1", "stage2", "stage3", "distil"]
    expected = steps_by_hand(method, settings, batch, teacher)
    for objective, value in zip(steps, expected, strict=True):
        loss = objective.loss(slice(0, 4))
        assert loss.count == 4
        torch.testing.assert_close(loss.total / 4, value, rtol=1e-10, atol=1e-12)
        ours = torch.autograd.grad(loss.total / 4, parameters, allow_unused=True)
        theirs = torch.autograd.grad(value, parameters, allow_unused=True)
        reached = {id(parameter) for parameter in objective.parameters}
        for name, parameter, our, their in zip(names, parameters, ours, theirs, strict=True):
            assert (our is None) == (their is None) == (id(parameter) not in reached), f"{objective.name} {name}"
            if our is not None:
                torch.testing.assert_close(our, their, rtol=1e-8, atol=1e-10, msg=f"{objective.name} {name}")


def test_after_the_share_of_distilling_the_labels_alone_teach() -> None:
    class Silent(Plain):
        def lesson(self, images_BCHW: Tensor, *, stages: int) -> Any:
            raise AssertionError("the teacher must not be run")

    method = make(teacher=Silent(CONTEXT, PlainSettings()))
    assert [objective.name for objective in method.objectives(make_batch(0.49))][-1] == "distil"
    (step,) = method.objectives(make_batch(0.5))
    batch = make_batch(0.5)
    logits = logits_by_hand(method.backbone, maps_by_hand(method.backbone, batch.images_BCHW, running=False)[-1])
    assert step.name == "classify"
    loss, expected = step.loss(slice(0, 4)).total / 4, entropy_by_hand(logits, batch.labels_B)
    torch.testing.assert_close(loss, expected)
    ours, theirs = (torch.autograd.grad(value, step.parameters) for value in (loss, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)


def test_a_weight_of_zero_takes_out_its_update() -> None:
    def names(**changes: Any) -> list[str]:
        method = make(replace(SETTINGS, **changes), teacher=pmal_teacher())
        return [objective.name for objective in method.objectives(make_batch())]

    assert names(stage_weights=(0.0, 1.0, 0.0)) == ["stage2", "distil"]
    assert names(feature_weight=0.0) == ["distil"]


def resize_matrix(size: int, wanted: int) -> Tensor:
    """Rows of a linear interpolation between the centres of `size` cells, at those of `wanted` cells."""
    rows = torch.zeros(wanted, size, dtype=torch.float64)
    for row in range(wanted):
        place = max(0.0, (row + 0.5) * size / wanted - 0.5)
        low = min(int(place), size - 1)
        high = min(low + 1, size - 1)
        rows[row, low] += 1 - (place - low)
        rows[row, high] += place - low
    return rows


def test_another_backbone_is_matched_from_the_deepest_stage_by_adapters_and_resized_maps() -> None:
    teacher, batch = vit_teacher(), make_batch()
    method = make(SETTINGS, teacher=teacher)
    network = teacher.network.double()
    with torch.no_grad():
        wanted, _ = network.forward_all(batch.images_BCHW * 2 - 1, range(network.num_stages - 3, network.num_stages))
    own = maps_by_hand(method.backbone, batch.images_BCHW, running=False)[-3:]
    assert {feature.shape[2] for feature in own} == {4, 2, 1}
    assert {feature.shape[2] for feature in wanted} == {2}
    for stage, step in enumerate(list(method.objectives(batch))[:3]):
        adapter: Any = method.network.adapters[stage]
        mapped = torch.einsum("bchw,dc->bdhw", own[stage], adapter.weight[:, :, 0, 0]) + adapter.bias.view(-1, 1, 1)
        rows = resize_matrix(2, own[stage].shape[2])
        target = torch.einsum("ih,bchw,jw->bcij", rows, wanted[stage], rows)
        expected = 100 * SETTINGS.stage_weights[stage] * (mapped - target).square().mean()
        torch.testing.assert_close(step.loss(slice(0, 4)).total / 4, expected, rtol=1e-9, atol=0)
        assert {id(adapter.weight), id(adapter.bias)} <= {id(parameter) for parameter in step.parameters}
    groups = {name: {id(item) for item in group} for name, group in method.parameter_groups().items()}
    assert {id(parameter) for parameter in method.network.adapters.parameters()} <= groups["heads"]


def test_each_update_moves_what_it_reaches_and_the_teacher_never_moves() -> None:
    teacher, batch = vit_teacher(), make_batch()
    method = make(SETTINGS, teacher=teacher)
    optimizer = torch.optim.SGD(method.network.parameters(), lr=0.001, momentum=0.9, weight_decay=0.01)
    kept = {name: value.clone() for name, value in teacher.network.double().state_dict().items()}
    for progress in (0.0, 0.1, 0.9):
        for objective in method.objectives(make_batch(progress)):
            before = {name: value.detach().clone() for name, value in method.network.named_parameters()}
            closure = lambda objective=objective: objective.loss(slice(0, 4)).total / 4  # noqa: E731
            sam_step(optimizer, closure, parameters=objective.parameters, sam=SamSettings(), modules=method.network)
            declared = {id(parameter) for parameter in objective.parameters}
            for name, parameter in method.network.named_parameters():
                assert torch.equal(before[name], parameter) == (id(parameter) not in declared), name
    assert len(batch) == 4
    assert all(torch.equal(kept[name], value) for name, value in teacher.network.state_dict().items())
    assert not teacher.network.training
    assert all(parameter.grad is None for parameter in teacher.network.parameters())


def test_statistics_of_the_student_follow_the_first_pass_only_and_the_teachers_never_move() -> None:
    teacher = pmal_teacher()
    method, seen = make(teacher=teacher), {}
    optimizer = torch.optim.SGD(method.network.parameters(), lr=0.001)
    kept = {name: value.double() for name, value in teacher.network.state_dict().items()}
    for step, objective in enumerate(method.objectives(make_batch())):
        closure = lambda objective=objective: objective.loss(slice(0, 4)).total / 4  # noqa: E731
        sam_step(optimizer, closure, parameters=objective.parameters, sam=SamSettings(), modules=method.network)
        counts = {n: int(b) for n, b in method.network.named_buffers() if n.endswith("num_batches_tracked")}
        for name, count in counts.items():
            layer = name.removeprefix("backbone.model.").partition(".")[0]
            is_reached = layer not in LAYERS or layer <= LAYERS[min(step + 1, 3)]
            assert count - seen.get(name, 0) == is_reached, f"{objective.name} {name}"
        seen = counts
    assert all(torch.equal(kept[name], value.double()) for name, value in teacher.network.state_dict().items())


def test_the_teacher_is_run_once_for_a_batch() -> None:
    calls = []

    class Counting(Plain):
        def lesson(self, images_BCHW: Tensor, *, stages: int) -> Any:
            calls.append(tuple(images_BCHW.shape))
            return super().lesson(images_BCHW, stages=stages)

    method = make(teacher=Counting(CONTEXT, PlainSettings()))
    for objective in method.objectives(make_batch()):
        for part in (slice(0, 2), slice(2, 4), slice(0, 4)):
            objective.loss(part)
    assert calls == [(4, 3, 32, 32)]


@pytest.mark.parametrize("teacher", [pmal_teacher, vit_teacher], ids=["pmal", "vit"])
def test_what_is_exported_is_the_plain_timm_model(teacher: Any) -> None:
    method = Pmd(replace(CONTEXT, teacher=teacher()), SETTINGS)
    method.network.eval()
    export = method.export()
    config = json.loads(json.dumps(export.config))
    model = timm.create_model(config["backbone"], num_classes=config["num_classes"], **config["timm"]).eval()
    assert export.state_dict.keys() == model.state_dict().keys()
    deployed, plain = (sum(parameter.numel() for parameter in part.parameters()) for part in (method.deployed, model))
    assert deployed == plain
    model.load_state_dict(export.state_dict)
    images = make_batch().images_BCHW.float()
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(method.predict(images), model((images - mean) / std))
    loaded = load_export(export.state_dict, config)
    assert torch.equal(loaded.predict(images), method.predict(images))
    with pytest.raises(ValueError, match="pmd must have a teacher to train"):
        loaded.objectives(make_batch())


@pytest.mark.slow
def test_cost_is_the_mean_over_the_epochs_with_the_teachers_one_pass() -> None:
    """Of equal backbones and logits alone, a batch is a pass and the teacher's forward pass, a third of one or so."""
    teacher = Plain(replace(CONTEXT, seed=9), PlainSettings())
    settings = PmdSettings(stages=1, feature_weight=0.0)

    def passes(share: float, epochs: int) -> float:
        return Pmd(
            replace(CONTEXT, teacher=teacher, epochs=epochs), replace(settings, distil_share=share)
        ).passes_per_image()

    assert passes(0.0, 4) == 1.0
    taught = passes(1.0, 4)
    macs = []
    hooks = [
        module.register_forward_hook(lambda m, _, output: macs.append(output.numel() * m.weight[0].numel()))
        for module in teacher.network.modules()
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))
    ]
    teacher.network.eval()
    teacher.predict(torch.rand(1, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    forward = sum(macs)
    assert taught == pytest.approx(1 + forward / (3 * forward - macs[0]), rel=1e-9)
    assert passes(0.5, 4) == pytest.approx((1 + taught) / 2)
    assert passes(0.5, 3) == pytest.approx((1 + 2 * taught) / 3)  # two of three epochs begin below the half


def test_a_student_can_teach_and_have_another_backbone_than_its_teacher() -> None:
    assistant = Pmd(replace(CONTEXT, teacher=vit_teacher()), replace(SETTINGS, stages=2, stage_weights=()))
    student = make(SETTINGS, teacher=assistant)
    assert [objective.name for objective in student.objectives(make_batch())][-1] == "distil"


def test_kl_is_hintons_and_vanishes_for_equal_logits() -> None:
    student = torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[1.0, 2.0, 4.0], [3.0, 0.0, -3.0]], dtype=torch.float64)
    losses = softened_divergence(student, teacher, temperature=3.0)
    reference = F.kl_div((student / 3).log_softmax(1), (teacher / 3).softmax(1), reduction="none").sum(1) * 9
    torch.testing.assert_close(losses, reference)
    assert losses[0].item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.gradcheck(lambda x: softened_divergence(x, teacher, temperature=3.0), student)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage_weights": (1.0, 2.0)}, r"stage_weights must be one number for each of the 3 stages, but got \[1"),
        ({"temperature": 2.0}, "temperature has no effect without logit_loss: kl"),
        ({"teacher_input": "same"}, "teacher_input has no effect without student_input: noisy"),
    ],
)
def test_settings_without_effect_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PmdSettings(**{"stages": 3, **changes})


def test_a_teacher_that_does_not_fit_is_explained() -> None:
    with pytest.raises(ValueError, match="must know the 3 classes of the images, but knows 5"):
        make(teacher=Plain(replace(CONTEXT, num_classes=5), PlainSettings()))
