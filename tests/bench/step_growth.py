"""How the cost of PMAL's step grows with the number of stages, the image size and the workers."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from study.ranks import Ranks
from tests.bench.step_setups import SAM, Run, Setting, interleaved, ratio

SIZES, STAGES, WORKERS = (32, 48, 64, 96), (0, 1, 2, 3, 4), 2


def growth(setting: Setting, rounds: int) -> dict[str, Any]:
    """Cost of an image over the number of stages (0: plain training with SAM) and over the image size."""
    settings = {f"S{stages}": setting._replace(stages=stages) for stages in STAGES}
    settings |= {f"{side}": setting._replace(image_size=side) for side in SIZES if side != setting.image_size}
    runs = {name: Run(each, SAM, 1) for name, each in settings.items()}
    seconds = interleaved(runs, 2 * rounds)
    milliseconds = {name: statistics.median(values) / setting.batch_size * 1e3 for name, values in seconds.items()}
    print(f"\nGrowth with SAM, {setting.backbone}, batch {setting.batch_size}, {2 * rounds} rounds.\n")
    print(f"| S at {setting.image_size} px | ms an image | measured ratio | counted ratio |\n|---|---:|---:|---:|")
    by_stages = {}
    for stages in STAGES:
        name = f"S{stages}"
        by_stages[stages] = ratio(seconds[name], seconds["S0"]), runs[name].passes / runs["S0"].passes
        label = "0 (plain)" if stages == 0 else f"{stages}"
        print(f"| {label} | {milliseconds[name]:.1f} | {by_stages[stages][0]:.2f} | {by_stages[stages][1]:.2f} |")
    print(f"\n| px at S = {setting.stages} | ms an image | measured ratio | pixels' ratio |\n|---|---:|---:|---:|")
    by_size = {}
    for side in SIZES:
        name = f"S{setting.stages}" if side == setting.image_size else f"{side}"
        by_size[side] = ratio(seconds[name], seconds[f"{SIZES[0]}"]), (side / SIZES[0]) ** 2
        print(f"| {side} | {milliseconds[name]:.1f} | {by_size[side][0]:.2f} | {by_size[side][1]:.2f} |", flush=True)
    return {"stages": by_stages, "sizes": by_size}


def workers(setting: Setting, rounds: int) -> dict[int, float]:
    """Images per second by the wall's clock of one worker and of two that share each batch, by gloo."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        processes.spawn(_work, (place, setting, rounds), nprocs=WORKERS)
        seconds = torch.load(place / "seconds.pt", weights_only=True)
    images = 2 * setting.batch_size
    rates = {world: images / statistics.median(values) for world, values in seconds.items()}
    gain = ratio(seconds[1], seconds[WORKERS])
    print(f"\nWorkers, {setting.title} in all, 1 thread each, {rounds} rounds, the wall's clock:", end=" ")
    print(f"one {rates[1]:.2f}, two {rates[WORKERS]:.2f} images/s, {gain:.2f} times as many.", flush=True)
    return rates


def _work(rank: int, place: Path, setting: Setting, rounds: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}/meeting", rank=rank, world_size=WORKERS)
    alone, together = Run(setting, SAM, 2), Run(setting, SAM, 2, ranks=Ranks(rank, WORKERS, "cpu"))

    def single() -> None:
        if rank == 0:
            alone()
        dist.barrier()

    seconds = interleaved({"1": single, f"{WORKERS}": together}, rounds, clock=time.perf_counter)
    if rank == 0:
        torch.save({int(world): values for world, values in seconds.items()}, place / "seconds.pt")
    dist.destroy_process_group()
