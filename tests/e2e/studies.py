"""Small study files and the command line as a person uses it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SMALL = """
name: small
data: {source: synthetic-vehicles, num_classes: 4, train_per_class: 16, test_per_class: 6, image_size: 32}
model: {backbone: test_resnet}
noise: {validation: [gaussian_noise], validation_severities: [3], test: [contrast, shot_noise], test_severities: [1, 3]}
optim: {lr: 0.02}
train: {epochs: 6, batch_size: 16, augment: {crop_padding: 2}}
search:
  trials: 6
  space:
    method.name: {choice: [plain, pmal]}
    method.stages: {fixed: 1, when: {method.name: pmal}}
    method.head_widths: {fixed: [8, 8], when: {method.name: pmal}}
    optim.sam.rho: {log_uniform: [0.02, 0.2]}
phases:
  - {kind: search, name: search}
  - {kind: confirm, name: confirm, of: search, per: method.name, seeds: [101, 102]}
"""


def environment(**extra: str) -> dict[str, str]:
    """The test's environment, with Ray and MLflow kept quiet and no cluster joined by chance."""
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {**kept, "RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1", **extra}


def murk(*args: str, cwd: Path, timeout: float = 400, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder of its own."""
    command = [sys.executable, "-m", "murk", *args]
    extra = {"PYTHONPATH": str(ROOT), **extra}
    return subprocess.run(command, cwd=cwd, env=environment(**extra), capture_output=True, text=True,
                          timeout=timeout, check=False)  # fmt: skip
