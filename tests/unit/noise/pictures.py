"""Images for the tests of noise: smooth colour with edges and texture, or plain random values."""

import torch
from torch import Tensor


def scenes(count: int, height: int, width: int, *, channels: int = 3, seed: int = 0) -> Tensor:
    """Synthetic pictures with gradients, bars, discs and fine texture, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    y_H1 = torch.linspace(-1, 1, height)[:, None]
    x_1W = torch.linspace(-1, 1, width)[None, :]
    images = []
    for _ in range(count):
        planes = []
        a, b, c, d, e = (torch.rand(5, generator=generator) * 2 - 1).tolist()
        disc = ((x_1W - a) ** 2 + (y_H1 - b) ** 2 < 0.2).float()
        bars = (torch.sin((6 + 4 * c) * (x_1W + d * y_H1)) > 0).float()
        for _ in range(channels):
            low, tilt, depth, ink = torch.rand(4, generator=generator).tolist()
            plane = 0.3 + 0.3 * low + 0.2 * tilt * x_1W * e + 0.2 * y_H1 * depth
            planes.append(plane + 0.25 * ink * bars - 0.3 * depth * disc)
        image = torch.stack(planes)
        images.append(image + 0.03 * torch.randn(image.shape[1:], generator=generator))
    return torch.stack(images).clamp(0, 1)


def random_images(count: int, height: int, width: int, *, channels: int = 3, seed: int = 0) -> Tensor:
    """Independent uniform values in [0, 1]."""
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(seed))
