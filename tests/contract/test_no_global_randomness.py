"""No public function of noise/ reads or moves a global random state: every draw is poisoned, every state compared."""

import importlib
import inspect
import pkgutil
import random
from collections.abc import Callable
from typing import Any

import kornia.augmentation as K
import numpy as np
import pytest
import torch

import noise
from noise import (
    camera,
    corruption,
    entry,
    families,
    frost,
    keyed,
    light,
    low_resolution,
    poisson,
    preview,
    resolution,
    training,
    weather,
)
from noise.families import CORRUPTIONS
from noise.keyed import image_keys
from noise.modules import Corrupt, Noise, keyed_by, noisy_pair
from noise.training import NoiseType, TrainingNoise
from tests.unit.noise.pictures import scenes

_TORCH = (
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal", "bernoulli",
    "poisson", "multinomial", "manual_seed", "seed", "initial_seed", "set_rng_state",
)  # fmt: skip
_TENSOR = (
    "uniform_", "normal_", "random_", "bernoulli_", "exponential_", "cauchy_", "geometric_", "log_normal_",
    "bernoulli", "multinomial",
)  # fmt: skip
_NUMPY = ("rand", "randn", "random", "normal", "uniform", "poisson", "randint", "choice", "shuffle", "seed")
_PYTHON = ("random", "uniform", "gauss", "randint", "choice", "shuffle", "sample", "seed")

_IMAGES_BCHW = scenes(4, 16, 20)
_SQUARES_BCHW = scenes(4, 16, 16)
_KEYS_4 = image_keys(range(4), seed=0)
_MIXTURE = TrainingNoise(
    [NoiseType("gaussian_noise", (1, 2), 0.3), NoiseType("pmal_pair", (1,), 0.4), NoiseType("kornia.rain", (3,), 0.3)]
)

CALLS: dict[Callable[..., Any], Callable[[], Any]] = {
    keyed.image_keys: lambda: image_keys([1, 2], seed=3, salt="x"),
    keyed.fold_in: lambda: keyed.fold_in(_KEYS_4, "x"),
    keyed.bits: lambda: keyed.bits(_KEYS_4, 9, stream=0),
    keyed.uniform: lambda: keyed.uniform(_KEYS_4, (9,), stream=0),
    keyed.normal: lambda: keyed.normal(_KEYS_4, (9,), stream=0),
    keyed.integers: lambda: keyed.integers(_KEYS_4, (9,), stream=0, high=5),
    poisson.poisson: lambda: poisson.poisson(torch.full((4, 9), 20.0), _KEYS_4, max_rate=40, stream=0),
    camera.camera_noise: lambda: camera.camera_noise(
        _IMAGES_BCHW, camera.CameraLevel(0.01, 0.002, 0.7), keys_B=_KEYS_4
    ),
    light.smooth_field: lambda: light.smooth_field(_KEYS_4, 16, 20, cells=3, stream="x"),
    weather.plasma: lambda: weather.plasma(_KEYS_4, 16, decay=2.0),
    frost.frost_field: lambda: frost.frost_field(_KEYS_4, (16, 20)),
    families.find: lambda: families.find("contrast"),
    families.table_for: lambda: families.table_for("contrast", 32),
    families.parameter_for: lambda: families.parameter_for("contrast", 1, 32),
    families.catalogue: families.catalogue,
    families.catalogue_text: lambda: families.catalogue_text(families.catalogue()),
    low_resolution.shrink: lambda: low_resolution.shrink(_SQUARES_BCHW, 9, keys_B=_KEYS_4, kernel="random"),
    low_resolution.LowResolution: lambda: low_resolution.LowResolution((9, 12), lens=low_resolution.Lens("random"))(
        _SQUARES_BCHW, _KEYS_4
    ),
    corruption.corrupt: lambda: corruption.corrupt(_IMAGES_BCHW, "shot_noise", 3, keys=_KEYS_4),
    corruption.corrupt_checked: lambda: corruption.corrupt_checked(
        _IMAGES_BCHW, "shot_noise", 3, keys=_KEYS_4, scale="tiny"
    ),
    preview.contact_sheet: lambda: preview.contact_sheet(_IMAGES_BCHW[:1], ["shot_noise"], [1, 5], key=_KEYS_4[:1]),
    training.pmal_pair: lambda: training.pmal_pair(_IMAGES_BCHW, _KEYS_4),
    training.TrainingNoise: lambda: _MIXTURE(_IMAGES_BCHW, _KEYS_4, draw=1),
    training.NoiseType: lambda: NoiseType("contrast"),
    training.NoisyPair: lambda: training.NoisyPair(_IMAGES_BCHW, _IMAGES_BCHW, {}),
    families.CatalogueRow: lambda: families.catalogue()[0],
    entry.Corruption: lambda: entry.Corruption(resolution.pixelate, "digital", {"imagenet": (1, 2, 3, 4, 5)}),
    Corrupt: lambda: (Corrupt("shot_noise", p=0.5)(_IMAGES_BCHW), Corrupt("kornia.rain", 3, p=1.0)(_IMAGES_BCHW)),
    Noise: lambda: Noise(_MIXTURE)(_IMAGES_BCHW),
    noisy_pair: lambda: noisy_pair(K.ImageSequential(Corrupt("contrast", p=0.5), Noise(_MIXTURE)), _IMAGES_BCHW),
    keyed_by: lambda: _under_keys(Corrupt("gaussian_noise", (1, 5), p=0.5)),
}
"""What stands for each public function and class: a call that draws whatever it can draw."""

