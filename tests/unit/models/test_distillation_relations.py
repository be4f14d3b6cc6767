"""SP, PKT, CC and RKD against their formulas, written out pair by pair and triplet by triplet."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from models.distillation.geometry import angle_loss, distance_loss, scaled_distances
from models.distillation.loss import View
from models.distillation.relations import CorrelationCongruence
from models.distillation.vectors import directions
from tests.unit.models.distillation_views import STUDENT, TEACHER, build, random_view, sample_of

COUNT = 5
STUDENT_VIEW, TEACHER_VIEW = (random_view(shape, COUNT, seed=seed) for shape, seed in ((STUDENT, 1), (TEACHER, 2)))


def value_of(name: str, student: View = STUDENT_VIEW, teacher: View = TEACHER_VIEW, **changes: float) -> float:
    return build(name, **changes)(student, teacher, sample_of(len(student.logits_BN))).item()


def rows_of(values: Tensor) -> list[np.ndarray]:
    return list(values.flatten(1).numpy())


def huber(difference: float) -> float:
    return 0.5 * difference**2 if abs(difference) < 1 else abs(difference) - 0.5


def test_sp_is_the_formula() -> None:
    grams = []
    for view in (STUDENT_VIEW, TEACHER_VIEW):
        rows = rows_of(view.maps[-1])
        gram = [[float(one @ other) for other in rows] for one in rows]
        grams.append([[value / math.hypot(*row) for value in row] for row in gram])
    squares = [(grams[0][i][j] - grams[1][i][j]) ** 2 for i in range(COUNT) for j in range(COUNT)]
    assert value_of("sp") == pytest.approx(sum(squares) / COUNT**2, rel=1e-10)


def test_sp_has_no_order_of_channels_and_no_scale() -> None:
    changed = STUDENT_VIEW._replace(maps=(STUDENT_VIEW.maps[0], 3 * STUDENT_VIEW.maps[-1].flip(1)))
    assert value_of("sp", changed) == pytest.approx(value_of("sp"), rel=1e-10)


def test_pkt_is_the_formula() -> None:
    kernels = []
    for view in (STUDENT_VIEW, TEACHER_VIEW):
        rows = rows_of(view.embedding_BD)
        norms = [math.hypot(*row) for row in rows]
        kernel = [
            [(float(one @ other) / (norms[i] * norms[j]) + 1) / 2 for j, other in enumerate(rows)]
            for i, one in enumerate(rows)
        ]
        kernels.append([[value / sum(row) for value in row] for row in kernel])
    total = 0.0
    for own, wanted in zip(*kernels, strict=True):
        total += sum(p * math.log((p + 1e-7) / (q + 1e-7)) for q, p in zip(own, wanted, strict=True))
    assert value_of("pkt") == pytest.approx(total / COUNT**2, rel=1e-10)


def test_pkt_of_opposite_images_is_finite() -> None:
    signs_B1 = torch.tensor([1.0, -1, 1, -1, 1])[:, None]
    row_1D = torch.randn(1, STUDENT.embedding, generator=torch.Generator().manual_seed(0))
    opposite = STUDENT_VIEW._replace(embedding_BD=signs_B1 * row_1D)
    assert math.isfinite(
        value_of("pkt", opposite, TEACHER_VIEW._replace(embedding_BD=TEACHER_VIEW.embedding_BD.float()))
    )


def test_cc_is_the_formula() -> None:
    loss = build("cc")
    assert isinstance(loss, CorrelationCongruence)
    embedded = []
    for layer, view in ((loss.student_layer, STUDENT_VIEW), (loss.teacher_layer, TEACHER_VIEW)):
        weight, bias = (values.detach().numpy() for values in (layer.weight, layer.bias))
        embedded.append([weight @ row + bias for row in rows_of(view.embedding_BD)])
    apart = [np.abs(mine - theirs) for mine, theirs in zip(*embedded, strict=True)]
    by_hand = sum(float(apart[i] @ apart[i + 1]) for i in range(COUNT - 1)) / (COUNT - 1)
    assert loss(STUDENT_VIEW, TEACHER_VIEW, sample_of(COUNT)).item() == pytest.approx(by_hand, rel=1e-10)


def test_cc_has_two_linear_layers() -> None:
    sizes = [values.numel() for values in build("cc").parameters()]
    assert sum(sizes) == 128 * (STUDENT.embedding + 1) + 128 * (TEACHER.embedding + 1)
    assert sum(values.numel() for values in build("cc", cc_dim=3).parameters()) == 3 * (6 + 1) + 3 * (7 + 1)
    for name in ("sp", "pkt", "rkd"):
        assert not list(build(name).parameters())


def relative_distances(rows: list[np.ndarray]) -> list[list[float]]:
    distances = [[math.dist(one, other) for other in rows] for one in rows]
    positive = [value for row in distances for value in row if value > 0]
    return [[value * len(positive) / sum(positive) for value in row] for row in distances]


def cosine(rows: list[np.ndarray], i: int, j: int, k: int) -> float:
    """Of the angle at i, 0 where a side has no length."""
    if i in (j, k):
        return 0.0
    one, other = rows[j] - rows[i], rows[k] - rows[i]
    return float(one @ other) / (math.hypot(*one) * math.hypot(*other))


def distances_by_hand(mine: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    own, wanted = relative_distances(mine), relative_distances(theirs)
    pairs = [(i, j) for i in range(len(mine)) for j in range(len(mine))]
    return sum(huber(own[i][j] - wanted[i][j]) for i, j in pairs) / len(pairs)


def angles_by_hand(mine: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    every = range(len(mine))
    triplets = [(i, j, k) for i in every for j in every for k in every]
    return sum(huber(cosine(mine, *at) - cosine(theirs, *at)) for at in triplets) / len(triplets)


@pytest.mark.parametrize(("distance", "angle"), [(25.0, 50.0), (1.0, 2.0), (1.0, 0.0), (0.0, 1.0)])
def test_rkd_is_the_formula(distance: float, angle: float) -> None:
    mine, theirs = rows_of(STUDENT_VIEW.embedding_BD), rows_of(TEACHER_VIEW.embedding_BD)
    by_hand = distance * distances_by_hand(mine, theirs) + angle * angles_by_hand(mine, theirs)
    assert value_of("rkd", rkd_distance=distance, rkd_angle=angle) == pytest.approx(by_hand, rel=1e-10)
    if distance == 25.0:
        assert value_of("rkd") == value_of("rkd", rkd_distance=distance, rkd_angle=angle)


@pytest.mark.parametrize("name", ["rkd", "order2", "order3"])
def test_scale_rotation_and_shift_do_not_matter(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    rotation_DD, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))
    moved = STUDENT_VIEW._replace(embedding_BD=7 * STUDENT_VIEW.embedding_BD @ rotation_DD + 3)
    stretched = STUDENT_VIEW._replace(embedding_BD=STUDENT_VIEW.embedding_BD * torch.arange(1, 7))
    assert value_of(name, moved) == pytest.approx(value_of(name), rel=1e-9)
    assert value_of(name, stretched) != pytest.approx(value_of(name), rel=1e-3)


def plain_distances(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """With all differences whole, left to torch's gradients."""

    def scaled(rows_BD: Tensor) -> Tensor:
        square_BB = (rows_BD[:, None] - rows_BD).square().sum(2)
        others_BB = ~torch.eye(len(rows_BD), dtype=torch.bool)
        distances_BB = torch.where(others_BB, square_BB.clamp(min=1e-12).sqrt(), 0)
        return distances_BB / distances_BB[distances_BB > 0].mean()

    return F.smooth_l1_loss(scaled(student_BD), scaled(teacher_BD))


