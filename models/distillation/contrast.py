"""Contrastive representation distillation (CRD): an image's two embeddings agree, against those of other classes.

Shape suffixes: B batch, C images of a chunk, D values of an embedding, K negatives, J = K + 1, P pending images,
n training images.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.distillation import memory
from models.distillation.loss import DistillationLoss, Facts, LossSpec, Sample, View, wide
from models.distillation.memory import MemoryBank, OtherClasses, first_of_each
from models.distillation.vectors import directions, without_autocast
from models.methods.method import setting

_CHUNK_VALUES = 1 << 25  # of a table of similarities: 128 MiB in float32


@dataclass(frozen=True)
class CrdSettings:
    """Settings of CRD."""

    crd_dim: int = setting(128, ge=1, doc="length of the embeddings that CRD compares")
    crd_negatives: int = setting(16384, ge=1, doc="negatives of each image, of other classes")
    crd_temperature: float = setting(0.07, gt=0, doc="temperature of CRD's similarities")
    crd_momentum: float = setting(0.5, ge=0, lt=1, doc="share of the old vector when an image's memory is updated")


class Crd(DistillationLoss):
    """CRD: noise-contrastive estimation with a memory bank for each network.

    Both networks' embeddings are made D-dimensional by linear layers, which are trained, and of unit length. The
    student's s of an image is compared with the teacher's bank at the image's own row (j = 0) and at K rows of other
    classes, the teacher's t with the student's bank alike:

        u_j = <s, bank_j> / T - m - log K
        L_s = -log sigmoid(u_0) - sum_{j > 0} log(1 - sigmoid(u_j)),   L = mean over images of L_s + L_t

    With x_j = exp(<s, bank_j> / T) / Z and m = log(Z / n) this is the public form, sigmoid(u_j) = x_j / (x_j + K / n),
    without its eps of 1e-7.

    Negatives are drawn from `Sample.keys_B`, of other classes than the image's row has in the training set. The banks
    change in `commit` alone: each row by the vectors of the first pass over it since the last commit, in training mode
    (of SAM's two passes, that at the weights themselves), of all workers.

    Where we depart from the public form: Z, there the mean of exp(<s, bank_j> / T) over the first batch times n, is
    measured when the loss is built, of random directions instead of that batch, so that it is the same in every pass
    and slice; at D = 128 the two differ by some per cent. Negatives are spread evenly over the training set, see
    :func:`models.distillation.draws.integers`.

    Without `Facts.train_labels` the banks have one row for each class, and rows are counted round: that is for counting
    and timing.

    Source: Tian et al. 2020, arXiv 1910.10699, equations 17-19, and their public benchmark ("exact" negatives).
    """

    student_level: Tensor
    teacher_level: Tensor

    def __init__(self, facts: Facts, settings: Any) -> None:
        super().__init__()
        self._is_known = facts.train_labels is not None
        labels_n = torch.arange(max(2, facts.num_classes)) if facts.train_labels is None else facts.train_labels
        self.num_negatives: int = settings.crd_negatives
        self.temperature: float = settings.crd_temperature
        self.momentum: float = settings.crd_momentum
        self.others = OtherClasses(labels_n)
        self.student_embedding = nn.Linear(facts.student.embedding, settings.crd_dim)
        self.teacher_embedding = nn.Linear(facts.teacher.embedding, settings.crd_dim)
        self.student_bank = MemoryBank(len(labels_n), settings.crd_dim)
        self.teacher_bank = MemoryBank(len(labels_n), settings.crd_dim)
        self.register_buffer("student_level", self.teacher_bank.level(self.temperature))
        self.register_buffer("teacher_level", self.student_bank.level(self.temperature))
        self._pending: list[tuple[Tensor, Tensor]] = []

    def forward(self, student: View, teacher: View, sample: Sample) -> Tensor:
        """The mean over the images, whose losses depend on their own embeddings and on the banks alone."""
        with without_autocast(student.embedding_BD):
            student_BD = directions(self.student_embedding(wide(student.embedding_BD)))
            teacher_BD = directions(self.teacher_embedding(wide(teacher.embedding_BD).detach()))
            rows_B = sample.rows_B if self._is_known else sample.rows_B % len(self.others.labels_n)
            keys_B = sample.keys_B.to(rows_B.device, non_blocking=True)
            if self.training and not rows_B.is_meta:
                self._pending.append((rows_B, torch.cat([student_BD, teacher_BD], 1).detach()))
            size = max(1, _CHUNK_VALUES // max(len(self.others.labels_n), self.num_negatives))
            chunks = zip(*(each.split(size) for each in (student_BD, teacher_BD, rows_B, keys_B)), strict=True)
            return torch.stack([self._chunk(*chunk) for chunk in chunks]).sum() / len(rows_B)

    def commit(self) -> None:
        """Move the banks towards what the batch's images were; every worker must call it once for a batch."""
        bank_nD = self.student_bank.values_nD
        none = self.others.labels_n[:0], bank_nD.new_empty(0, 2 * bank_nD.shape[1])
        rows, values = zip(*(self._pending or [none]), strict=True)
        self._pending = []
        rows_P, values_PD = memory.gather_rows(torch.cat(rows), torch.cat(values))
        student_PD, teacher_PD = values_PD[first_of_each(rows_P)].chunk(2, dim=1)
        self.student_bank.update(rows_P, student_PD, momentum=self.momentum)
        self.teacher_bank.update(rows_P, teacher_PD, momentum=self.momentum)

    def _chunk(self, student_CD: Tensor, teacher_CD: Tensor, rows_C: Tensor, keys_C: Tensor) -> Tensor:
        """The sum of the losses of some images."""
        rows_CJ = torch.cat([rows_C[:, None], self.others(rows_C, keys_C, self.num_negatives)], 1)
        of_student = self._contrast(student_CD, self.teacher_bank, self.student_level, rows_CJ)
        return of_student + self._contrast(teacher_CD, self.student_bank, self.teacher_level, rows_CJ)

    def _contrast(self, anchors_CD: Tensor, bank: MemoryBank, level: Tensor, rows_CJ: Tensor) -> Tensor:
        """The sum over anchors. Similarities with the whole bank are made first: a table of n values an image takes
        less memory and time than K vectors of each."""
        similarity_CJ = (anchors_CD @ bank.values_nD.T).gather(1, rows_CJ)
        odds_CJ = similarity_CJ / self.temperature - level - math.log(self.num_negatives)
        return -F.logsigmoid(odds_CJ[:, 0]).sum() - F.logsigmoid(-odds_CJ[:, 1:]).sum()


CRD = LossSpec(
    build=Crd,
    weight=0.8,
    doc="contrast of embeddings with a memory bank of other classes' (Tian et al. 2020, arXiv 1910.10699)",
)
