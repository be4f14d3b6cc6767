"""Tiny trials for tests: drawn vehicles at 16 px and timm's smallest network."""

from pathlib import Path
from typing import Any

from study.config import TrialConfig
from study.data.prepare import prepare_data
from study.ledger import Ledger, Role, TrialSpec, trial_key

TINY: dict[str, Any] = {
    "data": {"source": "synthetic-vehicles", "num_classes": 3, "train_per_class": 10, "test_per_class": 4,
             "image_size": 32, "validation_share": 0.3},
    "model": {"backbone": "test_resnet"},
    "noise": {"validation": ["gaussian_noise"], "validation_severities": [3], "test": ["contrast"],
              "test_severities": [2, 4]},
    "optim": {"lr": 0.02, "sam": {"rho": 0.05}},
    "train": {"epochs": 2, "batch_size": 8, "augment": {"crop_padding": 2}},
}  # fmt: skip
PMAL = {"name": "pmal", "stages": 2, "head_widths": [8, 8], "classifier_width": 8, "decoder_widths": [8, 8, 8]}


def tiny_config(**sections: dict[str, Any]) -> TrialConfig:
    """The tiny trial with some keys of some sections changed."""
    tree = {name: {**TINY.get(name, {}), **sections.get(name, {})} for name in {*TINY, *sections}}
    return TrialConfig.model_validate(tree)


def tiny_spec(tmp_path: Path, config: TrialConfig | None = None, *, role: Role = "search", study: str = "tiny",
              cache: Path | None = None) -> TrialSpec:  # fmt: skip
    """A spec of the tiny trial in a storage place below `tmp_path`."""
    config = config or tiny_config()
    cache = cache or tmp_path.parent / "cache"  # one for all tests of a run
    fingerprint = prepare_data(config.data, cache_dir=cache).fingerprint
    return TrialSpec(
        key=trial_key(config, fingerprint=fingerprint, role=role), study=study, phase=role, role=role, number=0,
        seed=config.train.seed, config=config.model_dump(mode="json"), fingerprint=fingerprint,
        storage=str(tmp_path / "results"), cache_dir=str(cache),
    )  # fmt: skip


def ledger_of(spec: TrialSpec) -> Ledger:
    """The ledger that a spec's trial writes to."""
    return Ledger(spec.storage, spec.study)