def plain_angles(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """With the whole (B, B, B) tensor, left to torch's gradients."""

    def cosines(rows_BD: Tensor) -> Tensor:
        units_BBD = F.normalize(rows_BD[None] - rows_BD[:, None], dim=2)
        return units_BBD @ units_BBD.transpose(1, 2)

    return F.smooth_l1_loss(cosines(student_BD), cosines(teacher_BD))


@pytest.mark.parametrize("chunk", [None, 1, 2, 3, 7, 8, 100])
def test_chunks_of_angles_are_the_whole(chunk: int | None) -> None:
    student_BD, teacher_BD = embeddings(8, equal=True)
    same_as(lambda own: angle_loss(own, teacher_BD, chunk=chunk), lambda own: plain_angles(own, teacher_BD), student_BD)


@pytest.mark.parametrize("count", [2, 3, 9])
def test_distances_are_the_whole(count: int) -> None:
    student_BD, teacher_BD = embeddings(count)
    same_as(lambda own: distance_loss(own, teacher_BD), lambda own: plain_distances(own, teacher_BD), student_BD)


def embeddings(count: int, *, equal: bool = False) -> tuple[Tensor, Tensor]:
    """Student's and teacher's; where `equal`, two images are the same to both."""
    generator = torch.Generator().manual_seed(4)
    pair = [torch.randn(count, size, generator=generator, dtype=torch.float64) for size in (6, 7)]
    for rows_BD in pair if equal else ():
        rows_BD[1] = rows_BD[0]
    return pair[0].requires_grad_(), pair[1]


def same_as(ours: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor], student_BD: Tensor) -> None:
    """In value and gradient, also where the value is multiplied on."""
    found, expected = ours(student_BD), plain(student_BD)
    torch.testing.assert_close(found, expected)
    slopes = [torch.autograd.grad(3 * value, student_BD)[0] for value in (found, expected)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-9, atol=1e-12)


