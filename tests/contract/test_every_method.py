"""What every method promises, whatever it does."""

import json
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from models.methods.method import SUM, Batch, Context, Headed, Method, Teacher, Viewed
from models.methods.registry import METHODS, load_export
from models.sam import SamSettings, sam_step

# A method with defaults too large for a test says here what to make small.
SMALL: dict[str, dict[str, Any]] = {
    "pmal": {"stages": 2, "head_widths": (8, 8), "classifier_width": 8, "decoder_widths": (8, 8, 8)},
    "pmd": {"stages": 2, "feature_weight": 1.0, "distil_share": 1.0},
    "distil": {"losses": {"kd": 0.9, "fitnet": 1.0, "at": 1.0}},
    "horkd": {"first_order": 1.0, "second_order": 2.0, "third_order": 3.0},
}
NUM_CLASSES = 5


@dataclass(frozen=True)
class Pair:
    target_BCHW: Tensor
    input_BCHW: Tensor


def sampler(images_BCHW: Tensor, keys_B: Tensor, *, draw: int = 0, level: float = 1.0) -> Pair:
    return Pair(images_BCHW, images_BCHW + 0.01 * (keys_B.view(-1, 1, 1, 1) + draw))


def build(name: str, *, seed: int = 0, backbone: str = "test_resnet") -> Method:
    spec = METHODS[name]
    context = Context(backbone, num_classes=NUM_CLASSES, image_size=32, sampler=sampler, label_smoothing=0.1, seed=seed)
    if spec.taught:
        teacher = build("pmal", seed=9)
        assert isinstance(teacher, Teacher)
        context = replace(context, teacher=teacher)
    return spec.build(context, spec.settings(**SMALL.get(name, {})))


@pytest.fixture
def batch() -> Batch:
    images_BCHW = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return Batch(images_BCHW, labels_B=torch.tensor([0, 1, 2, 3, 4, 0]), keys_B=torch.arange(6))


@pytest.mark.parametrize("name", METHODS)
def test_objectives_train_what_they_declare(name: str, batch: Batch) -> None:
    method = build(name)
    trained = {id(parameter) for group in method.parameter_groups().values() for parameter in group}
    names: list[str] = []
    for objective in method.objectives(batch):
        names.append(objective.name)
        assert {id(parameter) for parameter in objective.parameters} <= trained
        loss = objective.loss(slice(0, 6))
        assert loss.count == 6
        assert loss.total.shape == ()
        gradients = torch.autograd.grad(loss.total, objective.parameters, allow_unused=True)
        assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
    assert names
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", METHODS)
def test_slices_add_up_to_the_whole(name: str, batch: Batch) -> None:
    method = build(name)
    method.network.double().eval()  # without batch statistics, which do not add up
    batch = Batch(batch.images_BCHW.double(), batch.labels_B, batch.keys_B)
    for objective in method.objectives(batch):
        if objective.decomposable:
            whole, parts = objective.loss(slice(0, 6)), [objective.loss(slice(0, 4)), objective.loss(slice(4, 6))]
            torch.testing.assert_close(parts[0].total + parts[1].total, whole.total)
            assert parts[0].count + parts[1].count == whole.count


@pytest.mark.parametrize("name", METHODS)
def test_its_entry_says_whether_all_its_losses_add_up(name: str, batch: Batch) -> None:
    """A study file with micro-batches is refused by it, before anything starts."""
    spec = METHODS[name]
    said = spec.decomposable and getattr(spec.settings(**SMALL.get(name, {})), "decomposable", True)
    assert said == all(objective.decomposable for objective in build(name).objectives(batch))


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_passes_leave_finite_float32_gradients(name: str, batch: Batch) -> None:
    method = build(name)
    for objective in method.objectives(batch):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = objective.loss(slice(0, 6)).total
        assert low.dtype == torch.float32
        torch.testing.assert_close(low, objective.loss(slice(0, 6)).total, rtol=0.05, atol=0.0)
        gradients = torch.autograd.grad(low, objective.parameters, allow_unused=True)
        for gradient in gradients:
            assert gradient is None or (gradient.dtype == torch.float32 and bool(gradient.isfinite().all()))


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_few_updates_lower_the_loss(name: str, batch: Batch) -> None:
    method = build(name)
    optimizer = torch.optim.SGD(list(method.network.parameters()), lr=0.02, momentum=0.9)
    losses: list[float] = []
    for _ in range(12):
        summed = 0.0
        for objective in method.objectives(batch):

            def closure(objective: Any = objective) -> Tensor:
                loss = objective.loss(slice(0, 6))
                return loss.total / loss.count

            loss = sam_step(
                optimizer,
                closure,
                parameters=objective.parameters,
                sam=SamSettings(rho=0.01),
                modules=method.network,
            )
            summed += float(loss)
        losses.append(summed)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", METHODS)
