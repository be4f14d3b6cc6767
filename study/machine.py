"""What a trial's numbers were made with: the device and the versions of the libraries."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch

_VERSIONS = ("torch", "timm", "kornia", "numpy", "ray", "optuna", "mlflow")


def hardware(device: torch.device) -> str:
    """What this trial runs on, in words."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (CUDA {torch.version.cuda})"
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in _VERSIONS}
