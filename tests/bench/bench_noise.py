"""Corruptions at 224 px: ours beside the public reference on the CPU, and against the memory's bandwidth on a GPU.

python tests/bench/bench_noise.py [FOLDER_OF_REAL_IMAGES] [--plain] prints Markdown tables; without a folder the
pictures are drawn; --plain leaves out what is compiled, which takes minutes. On the CPU both sides have one thread (the
reference runs one process), and times are CPU seconds of the process, medians of rounds in which both sides take turns,
so that a machine that does other work as well disturbs both alike. On a GPU times are the best of several runs.
"""

import os
import platform
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from noise.corruption import corrupt  # noqa: E402
from noise.families import CORRUPTIONS, parameter_for  # noqa: E402
from noise.keyed import image_keys  # noqa: E402

BATCH_CPU, BATCH_GPU, SIDE, SEVERITY, GRID_IMAGES = 32, 256, 224, 3, 8041
POINTWISE = ("gaussian_noise", "impulse_noise", "speckle_noise", "brightness", "contrast", "shot_noise", "saturate")
COMPILED = {name for name in POINTWISE if CORRUPTIONS[name].neutral is not None}
REFERENCE_IMAGES = {"glass_blur": 1}


class PeakBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that live at a time while it is on; not the scratch space inside operators."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak, self._seen = 0, 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        return result

    def _note(self, storage) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place in self._seen:
            return
        self._seen.add(place)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, place, size)

    def _forget(self, place: int, size: int) -> None:
        self._seen.discard(place)
        self.live -= size


def best(run: Callable[[], object], repeats: int, sync: Callable[[], None] = lambda: None) -> float:
    """Seconds of the fastest of several runs after one to warm up."""
    run()
    times = []
    for _ in range(repeats):
        sync()
        start = time.perf_counter()
        run()
        sync()
        times.append(time.perf_counter() - start)
    return min(times)


