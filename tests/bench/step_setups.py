"""What the benchmarks of the training step share: settings, pictures to train on, clocks and counts.

Shape suffixes: B batch, C channels, H height, W width.
"""

import gc
import platform
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from models.methods.cost import meta_batch
from models.methods.method import Batch, Context, Objective, Sampler
from models.methods.plain import Plain, PlainSettings
from models.methods.pmal import Pmal, PmalSettings
from models.sam import SamSettings
from noise.training import PMAL_PAIR, NoiseType, TrainingNoise
from study.checkpoint import Progress
from study.data.image_set import ImageSet
from study.loop import LoopSettings, make_optimizer, train_epochs
from study.ranks import Ranks
from tests.bench.plain_step import plain_losses

NUM_CLASSES, SMOOTHING, RHO, LR, BACKBONE_LR_SCALE = 20, 0.1, 0.05, 0.002, 0.1
PAIRS = TrainingNoise([NoiseType(PMAL_PAIR, probability=1.0)])
BASE, SAM = SamSettings(rho=0.0), SamSettings(rho=RHO)
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
_READS = ("aten::_local_scalar_dense",)


class Setting(NamedTuple):
    """A network and its batches; `stages` 0 is plain training."""

    backbone: str
    image_size: int
    batch_size: int = 8
    stages: int = 3
    widths: tuple[tuple[int, int], int, tuple[int, int, int]] = ((32, 64), 32, (32, 16, 16))

    @property
    def title(self) -> str:
        return f"{self.backbone} {self.image_size} px, batch {self.batch_size}, S = {self.stages}"


PAPER_WIDTHS = ((512, 1024), 512, (256, 128, 64))
SMALL = Setting("resnet10t", 64)


def make_method(setting: Setting, sampler: Sampler | None = PAIRS) -> Plain | Pmal:
    """PMAL or plain training from random weights."""
    context = Context(
        setting.backbone,
        num_classes=NUM_CLASSES,
        image_size=setting.image_size,
        sampler=sampler,
        label_smoothing=SMOOTHING,
    )
    if setting.stages == 0:
        return Plain(context, PlainSettings())
    heads, classifier, decoders = setting.widths
    widths = PmalSettings(
        stages=setting.stages, head_widths=heads, classifier_width=classifier, decoder_widths=decoders
    )
    return Pmal(context, widths)


@cache
def passes_of(setting: Setting) -> float:
    """Gradient passes for each image without SAM."""
    return make_method(setting, sampler=None).passes_per_image()


def make_images(setting: Setting, num_batches: int) -> ImageSet:
    """Random pictures; their content has no effect on the time."""
    rng = np.random.default_rng(0)
    count, side = num_batches * setting.batch_size, setting.image_size
    images = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return ImageSet(images, np.arange(count) % NUM_CLASSES, np.arange(count), tuple(map(str, range(NUM_CLASSES))))


def loop_settings(setting: Setting, sam: SamSettings, **changes: Any) -> LoopSettings:
    """The paper's settings of an epoch."""
    values = {
        "epochs": 1, "batch_size": setting.batch_size, "seed": 0, "optimizer": "sgd", "lr": LR,
        "backbone_lr_scale": BACKBONE_LR_SCALE, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "constant",
        "warmup_epochs": 0, "sam": sam, "crop_padding": 8, "flip": 0.5, "colour": 0.0,
    }  # fmt: skip
    return LoopSettings(**(values | changes))


class Run:
    """Training that can be repeated: each call is an epoch of `num_batches` by Murk's own loop, weights going on."""

    def __init__(
        self, setting: Setting, sam: SamSettings, num_batches: int, *, ranks: Ranks | None = None, **changes: Any
    ) -> None:
        self.ranks = ranks or Ranks(device="cpu")
        self.device = self.ranks.torch_device()
        self.method = Clocked(make_method(setting), self.device, passes=passes_of(setting))
        self.method.network.to(self.device)
        self.clocked = self.device.type == "cpu"  # elsewhere the clock waits for the device at each part
        self.settings = loop_settings(setting, sam, **changes)
        self.optimizer = make_optimizer(self.method.inner, self.settings)
        self.method.watch(self.optimizer)
        self.images = make_images(setting, num_batches)
        self.progress = Progress()

    def __call__(self) -> None:
        self.progress = Progress(directions=self.progress.directions)
        self.method.start()
        method = self.method if self.clocked else self.method.inner
        epochs = train_epochs(
            method,
            self.optimizer,
            self.images,
            self.settings,
            progress=self.progress,
            ranks=self.ranks,
            save=lambda _: None,
            should_stop=lambda: False,
        )
        next(epochs)

    @property
    def passes(self) -> float:
        """Gradient passes for each image of the last epoch."""
        return self.progress.passes / len(self.images)


