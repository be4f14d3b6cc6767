"""Distillation and HORKD as methods: their sum against one written out, what they leave alone, and what they export."""

from dataclasses import asdict, fields, replace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional as F

from models.distillation.loss import View
from models.distillation.registry import LOSSES
from models.methods.distil import Distil, DistilSettings, LossWeights
from models.methods.horkd import Horkd, HorkdSettings
from models.methods.method import Batch, Context
from models.methods.plain import Plain, PlainSettings
from models.methods.pmal import Pmal, PmalSettings
from models.methods.registry import load_export
from models.sam import SamSettings, sam_step
from noise.keyed import image_keys
from noise.low_resolution import Lens, LowResolution

NUM_CLASSES, SMOOTHING = 3, 0.1
LABELS = torch.arange(40) % NUM_CLASSES
CONTEXT = Context(
    "test_resnet", num_classes=NUM_CLASSES, image_size=32, label_smoothing=SMOOTHING, seed=2,
    train_ids=torch.arange(40) * 7, train_labels=LABELS,
)  # fmt: skip


def plain_teacher(backbone: str = "test_resnet", image_size: int = 32) -> Plain:
    teacher = Plain(replace(CONTEXT, backbone=backbone, image_size=image_size, seed=9), PlainSettings())
    teacher.network.double().eval()
    return teacher


def make_batch(count: int = 6) -> Batch:
    images_BCHW = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows_B = torch.arange(count) * 3
    return Batch(images_BCHW, LABELS[rows_B], image_keys(rows_B, seed=0), ids_B=rows_B * 7)


def settings_of(**weights: float) -> DistilSettings:
    return DistilSettings(losses=LossWeights(**weights), label_weight=0.1)


def make(settings: Any, **changes: Any) -> Any:
    kind = Horkd if isinstance(settings, HorkdSettings) else Distil
    method: Any = kind(replace(CONTEXT, **({"teacher": plain_teacher()} | changes)), settings)
    method.network.double()
    return method


def entropy(logits_BN: Tensor, labels_B: Tensor) -> Tensor:
    wrong = SMOOTHING / (NUM_CLASSES - 1)
    target_BN = torch.full_like(logits_BN, wrong).scatter(1, labels_B[:, None], 1 - SMOOTHING)
    return -(target_BN * logits_BN.log_softmax(1)).sum(1).mean()


