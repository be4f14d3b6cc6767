"""What a corruption is made of: its function, family, group, parameters at severity 1 to 5, and their source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from torch import Tensor

Group = Literal["noise", "blur", "weather", "digital", "resolution"]
Family = Literal["imagecorruptions", "resolution", "pmal", "surveillance", "kornia", "own"]
Scale = Literal["nearest", "imagenet", "tiny", "cifar"]
GROUPS: tuple[str, ...] = get_args(Group)
FAMILIES: tuple[str, ...] = get_args(Family)
TABLE_SIDES: dict[str, int] = {"imagenet": 224, "tiny": 64, "cifar": 32}
"""Side in pixels of the images that each published table is for."""


class Op(Protocol):
    """Corrupts a batch in [0, 1]; the caller clamps the result."""

    def __call__(self, images_BCHW: Tensor, parameter: Any, /, *, keys_B: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Corruption:
    """One corruption.

    Args:
        op: the function.
        group: what kind it is; a corruption of the group of a training noise counts as similar to it.
        severities: table -> five parameters. `imagenet` is always there; lengths are in pixels of its side.
        source: where the parameters are from.
        scaled: (parameter, factor) -> parameter, for those whose lengths follow the image's side; None where nothing
            is a length or where each size has a table of its own.
        family: the suite it belongs to.
        neutral: the parameter that changes nothing. Where it is given, the function takes a parameter for each image
            too, (B, 1, 1, 1), so that training noise can have any strength between the severities.
    """

    op: Op
    group: Group
    severities: Mapping[str, tuple[Any, ...]]
    source: str = "own"
    scaled: Callable[[Any, float], Any] | None = None
    family: Family = "own"
    neutral: float | None = None
