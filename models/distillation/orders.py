"""HORKD's three orders of knowledge, a loss each: points (order1), pairs (order2) and triplets (order3) of embeddings.

Source: Ge et al., "Look One and More", arXiv 2409.05384. Its equations could not be had: what is marked (reading) is
this project's own.

Shape suffixes: B batch, D values of an embedding.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from models.distillation.geometry import angle_loss, distance_loss
from models.distillation.loss import DistillationLoss, Facts, LossSpec, Sample, View, wide
from models.distillation.relations import Embeddings
from models.distillation.vectors import directions, full_precision
from models.methods.method import setting


@dataclass(frozen=True)
class FirstOrderSettings:
    """Of order1."""

    order1_normalized: bool = setting(True, doc="compare embeddings scaled to length 1")


class FirstOrder(DistillationLoss):
    """``mean_B |n(e_s) - n(e_t)|^2``, with n(x) = x / |x|, between 0 and 4 (reading).

    A linear adapter without bias, trained with the student, takes the student's embedding to the teacher's length,
    only where these differ (reading). A zero embedding has the direction 0, without gradient.
    """

    def __init__(self, facts: Facts, settings: FirstOrderSettings) -> None:
        super().__init__()
        mine, theirs = facts.student.embedding, facts.teacher.embedding
        self.adapter = nn.Identity() if mine == theirs else nn.Linear(mine, theirs, bias=False)
        self.normalized = settings.order1_normalized

    @full_precision
    def forward(self, student: View, teacher: View, sample: Sample) -> Tensor:  # noqa: ARG002
        student_BD, teacher_BD = self.adapter(wide(student.embedding_BD)), wide(teacher.embedding_BD).detach()
        if self.normalized:
            student_BD, teacher_BD = directions(student_BD), directions(teacher_BD)
        return (student_BD - teacher_BD).square().sum(1).mean()


class SecondOrder(Embeddings):
    """The Huber loss between distances of pairs, each network's divided by their mean: RKD-D. 0 at B = 1.

    That the paper's second order has the form of arXiv 1904.05068 with a threshold of 1 is a (reading).
    """

    def __init__(self, facts: Facts, settings: object) -> None:  # noqa: ARG002
        super().__init__()

    @full_precision
    def compare(self, student_part: Tensor, teacher_part: Tensor) -> Tensor:
        """Of embeddings."""
        return distance_loss(student_part, teacher_part)


class ThirdOrder(Embeddings):
    """The Huber loss between cosines of the angles of triplets: RKD-A. 0 at B = 1.

    That the paper's third order has the form of arXiv 1904.05068 with a threshold of 1 is a (reading).
    """

    def __init__(self, facts: Facts, settings: object) -> None:  # noqa: ARG002
        super().__init__()

    @full_precision
    def compare(self, student_part: Tensor, teacher_part: Tensor) -> Tensor:
        """Of embeddings."""
        return angle_loss(student_part, teacher_part)


SPECS: dict[str, LossSpec] = {
    "order1": LossSpec(FirstOrder, 1.0, "embeddings, point by point (arXiv 2409.05384, reading)"),
    "order2": LossSpec(SecondOrder, 25.0, "distances of pairs (arXiv 2409.05384, 1904.05068)", True),
    "order3": LossSpec(ThirdOrder, 50.0, "angles of triplets (arXiv 2409.05384, 1904.05068)", True),
}
