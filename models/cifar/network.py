"""A network as named parts in a row, pooled over the whole map, with timm's interface of features and classifier.

Shape suffixes: B batch, C channels, H height, W width, N classes, D values of an embedding.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from torch import Tensor, nn


class Tap(NamedTuple):
    """A part whose output is a feature map.

    Attributes:
        part: its name.
        channels: C of the map.
        stride: side of the image over the side of the map.
    """

    part: str
    channels: int
    stride: int


class CifarNetwork(nn.Module):
    """Parts that run one after the other, a pooling over all that is left of the image, and a linear layer.

    What follows the last tap (a last norm) belongs to the features that the pooling reads and not to the last map.

    Args:
        parts: name and module, in the order they run.
        taps: in the same order; the last gives the channels that are pooled.
        classifier: name of the linear layer.
        num_classes: N; 0 for no classifier.
        global_pool: one of timm's; "" with num_classes=0 leaves the map as it is.
        start_classifier: sets the initial weights of a new linear layer; PyTorch's own when None.
    """

    def __init__(
        self,
        parts: Mapping[str, nn.Module],
        *,
        taps: Sequence[Tap],
        classifier: str,
        num_classes: int,
        global_pool: str = "avg",
        start_classifier: Callable[[nn.Linear], None] | None = None,
    ) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self._parts = tuple(parts)
        self._ends = [self._parts.index(tap.part) + 1 for tap in taps]
        self._classifier = classifier
        self._start_classifier = start_classifier
        self.feature_info = [{"num_chs": tap.channels, "reduction": tap.stride, "module": tap.part} for tap in taps]
        self.num_features = self.head_hidden_size = taps[-1].channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _start_convolution(module)
        self.reset_classifier(num_classes, global_pool)

    def get_classifier(self) -> nn.Module:
        """The linear layer; an identity when there are no classes."""
        return self.get_submodule(self._classifier)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier, on the device and in the dtype of the weights; the pooling stays when None."""
        weight = next(self.parameters())
        pool_type = self.global_pool.pool_type if global_pool is None else global_pool
        self.global_pool = SelectAdaptivePool2d(pool_type=pool_type, flatten=bool(pool_type))
        last = nn.Identity()
        if num_classes:
            width = self.num_features * self.global_pool.feat_mult()
            last = nn.Linear(width, num_classes, device=weight.device, dtype=weight.dtype)
            if self._start_classifier is not None:
                self._start_classifier(last)
        self.add_module(self._classifier, last)
        self.num_classes = num_classes

    def forward_features(self, images_BCHW: Tensor) -> Tensor:
        """The map that the pooling reads."""
        return self._run(self._parts, images_BCHW)

    def forward_head(self, features_BCHW: Tensor, pre_logits: bool = False) -> Tensor:
        """logits_BN of :meth:`forward_features`; embedding_BD with `pre_logits`."""
        embedding_BD = self.global_pool(features_BCHW)
        return embedding_BD if pre_logits else self.get_classifier()(embedding_BD)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Feature maps, and before them what :meth:`forward_head` reads unless `intermediates_only`.

        Args:
            x: images_BCHW.
            indices: of `feature_info`; the last so many for a number, all for None.
            norm: whether the last map is taken after a last norm.
            stop_early: go no deeper than the deepest map asked for; what comes before the maps is then that map.
            output_fmt: "NCHW".
            intermediates_only: leave out what the head reads.
        """
        assert output_fmt == "NCHW", f"output_fmt must be NCHW, but got {output_fmt!r}"
        taken = _taken(indices, count=len(self._ends))
        maps: list[Tensor] = []
        start = 0
        for index, end in enumerate(self._ends[: taken[-1] + 1] if stop_early else self._ends):
            x = self._run(self._parts[start:end], x)
            start = end
            if index in taken:
                maps.append(x)
        rest = self._parts[start:] if start == self._ends[-1] else ()
        if norm and maps and taken[-1] == len(self._ends) - 1:
            x = maps[-1] = self._run(rest, x)
            rest = ()
        return maps if intermediates_only else (self._run(rest, x), maps)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """logits_BN."""
        return self.forward_head(self.forward_features(images_BCHW))

    def _run(self, parts: Sequence[str], x: Tensor) -> Tensor:
        for name in parts:
            x = self.get_submodule(name)(x)
        return x


def _taken(indices: int | Sequence[int] | None, *, count: int) -> list[int]:
    """Ascending indices of maps, counted as timm counts them."""
    if indices is None or isinstance(indices, int):
        last = count if indices is None else indices
        indices = range(count - last, count)
    taken = sorted(index + count if index < 0 else index for index in indices)
    if not taken or not 0 <= taken[0] <= taken[-1] < count:
        raise ValueError(f"indices must be of the {count} feature maps, but got {list(indices)}")
    return taken


def _start_convolution(convolution: nn.Conv2d) -> None:
    """Source: He et al. 2015 (arXiv 1502.01852), by the number of outputs; a bias starts at 0."""
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