def by_turns(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """CPU seconds of each run, medians over rounds of all of them after one to warm up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    return {name: float(np.median(spent[1:])) for name, spent in times.items()}


def pictures(folder: Path | None, count: int) -> torch.Tensor:
    """float32 (n, 3, 224, 224) in [0, 1]."""
    if folder is not None:
        from tests.reference.agreement import photographs

        images = torch.from_numpy(photographs(folder)).permute(0, 3, 1, 2).float() / 255
    else:
        from tests.unit.noise.pictures import scenes

        images = scenes(32, SIDE, SIDE)
    return images[torch.arange(count) % len(images)].contiguous()


def peak_multiple(images: torch.Tensor, name: str) -> float:
    """Most bytes alive during the corruption, in units of the images' own (which are not counted)."""
    keys = image_keys(range(len(images)), seed=0)
    parameter = parameter_for(name, SEVERITY, SIDE)
    with PeakBytes() as counted:
        CORRUPTIONS[name].op(images, parameter, keys_B=keys)
    return counted.peak / (images.numel() * images.element_size())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def on_cpu(folder: Path | None, *, with_compiled: bool) -> None:
    """The table of the CPU."""
    import cv2

    from tests.reference.corruptions import COMMON, EXTRA, reference

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    images = pictures(folder, BATCH_CPU)
    levels = (images.permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
    keys = image_keys(range(len(images)), seed=0)
    print(
        f"\n{time.strftime('%Y-%m-%d')}, {_processor()}, 1 thread; torch {torch.__version__}, NumPy {np.__version__}; "
        f"batch {BATCH_CPU}, {SIDE} px, severity {SEVERITY}. Images per second; the peak is of tensors alive, in units "
        "of the images worked on at a time.\n"
    )
    print("| corruption | ours | compiled | reference | ratio | ratio, compiled | peak |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    ratios = {}
    for name in COMMON + EXTRA:
        count = REFERENCE_IMAGES.get(name, 8)
        runs: dict[str, Callable[[], object]] = {
            "ours": lambda name=name: corrupt(images, name, SEVERITY, keys=keys),
            "theirs": lambda name=name, n=count: [reference(levels[i], name, SEVERITY, seed=i) for i in range(n)],
        }
        if name in COMPILED and with_compiled:
            runs["fused"] = lambda name=name: corrupt(images, name, SEVERITY, keys=keys, compiled=True)
        spent = by_turns(runs, 2 if name == "glass_blur" else 7)
        ours, theirs = BATCH_CPU / spent["ours"], count / spent["theirs"]
        fused = BATCH_CPU / spent.get("fused", spent["ours"])
        ratios[name] = (ours / theirs, max(ours, fused) / theirs)
        shown = f"{fused:.0f} | {theirs:.1f} | {ratios[name][0]:.2f} | {fused / theirs:.2f}"
        if "fused" not in spent:
            shown = f" | {theirs:.1f} | {ratios[name][0]:.2f} | "
        print(f"| {name} | {ours:.0f} | {shown} | {peak_multiple(images[:3], name):.1f} |", flush=True)
    means = [float(np.exp(np.mean([np.log(ratios[name][way]) for name in COMMON]))) for way in (0, 1)]
    print(
        f"\nGeometric mean of the ratios over the 15: {means[0]:.1f}; with the faster of plain and compiled "
        f"{means[1]:.1f}."
    )
    print("\n| of our own | images per second | peak |\n|---|---:|---:|")
    for name in CORRUPTIONS:
        if name not in ratios:
            spent = by_turns({name: lambda name=name: corrupt(images, name, SEVERITY, keys=keys)}, 1)
            print(f"| {name} | {BATCH_CPU / spent[name]:.0f} | {peak_multiple(images[:3], name):.1f} |", flush=True)


def on_gpu(folder: Path | None) -> None:
    """The tables of the GPU: plain and compiled, share of the copy bandwidth, the whole grid, keyed and plain noise."""
    device, sync = torch.device("cuda"), torch.cuda.synchronize
    images = pictures(folder, BATCH_GPU).to(device)
    keys = image_keys(range(len(images)), seed=0).to(device)
    source, target = torch.empty_like(images), torch.empty_like(images)
    copied = 2 * images.numel() * 4 / best(lambda: target.copy_(source), 50, sync)
    print(
        f"\n{time.strftime('%Y-%m-%d')}, {torch.cuda.get_device_name()}, torch {torch.__version__}; batch {BATCH_GPU}, "
        f"{SIDE} px, severity {SEVERITY}; copying moves {copied / 1e9:.0f} GB/s.\n"
    )
    print("| corruption | ms | images per second | peak memory x batch | share of copy bandwidth | compiled |")
    print("|---|---:|---:|---:|---:|---:|")
    grid = 0.0
    for name in CORRUPTIONS:
        if name.startswith("kornia."):
            continue
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        seconds = best(lambda name=name: corrupt(images, name, SEVERITY, keys=keys), 5, sync)
        peak = (torch.cuda.max_memory_allocated() - before) / (images.numel() * 4)
        share, compiled = "", ""
        if name in POINTWISE:
            share = f"{2 * images.numel() * 4 / seconds / copied:.2f}"
        if name in COMPILED:
            fused = best(lambda name=name: corrupt(images, name, SEVERITY, keys=keys, compiled=True), 20, sync)
            compiled = f"{2 * images.numel() * 4 / fused / copied:.2f}"
        if CORRUPTIONS[name].family == "imagecorruptions":
            for level in range(1, 6):
                grid += best(lambda name=name, level=level: corrupt(images, name, level, keys=keys), 1, sync)
        cells = (f"{seconds * 1e3:.2f}", f"{BATCH_GPU / seconds:.0f}", f"{peak:.1f}", share, compiled)
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    whole = grid * GRID_IMAGES / BATCH_GPU
    print(f"\nThe grid of 19 x 5 over {GRID_IMAGES:,} images: {whole:.1f} s (from one batch of each cell).")
    plain = best(lambda: torch.randn_like(images), 20, sync)
    from noise.keyed import normal

    keyed = best(lambda: normal(keys, tuple(images.shape[1:]), stream="x"), 20, sync)
    print(f"Keyed normal values take {keyed / plain:.1f} times torch.randn_like.")


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--plain"]
    place = Path(words[0]) if words else None
    place = place or (Path(os.environ["MURK_TEST_DATA"]) if "MURK_TEST_DATA" in os.environ else None)
    if torch.cuda.is_available():
        on_gpu(place)
    else:
        on_cpu(place, with_compiled="--plain" not in sys.argv)
