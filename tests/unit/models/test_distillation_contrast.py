"""CRD against its formula by loops; its banks move by commits alone."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.distillation import contrast, memory
from models.distillation.contrast import CRD, Crd, CrdSettings
from models.distillation.loss import Sample, View
from tests.unit.models.contrast_views import (
    NUM_CLASSES,
    LABELS_n,
    check_finite,
    check_precise,
    check_trains,
    facts,
    sample,
    shape,
    take,
    take_sample,
    to_meta,
    view,
)

STUDENT, TEACHER = shape(6), shape(9)
SETTINGS = CrdSettings(crd_dim=4, crd_negatives=7, crd_temperature=0.5, crd_momentum=0.3)


def build(settings: CrdSettings = SETTINGS, *, seed: int = 0, labels_n: Tensor | None = LABELS_n) -> Crd:
    torch.manual_seed(seed)
    module = CRD.build(facts(STUDENT, TEACHER, labels_n), settings)
    assert isinstance(module, Crd)
    return module.double()


def views(batch: int = 5, seed: int = 0) -> tuple[View, View]:
    return view(STUDENT, batch=batch, seed=seed), view(TEACHER, batch=batch, seed=seed + 50)


def banks(module: Crd) -> list[Tensor]:
    return [module.student_bank.values_nD.clone(), module.teacher_bank.values_nD.clone()]


def embedded(module: Crd, student: View, teacher: View) -> list[Tensor]:
    own = student.embedding_BD @ module.student_embedding.weight.T + module.student_embedding.bias
    others = teacher.embedding_BD @ module.teacher_embedding.weight.T + module.teacher_embedding.bias
    return [values / values.norm(dim=1, keepdim=True) for values in (own, others)]


@torch.no_grad()
def by_hand(module: Crd, student: View, teacher: View, given: Sample) -> float:
    """The public form: shares x of the bank, Z = n exp(level), and the odds against K negatives out of n."""
    num_rows, num_negatives = len(LABELS_n), module.num_negatives
    noise = num_negatives / num_rows
    rows_BK = module.others(given.rows_B, given.keys_B, num_negatives)
    total = 0.0
    sides = [(module.teacher_bank, module.student_level), (module.student_bank, module.teacher_level)]
    for anchors, (bank, level) in zip(embedded(module, student, teacher), sides, strict=True):
        scale = num_rows * math.exp(level)
        for anchor, row, negatives in zip(anchors, given.rows_B.tolist(), rows_BK.tolist(), strict=True):
            shares = [math.exp(float((anchor * bank.values_nD[j]).sum()) / 0.5) / scale for j in (row, *negatives)]
            total -= math.log(shares[0] / (shares[0] + noise))
            total -= sum(math.log(noise / (share + noise)) for share in shares[1:])
    return total / len(given.rows_B)


def test_it_is_the_formula() -> None:
    module = build()
    for seed in range(2):
        student, teacher = views(seed=seed)
        loss = module(student, teacher, sample(first_key=seed))
        assert loss.item() == pytest.approx(by_hand(module, student, teacher, sample(first_key=seed)), rel=1e-9)
        module.commit()


def test_it_differentiates() -> None:
    module = build()
    student, teacher = views(3)
    parameters = list(module.parameters())
    assert torch.autograd.gradcheck(
        lambda values, *_: module(student._replace(embedding_BD=values), teacher, sample(3)),
        (student.embedding_BD, *parameters),
    )


def test_it_trains_the_student_and_both_embeddings() -> None:
    check_trains(build, *views(), sample())


@pytest.mark.parametrize("negatives", [1, 7, 100])
def test_degenerate_batches_are_finite(negatives: int) -> None:
    module = build(CrdSettings(crd_dim=4, crd_negatives=negatives))
    check_finite(module, STUDENT, TEACHER)
    module.commit()
    check_finite(module, STUDENT, TEACHER)


def test_low_temperatures_are_finite() -> None:
    module = build(CrdSettings(crd_dim=4, crd_negatives=7, crd_temperature=0.002)).float()
    loss = module(view(STUDENT, dtype=torch.float32), view(TEACHER, dtype=torch.float32), sample())
    assert torch.isfinite(loss)


def test_half_precision_is_widened() -> None:
    check_precise(lambda: build().float(), STUDENT, TEACHER)


def test_the_same_batch_gives_the_same_loss_until_the_commit() -> None:
    module, (student, teacher) = build(), views()
    before = banks(module)
    losses = [module(student, teacher, sample()).item() for _ in range(3)]
    assert losses[0] == losses[1] == losses[2]
    assert all(torch.equal(*pair) for pair in zip(before, banks(module), strict=True))
    assert module(student, teacher, sample(first_key=7)).item() != losses[0]
    module.commit()
    assert module(student, teacher, sample()).item() != losses[0]


def test_slices_and_chunks_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    module, (student, teacher), given = build(), views(), sample()
    whole = module(student, teacher, given)
    whole.backward()
    expected = student.embedding_BD.grad
    parts = [
        module(take(student, part), take(teacher, part), take_sample(given, part)) * (part.stop - part.start)
        for part in (slice(0, 2), slice(2, 5))
    ]
    torch.testing.assert_close(torch.stack(parts).sum() / 5, whole, rtol=1e-12, atol=0)
    monkeypatch.setattr(contrast, "_CHUNK_VALUES", 2 * len(LABELS_n))
    seen: list[int] = []
    whole_chunk = Crd._chunk
    monkeypatch.setattr(Crd, "_chunk", lambda self, *each: seen.append(len(each[0])) or whole_chunk(self, *each))
    student.embedding_BD.grad = None
    chunked = module(student, teacher, given)
    assert seen == [2, 2, 1]
    chunked.backward()
    torch.testing.assert_close(chunked, whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(student.embedding_BD.grad, expected, rtol=1e-10, atol=1e-14)


def test_a_commit_moves_the_banks_once_by_the_first_pass() -> None:
    module, (student, teacher), given = build(), views(), sample()
    before = banks(module)
    wanted = [values.detach() for values in embedded(module, student, teacher)]
    for part in (slice(0, 2), slice(2, 5)):  # micro-batches, then SAM's second pass at other weights
        module(take(student, part), take(teacher, part), take_sample(given, part))
    for part in (slice(0, 2), slice(2, 5)):
        module(take(views(seed=9)[0], part), take(teacher, part), take_sample(given, part))
    module.commit()
    for old, new, values in zip(before, banks(module), wanted, strict=True):
        mixed = 0.3 * old[given.rows_B] + 0.7 * values
        old[given.rows_B] = mixed / mixed.norm(dim=1, keepdim=True)
        torch.testing.assert_close(new, old, rtol=1e-12, atol=1e-14)
    after = banks(module)
    module.commit()  # nothing is left
    assert all(torch.equal(*pair) for pair in zip(after, banks(module), strict=True))


def test_workers_that_share_a_batch_have_the_banks_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, (student, teacher), given = build(), views(), sample()
    alone(student, teacher, given)
    alone.commit()
    workers, parts, offered = [build(), build(), build()], [slice(0, 2), slice(2, 5)], []
    for worker, part in zip(workers, parts, strict=False):  # the third has no image
        worker(take(student, part), take(teacher, part), take_sample(given, part))
    monkeypatch.setattr(memory, "gather_rows", lambda *own: offered.append(own) or own)
    for worker in copy.deepcopy(workers):
        worker.commit()
    gathered = tuple(torch.cat(each) for each in zip(*offered, strict=True))
    monkeypatch.setattr(memory, "gather_rows", lambda *own: gathered)
    for worker in workers:
        worker.commit()
        assert all(torch.equal(*pair) for pair in zip(banks(alone), banks(worker), strict=True))


def test_evaluation_leaves_nothing_behind() -> None:
    module = build().eval()
    before = banks(module)
    module(*views(), sample())
    module.commit()
    assert all(torch.equal(*pair) for pair in zip(before, banks(module), strict=True))


def steps(module: Crd, numbers: range) -> list[float]:
    """Losses of batches, each with an update and a commit."""
    losses = []
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for number in numbers:
        loss = module(*views(seed=number), sample(first_row=number, first_key=10 * number))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        module.commit()
        losses.append(loss.item())
    return losses


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    module = build()
    expected = steps(module, range(6))
    first = build()
    losses = steps(first, range(3))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = build(seed=1)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert losses + steps(second, range(3, 6)) == expected
    assert all(torch.equal(*pair) for pair in zip(banks(module), banks(second), strict=True))


def test_what_a_checkpoint_holds() -> None:
    assert set(build().state_dict()) == {
        *(f"{who}_{what}" for who in ("student", "teacher") for what in ("embedding.weight", "embedding.bias")),
        *(f"{who}_{what}" for who in ("student", "teacher") for what in ("bank.values_nD", "level")),
    }


def test_shapes_alone_can_be_counted() -> None:
    module = build()
    shapes = copy.deepcopy(module).to("meta")
    student, teacher = (to_meta(each) for each in views())
    loss = shapes(student, teacher, to_meta(sample()))
    assert loss.is_meta
    loss.backward()
    on_meta = to_meta(sample())
    assert shapes(student, teacher, on_meta._replace(keys_B=on_meta.keys_B.to("meta"))).is_meta


def test_it_can_be_timed_without_labels() -> None:
    module = build(labels_n=None)
    assert len(module.student_bank.values_nD) == NUM_CLASSES
    assert torch.isfinite(module(*views(), sample()._replace(rows_B=torch.arange(5) + 1000)))
    module.commit()


def test_published_settings() -> None:
    assert CrdSettings() == CrdSettings(128, 16384, 0.07, 0.5)
    assert CRD.weight == 0.8
    assert not CRD.relational
    assert not build().relational
