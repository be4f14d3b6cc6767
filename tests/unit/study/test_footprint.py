"""What a network weighs is known before training, and a trial measures it and its latency."""

import pytest
import torch

from models.methods.registry import METHODS
from study.build import build_method
from study.config import TrialConfig
from study.footprint import LEAST_PASSES, MOST_PASSES, WARM_UP, footprint, latency_ms

SECTIONS = {
    "plain": {}, "pmal": {"stages": 2, "head_widths": [16, 32], "classifier_width": 32, "decoder_widths": [16, 8, 8]},
    "pmd": {"teacher": "none"}, "distil": {"teacher": "none", "losses": {"kd": 1.0}}, "horkd": {"teacher": "none"},
}  # fmt: skip


def config_of(method: str, **sections) -> TrialConfig:
    resolution = {"train": [16]} if method == "horkd" else {}
    tree = {"model": {"backbone": "test_resnet"}, "data": {"source": "synthetic-vehicles", "image_size": 32},
            "method": {"name": method, **SECTIONS[method]}, "resolution": resolution}  # fmt: skip
    return TrialConfig.model_validate(tree | sections)


@pytest.mark.parametrize("method", METHODS)
def test_it_is_that_of_the_built_network(method):
    config = config_of(method)
    built = build_method(config, num_classes=5)
    found = footprint(config, num_classes=5)
    assert found["cost/params"] == sum(parameter.numel() for parameter in built.deployed.parameters())
    assert found["cost/macs"] > 1e5


def test_more_pixels_cost_more_and_settings_of_training_cost_nothing():
    small = footprint(config_of("plain"), num_classes=5)
    large = footprint(config_of("plain", data={"source": "synthetic-vehicles", "image_size": 64}), num_classes=5)
    assert large["cost/params"] == small["cost/params"]
    assert large["cost/macs"] > 3 * small["cost/macs"]
    assert footprint(config_of("plain", optim={"lr": 0.3}), num_classes=5) == small


def test_it_draws_no_random_number():
    before = torch.get_rng_state()
    footprint(config_of("plain", train={"seed": 77}), num_classes=7)
    assert torch.equal(torch.get_rng_state(), before)


def test_latency_is_of_one_image_after_some_to_warm_up():
    shapes = []
    latency = latency_ms(
        lambda images_BCHW: shapes.append(tuple(images_BCHW.shape)), side=8, device=torch.device("cpu")
    )
    assert set(shapes) == {(1, 3, 8, 8)}
    assert len(shapes) >= WARM_UP + LEAST_PASSES
    assert latency > 0


def test_what_runs_beside_it_does_not_count(monkeypatch):
    """Three passes in four are held up by another process, by a clock that only the passes move."""
    now, passes = 0.0, 0

    def predict(images_BCHW: torch.Tensor) -> None:
        nonlocal now, passes
        passes += 1
        now += 0.002 if passes % 4 == 0 else 0.002 + 0.001 * (passes % 4)

    monkeypatch.setattr("study.footprint.time.perf_counter", lambda: now)
    assert latency_ms(predict, side=8, device=torch.device("cpu")) == pytest.approx(2.0)
    assert passes == WARM_UP + MOST_PASSES
