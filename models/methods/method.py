"""What a training method is: an ordered list of objectives for a batch, a prediction and something to deploy.

Shape suffixes: B batch, C channels, H height, W width, N classes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from models.backbones import StagedBackbone
from models.distillation.loss import View


@dataclass(frozen=True)
class Batch:
    """Images in [0, 1], their labels (int64), the int64 keys that their training noise is drawn from, and its level.

    `noise_level` from 0 to 1 is what a curriculum multiplies all strengths by. `progress` in [0, 1) is the share of
    the training that is done, for methods whose objectives change on the way. `ids_B`, int64 on the CPU, are the
    images' own ids, for methods that remember what they saw of each.
    """

    images_BCHW: Tensor
    labels_B: Tensor
    keys_B: Tensor
    noise_level: float = 1.0
    progress: float = 0.0
    ids_B: Tensor | None = None

    def __len__(self) -> int:
        return self.images_BCHW.shape[0]


class LossSum(NamedTuple):
    """A loss summed over `count` examples; only sums add up over slices and workers."""

    total: Tensor
    count: int


@dataclass(frozen=True)
class Objective:
    """One update of a batch.

    Args:
        name: unique within a batch, for records.
        parameters: those that this update may touch; nothing else moves.
        loss: of a slice of the batch; the same noise each time it is called.
        decomposable: whether losses of slices add up to that of the whole, apart from batch statistics; `count` is
            then the number of the slice's images.
    """

    name: str
    parameters: list[nn.Parameter]
    loss: Callable[[slice], LossSum]
    decomposable: bool = True


class Pair(Protocol):
    """A target to restore and an input to see, both in [0, 1] units, not necessarily clamped."""

    @property
    def target_BCHW(self) -> Tensor: ...

    @property
    def input_BCHW(self) -> Tensor: ...


class Sampler(Protocol):
    """Training noise: the same images, keys, draw and level give the same pair."""

    def __call__(self, images_BCHW: Tensor, keys_B: Tensor, *, draw: int = 0, level: float = 1.0) -> Pair: ...


class Lesson(NamedTuple):
    """What a teacher shows of a batch: maps of its last stages, shallow to deep, and every vector of logits_BN."""

    features: list[Tensor]
    logits: list[Tensor]


@runtime_checkable
class Teacher(Protocol):
    """A trained method that others can be distilled from."""

    @property
    def network(self) -> nn.Module:
        """All of it, to be frozen and moved to a device."""
        ...

    @property
    def backbone(self) -> StagedBackbone:
        """Whose feature maps a lesson has."""
        ...

    def lesson(self, images_BCHW: Tensor, *, stages: int) -> Lesson:
        """Maps of the backbone's last `stages` and all logits_BN of images in [0, 1], in one pass."""
        ...


@runtime_checkable
class Viewed(Protocol):
    """A method whose deployed network shows all that it makes of an image: to teach by, to compare images by."""

    @property
    def network(self) -> nn.Module:
        """All of it, to be frozen and moved to a device."""
        ...

    @property
    def backbone(self) -> StagedBackbone:
        """Whose maps and embeddings a view has."""
        ...

    def view(self, images_BCHW: Tensor) -> View:
        """All maps, the embedding and the logits of `predict`, of images in [0, 1]."""
        ...


class HeadCost(NamedTuple):
    """What one image costs in a forward pass that stops at a head."""

    parameters: int
    macs: int


SUM = "sum"
"""The head that is the sum of all others' logits: what a method with several heads predicts by."""


