"""The data section of a study file: one class for each image source.

Parts of the tree in `study.config`, which says how it is read.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from study.data.image_set import SPLITS
from study.data.layouts import LAYOUTS

if TYPE_CHECKING:
    LayoutName = str
else:
    LayoutName = Literal[tuple(LAYOUTS)]


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_OF_WINDOWS = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?|.*\.", re.IGNORECASE)


def check_name(name: str) -> str:
    """The name itself, if it can be a folder's on any system and cannot lead out of one.

    Raises:
        ValueError: It cannot.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            "must be a name of at most 64 letters, digits, '.', '_' and '-', the first a letter or digit, but got "
            f"{name[:80]!r}"
        )
    return _portable(name)


def _portable(name: str) -> str:
    if _OF_WINDOWS.fullmatch(name):
        raise ValueError(f"must be a name that a folder can have on Windows too, but got {name!r}; choose another")
    return name


Name = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
        description="A name of at most 64 letters, digits, '.', '_' and '-', the first a letter or digit.",
    ),
    AfterValidator(_portable),
]
"""Names become folders and MLflow experiments: letters, digits, '.', '_' and '-', 64 at most."""


class Section(BaseModel):
    """A frozen section that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataCommon(Section):
    """What every image source shares."""

    image_size: int = Field(default=64, ge=8, le=1024, description="Side of the square working image in pixels.")
    validation_share: float = Field(
        default=0.2, gt=0.0, lt=0.9, description="Share of train taken for validation, by class."
    )
    split_seed: int = Field(
        default=0, ge=0, description="Seed of the validation split; the same for all trials of a study."
    )
    max_classes: int | None = Field(
        default=None, ge=2, description="Keep the first classes only (in the source's order)."
    )
    max_per_class: int | None = Field(
        default=None, ge=2, description="Keep at most this many training images of a class."
    )
    unseen_classes: float | None = Field(
        default=None,
        gt=0.0,
        lt=1.0,
        description="Share of the classes, the last ones, that are the test set; validation is of whole classes too.",
    )
    on_corrupt: Literal["refuse", "skip"] = Field(
        default="refuse", description="What an image that cannot be read does."
    )

    @model_validator(mode="after")
    def _unseen_classes_decide(self) -> Self:
        if self.unseen_classes is None:
            return self
        idle = ("test_share",) if self.max_per_class is not None else ("test_share", "split_seed")
        fields = type(self).model_fields
        stray = next((name for name in idle if name in fields and getattr(self, name) != fields[name].default), None)
        if stray is not None:
            raise ValueError(
                f"{stray} has no effect beside unseen_classes, which makes the splits of whole classes, but got "
                f"{getattr(self, stray)}; take one of them out"
            )
        return self


class SyntheticVehicles(DataCommon):
    """Procedurally drawn vehicles: classes differ in shape only. No download."""

    source: Literal["synthetic-vehicles"] = "synthetic-vehicles"
    image_size: int = Field(default=64, ge=16, le=512, description="Side of the square working image in pixels.")
    num_classes: int = Field(default=10, ge=2, le=200, description="Vehicle classes to draw.")
    train_per_class: int = Field(default=60, ge=4, le=100_000, description="Drawings of a class to train on.")
    test_per_class: int = Field(default=30, ge=1, le=100_000, description="Drawings of a class to test on.")
    seed: int = Field(default=0, ge=0, description="Seed of the drawings.")


class ImageFolder(DataCommon):
    """A folder with one folder per class, or with split folders (train, val, test) that hold those."""

    source: Literal["image-folder"]
    path: str = Field(min_length=1, description="Folder; relative paths count from the study file.")
    test_share: float = Field(
        default=0.2, gt=0.0, lt=0.9, description="Share taken for test where no test folder exists."
    )


class Parquet(DataCommon):
    """A parquet file with one image in a row."""

    source: Literal["parquet"]
    path: str = Field(min_length=1, description="File; relative paths count from the study file.")
    image_column: str | None = Field(
        default=None, description="Column of encoded image bytes (found by itself if left out)."
    )
    label_column: str | None = Field(default=None, description="Column of class labels (found by itself if left out).")
    name_column: str | None = Field(default=None, description="Column of class names for people.")
    split_column: str | None = Field(default=None, description="Column that says train, validation or test.")
    test_share: float = Field(
        default=0.2, gt=0.0, lt=0.9, description="Share taken for test where no split column exists."
    )


class StanfordCars(DataCommon):
    """Stanford Cars as it is published: cars_train, cars_test and devkit below one folder, with its official split."""

    source: Literal["stanford-cars"]
    path: str = Field(min_length=1, description="Folder of cars_train; relative paths count from the study file.")
    crop_to_box: bool = Field(default=False, description="Cut each image to its annotated box.")


class Cifar(DataCommon):
    """CIFAR-10 or CIFAR-100 as they are published, binary or Python version, or an .npz file of such arrays."""

    source: Literal["cifar"]
    image_size: int = Field(default=32, ge=8, le=1024, description="Side of the square working image in pixels.")
    path: str = Field(
        min_length=1, description="Folder of cifar-10-batches-bin or a sister, or .npz; counts from the study file."
    )
    labels: Literal["fine", "coarse"] | None = Field(
        default=None, description="Which of CIFAR-100's labels; left out: fine. CIFAR-10 has one kind."
    )


class Svhn(DataCommon):
    """Street View House Numbers, the cropped digits: train_32x32.mat and test_32x32.mat."""

    source: Literal["svhn"]
    image_size: int = Field(default=32, ge=8, le=1024, description="Side of the square working image in pixels.")
    path: str = Field(min_length=1, description="Folder of the files; relative paths count from the study file.")
    extra: bool = Field(default=False, description="Train on the easier images of extra_32x32.mat too.")


class Cub200(DataCommon):
    """Caltech-UCSD Birds 200-2011 as it is published, with its official split."""

    source: Literal["cub-200"]
    path: str = Field(min_length=1, description="Folder of CUB_200_2011; relative paths count from the study file.")
    crop_to_box: bool = Field(default=False, description="Cut each image to its annotated box.")


class Lfw(DataCommon):
    """Labeled Faces in the Wild, to tell persons apart: PERSON/PERSON_0001.jpg."""

    source: Literal["lfw"]
    path: str = Field(
        min_length=1, description="Folder of lfw, lfw_funneled or lfw-deepfunneled; counts from the study file."
    )
    min_images: int = Field(default=20, ge=2, le=1000, description="Classes are persons with so many images or more.")
    test_share: float = Field(default=0.2, gt=0.0, lt=0.9, description="Share of each person's images taken for test.")


class ListColumns(Section):
    """Where a line of a list has what, counted from 0."""

    path: int = Field(default=0, ge=0, description="Column of the image's path.")
    label: int | None = Field(default=None, ge=0, description="Column of its label.")


class ImageList(DataCommon):
    """Images that lists name: a published set by its `layout`, or any other by `lists` and how their lines read."""

    source: Literal["image-list"]
    path: str = Field(min_length=1, description="The set's folder; relative paths count from the study file.")
    layout: LayoutName | None = Field(default=None, description="A published set; left out: describe it by lists.")
    crop_to_box: bool | None = Field(
        default=None, description="Cut each image to its box; left out: as the layout's papers do."
    )
    lists: dict[str, str] = Field(
        default_factory=dict, description="Split -> text file below path with an image a line."
    )
    images: str | None = Field(default=None, description="Folder below path that the lines' paths count from [path].")
    columns: ListColumns | None = Field(
        default=None, description="Left out: path, then label; with label_part the whole line is the path."
    )
    separator: str | None = Field(
        default=None, min_length=1, max_length=1, description="One character between columns; left out: spaces, tabs."
    )
    skip_lines: int = Field(default=0, ge=0, description="Lines at the start of each list that are no images.")
    label_part: int | None = Field(
        default=None, description="The label is this part of the path: 0 the first folder, -2 the last one."
    )
    label_base: int | None = Field(
        default=None, description="Labels are whole numbers from this on; left out: they are the classes' names."
    )
    class_names: str | None = Field(
        default=None, description="Text file below path with a class name a line, from label_base on."
    )
    test_share: float = Field(
        default=0.2, gt=0.0, lt=0.9, description="Share taken for test where the set has no test list."
    )

    @field_validator("lists")
    @classmethod
    def _splits_known(cls, lists: dict[str, str]) -> dict[str, str]:
        for split, file in lists.items():
            if split not in SPLITS:
                near = difflib.get_close_matches(split, SPLITS, n=1)
                raise ValueError(
                    f"must name a list for {', '.join(SPLITS)}, but got {split!r}{f'; near: {near[0]}' if near else ''}"
                )
            if not file:
                raise ValueError(f"must give each split a file, but {split!r} has none; take it out or name its file")
        return lists

    @field_validator("label_part")
    @classmethod
    def _part_is_a_folder(cls, label_part: int | None) -> int | None:
        if label_part == -1:
            raise ValueError(
                "must be a folder of the path, such as 0 (the first) or -2 (the last), but got -1, which is the file's "
                "own name; write another, or name a label column by columns"
            )
        return label_part

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.layout is None:
            self._own_form()
            return self
        stray = next((name for name in OWN_FORM if getattr(self, name) != _default(name)), None)
        if stray is not None:
            raise ValueError(
                f"{stray} has no effect beside layout: {self.layout}, whose files are known; take one of them out"
            )
        can, must = LAYOUTS[self.layout].has_boxes, LAYOUTS[self.layout].always_cropped
        if (self.crop_to_box and not can) or (self.crop_to_box is False and must):
            why = "has no boxes" if not can else "has images of several vehicles, each a box with a label of its own"
            raise ValueError(f"crop_to_box must be left out with layout: {self.layout}, which {why}")
        return self

    def _own_form(self) -> None:
        if not self.lists:
            raise ValueError(
                f"layout must be one of {', '.join(LAYOUTS)}, but is not there; name one, or describe the set by lists "
                "such as {train: train.txt, test: test.txt}"
            )
        if "train" not in self.lists:
            raise ValueError(f"lists must name a list for train, but has {', '.join(self.lists)} only")
        column = self.columns.label if self.columns else None
        if column is not None and self.label_part is not None:
            raise ValueError(
                f"label_part has no effect beside columns.label, but got {self.label_part} and {column}; take one out"
            )
        if self.columns is not None and column is None and self.label_part is None:
            raise ValueError("columns must say where the label stands; add label, or set label_part")
        if column is not None and self.columns is not None and column == self.columns.path:
            raise ValueError(f"columns must differ for path and label, but both are {column}; count from 0")
        if self.class_names is not None and self.label_base is None:
            raise ValueError("class_names needs label_base, the label of its first line; set it, mostly to 0 or 1")
        if self.crop_to_box is not None:
            raise ValueError("crop_to_box has no effect on lists of your own, which hold no boxes; take it out")


OWN_FORM = ("lists", "images", "columns", "separator", "skip_lines", "label_part", "label_base", "class_names")
"""Settings that describe a set of the user's own."""


def _default(name: str) -> Any:
    return ImageList.model_fields[name].get_default(call_default_factory=True)


DataConfig = Annotated[
    SyntheticVehicles | ImageFolder | Parquet | StanfordCars | ImageList | Cifar | Svhn | Cub200 | Lfw,
    Field(discriminator="source"),
]
