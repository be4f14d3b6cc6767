"""What each distillation loss adds to a student's training step: processor time and memory, on a CPU with one thread.

python tests/bench/bench_losses.py [--rounds N] [--only NAME ...] [--no-memory] prints a Markdown table.

The teacher's view is a constant, so that the loss alone is measured; one row tells what the teacher's own pass adds.
Times are processor seconds, medians of several rounds in which all that is compared takes turns. Memory is the peak of
the resident set of a fresh process for each cell (VmHWM of Linux, which a process does not inherit, as it does
ru_maxrss), over what was resident before its first step.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from models.backbones import StagedBackbone, create_backbone  # noqa: E402
from models.distillation.loss import DistillationLoss, Facts, Sample, Shape, View  # noqa: E402
from models.distillation.registry import LOSSES, loss_spec  # noqa: E402
from models.methods.common import backbone_view, seeded  # noqa: E402
from tests.bench.step_setups import heading, interleaved, ratio  # noqa: E402
from tests.unit.models.distillation_views import all_settings  # noqa: E402

BACKBONE, SIDE, NUM_CLASSES, NUM_ROWS = "resnet10t", 32, 100, 1000
PLAIN, TEACHER = "plain training", "teacher forward"
TIMED_BATCH, MEMORY_BATCHES, MEMORY_STEPS = 64, (64, 256), 2
_KIB = 1024


class Step:
    """A student's training step with a loss, without one, or with the teacher's pass alone."""

    def __init__(self, name: str, batch_size: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.student, self.teacher = _backbone(seed=0).train(), _backbone(seed=1).eval()
        self.images_BCHW = torch.rand(batch_size, 3, SIDE, SIDE, generator=generator) * 2 - 1
        rows_B = torch.arange(batch_size)
        self.sample = Sample(rows_B % NUM_CLASSES, rows_B, rows_B, progress=0.5)
        self.constant = self._teachers_view()
        self.loss, self.weight = self._loss(name)
        self.passes_teacher = name == TEACHER
        parameters = [*self.student.parameters(), *(self.loss.parameters() if self.loss else ())]
        self.optimizer = torch.optim.SGD(parameters, lr=1e-6, momentum=0.9)

    def __call__(self) -> None:
        teacher = self._teachers_view() if self.passes_teacher else self.constant
        student = backbone_view(self.student, self.images_BCHW)
        total = F.cross_entropy(student.logits_BN, self.sample.labels_B)
        if self.loss:
            total = total + self.weight * self.loss(student, teacher, self.sample)
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        if self.loss:
            self.loss.commit()

    @torch.no_grad()
    def _teachers_view(self) -> View:
        return backbone_view(self.teacher, self.images_BCHW)

    def _loss(self, name: str) -> tuple[DistillationLoss | None, float]:
        if name in (PLAIN, TEACHER):
            return None, 0.0
        shape = Shape(
            tuple((values.shape[1], values.shape[2], values.shape[3]) for values in self.constant.maps),
            self.constant.embedding_BD.shape[1],
        )
        facts = Facts(shape, shape, NUM_CLASSES, train_labels=torch.arange(NUM_ROWS) % NUM_CLASSES)
        spec = loss_spec(name)
        with seeded(2):
            return spec.build(facts, all_settings()), spec.weight


def main() -> None:
    """The table, or one cell of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of the times")
    parser.add_argument("--only", nargs="+", choices=sorted(LOSSES), default=list(LOSSES), help="these losses alone")
    parser.add_argument("--no-memory", action="store_true", help="times alone")
    parser.add_argument("--cell", nargs=2, metavar=("NAME", "BATCH"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.cell:
        print(peak_kib(asked.cell[0], int(asked.cell[1])))
        return
    print(heading(f"Distillation losses in a training step of {BACKBONE}, {SIDE} px, on a CPU, 1 thread"), flush=True)
    names = [PLAIN, TEACHER, *asked.only]
    peaks = {} if asked.no_memory else {name: [_cell(name, size) for size in MEMORY_BATCHES] for name in names}
    runs: dict[str, Callable[[], object]] = {name: Step(name, TIMED_BATCH) for name in names}
    table(interleaved(runs, asked.rounds), peaks)


def table(seconds: dict[str, list[float]], peaks: dict[str, list[int]]) -> None:
    """A row for each loss; peaks in KiB, in the order of `MEMORY_BATCHES`."""
    sizes = MEMORY_BATCHES if peaks else ()
    titles = "".join(f" peak, B = {size}, MiB | over plain |" for size in sizes)
    print(f"\n| | step, B = {TIMED_BATCH}, times plain |{titles}")
    print(f"|---|---:|{'---:|---:|' * len(sizes)}")
    for name, times in seconds.items():
        cells = [f"{ratio(times, seconds[PLAIN]):.3f}"]
        for peak, plain in zip(peaks.get(name, ()), peaks.get(PLAIN, ()), strict=True):
            cells += [f"{peak / _KIB:.0f}", f"{(peak - plain) / _KIB:+.0f}"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def peak_kib(name: str, batch_size: int) -> int:
    """The peak of this process over some steps, above what it held before."""
    step = Step(name, batch_size)
    before, peak_before = _resident("VmRSS"), _resident("VmHWM")
    for _ in range(MEMORY_STEPS):
        step()
    peak = _resident("VmHWM")
    assert peak > peak_before, "the steps must need more than what came before them did, or their own need is unknown"
    return peak - before


def _cell(name: str, batch_size: int) -> int:
    command = [sys.executable, str(Path(__file__).resolve()), "--cell", name, str(batch_size)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


@cache
def _backbone(*, seed: int) -> StagedBackbone:
    """One for all steps of a process: what it has learnt does not change the times."""
    with seeded(seed):
        return create_backbone(BACKBONE, num_classes=NUM_CLASSES, image_size=SIDE)


if __name__ == "__main__":
    main()
