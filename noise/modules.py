"""Our noise as Kornia augmentations, for Kornia's containers beside Kornia's own: `Corrupt` and `Noise`.

Their parameters hold the keys, so the same parameters give the same pixels, and a container's `params` replay them.
Masks, boxes, keypoints and classes pass unchanged. Importing this file needs Kornia.

Where the keys come from:

- **given**, in `keyed_by`: what an image gets is then a function of its key, whatever batch or worker it is in. The
  first draw of a corruption takes the keys as they are, so that `Corrupt` gives the pixels of `noise.corrupt`; its
  next draws within the same `keyed_by` (it stands in the container twice, or a second forward pass) take others.
- **counted**, else: image number n that a module has seen gets the key of (its seed, the data worker's number, n).
  The count is the module's own, is saved with its `state_dict`, and nothing touches torch's global generator.
  Modules with one seed in one container draw the same numbers where they are alike, so give them seeds of their own.
  Data workers start from the count that the module had when they were started, which is the same every epoch unless
  they persist: call `reseed` before each epoch, or give keys.

    >>> import kornia.augmentation as K
    >>> import torch
    >>> from noise.keyed import image_keys
    >>> images, masks = torch.rand(4, 3, 32, 32), torch.ones(4, 1, 32, 32)
    >>> views = K.AugmentationSequential(
    ...     K.RandomHorizontalFlip(p=0.5), Corrupt("shot_noise", (1, 2, 3), p=0.5), data_keys=["input", "mask"]
    ... )
    >>> with keyed_by(views, image_keys([10, 11, 12, 13], seed=0, salt="epoch 5")):
    ...     noisy, moved = views(images, masks)
    >>> again, _ = views(images, masks, params=views._params)
    >>> torch.equal(noisy, again)
    True

The flip above is Kornia's and draws from the global generator; only our modules are keyed.

Shape suffixes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from kornia.augmentation import IntensityAugmentationBase2D
from torch import Tensor, nn
from torch.utils.data import get_worker_info

from noise.corruption import corrupt
from noise.families import find, table_for
from noise.keyed import fold_in, image_keys, integers, uniform
from noise.training import NoisyPair, TrainingNoise

Params = dict[str, Tensor]


class KeyedAugmentation(IntensityAugmentationBase2D):
    """A Kornia augmentation whose every random number comes from keys; `Corrupt` and `Noise` are made of it.

    Args:
        p: share of images that are changed, decided by their keys.
        seed: of the counted keys.
        same_on_batch: all images take the key of the first one.
        keepdim: as in Kornia.

    Attributes:
        as_target: give the target of the noisy image in place of it (see `noisy_pair`).
        record: of the last call, as in `noise.training.NoisyPair`; empty where there is none.
    """

    def __init__(self, *, p: float, seed: int, same_on_batch: bool, keepdim: bool) -> None:
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"p must be 0 to 1, but got {p!r}")
        super().__init__(p=p, same_on_batch=same_on_batch, keepdim=keepdim)
        self.seed, self.num_seen = seed, 0
        self.as_target = False
        self.record: dict[str, Tensor] = {}
        self._given: _Given | None = None

    def reseed(self, seed: int) -> None:
        """Counts from 0 again with this seed."""
        self.seed, self.num_seen = seed, 0

    def forward_parameters(self, batch_shape: Sequence[int]) -> Params:
        """Keys (B) int64, which of the images are changed, and what the keys decide besides."""
        keys_B = self._keys(batch_shape[0])
        if self.same_on_batch:
            keys_B = keys_B[:1].expand_as(keys_B).contiguous()
        draws_B = fold_in(keys_B, f"module/{self.label}")
        applied_B = uniform(draws_B, (1,), stream="applied")[:, 0] < self.p
        return {
            "keys": keys_B,
            "batch_prob": applied_B.float(),
            "forward_input_shape": torch.tensor(tuple(batch_shape), dtype=torch.long),
            **self.further_parameters(draws_B),
        }

    def apply_transform(
        self, input: Tensor, params: Params, flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        raise NotImplementedError

    @property
    def label(self) -> str:
        """What keeps the draws of different modules apart where they share keys."""
        raise NotImplementedError

    def further_parameters(self, draws_B: Tensor) -> Params:
        """Parameters besides the keys, from keys of their own."""
        return {}

    def _keys(self, count: int) -> Tensor:
        if self._given is not None:
            return self._given.keys_for(self.label, count)
        worker = get_worker_info()
        first, self.num_seen = self.num_seen, self.num_seen + count
        salt = f"module/{'main' if worker is None else worker.id}"
        return image_keys(torch.arange(first, first + count), seed=self.seed, salt=salt)

    def get_extra_state(self) -> dict[str, int]:
        return {"seed": self.seed, "num_seen": self.num_seen}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.seed, self.num_seen = state["seed"], state["num_seen"]


class Corrupt(KeyedAugmentation):
    """One corruption of the table, at a severity drawn evenly for each image.

    Values outside [0, 1] are clamped first, as Kornia's own do that assume this range; the arithmetic is float32,
    the result of the images' type. The gradient is that of the corruption: whole for additive noise, zero through
    counts and coders.

    Args:
        name: an entry of `noise.families.CORRUPTIONS`.
        severities: 1 to 5, one or several.
        p: share of images that are corrupted.
        scale: as in `noise.corruption.corrupt`.
        seed: of the counted keys (see the top of the file).
        same_on_batch: the same choice, severity and noise for all images of a batch.
        keepdim: as in Kornia.

    Raises:
        ValueError: an unknown name or scale, or numbers out of their ranges; in the call, images that are not of one
            or three channels or have a side below 8.
    """

    def __init__(
        self,
        name: str,
        severities: int | Sequence[int] = (1, 2, 3),
        *,
        p: float = 0.5,
        scale: str = "nearest",
        seed: int = 0,
        same_on_batch: bool = False,
        keepdim: bool = False,
    ) -> None:
        super().__init__(p=p, seed=seed, same_on_batch=same_on_batch, keepdim=keepdim)
        chosen = (severities,) if isinstance(severities, int) else tuple(severities)
        find(name)
        table_for(name, 224, scale)
        if not chosen or not set(chosen) <= set(range(1, 6)):
            raise ValueError(f"severities must be 1 to 5, but got {severities!r} for {name}")
        self.flags = {"name": name, "severities": chosen, "scale": scale}

    @property
    def label(self) -> str:
        return self.flags["name"]

    def further_parameters(self, draws_B: Tensor) -> Params:
        table = torch.tensor(self.flags["severities"], device=draws_B.device)
        return {"severity": table[integers(draws_B, (1,), high=len(table), stream="severity")[:, 0]]}

    def apply_transform(
        self, input: Tensor, params: Params, flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        if self.as_target:
            return input
        severity_B = params["severity"]
        if self.p < 1.0:  # Kornia puts the other images back; they need no work here.
            severity_B = severity_B.where(params["batch_prob"].to(severity_B.device) > 0.5, 0)
        noisy = input.clone()
        for severity in sorted(set(severity_B.tolist()) - {0}):
            chosen = (severity_B == severity).nonzero()[:, 0]
            there = chosen.to(input.device, non_blocking=True)
            corrupted = corrupt(
                input[there].float().clamp(0.0, 1.0), flags["name"], severity, keys=params["keys"][chosen],
                scale=flags["scale"], check_range=False,
            )  # fmt: skip
            noisy[there] = corrupted.to(input.dtype)
        return noisy


class Noise(KeyedAugmentation):
    """A mixture of training noise, `noise.training.TrainingNoise`, which decides by itself what each image gets.

    Its output is the noisy input of the pairs; `noisy_pair` gives the targets too. `pmal_pair` moves a part of the
    images by an affine map, which masks and boxes do not follow, and may leave [0, 1].

    Args:
        mixture: what is drawn.
        seed: of the counted keys (see the top of the file).
        same_on_batch: all images take the key of the first one.
        keepdim: as in Kornia.
    """

    def __init__(
        self, mixture: TrainingNoise, *, seed: int = 0, same_on_batch: bool = False, keepdim: bool = False
    ) -> None:
        super().__init__(p=1.0, seed=seed, same_on_batch=same_on_batch, keepdim=keepdim)
        self.mixture = mixture
        self.flags = {"types": mixture.types, "scale": mixture.scale}

    @property
    def label(self) -> str:
        return "training"

    def apply_transform(
        self, input: Tensor, params: Params, flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        pair = self.mixture(input.float().clamp(0.0, 1.0), params["keys"])
        self.record = pair.record
        return (pair.target_BCHW if self.as_target else pair.input_BCHW).to(input.dtype)


@contextmanager
def keyed_by(module: nn.Module, keys_B: Tensor) -> Iterator[None]:
    """Inside, every `Corrupt` and `Noise` of a module or container draws from these keys.

    Args:
        module: one of them, or a container that holds some at any depth.
        keys_B: int64 (B,), from `noise.keyed.image_keys`, in the order of the batch. Keys on the CPU spare a wait.

    Raises:
        ValueError: keys of another type or number than the images, or none of our modules in there.
    """
    if keys_B.dtype != torch.int64 or keys_B.dim() != 1:
        raise ValueError(
            f"keys must be int64 of shape (B), but got {keys_B.dtype} of shape {tuple(keys_B.shape)}; make them by "
            "noise.keyed.image_keys(ids, seed=...)"
        )
    ours = _ours(module)
    before = [each._given for each in ours]
    given = _Given(keys_B)
    for each in ours:
        each._given = given
    try:
        yield
    finally:
        for each, earlier in zip(ours, before, strict=True):
            each._given = earlier


def noisy_pair(views: nn.Module, images_BCHW: Tensor, keys_B: Tensor | None = None) -> NoisyPair:
    """What a method trains on, from a Kornia container with our noise somewhere in it.

    The container runs twice with one set of parameters: once as it is, once with our modules giving targets, so that
    flips, crops and colour before and after the noise are the same in both.

    Args:
        views: `AugmentationSequential` or `ImageSequential` that holds `Corrupt` or `Noise`, or one of these alone.
        images_BCHW: float in [0, 1].
        keys_B: as in `keyed_by`; counted keys when None.

    Returns:
        Target and input; the record is that of the `Noise` in it, and empty where there is not just one.

    Raises:
        ValueError: none of our modules is in there.
    """
    ours = _ours(views)
    extra = {"data_keys": ["input"]} if hasattr(views, "data_keys") else {}
    if keys_B is None:
        noisy = views(images_BCHW, **extra)
    else:
        with keyed_by(views, keys_B):
            noisy = views(images_BCHW, **extra)
    records = [each.record for each in ours if isinstance(each, Noise)]
    for each in ours:
        each.as_target = True
    try:
        target = views(images_BCHW, params=views._params, **extra)
    finally:
        for each in ours:
            each.as_target = False
    return NoisyPair(target, noisy, records[0] if len(records) == 1 else {})


class _Given:
    """Keys given from outside, and how often each kind of noise has drawn from them."""

    def __init__(self, keys_B: Tensor) -> None:
        self.keys_B = keys_B
        self.num_draws: Counter[str] = Counter()

    def keys_for(self, label: str, count: int) -> Tensor:
        if count != len(self.keys_B):
            raise ValueError(f"there must be one key for each image, but got {len(self.keys_B)} for {count}")
        draw = self.num_draws[label]
        self.num_draws[label] += 1
        return fold_in(self.keys_B, f"again/{draw}") if draw else self.keys_B


def _ours(module: nn.Module) -> list[KeyedAugmentation]:
    ours = [each for each in module.modules() if isinstance(each, KeyedAugmentation)]
    if not ours:
        raise ValueError(f"there must be a Corrupt or Noise in the module, but {type(module).__name__} holds none")
    return ours
