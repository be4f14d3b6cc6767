"""The distillation losses by name; each module of losses brings its own."""

import difflib
from dataclasses import dataclass

from models.distillation import (
    class_attention,
    contrast,
    instance_relation,
    logits,
    maps,
    orders,
    relation_contrast,
    relations,
)
from models.distillation.loss import LossSpec


@dataclass(frozen=True)
class LossSettings(
    logits.KdSettings,
    logits.DkdSettings,
    logits.DistSettings,
    maps.FitNetSettings,
    maps.VidSettings,
    relations.CcSettings,
    relations.RkdSettings,
    orders.FirstOrderSettings,
    contrast.CrdSettings,
    relation_contrast.CrrcdSettings,
    instance_relation.AirdSettings,
    class_attention.AtPlusSettings,
):
    """The settings of all losses, each named after its loss."""


LOSSES: dict[str, LossSpec] = {
    **logits.SPECS,
    **maps.SPECS,
    **relations.SPECS,
    **orders.SPECS,
    "crd": contrast.CRD,
    "crrcd": relation_contrast.CRRCD,
    "aird": instance_relation.AIRD,
    "at_plus": class_attention.AT_PLUS,
}


def loss_spec(name: str) -> LossSpec:
    """The entry of a loss.

    Raises:
        ValueError: for an unknown name, with those like it and all known ones.
    """
    if name not in LOSSES:
        near = difflib.get_close_matches(name.lower(), LOSSES, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"a distillation loss must be one of {sorted(LOSSES)}, but got {name!r}{hint}")
    return LOSSES[name]
