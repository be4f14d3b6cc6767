"""Cross-resolution relational contrastive distillation (CRRCD): relations of images to the teacher's are contrasted.

Shape suffixes: B batch (I, J, K its images), A images of a chunk, D values of an embedding, R of a relation.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from models.distillation.loss import Facts, LossSpec, RelationalLoss, View, wide
from models.distillation.vectors import directions, other_images, without_autocast
from models.methods.method import setting

_CHUNK_VALUES = 1 << 24  # of one tensor: 64 MiB in float32


@dataclass(frozen=True)
class CrrcdSettings:
    """Settings of CRRCD."""

    crrcd_dim: int = setting(256, ge=1, doc="length of the vector of a relation of two images")
    crrcd_temperature: float = setting(0.1, gt=0, doc="temperature of the cosines of CRRCD's relations")
    crrcd_negatives: int = setting(16, ge=1, doc="negatives of each relation; the weight of their mean over the batch")


class RelationModule(nn.Module):
    """v(a, b): two linear layers with a ReLU between them, of the embeddings a and b side by side."""

    def __init__(self, first_dim: int, second_dim: int, dim: int) -> None:
        super().__init__()
        self.first = nn.Linear(first_dim, dim)
        self.second = nn.Linear(second_dim, dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(self, first_ID: Tensor, second_JD: Tensor) -> Tensor:
        """v of all pairs, (I, J, R): a layer of two vectors side by side is the sum of a layer of each."""
        return self.out(F.relu(self.first(first_ID)[:, None] + self.second(second_JD)))


class Crrcd(RelationalLoss):
    """CRRCD: the relation of teacher and student follows that of the teacher with itself.

    With t and s the embeddings, v_t and v_ts two modules as above, both trained, and
    h(i, j, k) = sigmoid(cos(v_t(t_i, t_j), v_ts(t_i, s_k)) / T):

        L = mean over i != j of  -log h(i, j, j) - N mean over k not in {i, j} of log(1 - h(i, j, k))

    A batch of two has no negatives; that of one image has no relation, and the loss is 0. Time grows by B^3; a large
    batch is made in chunks of images i.

    (reading) The paper's equations could not be had. Given are the two-layer module, h, R = 256 and N = 16. Ours are:
    ReLU; a module for each kind of relation, since the dimensions of t and s differ; embeddings as they are, not of
    unit length; pairs of different images only; negatives from the batch, whatever their class; and the mean over all
    of them, which is what N uniform draws are in the mean, without their noise.

    Source: Zhang et al. 2024, arXiv 2409.02555.
    """

    def __init__(self, facts: Facts, settings: Any) -> None:
        super().__init__()
        student, teacher = facts.student.embedding, facts.teacher.embedding
        self.dim: int = settings.crrcd_dim
        self.temperature: float = settings.crrcd_temperature
        self.num_negatives: int = settings.crrcd_negatives
        self.teacher_relation = RelationModule(teacher, teacher, settings.crrcd_dim)
        self.cross_relation = RelationModule(teacher, student, settings.crrcd_dim)

    def parts(self, student: View, teacher: View) -> tuple[Tensor, Tensor]:
        """The embeddings."""
        return wide(student.embedding_BD), wide(teacher.embedding_BD).detach()

    def compare(self, student_part: Tensor, teacher_part: Tensor) -> Tensor:
        """The loss of a whole batch."""
        num_images = len(student_part)
        with without_autocast(student_part):
            is_pair_JK = other_images(len(student_part), student_part)
            size = max(1, _CHUNK_VALUES // (num_images * max(num_images, self.dim)))
            totals = []
            for anchor_AD, is_pair_AJ in zip(teacher_part.split(size), is_pair_JK.split(size), strict=True):
                given = anchor_AD, student_part, teacher_part, is_pair_AJ, is_pair_JK
                if size >= num_images:
                    totals.append(self._anchored(*given))
                else:  # made again in the backward pass, so that one chunk at a time is kept
                    totals.append(checkpoint(self._anchored, *given, use_reentrant=False, preserve_rng_state=False))
        return torch.stack(totals).sum() / max(1, num_images * (num_images - 1))

    def _anchored(
        self, anchor_AD: Tensor, student_BD: Tensor, teacher_BD: Tensor, is_pair_AJ: Tensor, is_pair_JK: Tensor
    ) -> Tensor:
        """The sum over the pairs of some images with all."""
        own_AJR = directions(self.teacher_relation(anchor_AD, teacher_BD))
        cross_AKR = directions(self.cross_relation(anchor_AD, student_BD))
        logits_AJK = own_AJR @ cross_AKR.transpose(1, 2) / self.temperature
        attract_AJ = -F.logsigmoid(logits_AJK.diagonal(dim1=1, dim2=2))
        repel_AJ = (-F.logsigmoid(-logits_AJK) * is_pair_AJ[:, None] * is_pair_JK).sum(2)
        weight = self.num_negatives / max(1, len(is_pair_JK) - 2)
        return ((attract_AJ + weight * repel_AJ) * is_pair_AJ).sum()


CRRCD = LossSpec(
    build=Crrcd,
    weight=1.0,
    doc="contrast of relations between images (Zhang et al. 2024, arXiv 2409.02555; weight and details are a reading)",
    relational=True,
)
