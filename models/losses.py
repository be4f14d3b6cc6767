"""Losses that are sums over examples: each returns one value per example, the caller reduces.

Shape suffixes: B batch, C channels, H height, W width, N classes.
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

RestorationLoss = Literal["charbonnier", "mse"]


def torch_smoothing(smoothing: float, num_classes: int) -> float:
    """Convert the eps/(N-1) form of label smoothing to PyTorch's eps/N form: ``eps * N / (N - 1)``.

    Args:
        smoothing: eps in [0, (N-1)/N], the whole probability given to the wrong classes.
        num_classes: N, at least 2.

    Raises:
        ValueError: if either is out of its range.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, but got {num_classes}")
    highest = (num_classes - 1) / num_classes
    if not 0 <= smoothing <= highest:
        raise ValueError(
            f"label smoothing must be between 0 and (N-1)/N = {highest:.3g} for N={num_classes} classes, "
            f"but got {smoothing}: above that a wrong class would be likelier than the right one"
        )
    return min(1.0, smoothing * num_classes / (num_classes - 1))


def smoothed_cross_entropy(logits_BN: Tensor, labels_B: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Cross entropy with ``1 - eps`` on the label and ``eps / (N - 1)`` on each other class.

    Args:
        logits_BN: unnormalised scores.
        labels_B: int64 class indices.
        smoothing: eps, as in :func:`torch_smoothing`.

    Returns:
        losses_B, in nats.

    Source: the label smoothing of PMAL (arXiv 2401.14336); PyTorch spreads eps over all N classes instead.
    """
    converted = torch_smoothing(smoothing, logits_BN.shape[1])
    return F.cross_entropy(logits_BN, labels_B, reduction="none", label_smoothing=converted)


def charbonnier(restored_BCHW: Tensor, target_BCHW: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Charbonnier distance ``mean(sqrt(d^2 + eps^2))`` of each example, with d the difference of a pixel.

    Returns:
        losses_B, in the unit of the images.

    Source: arXiv 2401.14336. Kornia's ``charbonnier_loss`` is ``sqrt(d^2 + 1) - 1``, another function.
    """
    difference_BCHW = restored_BCHW - target_BCHW
    return (difference_BCHW.square() + eps**2).sqrt().flatten(1).mean(1)


def squared_error(restored_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """Mean squared difference of each example; losses_B in the squared unit of the images."""
    return (restored_BCHW - target_BCHW).square().flatten(1).mean(1)


def softened_divergence(logits_BN: Tensor, target_BN: Tensor, *, temperature: float) -> Tensor:
    """Kullback-Leibler divergence ``T^2 * KL(softmax(target / T) || softmax(logits / T))`` of each example.

    Args:
        logits_BN: unnormalised scores of the student.
        target_BN: those of the teacher.
        temperature: T above 0; T^2 keeps the size of the gradients.

    Returns:
        losses_B, in nats times T^2.

    Source: Hinton et al. 2015, arXiv 1503.02531, section 2.
    """
    log_student_BN = F.log_softmax(logits_BN / temperature, dim=1)
    log_teacher_BN = F.log_softmax(target_BN / temperature, dim=1)
    divergence_B = F.kl_div(log_student_BN, log_teacher_BN, reduction="none", log_target=True).sum(1)
    return temperature**2 * divergence_B


RESTORATION_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "charbonnier": charbonnier,
    "mse": squared_error,
}
