"""Any timm model that gives feature maps, cut into stages so that a forward pass goes no deeper than asked.

Shape suffixes: B batch, C channels, H height, W width, N classes.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from models.batchnorm import batch_norms, keep_statistics
from models.cifar.zoo import benchmark_name  # registers the networks with timm

_NUM_EQUAL_STAGES = 4  # a network of one resolution (ViT) is cut into as many equally deep stages
_NUM_NAMED = 4  # of names listed in an error

_Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Stages:
    """How a backbone is cut, shallow to deep.

    Args:
        indices: timm's feature index at which each stage ends.
        channels: C of each stage's feature map.
        strides: side of the image over the side of the map.
        parameter_names: of all the parameters that the map depends on, for each stage.
        num_batch_norms: of the whole backbone.
    """

    indices: tuple[int, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    parameter_names: tuple[tuple[str, ...], ...]
    num_batch_norms: int


class StagedBackbone(nn.Module):
    """A timm model with its classifier. Images come in [-1, 1] and are turned to the weights' own mean and deviation.

    Stages are counted from 0, the shallowest. With `frozen_batch_norm` its batch norms normalise by their running
    statistics in training too and keep them; their scales and shifts train.
    """

    scale_1C11: Tensor
    shift_1C11: Tensor

    def __init__(
        self, model: nn.Module, *, stages: Stages, mean: _Triple, std: _Triple, frozen_batch_norm: bool = False
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.stages = stages
        self.frozen_batch_norm = frozen_batch_norm
        self.mean, self.std = mean, std
        shift_C, scale_C = torch.tensor(mean), torch.tensor(std)
        # ((x + 1) / 2 - mean) / std = x * scale + shift
        self.register_buffer("scale_1C11", (0.5 / scale_C).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift_1C11", ((0.5 - shift_C) / scale_C).view(1, 3, 1, 1), persistent=False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As of any module; frozen batch norms stay in evaluation mode."""
        super().train(mode)
        if self.frozen_batch_norm:
            keep_statistics(self)
        return self

    @property
    def num_stages(self) -> int:
        return len(self.stages.indices)

    @property
    def channels(self) -> tuple[int, ...]:
        return self.stages.channels

    @property
    def strides(self) -> tuple[int, ...]:
        return self.stages.strides

    def forward_to(self, images_BCHW: Tensor, stage: int) -> Tensor:
        """The feature map of a stage; deeper ones are not computed and their batch statistics not touched."""
        (feature_BCHW,) = self.model.forward_intermediates(
            self._normalise(images_BCHW), indices=[self.stages.indices[stage]], stop_early=True, intermediates_only=True
        )
        return feature_BCHW

    def forward_all(self, images_BCHW: Tensor, stages: Sequence[int]) -> tuple[list[Tensor], Tensor]:
        """The feature maps of `stages` (ascending) and logits_BN, in one pass."""
        indices = [self.stages.indices[stage] for stage in stages]
        last, features = self.model.forward_intermediates(self._normalise(images_BCHW), indices=indices)
        return features, self.model.forward_head(last)

    def look(self, images_BCHW: Tensor, stages: Sequence[int]) -> tuple[list[Tensor], Tensor, Tensor]:
        """Feature maps of `stages` (ascending), embedding_BD (what the last layer reads) and logits_BN, in one pass.

        Raises:
            ValueError: The last layer does not read a vector for each image.
        """
        read: list[Tensor] = []
        handle = self.model.get_classifier().register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
        try:
            features, logits_BN = self.forward_all(images_BCHW, stages)
        finally:
            handle.remove()
        if len(read) != 1 or read[0].ndim != 2:
            raise ValueError(
                "a backbone's last layer must read one vector for an image, but this one reads "
                f"{[tuple(value.shape) for value in read]}; take another backbone"
            )
        return features, read[0], logits_BN

    def logits(self, images_BCHW: Tensor) -> Tensor:
        """logits_BN of the backbone's own classifier."""
        return self.model(self._normalise(images_BCHW))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """The same as :meth:`logits`."""
        return self.logits(images_BCHW)

    def stage_parameters(self, stage: int) -> list[nn.Parameter]:
        """The parameters that :meth:`forward_to` of this stage depends on: the stem's, and those up to it."""
        reached = set(self.stages.parameter_names[stage])
        return [parameter for name, parameter in self.model.named_parameters() if name in reached]

    def classifier_parameters(self) -> list[nn.Parameter]:
        """The parameters of the last layer, which is new for every set of classes."""
        return list(self.model.get_classifier().parameters())

    def _normalise(self, images_BCHW: Tensor) -> Tensor:
        return images_BCHW * self.scale_1C11 + self.shift_1C11


