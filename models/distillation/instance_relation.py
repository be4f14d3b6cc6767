"""Adaptable instance-relation distillation (AIRD): images' embeddings and the cosines between them.

Shape suffixes: B batch, D values of an embedding.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from models.distillation.loss import Facts, LossSpec, RelationalLoss, View, wide
from models.distillation.vectors import directions, other_images, without_autocast
from models.methods.method import setting


@dataclass(frozen=True)
class AirdSettings:
    """Settings of AIRD."""

    aird_relation: float = setting(1.0, ge=0, doc="weight of AIRD's relation term; that of its instance term is 1")


class Aird(RelationalLoss):
    """AIRD's distillation: an instance term and a relation term.

    With s and t the embeddings at unit length, s' the student's after a linear layer where the dimensions differ:

        L = mean over i of |s'_i - t_i|^2  +  aird_relation * mean over i != j of (<s_i, s_j> - <t_i, t_j>)^2

    A batch of one image has the first term only. The layer is trained; relations are of the student's own embeddings.

    (reading) That knowledge passes at both levels is published; the paper's equations could not be had. The forms of
    both terms and their weights are ours. The adaptation of batch norm in use is not part of the loss.

    Source: Shi, Guo, Ge 2024, arXiv 2409.02049.
    """

    def __init__(self, facts: Facts, settings: Any) -> None:
        super().__init__()
        student, teacher = facts.student.embedding, facts.teacher.embedding
        self.relation: float = settings.aird_relation
        self.adapter = nn.Identity() if student == teacher else nn.Linear(student, teacher)

    def parts(self, student: View, teacher: View) -> tuple[Tensor, Tensor]:
        """The embeddings."""
        return wide(student.embedding_BD), wide(teacher.embedding_BD).detach()

    def compare(self, student_part: Tensor, teacher_part: Tensor) -> Tensor:
        """The loss of a whole batch."""
        num_images = len(student_part)
        with without_autocast(student_part):
            student_BD, teacher_BD = directions(student_part), directions(teacher_part)
            instance = (directions(self.adapter(student_part)) - teacher_BD).square().sum(1).mean()
            off_BB = student_BD @ student_BD.T - teacher_BD @ teacher_BD.T
            relation = (off_BB.square() * other_images(num_images, off_BB)).sum() / max(
                1, num_images * (num_images - 1)
            )
        return instance + self.relation * relation


AIRD = LossSpec(
    build=Aird,
    weight=1.0,
    doc="embeddings and cosines between images (Shi et al. 2024, arXiv 2409.02049; forms and weight are a reading)",
    relational=True,
)
