"""What a trial uses of its machine: time on devices, peak memory and, by setting, samples of the system's load.

Taken in the trial's own process and written into the ledger with its events; MLflow gets them from there. Only the
standard library, torch and Linux's /proc are asked; what a machine does not tell is left out.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from study.ranks import Ranks

SAMPLE_S = 10.0
_MAX_SAMPLES = 5000
"""Between two events; beyond it every second sample is dropped."""
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_GPU_FIELDS = {"utilization.gpu": "gpu_utilization_percentage", "power.draw": "gpu_power_usage_watts"}

Sample = tuple[float, dict[str, float]]


class Usage:
    """Measures one worker's part of a trial from now on; all workers make one and measure together.

    Args:
        earlier: `usage` of the last event of the attempts before this one; time adds to it, and peaks count.
        sample_s: Seconds between two samples of the system's load, which the first worker takes; None for none.
    """

    def __init__(
        self, ranks: Ranks | None = None, *, earlier: Mapping[str, float] | None = None, sample_s: float | None = None
    ) -> None:
        self._ranks = ranks or Ranks()
        self._earlier = dict(earlier or {})
        self._began = time.monotonic()
        _reset_peaks(self._ranks.torch_device())
        self._sampler = Sampler(self._ranks.torch_device(), sample_s) if sample_s and self._ranks.is_first else None

    def measure(self) -> dict[str, Any]:
        """Fields of an event; every worker must call it, as often as the others.

        `usage` holds `device_seconds`, the time that each worker held its device, summed over workers and attempts;
        `peak_memory_bytes`, the largest resident memory of a worker's process; and on a GPU
        `peak_device_memory_bytes`, the most that torch had allocated on one device. Time lost with a killed process
        after its last event is in none of them. `system` holds the samples since the last call, if any are taken.
        """
        parts = self._ranks.gather(self._own())
        earlier_s = self._earlier.get("device_seconds", 0.0)
        figures: dict[str, float] = {"device_seconds": earlier_s + sum(part["device_seconds"] for part in parts)}
        for name in parts[0].keys() - {"device_seconds"}:
            figures[name] = max(self._earlier.get(name, 0.0), *(part[name] for part in parts))
        samples = self._sampler.take() if self._sampler else []
        return {"usage": figures} | ({"system": samples} if samples else {})

    def close(self) -> None:
        """End the sampling thread."""
        if self._sampler:
            self._sampler.close()

    def _own(self) -> dict[str, float]:
        found = {"device_seconds": time.monotonic() - self._began, "peak_memory_bytes": float(_peak_memory())}
        device = self._ranks.torch_device()
        if device.type == "cuda":
            found["peak_device_memory_bytes"] = float(torch.cuda.max_memory_allocated(device))
        return found


class Sampler:
    """A thread that looks at the machine every so often and keeps what it saw until it is taken."""

    def __init__(self, device: torch.device, every_s: float, *, look: Callable[[], dict[str, float]] | None = None):
        self._look = look or SystemLoad(device).look
        self._samples: list[Sample] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(every_s,), name="murk-usage", daemon=True)
        self._thread.start()

    def take(self) -> list[Sample]:
        """The samples since the last call, each a time and its values."""
        with self._lock:
            taken, self._samples = self._samples, []
        return taken

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join(timeout=10)

    def _run(self, every_s: float) -> None:
        while not self._ended.wait(every_s):
            sample = (time.time(), self._look())
            with self._lock:
                self._samples.append(sample)
                if len(self._samples) > _MAX_SAMPLES:
                    del self._samples[::2]


class SystemLoad:
    """Load of this machine and of this process, under the names that MLflow gives such metrics."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._times = _cpu_times()
        self._own = (time.monotonic(), time.process_time())
        self._smi = shutil.which("nvidia-smi") if device.type == "cuda" else None

    def look(self) -> dict[str, float]:
        """Percentages in [0, 100], megabytes (10^6 bytes), watts; what cannot be told is left out."""
        found = self._cpu() | _memory()
        if self._device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self._device)
            found["gpu_memory_usage_megabytes"] = (total - free) / 1e6
            found["gpu_memory_usage_percentage"] = 100.0 * (total - free) / total
            found |= self._gpu()
        return found

    def _cpu(self) -> dict[str, float]:
        before, own = self._times, self._own
        self._times, self._own = _cpu_times(), (time.monotonic(), time.process_time())
        wall_s = max(self._own[0] - own[0], 1e-9)
        found = {"process_cpu_percentage": 100.0 * (self._own[1] - own[1]) / wall_s}
        if before is not None and self._times is not None and self._times[1] > before[1]:
            busy, whole = (self._times[0] - before[0]), (self._times[1] - before[1])
            found["cpu_utilization_percentage"] = 100.0 * busy / whole
        return found

    def _gpu(self) -> dict[str, float]:
        if self._smi is None:
            return {}
        identity = str(torch.cuda.get_device_properties(self._device).uuid)
        command = [self._smi, f"--id=GPU-{identity}", f"--query-gpu={','.join(_GPU_FIELDS)}",
                   "--format=csv,noheader,nounits"]  # fmt: skip
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            self._smi = None  # it does not work here; do not ask again
            return {}
        found = {}
        for name, text in zip(_GPU_FIELDS.values(), answer.strip().split(","), strict=False):
            with suppress(ValueError):  # "[N/A]"
                found[name] = float(text)
        return found


def _reset_peaks(device: torch.device) -> None:
    """Forget earlier peaks, as far as the machine lets us: the process may have run another trial before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        _CLEAR.write_text("5")  # sets the peak of the resident memory to its present value; see proc(5)


def _peak_memory() -> int:
    """Largest resident memory of this process in bytes, since its last reset where that works."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _cpu_times() -> tuple[float, float] | None:
    """Busy and all time of the machine's cores since it started."""
    try:
        numbers = [float(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except (OSError, ValueError, IndexError):
        return None
    idle = sum(numbers[3:5])
    return sum(numbers) - idle, sum(numbers)


def _memory() -> dict[str, float]:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return {}
    kilobytes = {line.split(":")[0]: float(line.split()[1]) for line in lines if ":" in line}
    used = kilobytes["MemTotal"] - kilobytes.get("MemAvailable", kilobytes["MemFree"])
    return {
        "system_memory_usage_megabytes": used * 1024 / 1e6,
        "system_memory_usage_percentage": 100.0 * used / kilobytes["MemTotal"],
        "process_memory_megabytes": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
    }