def check_backbone(name: str, image_size: int, stages: int = 1, *, frozen_batch_norm: bool = False) -> Stages:
    """Check, without weights and without a download, that a backbone exists and can take the images.

    Args:
        name: a timm model, with or without the tag of its weights.
        image_size: side of the square images, in pixels.
        stages: how many of its last stages are to have a head.
        frozen_batch_norm: whether its batch norms are to keep their statistics.

    Returns:
        How it is cut.

    Raises:
        ValueError: with the way out, for an unknown name or tag (near matches), a size it cannot take, a model that
            gives no feature maps, too few stages, or nothing to freeze.
    """
    cut = _describe(name, image_size)
    if not 1 <= stages <= len(cut.indices):
        raise ValueError(
            f"stages must be between 1 and {len(cut.indices)} for backbone {name!r} (its maps have strides "
            f"{list(cut.strides)}), but got {stages}"
        )
    if frozen_batch_norm and not cut.num_batch_norms:
        raise ValueError(f"batch_norm frozen has no effect on backbone {name!r}: it has no batch norms; leave it out")
    return cut


def create_backbone(
    name: str, *, num_classes: int, image_size: int, pretrained: bool | str = False, frozen_batch_norm: bool = False
) -> StagedBackbone:
    """Build a backbone; initial weights come from torch's global generator (see `Context` for a seeded build).

    Args:
        name: a timm model, with or without the tag of its weights.
        num_classes: N.
        image_size: side of the square images, in pixels.
        pretrained: False for random weights, True for timm's (downloaded), or the path of a .safetensors file with
            timm's names. A classifier of another width is left new; anything else that differs is an error.
        frozen_batch_norm: as in :class:`StagedBackbone`.

    Raises:
        ValueError: as :func:`check_backbone`, or for weights that do not fit.
    """
    stages = check_backbone(name, image_size, frozen_batch_norm=frozen_batch_norm)
    config = get_pretrained_cfg(name)
    assert config is not None
    if pretrained is True and not config.has_weights:
        near = timm.list_pretrained(f"{name.partition('.')[0][:6]}*")[:_NUM_NAMED]
        others = f"one of {near}" if near else "another backbone"
        raise ValueError(
            f"pretrained=True needs published weights, but timm has none for {name!r}: give the path of a "
            f".safetensors file, pretrained=False, or {others}"
        )
    model = timm.create_model(
        name, pretrained=pretrained is True, num_classes=num_classes, **creation_arguments(name, image_size)
    )
    if isinstance(pretrained, str):
        load_weights(model, pretrained)
    mean, std = _triple(config.mean), _triple(config.std)
    return StagedBackbone(model, stages=stages, mean=mean, std=std, frozen_batch_norm=frozen_batch_norm)


def load_weights(model: Any, path: str) -> None:
    """Load a .safetensors file into a timm model; a classifier of another width (or none) keeps its new weights.

    Raises:
        ValueError: naming the file and what differs.
    """
    if not path.endswith(".safetensors") or not Path(path).is_file():
        raise ValueError(f"pretrained must be True, False or the path of a .safetensors file, but got {path!r}")
    try:
        stored = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"pretrained must be whole, but {path!r} cannot be read ({error}); fetch it again") from error
    state = model.state_dict()
    new = _classifier_names(model)
    missing = [name for name in state if name not in stored and name not in new]
    unexpected = [name for name in stored if name not in state and name not in new]
    shapes = [
        f"{name} {tuple(stored[name].shape)} for {tuple(state[name].shape)}"
        for name in state
        if name in stored and stored[name].shape != state[name].shape and name not in new
    ]
    if missing or unexpected or shapes:
        raise ValueError(
            f"the weights in {path!r} must be of this backbone and image size, classifier apart, but got "
            f"{_some('missing', missing)}; {_some('unexpected', unexpected)}; {_some('other shapes', shapes)}"
        )
    replaced = any(name not in stored or stored[name].shape != state[name].shape for name in new)
    loaded = {name: value for name, value in stored.items() if not (replaced and name in new)}
    model.load_state_dict(loaded, strict=not replaced)