@runtime_checkable
class Headed(Protocol):
    """A method with several classifiers, of which each can answer alone."""

    def heads(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Name -> logits_BN of images in [0, 1], in one pass and without gradients.

        "stage1" .. "stageS" from the shallowest, "backbone" (its own classifier), and `SUM`, which is `predict`.
        """
        ...

    def head_costs(self) -> dict[str, HeadCost]:
        """Name -> cost of each of `heads` alone: nothing deeper is computed, and no other head."""
        ...


@dataclass(frozen=True)
class Context:
    """What every method is built from.

    Args:
        backbone: a timm model.
        num_classes: N.
        image_size: side of the square images, in pixels.
        input_size: side of what the sampler gives to see, where that is another; None: `image_size`.
        pretrained: as in `create_backbone`.
        sampler: training noise; None for clean images.
        label_smoothing: eps of the eps/(N-1) form.
        seed: of the initial weights.
        epochs: how long training lasts, for the mean cost of methods whose objectives change on the way; None where
            they change with each batch, not between epochs.
        teacher: for methods that learn from one; None where they are only to predict.
        direct_teacher: a second one, for methods that learn from two.
        train_ids, train_labels: int64 (n,) of the training images, on the CPU, for methods that remember what they saw
            of each; None where they are only to predict or to be timed.
        frozen_batch_norm: of the backbone, as in `create_backbone`; what a method adds to it starts without statistics
            and always follows the batch.
    """

    backbone: str
    num_classes: int
    image_size: int
    input_size: int | None = None
    pretrained: bool | str = False
    sampler: Sampler | None = None
    label_smoothing: float = 0.0
    seed: int = 0
    epochs: int | None = 1
    teacher: Teacher | None = None
    direct_teacher: Teacher | None = None
    train_ids: Tensor | None = None
    train_labels: Tensor | None = None
    frozen_batch_norm: bool = False


@dataclass(frozen=True)
class Export:
    """What is deployed: weights and a description that JSON can hold, from which `load_export` builds it again."""

    state_dict: dict[str, Tensor]
    config: dict[str, Any]


class Method(Protocol):
    """A training method; whoever drives it sets train and eval mode and the device through `network`."""

    @property
    def network(self) -> nn.Module:
        """All that trains and is checkpointed."""
        ...

    @property
    def deployed(self) -> nn.Module:
        """The part of the network whose weights are exported."""
        ...

    def objectives(self, batch: Batch) -> Iterator[Objective]:
        """The updates of a batch, in order; the next is made when the update before is done."""
        ...

    def predict(self, images_BCHW: Tensor) -> Tensor:
        """logits_BN of images in [0, 1], without gradients, in the mode that the network is in."""
        ...

    def predictor(self) -> nn.Module:
        """images_BCHW in [0, 1] to the logits_BN of `predict`, with nothing that this does not need.

        It shares the network's weights and takes gradients.
        """
        ...

    def restore(self, images_BCHW: Tensor) -> Tensor | None:
        """Images in [0, 1] as the method would clean them, or None if it does not."""
        ...

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All trained parameters: "backbone", and "heads" with what is new (the classifier among them)."""
        ...

    def export(self) -> Export:
        """What is deployed, on the CPU."""
        ...

    def passes_per_image(self) -> float:
        """Cost of an image's objectives without SAM; a forward and backward pass of the backbone is 1."""
        ...


class MethodSpec(NamedTuple):
    """An entry of the dict of methods: its settings (a frozen dataclass of `setting`s) and its constructor.

    `taught` says that it trains by `Context.teacher`, `taught_twice` that it may have `Context.direct_teacher` too.
    `takes_small` says that it can train on images smaller than `Context.image_size`.
    `decomposable` is false for a method with an objective that is not: gradient accumulation is refused with it.
    """

    settings: type[Any]
    build: Callable[[Context, Any], Method]
    doc: str
    taught: bool = False
    decomposable: bool = True
    taught_twice: bool = False
    takes_small: bool = True


def setting(
    default: Any,
    *,
    doc: str,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    multiple_of: int | None = None,
) -> Any:
    """A field of a method's settings, with bounds and a line of explanation for study files and their schema.

    Bounds of a tuple hold for each of its entries. The metadata has the keys doc, ge, gt, le, lt, multiple_of; no
    bound, no key.
    """
    bounds = {"ge": ge, "gt": gt, "le": le, "lt": lt, "multiple_of": multiple_of}
    given = {key: value for key, value in bounds.items() if value is not None}
    return field(default=default, metadata={"doc": doc, **given})