class _Largest(TorchDispatchMode):
    """The number of values of the largest tensor that anything makes."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.values = max(self.values, made.numel() if isinstance(made, Tensor) else 0)
        return made


@pytest.mark.parametrize("name", ["rkd", "order2", "order3"])
def test_512_images_need_no_cube(name: str) -> None:
    """Counted from shapes: (512, 512, 512) has 134 million values, (512, 512, 256) has 67 million."""
    with torch.device("meta"):
        student_BD, teacher_BD = (torch.zeros(512, 256, requires_grad=grad) for grad in (True, False))
        view = View((), student_BD, torch.zeros(512, 5)), View((), teacher_BD, torch.zeros(512, 5))
    with _Largest() as largest:
        torch.autograd.grad(build(name, dtype=torch.float32)(*view, sample_of(512, device="meta")), student_BD)
    assert 512**2 <= largest.values <= 2**22


def test_distances_are_relative_and_positive() -> None:
    close_BD = torch.zeros(3, 2, dtype=torch.float64)
    close_BD[2, 0] = 3.0
    found_BB = scaled_distances(close_BD)
    mean = (3 + 3 + 1e-6) / 3
    expected = [[0, 1e-6 / mean, 3 / mean], [1e-6 / mean, 0, 3 / mean], [3 / mean, 3 / mean, 0]]
    torch.testing.assert_close(found_BB, torch.tensor(expected, dtype=torch.float64))


def test_distances_differentiate() -> None:
    embeddings_BD, _ = embeddings(4)
    weights_BB = torch.arange(16, dtype=torch.float64).view(4, 4)  # not symmetric, as no loss of ours would have them
    assert torch.autograd.gradcheck(lambda rows_BD: (scaled_distances(rows_BD) * weights_BB).sum(), embeddings_BD)


def test_near_images_far_from_zero_keep_their_distance() -> None:
    """Products of float32 values of length 1000 would lose distances of 0.1."""
    corner_BD = torch.tensor([[0.0, 0.0], [0.3, 0.0], [0.0, 0.4]])
    torch.testing.assert_close(scaled_distances(corner_BD + 1000), scaled_distances(corner_BD), rtol=1e-3, atol=1e-3)


def test_directions_have_length_one_or_none() -> None:
    values = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-13, 0.0], [1e-9, 0.0]], dtype=torch.float64, requires_grad=True)
    found = directions(values)
    (slopes,) = torch.autograd.grad(found.sum(), values)
    assert found.tolist()[:3] == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0], [0, 0]]
    assert found.tolist()[3] == [pytest.approx(1), 0]
    assert not slopes[1:3].any()
