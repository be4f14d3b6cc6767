"""m-sharpness as a trial reports it: what SAM's two passes found, a mean over the images and updates that climbed."""

import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from analysis.sharpness import SHARPNESS as COLUMN
from models.sam import sam_step
from study import loop
from study.build import build_method
from study.ledger import TrialSpec
from study.loop import SHARPNESS, Stopped
from study.ranks import Ranks
from study.trial import run_trial
from tests.unit.models.test_no_waits import Copies
from tests.unit.study.trials import PMAL, ledger_of, tiny_config, tiny_spec
from tests.unit.study.workers import run_workers


class Heard:
    """Notes each worker's images of a batch and what each climb of it added to the loss."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.climbs: dict[int, list[tuple[int, float]]] = defaultdict(list)
        self._counts: dict[int, int] = {}
        original = loop.device_images

        def images(images_BCHW: torch.Tensor, device: torch.device) -> torch.Tensor:
            self._counts[threading.get_ident()] = len(images_BCHW)
            return original(images_BCHW, device)

        monkeypatch.setattr(loop, "device_images", images)
        monkeypatch.setattr(loop, "sam_step", self._step)

    def mean(self) -> float:
        """Of all climbs so far, by images."""
        every = [climb for own in self.climbs.values() for climb in own]
        return sum(count * rise for count, rise in every) / sum(count for count, _ in every)

    def _step(self, *args: Any, on_climb: Any, **kwargs: Any) -> torch.Tensor:
        def note(rise: torch.Tensor) -> None:
            worker = threading.get_ident()
            self.climbs[worker].append((self._counts[worker], float(rise)))
            on_climb(rise)

        return sam_step(*args, on_climb=note, **kwargs)


def epochs_of(spec: TrialSpec) -> list[dict[str, float]]:
    return [event["metrics"] for event in ledger_of(spec).events(spec.key) if event["event"] in {"epoch", "final"}]


def test_the_analysis_reads_the_metric_by_its_name() -> None:
    assert SHARPNESS == COLUMN


def test_it_is_the_mean_over_images_and_stands_in_the_final_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, spec = Heard(monkeypatch), tiny_spec(tmp_path, tiny_config(train={"epochs": 1}))
    metrics = run_trial(spec)
    assert len({count for count, _ in next(iter(heard.climbs.values()))}) > 1, "batches should differ in size"
    assert metrics[SHARPNESS] == pytest.approx(heard.mean(), rel=1e-12)
    assert [event[SHARPNESS] for event in epochs_of(spec)] == [metrics[SHARPNESS]] * 2
    assert {name for name in metrics if name.startswith(("loss/", "sharpness/"))} == {
        "loss/train", "loss/classify", SHARPNESS,
    }  # fmt: skip


def test_sums_wait_for_no_device() -> None:
    with FakeTensorMode(), Copies() as copies:
        sums = {SHARPNESS: torch.zeros((), dtype=torch.float64, device="cuda")}
        for _ in range(2):
            loop._add(sums, SHARPNESS, torch.ones((), dtype=torch.float64, device="cuda") * 3)
        assert sums[SHARPNESS].device.type == "cuda"
    assert copies.seen == []


@pytest.mark.slow
def test_of_several_objectives_and_of_every_second_batch_what_climbed_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(method=PMAL, optim={"sam": {"rho": 0.05, "every": 2}}, train={"epochs": 1})
    heard = Heard(monkeypatch)
    metrics = run_trial(tiny_spec(tmp_path, config))
    assert len(next(iter(heard.climbs.values()))) == 3 * 2, "three objectives, two of three batches"
    assert metrics[SHARPNESS] == pytest.approx(heard.mean(), rel=1e-12)


def test_without_an_ascent_there_is_none(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path, tiny_config(optim={"sam": {"rho": 0.0}}))
    assert SHARPNESS not in run_trial(spec)
    assert not any("sharpness" in name for event in epochs_of(spec) for name in event)


@pytest.mark.slow
def test_an_interrupted_epoch_gives_the_figure_of_a_whole_one(tmp_path: Path) -> None:
    config = tiny_config(train={"epochs": 1})
    whole, broken = tiny_spec(tmp_path, config), tiny_spec(tmp_path, config, study="broken")
    expected = run_trial(whole)[SHARPNESS]

    def stop() -> bool:
        return True

    for _ in range(2):
        with pytest.raises(Stopped):
            run_trial(broken, should_stop=stop)
    assert run_trial(broken)[SHARPNESS] == expected


@pytest.mark.slow
@pytest.mark.parametrize("ascent", ["global", "local"])
def test_workers_count_by_their_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ascent: str) -> None:
    lock = threading.Lock()

    def build(*args: Any, **kwargs: Any) -> Any:
        with lock:  # initial weights come from the process's own generator
            return build_method(*args, **kwargs)

    monkeypatch.setattr("study.trial.build_method", build)
    heard = Heard(monkeypatch)
    config = tiny_config(optim={"sam": {"rho": 0.05, "ascent": ascent}}, train={"epochs": 1, "batch_size": 6})
    spec = tiny_spec(tmp_path, config)

    def work(ranks: Ranks) -> dict[str, float]:
        return run_trial(spec, ranks=ranks)

    found = run_workers(2, work, monkeypatch)
    assert len(heard.climbs) == 2
    assert [metrics[SHARPNESS] for metrics in found] == [pytest.approx(heard.mean(), rel=1e-12)] * 2