def seen(network: Any, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Embedding and logits by timm's own calls."""
    model = network.model
    normalised = (images_BCHW - torch.tensor(network.mean).view(3, 1, 1)) / torch.tensor(network.std).view(3, 1, 1)
    embedding_BD = model.forward_head(model.forward_features(normalised.double()), pre_logits=True)
    return embedding_BD, model.get_classifier()(embedding_BD)


def relations(ours_BD: Tensor, theirs_BD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three orders, loop by loop."""
    count = len(ours_BD)
    first = ((F.normalize(ours_BD) - F.normalize(theirs_BD)) ** 2).sum(1).mean()
    distances = []
    for points in (ours_BD, theirs_BD):
        own = torch.stack([(points[i] - points[j]).norm() for i in range(count) for j in range(count)])
        distances.append(own / own[own > 0].mean())
    second = F.smooth_l1_loss(*distances)
    angles = []
    for points in (ours_BD, theirs_BD):
        found = []
        for i in range(count):
            for j in range(count):
                for k in range(count):
                    one, other = points[j] - points[i], points[k] - points[i]
                    found.append(F.normalize(one, dim=0) @ F.normalize(other, dim=0))
        angles.append(torch.stack(found))
    return first, second, F.smooth_l1_loss(*angles)


def test_the_sum_is_that_of_labels_and_weighted_losses() -> None:
    method = make(settings_of(kd=0.9, rkd=2.0))
    method.network.eval()  # the statistics that timm's own calls below see
    batch, teacher = make_batch(), plain_teacher()
    (step,) = method.objectives(batch)
    (ours_BD, ours_BN), (theirs_BD, theirs_BN) = (
        seen(n, batch.images_BCHW) for n in (method.backbone, teacher.network)
    )
    kd = 16 * F.kl_div((ours_BN / 4).log_softmax(1), (theirs_BN / 4).softmax(1), reduction="batchmean")
    _, distance, angle = relations(ours_BD, theirs_BD.detach())
    expected = 0.1 * entropy(ours_BN, batch.labels_B) + 0.9 * kd + 2.0 * (25 * distance + 50 * angle)
    loss = step.loss(slice(None))
    assert loss.count == 6
    torch.testing.assert_close(loss.total / 6, expected, rtol=1e-9, atol=1e-9)
    got, wanted = (torch.autograd.grad(value, step.parameters) for value in (loss.total / 6, expected))
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-9)
    assert not step.decomposable


def test_horkd_is_the_three_orders_to_both_teachers() -> None:
    settings = HorkdSettings(first_order=2.0, second_order=3.0, third_order=5.0, kd_weight=0.5, direct_weight=0.25)
    far = plain_teacher("test_resnet")
    far.network.model.fc.weight.data.mul_(1.5)
    far.network.model.conv1[0].weight.data.mul_(0.7)
    method = make(settings, direct_teacher=far)
    method.network.eval()
    batch = make_batch()
    (step,) = method.objectives(batch)
    ours_BD, ours_BN = seen(method.backbone, batch.images_BCHW)
    expected = entropy(ours_BN, batch.labels_B)
    for teacher, factor in ((plain_teacher(), 1.0), (far, 0.25)):
        theirs_BD, theirs_BN = (value.detach() for value in seen(teacher.network, batch.images_BCHW))
        kd = 16 * F.kl_div((ours_BN / 4).log_softmax(1), (theirs_BN / 4).softmax(1), reduction="batchmean")
        first, second, third = relations(ours_BD, theirs_BD)
        expected = expected + factor * (2 * first + 3 * second + 5 * third + 0.5 * kd)
    torch.testing.assert_close(step.loss(slice(None)).total / 6, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_trains_a_student_and_leaves_nothing_in_it(name: str) -> None:
    """A teacher of another depth and width, and images of half the side: adapters are needed everywhere."""
    sampler = LowResolution((16,), lens=Lens(small=True))
    # Class activations need a classifier that reads the mean of the last map; the small EfficientNet's does not.
    teacher = plain_teacher("resnet10t" if name == "at_plus" else "test_efficientnet")
    settings = DistilSettings(losses=LossWeights(**{name: 1.0}))
    method = make(settings, teacher=teacher, sampler=sampler, input_size=16)
    own = {key: value.clone() for key, value in method.network.losses.state_dict().items()}
    kept = {key: value.clone() for key, value in teacher.network.state_dict().items()}
    start = {key: value.clone() for key, value in method.deployed.state_dict().items()}
    optimizer = torch.optim.SGD(method.network.parameters(), lr=0.01)
    method.network.train()
    for _ in range(2):
        batch = make_batch()
        for step in method.objectives(batch):
            loss = sam_step(
                optimizer, lambda step=step: step.loss(slice(None)).total / 6, parameters=step.parameters,
                sam=SamSettings(rho=0.05), modules=method.network,
            )  # fmt: skip
            assert loss.isfinite()
    moved = {key for key, value in method.network.losses.state_dict().items() if not torch.equal(value, own[key])}
    for key, parameter in method.network.losses.named_parameters():
        is_undone = key == "fitnet.convolution.bias"  # the batch norm behind it takes it away
        assert key in moved or is_undone, f"{key} did not train: {parameter.shape}"
    assert any(not torch.equal(value, start[key]) for key, value in method.deployed.state_dict().items())
    assert all(torch.equal(value, kept[key]) for key, value in teacher.network.state_dict().items())
    plain = timm.create_model("test_resnet", num_classes=NUM_CLASSES)
    export = method.export()
    assert set(export.state_dict) == set(plain.state_dict())
    again = load_export({k: v.float() for k, v in export.state_dict.items()}, export.config)
    method.network.float().eval()
    images_BCHW = make_batch().images_BCHW.float()
    torch.testing.assert_close(again.predict(images_BCHW), method.predict(images_BCHW))
    assert method.passes_per_image() > 1


def test_the_teacher_is_run_once_for_a_batch_on_the_images_as_they_were() -> None:
    shown: list[Tensor] = []

    class Watching(Plain):
        def view(self, images_BCHW: Tensor) -> View:
            shown.append(images_BCHW)
            return super().view(images_BCHW)

    teacher = Watching(replace(CONTEXT, seed=9), PlainSettings())
    sampler = LowResolution((8,), lens=Lens())
    batch = make_batch()
    for teacher_input in ("clean", "same"):
        shown.clear()
        settings = replace(settings_of(kd=1.0), teacher_input=teacher_input)
        method = make(settings, teacher=teacher, sampler=sampler)
        for step in method.objectives(batch):
            for part in (slice(0, 2), slice(2, 6), slice(0, 6)):
                step.loss(part)
        (only,) = shown
        assert torch.equal(only, batch.images_BCHW) == (teacher_input == "clean")


def test_slices_add_up_where_nothing_is_compared_between_images() -> None:
    method = make(settings_of(kd=0.9, at=1.0, vid=1.0, crd=0.8))
    method.network.eval()
    (step,) = method.objectives(make_batch())
    assert step.decomposable
    parts = [step.loss(part) for part in (slice(0, 2), slice(2, 6))]
    torch.testing.assert_close(parts[0].total + parts[1].total, step.loss(slice(None)).total)


def test_a_student_starts_from_its_assistant_if_asked() -> None:
    assistant = plain_teacher()
    started = make(HorkdSettings(start="teacher"), teacher=assistant)
    assert all(torch.equal(v, started.deployed.state_dict()[k]) for k, v in assistant.deployed.state_dict().items())
    assert not torch.equal(make(HorkdSettings()).deployed.state_dict()["fc.weight"], assistant.network.model.fc.weight)
    with pytest.raises(ValueError, match="start: teacher needs a teacher of the student's own backbone"):
        make(HorkdSettings(start="teacher"), teacher=plain_teacher("test_efficientnet"))


def test_a_pmal_teacher_teaches_by_the_sum_of_its_heads() -> None:
    sizes = PmalSettings(stages=2, head_widths=(6, 8), classifier_width=5, decoder_widths=(8, 8, 4))
    teacher = Pmal(replace(CONTEXT, seed=9), sizes)
    teacher.network.double().eval()
    method = make(DistilSettings(losses=LossWeights(kd=1.0), label_weight=0.0), teacher=teacher)
    method.network.eval()
    batch = make_batch()
    (step,) = method.objectives(batch)
    ours_BN, theirs_BN = method.predict(batch.images_BCHW), teacher.predict(batch.images_BCHW)
    kd = 16 * F.kl_div((ours_BN / 4).log_softmax(1), (theirs_BN / 4).softmax(1), reduction="batchmean")
    torch.testing.assert_close(step.loss(slice(None)).total / 6, kd)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DistilSettings(), r"one or more a weight above 0, such as \{kd: 0.9\}, .*there are kd, "),
        (lambda: DistilSettings(losses=LossWeights(kd=1.0), dkd_beta=2.0), "dkd_beta has no effect without dkd among"),
        (lambda: DistilSettings(losses=LossWeights(kd=1.0), gather=True), "gather has no effect, as no loss here comp"),
        (lambda: HorkdSettings(first_order=0, second_order=0, third_order=0), "first_order must be above 0"),
        (lambda: HorkdSettings(kd_temperature=2.0), "kd_temperature has no effect without kd among the losses"),
        (lambda: HorkdSettings(first_order=1, second_order=0, third_order=0, gather=True), "gather has no effect"),
        (lambda: make(settings_of(kd=1.0), teacher=None).objectives(make_batch()), "distil must have a teacher"),
        (lambda: make(HorkdSettings(direct_weight=1.0)), "direct_weight needs a second teacher"),
        (lambda: make(settings_of(kd=1.0), num_classes=4), "must know the 4 classes of the images, but knows 3"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_each_loss_has_a_weight_of_its_own_and_its_settings_come_along() -> None:
    assert set(asdict(LossWeights())) == set(LOSSES)
    names = [item.name for item in fields(DistilSettings)]
    assert len(names) == len(set(names))
    given = DistilSettings(losses=LossWeights(dkd=1.0), dkd_beta=2.0)
    assert DistilSettings(**asdict(given)) == given  # as an export comes back through JSON