def _classifier_names(model: Any) -> set[str]:
    last = {id(parameter) for parameter in model.get_classifier().parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) in last}


def _some(what: str, names: list[str]) -> str:
    return f"{len(names)} {what}" + (f" ({', '.join(names[:_NUM_NAMED])})" if names else "")


def _triple(values: Sequence[float]) -> _Triple:
    red, green, blue = values
    return red, green, blue


def creation_arguments(name: str, image_size: int) -> dict[str, Any]:
    """timm's arguments for an image size: those of networks made for one size take it when they are built."""
    config = get_pretrained_cfg(name)
    assert config is not None
    native = image_size == config.input_size[-1]
    return {"img_size": image_size} if config.fixed_input_size and not native else {}


def _require_name(name: str) -> None:
    if not timm.is_model(name):
        near = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=_NUM_NAMED, cutoff=0.5)
        meant = benchmark_name(name)
        near = [meant, *near[: _NUM_NAMED - 1]] if meant and meant not in near else near
        raise ValueError(f"backbone must be the name of a timm model, but got {name!r}: did you mean one of {near}?")
    architecture, _, tag = name.partition(".")
    tagged = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in tagged:
        raise ValueError(f"backbone {architecture!r} must have a known tag of weights, but got {tag!r}: {tagged}")


@lru_cache(maxsize=256)
def _describe(name: str, image_size: int) -> Stages:
    _require_name(name)
    # The meta device computes shapes only: no weights, no arithmetic.
    with torch.device("meta"):
        try:
            model: Any = timm.create_model(name, num_classes=2, **creation_arguments(name, image_size))
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(_refusal(name, image_size, error)) from error
        if not hasattr(model, "forward_intermediates"):
            raise ValueError(
                f"a backbone must give feature maps (timm's forward_intermediates), but {name!r} does not: take "
                "another, such as 'resnet50'"
            )
        images_BCHW = torch.zeros(2, 3, image_size, image_size)
        try:
            last, features = model.forward_intermediates(images_BCHW)
            logits_BN = model.forward_head(last)
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(_refusal(name, image_size, error)) from error
    if not isinstance(logits_BN, Tensor) or logits_BN.shape != (2, 2):
        raise ValueError(f"a backbone must give one vector of logits for an image, but {name!r} gives several")
    return _cut(model, features)


def _refusal(name: str, image_size: int, error: Exception) -> str:
    config = get_pretrained_cfg(name)
    assert config is not None
    return (
        f"backbone {name!r} cannot take images of {image_size} pixels ({type(error).__name__}: {error}): its own size "
        f"is {config.input_size[-1]}; take that, a multiple of 32, or another backbone"
    )


def _cut(model: Any, features: list[Tensor]) -> Stages:
    reductions = [entry["reduction"] for entry in getattr(model.feature_info, "info", model.feature_info)]
    assert len(reductions) == len(features)
    # A stage ends where the resolution is about to change, so that each has its own.
    indices = [index for index, stride in enumerate(reductions) if [*reductions, None][index + 1] != stride]
    if len(indices) == 1:
        count = min(_NUM_EQUAL_STAGES, len(reductions))
        indices = [(part + 1) * len(reductions) // count - 1 for part in range(count)]
    return Stages(
        indices=tuple(indices),
        channels=tuple(features[index].shape[1] for index in indices),
        strides=tuple(int(reductions[index]) for index in indices),
        parameter_names=tuple(_reached(model, features[index]) for index in indices),
        num_batch_norms=len(batch_norms(model)),
    )


def _reached(model: nn.Module, feature: Tensor) -> tuple[str, ...]:
    """Names of the parameters in the graph of a feature map."""
    seen: set[Any] = set()
    leaves: set[int] = set()
    waiting: list[Any] = [feature.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        waiting.extend(following for following, _ in node.next_functions)
    return tuple(name for name, parameter in model.named_parameters() if id(parameter) in leaves)
