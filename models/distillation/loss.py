"""What a distillation loss is: a module of two views of a batch, with parameters of its own where it has some.

A view is what one network made of the batch. The student's carries gradients, the teacher's none. Losses that compare
the images of a batch with each other say which values they compare (`parts`), so that a method can gather those over
workers first.

Shape suffixes: B batch, C channels, H height, W width, N classes, D values of an embedding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class View(NamedTuple):
    """What a network made of a batch, in one pass.

    Attributes:
        maps: (B, C, H, W) of its stages, shallow to deep; each has its own resolution, and two networks may differ in
            number, channels and sides.
        embedding_BD: what its last layer reads.
        logits_BN: what it predicts by.
        classifier_ND: weights of its last layer, for class activations; None where it has no linear one.
    """

    maps: tuple[Tensor, ...]
    embedding_BD: Tensor
    logits_BN: Tensor
    classifier_ND: Tensor | None = None


class Sample(NamedTuple):
    """What else a loss may know of a batch.

    Attributes:
        labels_B: int64, on the device of the views.
        rows_B: int64, each image's row in the training set, on the device of the views.
        keys_B: int64, on the CPU: what anything random is drawn from, so that both passes of SAM draw the same.
        progress: share of the training that is done, in [0, 1).
    """

    labels_B: Tensor
    rows_B: Tensor
    keys_B: Tensor
    progress: float = 0.0


class Shape(NamedTuple):
    """Of a network's views.

    Attributes:
        maps: (C, H, W) of each stage, shallow to deep.
        embedding: D.
    """

    maps: tuple[tuple[int, int, int], ...]
    embedding: int


@dataclass(frozen=True)
class Facts:
    """What losses are built from.

    Attributes:
        student, teacher: shapes of their views.
        num_classes: N.
        train_labels: int64 label of each row of the training set, on the CPU; None where the method is only to predict
            or to be timed without images.
    """

    student: Shape
    teacher: Shape
    num_classes: int
    train_labels: Tensor | None = None


class DistillationLoss(nn.Module):
    """The mean loss of a batch.

    A loss with parameters (adapters, regressors, embeddings) trains them with the student; they are checkpointed with
    it, buffers too, and never exported. `forward` must do no work that waits for a device or depends on values (no
    `.item()`, no boolean indexing), so that it can be counted on the meta device, and must give the same value each
    time it is called on the same batch. Arithmetic is in float32 at least (`wide`), also under autocast.
    """

    relational: bool = False
    """Whether it compares the images of a batch, so that slices' losses do not add up to the batch's."""

    def forward(self, student: View, teacher: View, sample: Sample) -> Tensor:
        """The loss, a scalar: the mean over the batch's images, or what stands for it between images."""
        raise NotImplementedError

    def commit(self) -> None:
        """Called after the update of a batch, once: take what the batch leaves behind (a memory bank)."""


class RelationalLoss(DistillationLoss):
    """A loss between images: it compares one tensor of the student with one of the teacher, an image a row."""

    relational = True

    def parts(self, student: View, teacher: View) -> tuple[Tensor, Tensor]:
        """What is compared, (B, ...) of the student and of the teacher: what is gathered over workers."""
        raise NotImplementedError

    def compare(self, student_part: Tensor, teacher_part: Tensor) -> Tensor:
        """The scalar loss of a whole batch's parts."""
        raise NotImplementedError

    def forward(self, student: View, teacher: View, sample: Sample) -> Tensor:  # noqa: ARG002
        """Of this worker's images alone."""
        return self.compare(*self.parts(student, teacher))


class LossSpec(NamedTuple):
    """An entry of the dict of losses.

    Attributes:
        build: from facts and the method's settings, of which it reads those whose names start with its own.
        weight: the published weight, for docs and messages; study files state theirs.
        doc: a line with the source.
        relational: as of the class.
    """

    build: Callable[[Facts, Any], DistillationLoss]
    weight: float
    doc: str
    relational: bool = False


def wide(values: Tensor) -> Tensor:
    """At least float32: distances are not summed in bfloat16."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def paired_stages(student: Shape, teacher: Shape) -> list[tuple[int, int]]:
    """(student's, teacher's) stage numbers that correspond, shallow to deep: counted from the deepest, as many as both
    have."""
    count = min(len(student.maps), len(teacher.maps))
    return [(len(student.maps) - back, len(teacher.maps) - back) for back in range(count, 0, -1)]
