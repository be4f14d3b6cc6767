"""What the relational losses measure of embeddings: directions, correlations, distances and angles, finite everywhere.

Where a formula has no value (the direction of a zero vector, the correlation of a constant one) it is taken as 0 and
passes no gradient, by masks and not by branches, so that nothing depends on values.

Shape suffixes: B batch, D values of an embedding, A anchors, J and K the other images, M values.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from models.distillation.vectors import TINY, directions, inverse_norm, other_images, without_autocast

_LEAST_SQUARE = 1e-12
_NOISE_STEPS = 16
_CHUNK_VALUES = 2**22


def nothing(values: Tensor) -> Tensor:
    """A loss of 0 whose gradient is 0: of a batch that has too few images to be compared."""
    return (values * 0).sum()


def correlations(one_BM: Tensor, other_BM: Tensor) -> Tensor:
    """Pearson's correlation of each row of one with that of the other, in [-1, 1].

    A row is constant where its deviation is no more than rounding noise of its size: its correlation is 0, without
    gradient.
    """
    first_BM, second_BM = (_standardised(values) for values in (one_BM, other_BM))
    return (first_BM * second_BM).sum(1)


def scaled_distances(embeddings_BD: Tensor) -> Tensor:
    """Euclidean distances of all pairs, divided by their mean, (B, B) with zeros on the diagonal.

    Squared distances are clamped at 1e-12, so that all distances beside the diagonal are positive: the mean over the
    positive ones is that over all pairs. They are summed from differences and not from products, whose rounding
    is that of the embeddings' length.

    Source: arXiv 1904.05068; the clamp: the public benchmark of the authors of CRD.
    """
    count = len(embeddings_BD)
    others_BB = other_images(count, embeddings_BD)
    distances_BB = _Distances.apply(embeddings_BD - embeddings_BD.mean(0)).clamp(min=_LEAST_SQUARE**0.5) * others_BB
    mean = distances_BB.sum() / max(1, count * (count - 1))
    return distances_BB / mean.clamp(min=_LEAST_SQUARE**0.5)


def distance_loss(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """RKD-D: the mean over (B, B) of the Huber loss (threshold 1) between both networks' scaled distances; 0 at B = 1.

    Source: arXiv 1904.05068.
    """
    if len(student_BD) < 2:
        return nothing(student_BD)
    return F.smooth_l1_loss(scaled_distances(student_BD), scaled_distances(teacher_BD))


def angle_loss(student_BD: Tensor, teacher_BD: Tensor, *, chunk: int | None = None) -> Tensor:
    """RKD-A: the mean over (B, B, B) of the Huber loss (threshold 1) between cosines of angles.

    The angle of (i, j, k) stands at image i, between the directions to j and to k; a direction to an equal embedding
    is 0. The gradient is computed with the value, a chunk of anchors i at a time, so that no (B, B, B) or (B, B, D)
    tensor is ever whole and the backward pass repeats nothing. No gradient reaches the teacher's. 0 at B = 1.

    Args:
        student_BD, teacher_BD: of the same images; D may differ.
        chunk: anchors at a time; None: as many as keep a chunk's tensors at 4 million values (16 MB in float32).

    Source: arXiv 1904.05068.
    """
    count = len(student_BD)
    if count < 2:
        return nothing(student_BD)
    widest = count * max(count, student_BD.shape[1], teacher_BD.shape[1])
    return _AngleLoss.apply(student_BD, teacher_BD, chunk or max(1, _CHUNK_VALUES // widest))


class _Distances(torch.autograd.Function):
    """torch.cdist of embeddings with themselves, whose own backward pass would hold a (B, B, D) tensor on a GPU."""

    @staticmethod
    def forward(ctx: Any, embeddings_BD: Tensor) -> Tensor:
        distances_BB = torch.cdist(embeddings_BD, embeddings_BD, compute_mode="donot_use_mm_for_euclid_dist")
        ctx.save_for_backward(embeddings_BD, distances_BB)
        return distances_BB

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> Tensor:
        embeddings_BD, distances_BB = ctx.saved_tensors
        apart_BB = distances_BB > 0
        ratios_BB = torch.where(apart_BB, (outer[0] + outer[0].T) / torch.where(apart_BB, distances_BB, 1), 0)
        with without_autocast(ratios_BB):
            return embeddings_BD * ratios_BB.sum(1, keepdim=True) - ratios_BB @ embeddings_BD


class _AngleLoss(torch.autograd.Function):
    """With h the Huber loss, u_ij = e_ij / |e_ij|, e_ij = s_j - s_i and G_ijk = h'(u_ij u_ik - cos_t) / B^3, symmetric
    in j and k: dL/du_ij = 2 sum_k G_ijk u_ik, and dL/de_ij is what of it is orthogonal to u_ij, divided by |e_ij|."""

    @staticmethod
    def forward(ctx: Any, student_BD: Tensor, teacher_BD: Tensor, chunk: int) -> Tensor:
        count = len(student_BD)
        needed = ctx.needs_input_grad[0]
        total = student_BD.new_zeros(())
        gradient_BD = torch.zeros_like(student_BD)
        for first in range(0, count, chunk):
            anchors = slice(first, first + chunk)
            cosines_AJK = _cosines(directions(_edges(teacher_BD, anchors)))
            edges_AJD = _edges(student_BD, anchors)
            scale_AJ1 = inverse_norm(edges_AJD, floor=TINY)
            units_AJD = edges_AJD * scale_AJ1
            own_AJK = _cosines(units_AJD)
            total += F.smooth_l1_loss(own_AJK, cosines_AJK, reduction="sum")
            if needed:
                pull_AJD = 2 * own_AJK.sub_(cosines_AJK).clamp_(-1, 1) @ units_AJD
                along_AJ1 = (pull_AJD * units_AJD).sum(2, keepdim=True)
                pull_AJD = (pull_AJD - along_AJ1 * units_AJD) * scale_AJ1
                gradient_BD += pull_AJD.sum(0)
                gradient_BD[anchors] -= pull_AJD.sum(1)
        ctx.save_for_backward(gradient_BD / count**3)
        return total / count**3

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient_BD,) = ctx.saved_tensors
        return outer[0] * gradient_BD, None, None


def _edges(embeddings_BD: Tensor, anchors: slice) -> Tensor:
    """edges_AJD from each anchor to every image."""
    return embeddings_BD[None] - embeddings_BD[anchors, None]


def _cosines(units_AJD: Tensor) -> Tensor:
    return units_AJD @ units_AJD.transpose(1, 2)


def _standardised(values_BM: Tensor) -> Tensor:
    centred_BM = values_BM - values_BM.mean(1, keepdim=True)
    noise_B1 = _NOISE_STEPS * torch.finfo(values_BM.dtype).eps * values_BM.detach().norm(dim=1, keepdim=True)
    return centred_BM * inverse_norm(centred_BM, floor=noise_B1.clamp(min=TINY))
