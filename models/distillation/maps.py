"""Losses between feature maps: FitNet (one stage), attention transfer and VID (all stages).

Stages are paired from the deepest (`paired_stages`). Where the sides of two maps differ, the larger one is pooled to
the smaller, each axis for itself, so that a student may see smaller images than its teacher.

Shape suffixes: B batch, C channels, H height, W width, P = H * W places.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.distillation.loss import DistillationLoss, Facts, LossSpec, Sample, View, paired_stages, wide
from models.distillation.vectors import directions, full_precision
from models.methods.method import setting

_LEAST_VARIANCE = 1e-5


@dataclass(frozen=True)
class FitNetSettings:
    """Of fitnet."""

    fitnet_stage: int = setting(
        0, ge=0, doc="which pair of stages, counted from 1, the shallowest that both have; 0: the middle one"
    )


@dataclass(frozen=True)
class VidSettings:
    """Of vid."""

    vid_init_variance: float = setting(5.0, ge=1e-3, doc="variance of every channel at the start")


class FitNet(DistillationLoss):
    """``mean (ReLU(BN(conv(f_s))) - f_t)^2`` of one stage: the mean over images, channels and places.

    The convolution is 1x1 from the student's channels to the teacher's. The batch norm follows the batch, or its
    running statistics where a channel has a single value (B = 1, a map of one place).

    Source: arXiv 1412.6550 in the form of the public benchmark of CRD's authors (arXiv 1910.10699): the middle stage
    (of an even number the shallower middle one). Departure: where sides differ the benchmark widens or strides the
    convolution, or transposes it for a student of half the side, and refuses smaller ones; here the larger map is
    pooled, as in its other losses.

    Raises:
        ValueError: no such stage.
    """

    def __init__(self, facts: Facts, settings: FitNetSettings) -> None:
        super().__init__()
        pairs = paired_stages(facts.student, facts.teacher)
        if settings.fitnet_stage > len(pairs):
            raise ValueError(
                f"fitnet_stage must be at most {len(pairs)}, the stages that both networks have, or 0 for the middle "
                f"one, but got {settings.fitnet_stage}"
            )
        self.pair = pairs[(settings.fitnet_stage or (len(pairs) + 1) // 2) - 1]
        mine, theirs = (shape.maps[at][0] for shape, at in zip((facts.student, facts.teacher), self.pair, strict=True))
        self.convolution = nn.Conv2d(mine, theirs, kernel_size=1)
        self.norm = nn.BatchNorm2d(theirs)

    @full_precision
    def forward(self, student: View, teacher: View, sample: Sample) -> Tensor:  # noqa: ARG002
        student_BCHW, teacher_BCHW = _maps(student, teacher, self.pair)
        hint_BCHW = self._normalised(self.convolution(student_BCHW)).relu()
        return F.mse_loss(hint_BCHW, teacher_BCHW)

    def _normalised(self, values_BCHW: Tensor) -> Tensor:
        if values_BCHW.shape[0] * values_BCHW.shape[2] * values_BCHW.shape[3] > 1:
            return self.norm(values_BCHW)
        norm = self.norm
        return F.batch_norm(values_BCHW, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


class AttentionTransfer(DistillationLoss):
    """``sum over stages of mean_BP (q_s - q_t)^2`` with q = a / |a| and a_P = mean_C F_CP^2, an image's attention.

    The attention of a zero map is 0, without gradient. It has no parameters, and channels may differ.

    Source: arXiv 1612.03928, section 3.1, in the form of the public benchmark of CRD's authors, which pools the larger
    map and takes means.
    """

    def __init__(self, facts: Facts, settings: object) -> None:  # noqa: ARG002
        super().__init__()
        self.pairs = paired_stages(facts.student, facts.teacher)

    @full_precision
    def forward(self, student: View, teacher: View, sample: Sample) -> Tensor:  # noqa: ARG002
        return _total([attention_distance(*_maps(student, teacher, pair)) for pair in self.pairs])


def attention_distance(student_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """Mean squared difference of two attentions; the maps' sides are equal, their channels need not be."""
    return F.mse_loss(attention(student_BCHW), attention(teacher_BCHW))


def attention(map_BCHW: Tensor) -> Tensor:
    """attention_BP: the mean over channels of squares, of length 1 for each image (arXiv 1612.03928)."""
    return directions(map_BCHW.square().mean(1).flatten(1))


class Vid(DistillationLoss):
    """``sum over stages of mean_BCHW 0.5 ((mu(f_s) - f_t)^2 / v + log v)``, without the constant.

    mu is three 1x1 convolutions without bias to the teacher's channels, ReLU between; v_C = softplus(a_C) + 1e-5 is
    learnt with it. May be negative.

    Source: arXiv 1904.05835, in the form of the public benchmark of CRD's authors: the intermediate
    width is the teacher's, v starts at 5, and the larger map is pooled.
    """

    def __init__(self, facts: Facts, settings: VidSettings) -> None:
        super().__init__()
        self.pairs = paired_stages(facts.student, facts.teacher)
        channels = [(facts.student.maps[mine][0], facts.teacher.maps[theirs][0]) for mine, theirs in self.pairs]
        self.stages = nn.ModuleList(_Gaussian(*pair, variance=settings.vid_init_variance) for pair in channels)

    @full_precision
    def forward(self, student: View, teacher: View, sample: Sample) -> Tensor:  # noqa: ARG002
        return _total([g(*_maps(student, teacher, pair)) for g, pair in zip(self.stages, self.pairs, strict=True)])


class _Gaussian(nn.Module):
    """The mean of a stage's negative log-likelihood."""

    def __init__(self, mine: int, theirs: int, *, variance: float) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(mine, theirs, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(theirs, theirs, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(theirs, theirs, 1, bias=False),
        )
        wanted = variance - _LEAST_VARIANCE
        self.raw_variance_C = nn.Parameter(torch.full((theirs,), wanted + math.log(-math.expm1(-wanted))))

    def forward(self, student_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
        variance_C11 = (F.softplus(self.raw_variance_C) + _LEAST_VARIANCE)[:, None, None]
        squared_BCHW = (self.mean(student_BCHW) - teacher_BCHW).square()
        return 0.5 * (squared_BCHW / variance_C11 + variance_C11.log()).mean()


def _maps(student: View, teacher: View, pair: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Both maps of a pair, wide, of the smaller height and width of the two; no gradient for the teacher's."""
    student_BCHW, teacher_BCHW = wide(student.maps[pair[0]]), wide(teacher.maps[pair[1]]).detach()
    height, width = (min(student_BCHW.shape[axis], teacher_BCHW.shape[axis]) for axis in (2, 3))
    return _pooled(student_BCHW, height, width), _pooled(teacher_BCHW, height, width)


def _pooled(map_BCHW: Tensor, height: int, width: int) -> Tensor:
    if map_BCHW.shape[2:] == (height, width):
        return map_BCHW
    return F.adaptive_avg_pool2d(map_BCHW, (height, width))


def _total(losses: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(losses)).sum()


SPECS: dict[str, LossSpec] = {
    "fitnet": LossSpec(FitNet, 100.0, "a middle map through a regressor (arXiv 1412.6550)"),
    "at": LossSpec(AttentionTransfer, 1000.0, "where each stage's map is strong (arXiv 1612.03928)"),
    "vid": LossSpec(Vid, 1.0, "likelihood of the teacher's maps given the student's (arXiv 1904.05835)"),
}
