"""What a deployed network weighs and how fast it answers: parameters, multiply-accumulates and measured latency."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from models.methods.cost import forward_macs
from study.build import build_method
from study.config import TrialConfig
from study.estimate import without_weights

WARM_UP = 3
MOST_PASSES = 100
LEAST_PASSES = 10
ENOUGH_SECONDS = 1.0
"""After this no further pass is timed, once there are `LEAST_PASSES`."""


def footprint(config: TrialConfig, *, num_classes: int) -> dict[str, float]:
    """`cost/params` and `cost/macs` of a trial's deployed network, from its settings alone; nothing is computed.

    Parameters are those of the network that is exported, without decoders and heads that only train. MACs are those of
    convolutions, linear layers and attention in a prediction of one image at the size that the network trains on.
    """
    return dict(_footprint(_shaping(config).model_dump_json(), num_classes))


@lru_cache(maxsize=512)
def _footprint(config_json: str, num_classes: int) -> tuple[tuple[str, float], ...]:
    config = TrialConfig.model_validate_json(config_json)
    side = config.resolution.input_size(config.data.image_size)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        method = build_method(config, num_classes=num_classes)
        method.network.eval()
        macs = forward_macs(method.predict, torch.zeros(1, 3, side, side))
    params = sum(parameter.numel() for parameter in method.deployed.parameters())
    return ("cost/params", float(params)), ("cost/macs", float(macs))


def _shaping(config: TrialConfig) -> TrialConfig:
    """The same with defaults for what has no part in the network's shape, so that most trials share an answer."""
    plain, kept = TrialConfig(), without_weights(config)
    model = kept.model.model_copy(update={"batch_norm": "train"})
    train = plain.train
    return kept.model_copy(update={"optim": plain.optim, "train": train, "model": model})


@torch.no_grad()
def latency_ms(predict: Callable[[Tensor], object], *, side: int, device: torch.device) -> float:
    """Shortest time of a prediction of one image, in milliseconds, after some to warm up; as the network stands.

    The shortest and not the median: other trials run beside this one, and what they do can only add to a pass, so the
    least of many is nearest to what the network takes by itself. It is still no figure of a quiet machine.
    Source: Python documentation, timeit.Timer.repeat, on the least of several times.

    Args:
        predict: In evaluation mode, on `device`.
        side: Of the image, in pixels.
    """
    images_BCHW = torch.zeros(1, 3, side, side, device=device)
    for _ in range(WARM_UP):
        predict(images_BCHW)
    _wait(device)
    seconds: list[float] = []
    while len(seconds) < MOST_PASSES and (len(seconds) < LEAST_PASSES or sum(seconds) < ENOUGH_SECONDS):
        started = time.perf_counter()
        predict(images_BCHW)
        _wait(device)
        seconds.append(time.perf_counter() - started)
    return 1000.0 * min(seconds)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
