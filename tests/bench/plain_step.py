"""PMAL's training step in the plain form that ours is measured against, written from the method's description.

Every pass runs the whole network and all its heads, SAM goes over the parameters one by one, and the pairs of a batch
are made image by image on the CPU. Gradients are None where a step does not reach, so that the losses are ours too.
Shape suffixes: B batch, C channels, H height, W width, N classes.
"""

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from models.methods.pmal import PmalNetwork

Pair = tuple[Tensor, Tensor]

_DEGREES_15 = math.radians(15.0)


def plain_losses(
    network: PmalNetwork, images_BCHW: Tensor, labels_B: Tensor, pairs: Iterable[Pair], *, smoothing: float
) -> Iterable[Callable[[], Tensor]]:
    """The mean losses of the S + 1 steps of a batch in [-1, 1], in order; a pair is taken when its step comes."""
    for head, (target_BCHW, noisy_BCHW) in enumerate(pairs):

        def noisy_loss(head: int = head, target_BCHW: Tensor = target_BCHW, noisy_BCHW: Tensor = noisy_BCHW) -> Tensor:
            features, logits = network.look(noisy_BCHW, stages=len(network.heads))
            restored_BCHW = network.decoders[head](features[head], noisy_BCHW)
            again = network.look(restored_BCHW, stages=len(network.heads)).logits
            distance = ((restored_BCHW - target_BCHW) ** 2 + 1e-12).sqrt().mean()
            return _entropy(logits[head], labels_B, smoothing) + distance + _entropy(again[head], labels_B, smoothing)

        yield noisy_loss

    def clean_loss() -> Tensor:
        *heads, classifier_BN = network.look(images_BCHW, stages=len(network.heads)).logits
        own = 2 * _entropy(classifier_BN, labels_B, smoothing)
        return own + torch.stack([_entropy(logits_BN, labels_B, smoothing) for logits_BN in heads]).sum()

    yield clean_loss


def plain_update(network: nn.Module, optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor], rho: float) -> float:
    """One update of everything that the loss reaches, with SAM's second pass where rho is above 0; the loss at w."""
    optimizer.zero_grad(set_to_none=True)
    first = loss()
    first.backward()
    if rho > 0:
        touched = [parameter for parameter in network.parameters() if parameter.grad is not None]
        before = [parameter.detach().clone() for parameter in touched]
        with torch.no_grad():
            norm = torch.stack([parameter.grad.norm() for parameter in touched if parameter.grad is not None]).norm()
            for parameter in touched:
                parameter.add_(parameter.grad * (rho / (norm + 1e-12)))
        optimizer.zero_grad(set_to_none=True)
        momenta = _set_momenta(network, None)
        loss().backward()
        _set_momenta(network, momenta)
        with torch.no_grad():
            for parameter, value in zip(touched, before, strict=True):
                parameter.copy_(value)
    optimizer.step()
    return first.item()


def plain_batch(
    network: PmalNetwork,
    optimizer: torch.optim.Optimizer,
    images_BCHW: Tensor,
    labels_B: Tensor,
    pairs: Iterable[Pair],
    *,
    smoothing: float,
    rho: float,
) -> list[float]:
    """The S + 1 updates of a batch of images in [-1, 1]; gives their losses."""
    losses = plain_losses(network, images_BCHW, labels_B, pairs, smoothing=smoothing)
    return [plain_update(network, optimizer, loss, rho) for loss in losses]


def plain_pairs(images_BCHW: Tensor, count: int, generator: torch.Generator) -> Iterable[Pair]:
    """`count` pairs of target and noisy input of a batch in [-1, 1], each image by itself on the CPU."""
    for _ in range(count):
        targets, noisy = zip(*(_plain_pair(image_CHW, generator) for image_CHW in images_BCHW.cpu()), strict=True)
        yield torch.stack(targets).to(images_BCHW.device), torch.stack(noisy).to(images_BCHW.device)


def _plain_pair(image_CHW: Tensor, generator: torch.Generator) -> Pair:
    moves, blurs, coloured = (torch.rand(3, generator=generator) < torch.tensor([0.2, 0.5, 0.5])).tolist()
    target_CHW = _moved(image_CHW, generator) if moves else image_CHW
    if blurs:
        sigma = 3.0 * float(torch.rand((), generator=generator)) + 1e-3
        size = 2 * math.ceil(4 * sigma) + 1
        target_CHW = gaussian_blur(gaussian_blur(target_CHW, [size, 1], [sigma, sigma]), [1, size], [sigma, sigma])
    sigma = 0.05 * float(torch.rand((), generator=generator))
    field_CHW = torch.randn(3 if coloured else 1, *image_CHW.shape[1:], generator=generator)
    return target_CHW, target_CHW + sigma * field_CHW


def _moved(image_CHW: Tensor, generator: torch.Generator) -> Tensor:
    turn, shear_x, shear_y, zoom_x, zoom_y, shift_x, shift_y = (2 * torch.rand(7, generator=generator) - 1).tolist()
    cos, sin = math.cos(turn * _DEGREES_15), math.sin(turn * _DEGREES_15)
    turned = torch.tensor([[cos, -sin], [sin, cos]])
    sheared = torch.tensor([[1.0, math.tan(shear_x * _DEGREES_15)], [math.tan(shear_y * _DEGREES_15), 1.0]])
    linear = turned @ sheared @ torch.diag(torch.tensor([1 / (1 + 0.2 * zoom_x), 1 / (1 + 0.2 * zoom_y)]))
    shift = torch.tensor([[0.4 * shift_x], [0.4 * shift_y]])
    grid = F.affine_grid(torch.cat([linear, -linear @ shift], 1)[None], [1, *image_CHW.shape], align_corners=False)
    return F.grid_sample(image_CHW[None], grid, align_corners=False)[0]


def _entropy(logits_BN: Tensor, labels_B: Tensor, smoothing: float) -> Tensor:
    """Mean cross entropy with smoothing / (N - 1) on each of the wrong classes."""
    classes = logits_BN.shape[1]
    wanted_BN = torch.full_like(logits_BN, smoothing / (classes - 1))
    wanted_BN.scatter_(1, labels_B[:, None], 1 - smoothing)
    return -(wanted_BN * logits_BN.log_softmax(1)).sum(1).mean()


def _set_momenta(network: nn.Module, momenta: list[float | None] | None) -> list[float | None]:
    """Give batch norms these momenta, or 0 for None, which keeps their running statistics; gives the ones before."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm, momentum in zip(norms, momenta or [0.0] * len(norms), strict=True):
        norm.momentum = momentum
    return before
