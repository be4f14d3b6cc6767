"""PMAL's training step: ours beside the plain form, what its parts and SAM cost, and how the cost grows.

python tests/bench/bench_step.py [--rounds N] [--picture FILE] prints Markdown tables. On a CPU one thread works and
times are processor seconds, medians of several rounds in which all that is compared takes turns. On a GPU it prints
the GPU's table (tests/bench/step_gpu.py).
"""

import argparse
import os
import statistics
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from models.methods.method import Batch  # noqa: E402
from models.methods.pmal import Pmal  # noqa: E402
from models.sam import SamSettings, sam_step  # noqa: E402
from noise.keyed import image_keys  # noqa: E402
from noise.training import NoisyPair  # noqa: E402
from study.loop import make_optimizer  # noqa: E402
from tests.bench.plain_step import plain_batch, plain_pairs  # noqa: E402
from tests.bench.step_growth import growth, workers  # noqa: E402
from tests.bench.step_picture import draw  # noqa: E402
from tests.bench.step_setups import (  # noqa: E402
    BASE,
    NUM_CLASSES,
    PAIRS,
    PAPER_WIDTHS,
    RHO,
    SAM,
    SMALL,
    SMOOTHING,
    Run,
    Setting,
    count_multiplications,
    count_waits,
    heading,
    interleaved,
    loop_settings,
    make_method,
    ratio,
)

MIDDLE = Setting("resnet18", 96, 4, widths=((64, 128), 64, (64, 32, 32)))
LARGE = Setting("resnet50", 224, 2, widths=PAPER_WIDTHS)
PAPER = Setting("resnet50", 448, 8, widths=PAPER_WIDTHS)
VARIANTS = {
    "no SAM": BASE,
    "SAM": SAM,
    "every 2": SamSettings(every=2),
    "every 5": SamSettings(every=5),
    "looksam, every 5": SamSettings(variant="looksam", every=5),
    "sam_on": SamSettings(variant="sam_on"),
}
VARIANT_BATCHES = 10  # a whole number of every variant's rounds


def main() -> None:
    """Everything that can be measured where it runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="of the larger comparisons; the smallest has twice these")
    parser.add_argument("--picture", type=Path, help="where to draw the growth of the cost")
    asked = parser.parse_args()
    if torch.cuda.is_available():
        from tests.bench.step_gpu import on_gpu

        on_gpu()
        return
    torch.set_num_threads(1)
    results = on_cpu(asked.rounds)
    if asked.picture is not None:
        draw(results, asked.picture)


def on_cpu(rounds: int) -> dict[str, Any]:
    """Prints the tables of the CPU; gives what the picture shows."""
    print(heading("The training step on a CPU, 1 thread"), flush=True)
    print(f"\nGreatest difference of the two forms' losses over two batches, float64: {difference(SMALL):.1e}\n")
    print("| | plain, images/s | ours, images/s | ratio | ratio, pairs given | ratio of multiplications |")
    print("|---|---:|---:|---:|---:|---:|")
    compare(SMALL, 2 * rounds)
    compare(MIDDLE, rounds)
    compare(LARGE, 1, warm=False)
    print(f"| {PAPER.title} | | | | | {multiplications(PAPER):.3f} |", flush=True)
    parts(SMALL, 2 * rounds)
    results = {"variants": variants(Setting("resnet10t", 32), rounds)}
    results |= growth(SMALL, rounds)
    results["workers"] = workers(SMALL, rounds)
    return results


class Forms:
    """A batch that both forms train on, from the same weights."""

    def __init__(self, setting: Setting, dtype: torch.dtype = torch.float32) -> None:
        side, count = setting.image_size, setting.batch_size
        generator = torch.Generator().manual_seed(0)
        images_BCHW = torch.rand(count, 3, side, side, generator=generator).to(dtype)
        self.batch = Batch(images_BCHW, torch.arange(count) % NUM_CLASSES, image_keys(range(count), seed=0))
        self.pairs = [PAIRS(images_BCHW, self.batch.keys_B, draw=draw) for draw in range(1, setting.stages + 1)]
        self.networks = {form: make_method(setting, self._sampler(form)) for form in ("plain", "given", "drawn")}
        self.optimizers = {
            form: make_optimizer(method.network.to(dtype).train() and method, loop_settings(setting, SAM))
            for form, method in self.networks.items()
        }
        self._generator = generator

    def plain(self, *, given: bool) -> list[float]:
        """A batch of the plain form, with the pairs that both have or with pairs drawn image by image."""
        method = self.networks["plain"]
        assert isinstance(method, Pmal)
        signed_BCHW = 2 * self.batch.images_BCHW - 1
        pairs = (
            [(2 * pair.target_BCHW - 1, 2 * pair.input_BCHW - 1) for pair in self.pairs]
            if given
            else plain_pairs(signed_BCHW, len(self.pairs), self._generator)
        )
        return plain_batch(
            method.network, self.optimizers["plain"], signed_BCHW, self.batch.labels_B, pairs,
            smoothing=SMOOTHING, rho=RHO,
        )  # fmt: skip

    def ours(self, *, given: bool) -> list[float]:
        """The same by Murk's method and SAM."""
        form = "given" if given else "drawn"
        method, optimizer, count = self.networks[form], self.optimizers[form], len(self.batch)
        losses = []
        for objective in method.objectives(self.batch):
            loss = sam_step(
                optimizer,
                lambda objective=objective: objective.loss(slice(None)).total / count,
                parameters=objective.parameters,
                sam=SAM,
                modules=method.network,
            )
            losses.append(loss.item())
        return losses

    def _sampler(self, form: str) -> Any:
        if form != "given":
            return PAIRS

        def given(images_BCHW: Tensor, keys_B: Tensor, *, draw: int = 0, level: float = 1.0) -> NoisyPair:
            return self.pairs[draw - 1]

        return given