def test_groups_hold_every_trained_parameter_once(name: str) -> None:
    method = build(name)
    groups = method.parameter_groups()
    assert set(groups) == {"backbone", "heads"}
    ids = [id(parameter) for group in groups.values() for parameter in group]
    assert len(ids) == len(set(ids))
    assert set(ids) <= {id(parameter) for parameter in method.network.parameters()}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_export_predicts_the_same(name: str, backbone: str, batch: Batch) -> None:
    method = build(name, backbone=backbone)
    method.network.eval()
    logits_BN = method.predict(batch.images_BCHW)
    assert logits_BN.shape == (6, NUM_CLASSES)
    assert not logits_BN.requires_grad
    export = method.export()
    loaded = load_export(export.state_dict, json.loads(json.dumps(export.config)))
    assert not loaded.network.training
    assert torch.equal(loaded.predict(batch.images_BCHW), logits_BN)
    torch.testing.assert_close(method.predictor().eval()(batch.images_BCHW), logits_BN)
    restored_BCHW = method.restore(batch.images_BCHW)
    assert restored_BCHW is None or restored_BCHW.shape == batch.images_BCHW.shape


@pytest.mark.parametrize("name", METHODS)
def test_a_teacher_shows_its_maps_and_its_own_prediction(name: str, batch: Batch) -> None:
    method = build(name)
    assert isinstance(method, Teacher)
    method.network.eval()
    with torch.no_grad():
        lesson = method.lesson(batch.images_BCHW, stages=3)
    assert [tuple(feature.shape[:2]) for feature in lesson.features] == [(6, c) for c in method.backbone.channels[-3:]]
    torch.testing.assert_close(torch.stack(lesson.logits).sum(0), method.predict(batch.images_BCHW))


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_heads_that_answer_alone_have_names_and_costs(name: str, backbone: str, batch: Batch) -> None:
    method = build(name, backbone=backbone)
    assert isinstance(method, Headed) == (name == "pmal")
    if not isinstance(method, Headed):
        return
    method.network.eval()
    found, costs = method.heads(batch.images_BCHW), method.head_costs()
    assert list(found) == list(costs) == [*(f"stage{k}" for k in range(1, len(found) - 1)), "backbone", SUM]
    assert torch.equal(found[SUM], method.predict(batch.images_BCHW))
    assert not any(logits_BN.requires_grad for logits_BN in found.values())
    assert max(costs.values()) == costs[SUM]
    assert all(0 < cost.macs <= costs[SUM].macs and cost.parameters > 0 for cost in costs.values())


@pytest.mark.parametrize("name", METHODS)
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = build(name, seed=7).network.state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second, other = build(name, seed=7).network.state_dict(), build(name, seed=8).network.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_cost_is_at_least_a_pass_and_changes_nothing(name: str) -> None:
    method = build(name)
    before = {key: value.clone() for key, value in method.network.state_dict().items()}
    assert method.passes_per_image() >= 1
    after = method.network.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(parameter.grad is None for parameter in method.network.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_settings_explain_themselves(name: str) -> None:
    spec = METHODS[name]
    assert spec.doc
    for field in fields(spec.settings):
        assert field.metadata["doc"], field.name
        assert set(field.metadata) <= {"doc", "ge", "gt", "le", "lt", "multiple_of"}
        assert hash(field.default) is not None  # frozen: nothing that one method changes is another's default


@pytest.mark.parametrize("name", METHODS)
def test_its_view_is_what_it_predicts_by(name: str, batch: Batch) -> None:
    method = build(name)
    assert isinstance(method, Viewed)
    method.network.eval()
    with torch.no_grad():
        view = method.view(batch.images_BCHW)
    assert [one.shape[1] for one in view.maps] == list(method.backbone.channels)
    torch.testing.assert_close(view.logits_BN, method.predict(batch.images_BCHW))
    assert view.embedding_BD.shape[0] == len(batch)
    last = method.backbone.model.get_classifier()
    with torch.no_grad():
        own_BN = method.backbone.forward_all(batch.images_BCHW * 2 - 1, [0])[1]
    torch.testing.assert_close(last(view.embedding_BD), own_BN)
    assert view.classifier_ND is not None
    assert torch.equal(view.classifier_ND, last.weight)
