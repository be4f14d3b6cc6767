"""Prints what keyed random values cost on the CPU beside NumPy's; asserts nothing.

python tests/bench/bench_keyed.py
"""

import datetime
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from noise import keyed
from noise.poisson import poisson

_SHAPES = [(64, (3, 64, 64)), (16, (3, 224, 224))]
_REPEATS = 7


def main() -> None:
    """Times one thread, the best of several runs, in nanoseconds for each value."""
    torch.set_num_threads(1)
    print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC, commit {_commit()}")
    print(f"{_processor()}, 1 thread; torch {torch.__version__}, numpy {np.__version__}, {platform.platform()}")
    for batch_size, shape in _SHAPES:
        _bench(batch_size, shape)


def _bench(batch_size: int, shape: tuple[int, ...]) -> None:
    keys_B = keyed.image_keys(range(batch_size), seed=0)
    per_image = int(np.prod(shape))
    count = batch_size * per_image
    rng = np.random.default_rng(0)
    rates_BCHW = torch.rand(batch_size, *shape, generator=torch.Generator().manual_seed(0)) * 60
    rates = rates_BCHW.numpy()
    reference = _nanoseconds(lambda: rng.standard_normal(count), count)
    print(f"\n{batch_size} x {shape}: NumPy standard_normal {reference:.2f} ns for each value = 1.00")
    rows: dict[str, Callable[[], object]] = {
        "keyed.bits": lambda: keyed.bits(keys_B, per_image, stream=0),
        "keyed.uniform": lambda: keyed.uniform(keys_B, shape, stream=0),
        "keyed.normal": lambda: keyed.normal(keys_B, shape, stream=0),
        "keyed.poisson, rates 0..60": lambda: poisson(rates_BCHW, keys_B, max_rate=60, stream=0),
        "NumPy poisson, rates 0..60": lambda: rng.poisson(rates),
    }
    for label, call in rows.items():
        cost = _nanoseconds(call, count)
        print(f"  {label:28s} {cost:8.2f} ns   ratio {cost / reference:6.2f}")


def _nanoseconds(call: Callable[[], object], count: int) -> float:
    call()
    best = float("inf")
    for _ in range(_REPEATS):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best / count * 1e9


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> str:
    try:
        found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


if __name__ == "__main__":
    main()
