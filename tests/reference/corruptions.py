"""The public reference, seeded, with shims for what today's libraries no longer have.

imagecorruptions 1.1.2 imports `pkg_resources` and `scipy.ndimage.interpolation`, uses `np.float_` and skimage's
`multichannel=`, and draws from NumPy's global state (salt and pepper from a generator of its own).
"""

import functools
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
from PIL import Image

COMMON = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")


@functools.lru_cache(maxsize=1)
def _package() -> Any:
    resources: Any = types.ModuleType("pkg_resources")
    resources.resource_filename = lambda name, place: str(Path(sys.modules[name].__file__ or "").parent / place)
    interpolation: Any = types.ModuleType("scipy.ndimage.interpolation")
    interpolation.map_coordinates = scipy.ndimage.map_coordinates
    names = {"pkg_resources": resources, "scipy.ndimage.interpolation": interpolation}
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(names)
    try:
        from imagecorruptions import corruptions
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    corruptions.gaussian = _with_channel_axis(corruptions.gaussian)
    return corruptions


def _with_channel_axis(function: Callable[..., Any]) -> Callable[..., Any]:
    def gaussian(image: np.ndarray, *args: Any, multichannel: bool = False, **more: Any) -> np.ndarray:
        return function(image, *args, channel_axis=-1 if multichannel else None, **more)

    return gaussian


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """NumPy's global state for the block; what it was before comes back. `np.float_` and salt and pepper as well."""
    import skimage.util

    state, salt = np.random.get_state(), skimage.util.random_noise  # noqa: NPY002
    warnings.simplefilter("ignore")
    np.random.seed(seed)  # noqa: NPY002 - the package draws from it
    setattr(np, "float_", np.float64)  # noqa: B010 - the name is gone from NumPy
    skimage.util.random_noise = functools.partial(salt, rng=seed)
    try:
        yield
    finally:
        delattr(np, "float_")
        skimage.util.random_noise = salt
        np.random.set_state(state)  # noqa: NPY002


def reference(image_HWC: np.ndarray, name: str, severity: int, *, seed: int) -> np.ndarray:
    """The reference's image before it is cut to whole grey levels.

    Args:
        image_HWC: uint8 RGB.

    Returns:
        float32 in [0, 1], the shape of the image.
    """
    with warnings.catch_warnings(), _seeded(seed):
        noisy = getattr(_package(), name)(Image.fromarray(image_HWC), severity)
    return np.asarray(noisy, dtype=np.float32) / 255


def line_blurred(image_HWC: np.ndarray, *, radius: int, sigma: float, angle: float) -> np.ndarray:
    """The reference's motion blur at an angle in degrees."""
    return _package()._motion_blur(image_HWC, radius=radius, sigma=sigma, angle=angle)
