"""PMAL's training step on a GPU: precisions, memory, share of the peak, parts, waits. It has not run on a GPU yet.

Without one `on_device` runs the same code on the CPU, with small settings, to see that it works at all.
"""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from models.methods.pmal import Pmal
from study.ranks import Ranks
from tests.bench.step_setups import (
    PAPER_WIDTHS,
    SAM,
    Run,
    Setting,
    count_multiplications,
    count_waits,
    heading,
    interleaved,
)

SETTINGS = tuple(Setting("resnet50", 448, batch, widths=PAPER_WIDTHS) for batch in (8, 64))
PEAK_SIDE = 8192  # of the square matrices whose product measures the greatest speed


class Precision(NamedTuple):
    """How numbers are held and layers compiled."""

    name: str
    tf32: bool = False
    bf16: bool = False
    channels_last: bool = False
    compiled: bool = False


PRECISIONS = (
    Precision("float32"),
    Precision("TF32", tf32=True),
    Precision("bf16", bf16=True),
    Precision("bf16, channels_last", bf16=True, channels_last=True),
    Precision("bf16, channels_last, compiled", bf16=True, channels_last=True, compiled=True),
)


def on_gpu() -> None:
    """The tables of the GPU at hand."""
    device = torch.device("cuda")
    print(heading(f"The training step on {torch.cuda.get_device_name()}"), flush=True)
    for setting in SETTINGS:
        on_device(device, setting, PRECISIONS, rounds=5)


def on_device(
    device: torch.device,
    setting: Setting,
    precisions: tuple[Precision, ...],
    *,
    rounds: int,
    peak_side: int = PEAK_SIDE,
) -> None:
    """A table of the precisions, then the parts of the last of them."""
    work = 2 * 2 * count_multiplications(setting, plain=False)  # SAM's two passes, two operations each
    print(f"\n{setting.title}, {rounds} rounds of 2 batches\n")
    print("| | images/s | peak memory, GiB | share of the peak FLOP/s | waits in 2 batches | device busy |")
    print("|---|---:|---:|---:|---:|---:|")
    for precision in precisions:
        _allow_tf32(precision.tf32)
        run = make_run(device, setting, precision)
        _reset_peak(device)
        seconds = timed(run, device, rounds)
        rate = len(run.images) / seconds
        share = rate * work / peak_flops(device, precision, peak_side)
        memory, waits = _peak(device) / 2**30, sum(count_waits(run, device).values())
        cells = (f"{rate:.1f}", f"{memory:.2f}", f"{share:.2f}", f"{waits}")
        print(f"| {precision.name} | {' | '.join(cells)} | {busy_share(run, device):.2f} |", flush=True)
        _print_parts(run)
    _allow_tf32(False)


def make_run(device: torch.device, setting: Setting, precision: Precision) -> Run:
    """Training of two batches in a precision."""
    run = Run(setting, SAM, 2, ranks=Ranks(device=str(device)), bf16=precision.bf16)
    network = run.method.network
    if precision.channels_last:
        network.to(memory_format=torch.channels_last)
    if precision.compiled:
        assert isinstance(run.method.inner, Pmal)
        for part in (*network.heads, *network.decoders):
            part.compile()
        network.backbone.forward_to = torch.compile(network.backbone.forward_to)
        network.backbone.forward_all = torch.compile(network.backbone.forward_all)
    return run


def timed(run: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Median seconds of a run, with all that it has set going."""

    def whole() -> None:
        run()
        _wait(device)

    return statistics.median(interleaved({"run": whole}, rounds, clock=time.perf_counter)["run"])


def peak_flops(device: torch.device, precision: Precision, side: int) -> float:
    """Operations a second of a large product of matrices in this precision."""
    left = torch.randn(side, side, device=device, dtype=torch.bfloat16 if precision.bf16 else torch.float32)
    result = torch.empty_like(left)
    return 2 * side**3 / timed(lambda: torch.mm(left, left, out=result), device, 10)


def busy_share(run: Callable[[], object], device: torch.device) -> float:
    """Time in which the device's kernels ran over the wall's; of a CPU always 0, as it has no kernels."""
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=kinds) as found:
        start = time.perf_counter()
        run()
        _wait(device)
        passed = time.perf_counter() - start
    return sum(event.self_device_time_total for event in found.key_averages()) / 1e6 / passed


def _print_parts(run: Run) -> None:
    """Of one more epoch, in which the clock waits for the device at each part."""
    run.clocked = True
    run()
    images = len(run.images)
    times = ", ".join(f"{name} {seconds / images * 1e3:.2f}" for name, seconds in run.method.seconds.items())
    print(f"| | parts, ms an image: {times} | | | | |", flush=True)


def _allow_tf32(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
