"""KD, DKD and DIST against their formulas, written out image by image."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.distillation.geometry import correlations
from models.distillation.logits import decoupled
from models.distillation.loss import RelationalLoss
from tests.unit.models.distillation_views import STUDENT, TEACHER, build, random_view, sample_of

COUNT = 6
STUDENT_VIEW, TEACHER_VIEW = (
    random_view(shape, COUNT, seed=seed, spread=3.0) for shape, seed in ((STUDENT, 1), (TEACHER, 2))
)


def softmax(logits: list[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in logits]
    return [power / sum(powers) for power in powers]


def divergence(of: list[float], against: list[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(of, against, strict=True))


def probabilities(temperature: float) -> tuple[list[list[float]], list[list[float]]]:
    mine, theirs = (
        [softmax(row, temperature) for row in view.logits_BN.tolist()] for view in (STUDENT_VIEW, TEACHER_VIEW)
    )
    return mine, theirs


def value_of(name: str, *, progress: float = 0.5, **changes: float) -> float:
    return build(name, **changes)(STUDENT_VIEW, TEACHER_VIEW, sample_of(COUNT, progress=progress)).item()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_is_the_formula_and_torchs(temperature: float) -> None:
    rows = zip(*probabilities(temperature), strict=True)
    by_hand = temperature**2 * sum(divergence(theirs, mine) for mine, theirs in rows) / COUNT
    assert value_of("kd", kd_temperature=temperature) == pytest.approx(by_hand, rel=1e-12)
    log_BN, target_BN = (view.logits_BN / temperature for view in (STUDENT_VIEW, TEACHER_VIEW))
    torchs = F.kl_div(log_BN.log_softmax(1), target_BN.softmax(1), reduction="batchmean") * temperature**2
    assert by_hand == pytest.approx(torchs.item(), rel=1e-12)


def test_kd_has_the_published_temperature() -> None:
    assert value_of("kd") == value_of("kd", kd_temperature=4.0)


@pytest.mark.parametrize(("alpha", "beta", "temperature"), [(1.0, 8.0, 4.0), (0.5, 2.0, 1.5)])
def test_dkd_is_the_formula(alpha: float, beta: float, temperature: float) -> None:
    total = 0.0
    labels = sample_of(COUNT).labels_B.tolist()
    for mine, theirs, label in zip(*probabilities(temperature), labels, strict=True):
        target = divergence([theirs[label], 1 - theirs[label]], [mine[label], 1 - mine[label]])
        rest = [[p / (1 - row[label]) for n, p in enumerate(row) if n != label] for row in (theirs, mine)]
        total += alpha * target + beta * divergence(*rest)
    settings = {"dkd_alpha": alpha, "dkd_beta": beta, "dkd_temperature": temperature}
    assert value_of("dkd", **settings) == pytest.approx(temperature**2 * total / COUNT, rel=1e-10)
    if temperature == 4.0:
        assert value_of("dkd") == value_of("dkd", **settings)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kds_divergence_is_both_parts_of_dkd(temperature: float) -> None:
    labels_B = sample_of(COUNT).labels_B
    target_B, others_B = decoupled(STUDENT_VIEW.logits_BN, TEACHER_VIEW.logits_BN, labels_B, temperature=temperature)
    likely_B = (TEACHER_VIEW.logits_BN / temperature).softmax(1).gather(1, labels_B[:, None])[:, 0]
    whole = (target_B + (1 - likely_B) * others_B).mean()
    assert whole.item() == pytest.approx(value_of("kd", kd_temperature=temperature), rel=1e-10)


def test_two_classes_have_no_others() -> None:
    logits_BN = torch.tensor([[1.0, -1.0], [0.5, 2.0]], dtype=torch.float64)
    target_B, others_B = decoupled(logits_BN, -logits_BN, torch.tensor([0, 0]), temperature=1.0)
    assert (target_B > 0).all()
    assert not others_B.any()


@pytest.mark.parametrize(("progress", "warmup", "factor"), [
    (0.0, 0.1, 0.0), (0.025, 0.1, 0.25), (0.1, 0.1, 1.0), (0.9, 0.1, 1.0), (0.0, 0.0, 1.0), (0.5, 1.0, 0.5),
])  # fmt: skip
def test_dkd_warms_up(progress: float, warmup: float, factor: float) -> None:
    full = value_of("dkd", progress=0.99, dkd_warmup=0.0)
    assert value_of("dkd", progress=progress, dkd_warmup=warmup) == pytest.approx(factor * full, rel=1e-12)


def test_dkd_warms_up_for_twenty_of_240_epochs() -> None:
    full = value_of("dkd", dkd_warmup=0.0)
    assert value_of("dkd", progress=10 / 240) == pytest.approx(0.5 * full)
    assert value_of("dkd", progress=20 / 240) == pytest.approx(full)


@pytest.mark.parametrize(("tau", "inter", "intra"), [(4.0, 1.0, 1.0), (1.0, 2.0, 0.5)])
def test_dist_is_the_formula(tau: float, inter: float, intra: float) -> None:
    mine, theirs = (np.array(rows) for rows in probabilities(tau))
    rows = [1 - np.corrcoef(p, q)[0, 1] for p, q in zip(mine, theirs, strict=True)]
    columns = [1 - np.corrcoef(p, q)[0, 1] for p, q in zip(mine.T, theirs.T, strict=True)]
    by_hand = tau**2 * (inter * np.mean(rows) + intra * np.mean(columns))
    settings = {"dist_temperature": tau, "dist_inter": inter, "dist_intra": intra}
    assert value_of("dist", **settings) == pytest.approx(by_hand, rel=1e-10)
    if tau == 4.0:
        assert value_of("dist") == value_of("dist", **settings)


def test_dist_does_not_see_positive_affine_maps_of_probabilities() -> None:
    loss = build("dist")
    assert isinstance(loss, RelationalLoss)
    mine_BN, theirs_BN = loss.parts(STUDENT_VIEW, TEACHER_VIEW)
    expected = loss.compare(mine_BN, theirs_BN)
    torch.testing.assert_close(loss.compare(3 * mine_BN + 0.7, theirs_BN), expected)
    assert (loss.compare(-mine_BN, theirs_BN) - expected).abs() > 0.1
    scale_B1 = torch.linspace(0.5, 2, COUNT, dtype=torch.float64)[:, None]
    rows_alone = build("dist", dist_intra=0.0)
    assert isinstance(rows_alone, RelationalLoss)
    torch.testing.assert_close(
        rows_alone.compare(scale_B1 * mine_BN - scale_B1, theirs_BN), rows_alone.compare(mine_BN, theirs_BN)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_rows_correlate_with_nothing(dtype: torch.dtype) -> None:
    rows_BM = torch.full((3, 7), 1 / 7, dtype=dtype)
    rows_BM[2] = torch.arange(7)
    rows_BM.requires_grad_()
    others_BM = torch.randn(3, 7, generator=torch.Generator().manual_seed(0), dtype=dtype)
    found_B = correlations(rows_BM, others_BM)
    (gradient_BM,) = torch.autograd.grad(found_B.sum(), rows_BM)
    assert found_B[:2].tolist() == [0, 0]
    assert found_B[2].item() == pytest.approx(np.corrcoef(np.arange(7), others_BM[2].numpy())[0, 1], abs=1e-6)
    assert not gradient_BM[:2].any()
    assert gradient_BM[2].any()


def test_logits_far_apart_lose_no_part() -> None:
    """Probabilities that round to 0 still tell how far the student is off, where their logarithms are taken late."""
    mine_BN = torch.tensor([[-900.0, 0.0, 300.0]])
    theirs_BN = torch.tensor([[5.0, 0.0, 0.0]])
    target_B, others_B = decoupled(mine_BN, theirs_BN, torch.tensor([0]), temperature=1.0)
    likely = 1 / (1 + 2 * math.exp(-5))
    assert target_B.item() == pytest.approx(1200 * likely + _entropy(likely), rel=1e-6)
    assert others_B.item() == pytest.approx(math.log(0.5) + 0.5 * 300, rel=1e-6)


def _entropy(likely: float) -> float:
    return likely * math.log(likely) + (1 - likely) * math.log(1 - likely)


def test_a_teacher_that_is_sure_teaches_on() -> None:
    sure_BN: Tensor = torch.tensor([[2000.0, 0.0, -2000.0]])
    target_B, others_B = decoupled(torch.zeros(1, 3), sure_BN, torch.tensor([0]), temperature=1.0)
    assert target_B.item() == pytest.approx(math.log(3), rel=1e-6)
    assert others_B.item() == pytest.approx(math.log(2), rel=1e-6)
