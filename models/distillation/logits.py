"""Losses between logits: KD, DKD (target and other classes apart) and DIST (correlations over classes and images).

Shape suffixes: B batch, N classes, O = N - 1 other classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from models.distillation.geometry import correlations, nothing
from models.distillation.loss import DistillationLoss, Facts, LossSpec, RelationalLoss, Sample, View, wide
from models.distillation.vectors import full_precision
from models.losses import softened_divergence
from models.methods.method import setting


@dataclass(frozen=True)
class KdSettings:
    """Of kd."""

    kd_temperature: float = setting(4.0, gt=0, doc="of kd, both softmaxes divided by it")


@dataclass(frozen=True)
class DkdSettings:
    """Of dkd."""

    dkd_alpha: float = setting(1.0, ge=0, doc="weight of the target class against all others")
    dkd_beta: float = setting(8.0, ge=0, doc="weight of the other classes; published: 8, 6 or 2 by pair of networks")
    dkd_temperature: float = setting(4.0, gt=0, doc="of dkd, both softmaxes divided by it")
    dkd_warmup: float = setting(
        1 / 12, ge=0, le=1, doc="share of the training in which dkd grows from 0; the default is 20 of 240 epochs"
    )


@dataclass(frozen=True)
class DistSettings:
    """Of dist."""

    dist_temperature: float = setting(4.0, gt=0, doc="of dist, both softmaxes divided by it")
    dist_inter: float = setting(1.0, ge=0, doc="weight of an image's correlation over classes")
    dist_intra: float = setting(1.0, ge=0, doc="weight of a class's correlation over the images of a batch")


class Kd(DistillationLoss):
    """``T^2 KL(softmax(t / T) || softmax(s / T))``, the batch's mean, in nats times T^2.

    Source: arXiv 1503.02531, section 2; with 0.9 of it beside 0.1 of cross entropy in the public benchmark of CRD's
    authors (arXiv 1910.10699).
    """

    def __init__(self, facts: Facts, settings: KdSettings) -> None:  # noqa: ARG002
        super().__init__()
        self.temperature = settings.kd_temperature

    @full_precision
    def forward(self, student: View, teacher: View, sample: Sample) -> Tensor:  # noqa: ARG002
        student_BN, teacher_BN = wide(student.logits_BN), wide(teacher.logits_BN).detach()
        return softened_divergence(student_BN, teacher_BN, temperature=self.temperature).mean()


class Dkd(DistillationLoss):
    """``w (alpha TCKD + beta NCKD)``, the batch's mean, in nats times T^2.

    With p of softmax(t / T), q of softmax(s / T) and y the label:
        TCKD = T^2 KL((p_y, 1 - p_y) || (q_y, 1 - q_y)),
        NCKD = T^2 KL(p without y || q without y), both scaled to sum to 1 (0 for two classes);
    KD's divergence is TCKD + (1 - p_y) NCKD. The warm-up is w = min(1, progress / dkd_warmup), 1 where that is 0.
    It starts at 0 with the first batch and grows with each: the published epoch / 20, in whole epochs counted from 1,
    lies above this line by at most an epoch's step.

    Source: arXiv 2203.08679, and the warm-up of its published code.
    """

    def __init__(self, facts: Facts, settings: DkdSettings) -> None:  # noqa: ARG002
        super().__init__()
        self.alpha, self.beta = settings.dkd_alpha, settings.dkd_beta
        self.temperature, self.warmup = settings.dkd_temperature, settings.dkd_warmup

    @full_precision
    def forward(self, student: View, teacher: View, sample: Sample) -> Tensor:
        student_BN, teacher_BN = wide(student.logits_BN), wide(teacher.logits_BN).detach()
        target, others = decoupled(student_BN, teacher_BN, sample.labels_B, temperature=self.temperature)
        warm = min(1.0, sample.progress / self.warmup) if self.warmup else 1.0
        return warm * (self.alpha * target + self.beta * others).mean()


def decoupled(student_BN: Tensor, teacher_BN: Tensor, labels_B: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """(TCKD, NCKD) of each image, as `Dkd` defines them."""
    one_BO, one_B2 = _split(student_BN / temperature, labels_B)
    other_BO, other_B2 = _split(teacher_BN / temperature, labels_B)
    target_B = F.kl_div(one_B2, other_B2, reduction="none", log_target=True).sum(1)
    others_B = F.kl_div(one_BO, other_BO, reduction="none", log_target=True).sum(1)
    return temperature**2 * target_B, temperature**2 * others_B


def _split(logits_BN: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of probabilities: of the classes that are not the label among themselves, and of (label, not it)."""
    places_O = torch.arange(logits_BN.shape[1] - 1, device=logits_BN.device)
    places_BO = places_O + (places_O >= labels_B[:, None])  # leaves the label's place out
    all_BN = F.log_softmax(logits_BN, dim=1)
    others_BO = all_BN.gather(1, places_BO)
    rest_B = others_BO.logsumexp(1, keepdim=True)
    return others_BO - rest_B, torch.cat([all_BN.gather(1, labels_B[:, None]), rest_B], dim=1)


class Dist(RelationalLoss):
    """``tau^2 (inter (1 - mean_B r(p_b, q_b)) + intra (1 - mean_N r(p_n, q_n)))`` with Pearson's r.

    p and q are softmax(. / tau) of the teacher and the student; p_b is an image's row and p_n a class's column. A
    constant row or column has r = 0, without gradient. At B = 1 the columns say nothing: their term is 0.

    Source: arXiv 2205.10536; both weights were 2 at tau = 4, here the loss's own weight.
    """

    def __init__(self, facts: Facts, settings: DistSettings) -> None:  # noqa: ARG002
        super().__init__()
        self.temperature = settings.dist_temperature
        self.inter, self.intra = settings.dist_inter, settings.dist_intra

    @full_precision
    def parts(self, student: View, teacher: View) -> tuple[Tensor, Tensor]:
        """Both networks' probabilities."""
        student_BN, teacher_BN = wide(student.logits_BN), wide(teacher.logits_BN).detach()
        return (student_BN / self.temperature).softmax(1), (teacher_BN / self.temperature).softmax(1)

    @full_precision
    def compare(self, student_part: Tensor, teacher_part: Tensor) -> Tensor:
        """Of probabilities."""
        inter = 1 - correlations(student_part, teacher_part).mean()
        intra = 1 - correlations(student_part.T, teacher_part.T).mean() if len(student_part) > 1 else nothing(inter)
        return self.temperature**2 * (self.inter * inter + self.intra * intra)


SPECS: dict[str, LossSpec] = {
    "kd": LossSpec(Kd, 0.9, "softened logits, beside 0.1 of cross entropy (arXiv 1503.02531)"),
    "dkd": LossSpec(Dkd, 1.0, "target class and other classes apart (arXiv 2203.08679)"),
    "dist": LossSpec(Dist, 2.0, "correlations over classes and over images (arXiv 2205.10536)", relational=True),
}