class Clocked:
    """A method that notes the seconds of each part of the loop around it: data, noise, each step, the optimiser."""

    def __init__(self, method: Any, device: torch.device, *, passes: float) -> None:
        self.inner, self.network = method, method.network
        self._passes = passes
        self.seconds: Counter[str] = Counter()
        self._device = device
        self._last = 0.0
        self._optimizer = 0.0

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the optimiser's time apart."""

        def before(*_: object) -> None:
            self._optimizer = self._now()

        def after(*_: object) -> None:
            passed = self._now() - self._optimizer
            self.seconds["optimiser"] += passed
            self._last += passed  # it is not the step's

        optimizer.register_step_pre_hook(before)
        optimizer.register_step_post_hook(after)

    def start(self) -> None:
        """A new epoch begins now."""
        self.seconds.clear()
        self._last = self._now()

    def passes_per_image(self) -> float:
        """What the method says; given, as counting takes seconds."""
        return self._passes

    def objectives(self, batch: Batch) -> Iterator[Objective]:
        """The method's, each part's time noted when the next begins."""
        self._note("data")
        for objective in self.inner.objectives(batch):
            self._note("noise")
            yield objective
            self._note(f"step {objective.name}")

    def _note(self, name: str) -> None:
        now = self._now()
        self.seconds[name] += now - self._last
        self._last = now

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()


def interleaved(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    clock: Callable[[], float] = time.process_time,
    warm: bool = True,
) -> dict[str, list[float]]:
    """Seconds of each run, all in turn in every round, every second round backwards.

    Where `warm`, one round comes before that is not counted.

    The clock is the processor time of this process, which other work on the machine delays less than the wall's; of
    one thread on an idle machine they are the same.
    """
    for run in runs.values() if warm else ():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in list(runs)[:: -1 if number % 2 else 1]:
            gc.collect()
            start = clock()
            runs[name]()
            seconds[name].append(clock() - start)
    return seconds


def ratio(seconds: list[float], base: list[float]) -> float:
    """The median over the rounds of one run's time as a multiple of the other's."""
    return statistics.median(one / other for one, other in zip(seconds, base, strict=True))


def count_multiplications(setting: Setting, *, plain: bool) -> int:
    """Of an image's forward and backward passes without SAM, which doubles both forms; from shapes alone."""
    method = make_method(setting, sampler=None)
    method.network.to("meta")
    batch = meta_batch(method.network, image_size=setting.image_size)
    if plain:
        images_BCHW = batch.images_BCHW
        pairs = [(images_BCHW, images_BCHW)] * setting.stages
        terms = plain_losses(method.network, images_BCHW, batch.labels_B, pairs, smoothing=SMOOTHING)
    else:
        terms = (lambda o=objective: o.loss(slice(None)).total for objective in method.objectives(batch))
    with FlopCounterMode(display=False) as counter:
        for term in terms:
            term().backward()
            method.network.zero_grad(set_to_none=True)
    return counter.get_total_flops() // 2 // len(batch)


def count_waits(run: Callable[[], object], device: torch.device) -> dict[str, int]:
    """How often the host reads a value or waits for the device, by the profiler; after a call that is not counted.

    On a CPU only reads of single values can be counted: an accelerator would wait there.
    """
    run()
    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as found:
        run()
    names = (*_READS, *(_WAITS if cuda else ()))
    return {event.key: event.count for event in found.key_averages() if event.key in names}


def heading(what: str) -> str:
    """Date, commit, hardware and versions, for the top of a table."""
    stamp = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    return f"{what}\n{stamp}, commit {_commit()}, {_processor()}; {versions}"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()


def _commit() -> str:
    try:
        found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()
