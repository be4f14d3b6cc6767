"""The training methods by name, and how a method is built from its name or from an export."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from models.methods.distil import Distil, DistilSettings
from models.methods.horkd import Horkd, HorkdSettings
from models.methods.method import Context, Method, MethodSpec
from models.methods.plain import Plain, PlainSettings
from models.methods.pmal import Pmal, PmalSettings
from models.methods.pmd import Pmd, PmdSettings

METHODS: dict[str, MethodSpec] = {
    "plain": MethodSpec(
        PlainSettings, Plain, "one update by cross entropy, on noisy images if there is training noise"
    ),
    "pmal": MethodSpec(
        PmalSettings, Pmal, "denoising beside recognition, stage by stage from shallow to deep", takes_small=False
    ),
    "pmd": MethodSpec(
        PmdSettings, Pmd, "a teacher's maps and logits taught to a plain backbone, then its labels", taught=True
    ),
    "distil": MethodSpec(
        DistilSettings, Distil, "a plain backbone taught by any weighted sum of distillation losses", taught=True
    ),
    "horkd": MethodSpec(
        HorkdSettings,
        Horkd,
        "a plain backbone taught by points, pairs and triplets of a teacher's embeddings",
        taught=True,
        taught_twice=True,
    ),
}


def method_spec(name: str) -> MethodSpec:
    """The entry of a method.

    Raises:
        ValueError: for an unknown name, with the known ones.
    """
    if name not in METHODS:
        raise ValueError(f"method must be one of {sorted(METHODS)}, but got {name!r}")
    return METHODS[name]


def load_export(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> Method:
    """Build the method of an export in eval mode, ready for `predict`; it has no sampler to train with.

    Args:
        state_dict: `Export.state_dict`.
        config: `Export.config`, also after a way through JSON.
    """
    spec = method_spec(config["method"])
    values = config["settings"].items()
    settings = spec.settings(**{name: tuple(value) if isinstance(value, list) else value for name, value in values})
    context = Context(
        backbone=config["backbone"],
        num_classes=config["num_classes"],
        image_size=config["image_size"],
        input_size=config.get("input_size"),
    )
    method = spec.build(context, settings)
    method.deployed.load_state_dict(state_dict)
    method.network.eval()
    return method
