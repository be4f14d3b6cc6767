"""Losses between the images of a batch: SP, PKT, CC and RKD.

A batch of one image has no relations: each is then 0, with a zero gradient.

Shape suffixes: B batch, D values of an embedding or a flattened map.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from models.distillation.geometry import angle_loss, distance_loss, nothing
from models.distillation.loss import Facts, LossSpec, RelationalLoss, View, wide
from models.distillation.vectors import directions, full_precision
from models.methods.method import setting

_PKT_EPS = 1e-7


@dataclass(frozen=True)
class CcSettings:
    """Of cc."""

    cc_dim: int = setting(128, ge=1, doc="length of the linear embeddings of both networks")


@dataclass(frozen=True)
class RkdSettings:
    """Of rkd."""

    rkd_distance: float = setting(25.0, ge=0, doc="weight of distances; the paper's for metric learning is 1")
    rkd_angle: float = setting(50.0, ge=0, doc="weight of angles; the paper's for metric learning is 2")


class Embeddings(RelationalLoss):
    """A loss that compares both networks' embeddings."""

    def parts(self, student: View, teacher: View) -> tuple[Tensor, Tensor]:
        """The embeddings, wide; no gradient for the teacher's."""
        return wide(student.embedding_BD), wide(teacher.embedding_BD).detach()


class SimilarityPreserving(RelationalLoss):
    """``|N(F_s F_s^T) - N(F_t F_t^T)|^2 / B^2``: Frobenius' norm, N scales rows to length 1, F the flattened last map.

    A row of zeros stays one, without gradient. Only (B, B) matrices are compared: maps may differ in all else.

    Source: arXiv 1907.09682.
    """

    def __init__(self, facts: Facts, settings: object) -> None:  # noqa: ARG002
        super().__init__()

    def parts(self, student: View, teacher: View) -> tuple[Tensor, Tensor]:
        """The last maps, flattened."""
        return wide(student.maps[-1]).flatten(1), wide(teacher.maps[-1]).detach().flatten(1)

    @full_precision
    def compare(self, student_part: Tensor, teacher_part: Tensor) -> Tensor:
        """Of flattened maps."""
        if len(student_part) < 2:
            return nothing(student_part)
        student_BB, teacher_BB = (directions(values @ values.T) for values in (student_part, teacher_part))
        return (student_BB - teacher_BB).square().mean()


class Pkt(Embeddings):
    """``mean_BB p_t log((p_t + 1e-7) / (p_s + 1e-7))``, in nats, with p rows of (cos + 1) / 2 scaled to sum to 1.

    The mean is over all pairs, an image with itself among them. The cosine with a zero embedding is 0, without
    gradient; K is kept from falling below 0 by rounding.

    Source: arXiv 1803.10837, in the form of its published code.
    """

    def __init__(self, facts: Facts, settings: object) -> None:  # noqa: ARG002
        super().__init__()

    @full_precision
    def compare(self, student_part: Tensor, teacher_part: Tensor) -> Tensor:
        """Of embeddings."""
        if len(student_part) < 2:
            return nothing(student_part)
        student_BB, teacher_BB = _affinities(student_part), _affinities(teacher_part)
        return (teacher_BB * ((teacher_BB + _PKT_EPS) / (student_BB + _PKT_EPS)).log()).mean()


def _affinities(embeddings_BD: Tensor) -> Tensor:
    """(B, B) probabilities, each row's sum 1: how likely each image is the neighbour of the row's."""
    units_BD = directions(embeddings_BD)
    kernel_BB = ((units_BD @ units_BD.T + 1) / 2).clamp(min=0)
    return kernel_BB / kernel_BB.sum(1, keepdim=True)


class CorrelationCongruence(RelationalLoss):
    """``mean over i < B of <d_i, d_{i+1}>`` with d = |e_s - e_t|, absolute values, e linear embeddings of `cc_dim`.

    Neighbours are images that follow each other in the batch. Both networks' linear layers train, so the teacher's
    part carries gradients too, which reach the layer and not the teacher.

    Source: arXiv 1904.01802 in the form of the public benchmark of CRD's authors (arXiv 1910.10699).
    """

    def __init__(self, facts: Facts, settings: CcSettings) -> None:
        super().__init__()
        self.student_layer = nn.Linear(facts.student.embedding, settings.cc_dim)
        self.teacher_layer = nn.Linear(facts.teacher.embedding, settings.cc_dim)

    @full_precision
    def parts(self, student: View, teacher: View) -> tuple[Tensor, Tensor]:
        """Linear embeddings."""
        teacher_BD = wide(teacher.embedding_BD).detach()
        return self.student_layer(wide(student.embedding_BD)), self.teacher_layer(teacher_BD)

    @full_precision
    def compare(self, student_part: Tensor, teacher_part: Tensor) -> Tensor:
        """Of linear embeddings."""
        apart_BD = (student_part - teacher_part).abs()
        if len(apart_BD) < 2:
            return nothing(apart_BD)
        return (apart_BD[:-1] * apart_BD[1:]).sum(1).mean()


class Rkd(Embeddings):
    """``rkd_distance * RKD-D + rkd_angle * RKD-A`` of embeddings that are not normalised.

    Neither moves where the student's embeddings are scaled, turned or shifted.

    Source: arXiv 1904.05068; the weights of classification: the public benchmark of CRD's authors.
    """

    def __init__(self, facts: Facts, settings: RkdSettings) -> None:  # noqa: ARG002
        super().__init__()
        self.distance, self.angle = settings.rkd_distance, settings.rkd_angle

    @full_precision
    def compare(self, student_part: Tensor, teacher_part: Tensor) -> Tensor:
        """Of embeddings."""
        distance = distance_loss(student_part, teacher_part)
        return self.distance * distance + self.angle * angle_loss(student_part, teacher_part)


SPECS: dict[str, LossSpec] = {
    "sp": LossSpec(SimilarityPreserving, 3000.0, "similarities of images' last maps (arXiv 1907.09682)", True),
    "pkt": LossSpec(Pkt, 30000.0, "cosine similarities as probabilities (arXiv 1803.10837)", True),
    "cc": LossSpec(CorrelationCongruence, 0.02, "differences of neighbours' embeddings (arXiv 1904.01802)", True),
    "rkd": LossSpec(Rkd, 1.0, "distances and angles of embeddings (arXiv 1904.05068)", True),
}
