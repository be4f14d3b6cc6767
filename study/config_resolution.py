"""The resolution section of a study file: what sides training images are shrunk to, and those that are measured."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from noise.low_resolution import MIN_SIDE, Lens
from study.config_data import Section

MAX_SEARCH_SIDES = 3

Side = Annotated[int, Field(ge=MIN_SIDE, le=1024)]


class ResolutionConfig(Section):
    """Images of lower resolution, made on the device from those of `data.image_size` pixels.

    What trains sees the small images; a teacher sees the large ones of the same crop and flip. Noise is that of the
    small image, before it is brought up again. Cells of the test are called by the side: 16px, gaussian_noise_16px.
    """

    train: tuple[Side, ...] = Field(
        default=(),
        description="Sides in pixels, one drawn for each training image; data.image_size stands for the image as it "
        "is. Left out: all as they are.",
    )
    kernel: Literal["area", "bilinear", "bicubic", "random"] = Field(
        default="bicubic", description="Of shrinking in training; random: drawn for each image."
    )
    view: Literal["up", "small"] = Field(
        default="up", description="up: brought back to data.image_size (bicubic); small: the network sees them small."
    )
    validation: tuple[Side, ...] = Field(
        default=(), max_length=MAX_SEARCH_SIDES, description="Sides that validation measures beside full size."
    )
    test: tuple[Side, ...] = Field(default=(), description="Sides that the test measures beside full size.")
    test_kernel: Literal["area", "bilinear", "bicubic"] = Field(
        default="bicubic", description="Of shrinking in validation and test."
    )
    with_noise: bool = Field(
        default=False, description="Measure the corruptions of validation and test at these sides too."
    )

    @model_validator(mode="after")
    def _sides_once(self) -> Self:
        for name in ("train", "validation", "test"):
            sides = getattr(self, name)
            if len(set(sides)) < len(sides):
                raise ValueError(f"{name} must not name a side twice, but got {list(sides)}")
        if self.view == "small" and len(self.train) > 1:
            raise ValueError(
                f"train must be one side with view: small, as a batch has one side, but got {list(self.train)}; take "
                "one, or view: up"
            )
        if self.with_noise and not (self.validation or self.test):
            raise ValueError("with_noise has no effect without sides in validation or test; name some or take it out")
        if self.kernel != ResolutionConfig.model_fields["kernel"].default and not self.train:
            raise ValueError(
                f"kernel has no effect without sides in train, but got {self.kernel}; name some or take it out"
            )
        measured = self.validation or self.test
        if self.test_kernel != ResolutionConfig.model_fields["test_kernel"].default and not measured:
            raise ValueError(
                f"test_kernel has no effect without sides in validation or test, but got {self.test_kernel}; name some "
                "or take it out"
            )
        if self.view == "small" and not (self.train or measured):
            raise ValueError("view has no effect without sides in train, validation or test, but got small; name some")
        return self

    def problem(self, image_size: int) -> str:
        """Why the sides do not go with the images; "" where they do."""
        for name, most in (("train", image_size), ("validation", image_size - 1), ("test", image_size - 1)):
            over = [side for side in getattr(self, name) if side > most]
            if over:
                return (
                    f"resolution.{name} must be {'at most' if name == 'train' else 'below'} data.image_size "
                    f"({image_size}), but got {over[0]}; leave it out, or raise data.image_size"
                )
        if self.view == "small" and self.train == (image_size,):
            return (
                f"resolution.view must be up with train: [{image_size}], which is data.image_size, but got small; name "
                "a lower side, or take view out"
            )
        return ""

    @property
    def evaluation_lens(self) -> Lens:
        """Of validation and test."""
        return Lens(self.test_kernel, small=self.view == "small")

    def input_size(self, image_size: int) -> int:
        """Side of what the network trains on."""
        return self.train[0] if self.view == "small" and self.train else image_size