def difference(setting: Setting) -> float:
    """Of the two forms' losses; an assertion holds it small, the clock's figures never."""
    forms = Forms(setting, torch.float64)
    pairs = [(forms.plain(given=True), forms.ours(given=True)) for _ in range(2)]
    greatest = max(abs(a - b) for plain, ours in pairs for a, b in zip(plain, ours, strict=True))
    assert greatest < 1e-4, f"the two forms must train alike, but their losses differ by {greatest}"
    return greatest


def multiplications(setting: Setting) -> float:
    """The plain form's as a multiple of ours."""
    return count_multiplications(setting, plain=True) / count_multiplications(setting, plain=False)


def compare(setting: Setting, rounds: int, *, warm: bool = True) -> None:
    """A row of the first table."""
    forms = Forms(setting)
    runs = {"plain": lambda: forms.plain(given=False), "ours": lambda: forms.ours(given=False)}
    if warm:
        runs |= {"plain given": lambda: forms.plain(given=True), "ours given": lambda: forms.ours(given=True)}
    seconds = interleaved(runs, rounds, warm=warm)
    rates = [setting.batch_size / statistics.median(seconds[form]) for form in ("plain", "ours")]
    given = f"{ratio(seconds['plain given'], seconds['ours given']):.3f}" if warm else ""
    cells = (f"{rates[0]:.2f}", f"{rates[1]:.2f}", f"{ratio(seconds['plain'], seconds['ours']):.3f}", given)
    print(f"| {setting.title}, {rounds} rounds | {' | '.join(cells)} | {multiplications(setting):.3f} |", flush=True)


def parts(setting: Setting, rounds: int) -> None:
    """What each part of the loop costs, without SAM and with it."""
    runs = {"no SAM": Run(setting, BASE, 2), "SAM": Run(setting, SAM, 2)}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in runs}

    def noting(name: str) -> None:
        runs[name]()
        found[name].append(dict(runs[name].method.seconds))

    interleaved({name: lambda name=name: noting(name) for name in runs}, rounds)
    images = len(runs["SAM"].images)
    print(f"\nParts of the loop, {setting.title}, {rounds} rounds: milliseconds for each image.\n")
    print("| part | no SAM | share | SAM | share | ratio |\n|---|---:|---:|---:|---:|---:|")
    times = {
        name: {part: statistics.median(round[part] for round in rounds_[1:]) / images * 1e3 for part in rounds_[0]}
        for name, rounds_ in found.items()
    }
    base, sam = times["no SAM"], times["SAM"]
    for name, one, other in [(part, base[part], sam[part]) for part in base]:
        shares = one / sum(base.values()), other / sum(sam.values())
        print(f"| {name} | {one:.2f} | {shares[0]:.1%} | {other:.2f} | {shares[1]:.1%} | {other / one:.2f} |")
    one, other = sum(base.values()), sum(sam.values())
    print(f"| all | {one:.2f} | | {other:.2f} | | {other / one:.2f} |")
    waits = count_waits(runs["SAM"], torch.device("cpu"))
    print(f"\nSingle values that the host reads in an epoch of 2 batches: {sum(waits.values())}.", flush=True)


def variants(setting: Setting, rounds: int) -> dict[str, tuple[float, float]]:
    """The cost of SAM and its cheaper forms over the base step: measured, and counted in passes."""
    runs = {name: Run(setting, sam, VARIANT_BATCHES) for name, sam in VARIANTS.items()}
    seconds = interleaved(runs, rounds)
    print(f"\nCost over the step without SAM, {setting.title}, {VARIANT_BATCHES} batches, {rounds} rounds.\n")
    print("| | measured | counted in passes |\n|---|---:|---:|")
    costs = {}
    for name, run in runs.items():
        costs[name] = ratio(seconds[name], seconds["no SAM"]), run.passes / runs["no SAM"].passes
        print(f"| {name} | {costs[name][0]:.3f} | {costs[name][1]:.3f} |", flush=True)
    return costs


if __name__ == "__main__":
    main()