_ABSTRACT = {"Op", "KeyedAugmentation"}


def _under_keys(module: Corrupt) -> torch.Tensor:
    with keyed_by(module, _KEYS_4):
        return module(_IMAGES_BCHW)


def _draws(value: Any) -> bool:
    """Whether it can draw: a function that takes keys, or a module."""
    if inspect.isclass(value):
        return issubclass(value, torch.nn.Module)
    return inspect.isfunction(value) and bool(
        {"keys", "keys_B", "key", "ids_B"} & set(inspect.signature(value).parameters)
    )


def _public() -> dict[str, Callable[..., Any]]:
    found = {}
    for info in pkgutil.iter_modules(noise.__path__):
        module = importlib.import_module(f"noise.{info.name}")
        for name, value in vars(module).items():
            own = getattr(value, "__module__", None) == module.__name__
            if own and not name.startswith("_") and _draws(value):
                found[f"{module.__name__}.{name}"] = value
    return found


@pytest.fixture
def poisoned(monkeypatch):
    """Every way to draw from a global generator raises."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a global random generator was used")

    for owner, names in ((torch, _TORCH), (torch.Tensor, _TENSOR), (np.random, _NUMPY), (random, _PYTHON)):
        for name in names:
            monkeypatch.setattr(owner, name, refuse)


@pytest.fixture(autouse=True)
def _states_stay():
    torch.manual_seed(5)
    before = (torch.get_rng_state(), np.random.get_state(), random.getstate())  # noqa: NPY002
    yield
    after = (torch.get_rng_state(), np.random.get_state(), random.getstate())  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert all(np.array_equal(one, other) for one, other in zip(before[1], after[1], strict=True))
    assert before[2] == after[2]


def test_every_public_function_that_can_draw_is_called_below():
    ops = {corruption.op for corruption in CORRUPTIONS.values()}
    missing = {place for place, value in _public().items() if value not in CALLS and value not in ops}
    missing = {place for place in missing if place.split(".")[-1] not in _ABSTRACT}
    assert not missing, f"add a call of each to CALLS: {sorted(missing)}"


@pytest.mark.parametrize("call", CALLS.values(), ids=[each.__name__ for each in CALLS])
def test_public_functions_draw_from_keys_alone(call, poisoned):
    call()


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_corruptions_draw_from_keys_alone(name, poisoned):
    for severity in (1, 5):
        corruption.corrupt(_IMAGES_BCHW, name, severity, keys=_KEYS_4)
        corruption.corrupt(_IMAGES_BCHW[:, :1], name, severity, keys=_KEYS_4)


@pytest.mark.parametrize("name", [*sorted(CORRUPTIONS), "pmal_pair"])
def test_training_samplers_draw_from_keys_alone(name, poisoned):
    mixture = TrainingNoise([NoiseType(name, (1, 2, 3), 0.8)])
    mixture(_IMAGES_BCHW, _KEYS_4)
    Noise(mixture, seed=3)(_IMAGES_BCHW)


def test_the_poison_works(poisoned):
    for draw in (
        lambda: torch.rand(3),
        lambda: torch.empty(3).uniform_(),
        lambda: np.random.rand(3),  # noqa: NPY002
        lambda: random.random(),
        lambda: K.RandomGaussianNoise(p=1.0)(_IMAGES_BCHW),
        lambda: K.RandomRain(drop_height=(2, 3), drop_width=(1, 2), p=1.0)(_IMAGES_BCHW),
    ):
        with pytest.raises(AssertionError, match="a global random generator was used"):
            draw()
