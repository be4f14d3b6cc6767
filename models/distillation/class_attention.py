"""Inter-resolution attention distillation (AT+): the last maps and where in the image the class is seen.

Shape suffixes: B batch, C channels, H height, W width, N classes.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.distillation.loss import DistillationLoss, Facts, LossSpec, Sample, View, wide
from models.distillation.vectors import without_autocast
from models.methods.method import setting

_LEAST_SQUARE = 1e-12  # of a mean squared difference, so that its root has a gradient
_LEAST_RANGE = 1e-6  # of an attention map's values


@dataclass(frozen=True)
class AtPlusSettings:
    """Settings of AT+."""

    at_plus_features: float = setting(0.1, ge=0, doc="weight of the distance of the last maps")
    at_plus_attention: float = setting(10.0, ge=0, doc="weight of the distance of the class activation maps")


class AtPlus(DistillationLoss):
    """AT+: distances of the last maps F and of the attention A to the label's class.

        L = mean over images of  at_plus_features RMSE(F_s, F_t) + at_plus_attention RMSE(A_s, A_t)
        A = m scaled to [0, 1] by its least and largest value,   m = sum over channels of relu(w_c F_c)

    RMSE is the root of the mean squared difference of an image, at least 1e-6; w are the classifier's weights of the
    label's class. Where the networks' maps have different sides the smaller are enlarged to the larger (bilinear),
    attention maps before they are scaled; where they have different channels the student's pass a 1 x 1 convolution,
    which is trained, for the features alone. A constant map gives an attention of 0, without
    gradient.

    Behind a mean over the map and one linear layer, w_c / (H W) is the gradient that Grad-CAM takes, and scaling
    removes the H W: the maps of the public code, with the ReLU before the sum as there.

    (reading) The label's class alone, as the paper's abstract says; the public code takes all classes at once. The
    features' RMSE is of each image, not of the batch, so that losses of slices add up; the sum's second part does so in
    the public code too. Its images are enlarged to one size, so that it needs to enlarge no maps.

    Source: del Amor et al. 2024, arXiv 2401.06010, and its public code.
    """

    def __init__(self, facts: Facts, settings: Any) -> None:
        super().__init__()
        for who, shape in (("student", facts.student), ("teacher", facts.teacher)):
            if shape.maps[-1][0] != shape.embedding:
                raise ValueError(
                    "at_plus needs a classifier that reads the mean of the last map, but the "
                    f"{who}'s reads {shape.embedding} values and its last map has {shape.maps[-1][0]} channels; take "
                    "another backbone or another loss, such as at"
                )
        student, teacher = facts.student.embedding, facts.teacher.embedding
        self.feature_weight: float = settings.at_plus_features
        self.attention_weight: float = settings.at_plus_attention
        self.adapter = nn.Identity() if student == teacher else nn.Conv2d(student, teacher, 1)

    def forward(self, student: View, teacher: View, sample: Sample) -> Tensor:
        """The mean over the images.

        Raises:
            ValueError: A view has no linear classifier.
        """
        with without_autocast(student.embedding_BD):
            student_BCHW, teacher_BCHW = wide(student.maps[-1]), wide(teacher.maps[-1]).detach()
            side = tuple(max(sides) for sides in zip(student_BCHW.shape[2:], teacher_BCHW.shape[2:], strict=True))
            features = _rmse(_enlarged(self.adapter(student_BCHW), side), _enlarged(teacher_BCHW, side))
            weights_BC = _class_weights(student, sample.labels_B, who="student")
            own_B1HW = _scaled(_enlarged(_activation(student_BCHW, weights_BC), side))
            weights_BC = _class_weights(teacher, sample.labels_B, who="teacher").detach()
            attention = _rmse(own_B1HW, _scaled(_enlarged(_activation(teacher_BCHW, weights_BC), side)))
            return self.feature_weight * features + self.attention_weight * attention


def _class_weights(view: View, labels_B: Tensor, *, who: str) -> Tensor:
    """weights_BC of each image's class."""
    if view.classifier_ND is None:
        raise ValueError(
            f"at_plus reads the weights of a linear classifier, but the {who} shows none; "
            "take a network whose last layer is linear, or another loss, such as at"
        )
    return wide(view.classifier_ND)[labels_B]


def _activation(maps_BCHW: Tensor, weights_BC: Tensor) -> Tensor:
    """(B, 1, H, W): what speaks for the class, where."""
    return F.relu(weights_BC[:, :, None, None] * maps_BCHW).sum(1, keepdim=True)


def _enlarged(maps_BCHW: Tensor, side: tuple[int, ...]) -> Tensor:
    if tuple(maps_BCHW.shape[2:]) == side:
        return maps_BCHW
    return F.interpolate(maps_BCHW, size=side, mode="bilinear", align_corners=False)


def _scaled(maps_B1HW: Tensor) -> Tensor:
    """Each image's map from 0 to 1; 0 without gradient where it is constant."""
    least = maps_B1HW.amin((1, 2, 3), keepdim=True)
    span = maps_B1HW.amax((1, 2, 3), keepdim=True) - least
    wide_enough = span > _LEAST_RANGE
    return (maps_B1HW - least) * torch.where(wide_enough, 1 / torch.where(wide_enough, span, 1), 0)


def _rmse(student_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """The mean over images of the root of the mean squared difference; its gradient at 0 is 0."""
    square_B = (student_BCHW - teacher_BCHW).square().mean((1, 2, 3))
    return square_B.clamp_min(_LEAST_SQUARE).sqrt().mean()


AT_PLUS = LossSpec(
    build=AtPlus,
    weight=1.0,
    doc="last maps and class activation maps (del Amor et al. 2024, arXiv 2401.06010)",
)
