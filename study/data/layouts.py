"""How published image sets lie on disk: a dict with an entry for each; a new set is one more entry.

What the entries rest on. Where the sets' own files could not be had, public loaders of them were compared, and what
could not be settled is said here.

- compcars, compcars-surveillance: Yang et al. 2015, CVPR and arXiv 1506.08959 (431 models in the web-nature split, 281
  in the surveillance-nature one). Archives unpack to `data/` (image/MAKE/MODEL/YEAR/NAME.jpg, label/ with the same
  paths and .txt, misc/make_model_name.mat, train_test_split/classification/{train,test}.txt, a line such as
  `78/1/2014/3ac218c0c6c378.jpg`) and to `sv_data/` (image/MODEL/NAME.jpg, {train,test}_surveillance.txt,
  sv_make_model_name.mat with make, model and web-nature id of model 1, 2, ...). So in several public loaders, one of
  which (Graviti's TensorBay) adds that the web-nature lists name a few images that are not there: that is what
  `on_corrupt: skip` is for. A label file has the viewpoint, the number of boxes and then `x1 y1 x2 y2`; that these
  count pixels from 1 is taken from MATLAB's habit, so a box may be off by one pixel.
- bit-vehicle: Dong et al. 2015, IEEE T-ITS. Its README: 9,850 images beside VehicleInfo.mat, a struct array with name,
  height, width, nVehicles and vehicles (left, top, right, bottom, category), six categories, 10,053 vehicles. No
  official split. Box coordinates are taken as above. Two vehicles of one photograph may fall into different splits.
- vtid2: Boonsirisumpun and Surinta 2022, DOI 10.55003/cast.2022.01.22.001; Mendeley Data htsngg9tpc: five class
  folders (sedan, hatchback, pick-up, SUV, other), no official split found. The folders' spelling in the release is not
  certain (a public script has `Seden`), so whatever the five are called is taken.
- vidmmr: Vehicle Images Dataset for Make & Model Recognition, so named by arXiv 2401.14336. Its layout could not be
  looked up: ASSUMED is one folder for each class, at the top or below Train and Test folders, which are then the
  split. Where that is wrong, describe the set by `lists` instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Lists:
    """Text files with one image a line.

    Attributes:
        lists: Split -> file, below the set's folder.
        images: Folder that the lines' paths count from.
        homes: Folders below `data.path` that the set may lie in; the first that holds a list is taken.
        separator: Between columns; None: any white space.
        path_column: Column of the path; None: the whole line.
        label_column: Column of the label; None: it is in the path.
        label_parts: Parts of the path that are the label, joined by "/".
        label_base: The lowest label, where labels are whole numbers; None: they are names.
        skip_lines: Lines at the start that are no images.
        names: File of the classes' names.
        names_kind: How that file reads.
        boxes: Folder with a text file for each image, whose third line is its box; None: the set has none.
    """

    lists: Mapping[str, str]
    images: str = "."
    homes: tuple[str, ...] = (".",)
    separator: str | None = None
    path_column: int | None = None
    label_column: int | None = None
    label_parts: tuple[int, ...] = ()
    label_base: int | None = None
    skip_lines: int = 0
    names: str | None = None
    names_kind: Literal["lines", "compcars", "compcars-surveillance"] = "lines"
    boxes: str | None = None
    always_cropped: bool = field(default=False, init=False)

    @property
    def has_boxes(self) -> bool:
        return self.boxes is not None


@dataclass(frozen=True)
class Folders:
    """One folder for each class, or split folders that hold those.

    Attributes:
        num_classes: Of the whole set; None: not known.
    """

    num_classes: int | None = None
    has_boxes: bool = field(default=False, init=False)
    always_cropped: bool = field(default=False, init=False)


@dataclass(frozen=True)
class VehicleStructs:
    """A MATLAB struct array with an element for each image and its vehicles in boxes.

    Attributes:
        file: The .mat file, with the images beside it.
        variable: The struct array in it.
        categories: Names of the classes, in label order.
    """

    file: str
    variable: str
    categories: tuple[str, ...]
    has_boxes: bool = field(default=True, init=False)
    always_cropped: bool = field(default=True, init=False)


Layout = Lists | Folders | VehicleStructs

LAYOUTS: dict[str, Layout] = {
    "compcars": Lists(
        {"train": "train_test_split/classification/train.txt", "test": "train_test_split/classification/test.txt"},
        images="image", homes=("data", "."), label_parts=(0, 1), names="misc/make_model_name.mat",
        names_kind="compcars", boxes="label",
    ),
    "compcars-surveillance": Lists(
        {"train": "train_surveillance.txt", "test": "test_surveillance.txt"},
        images="image", homes=("sv_data", "."), label_parts=(0,), label_base=1, names="sv_make_model_name.mat",
        names_kind="compcars-surveillance",
    ),
    "bit-vehicle": VehicleStructs(
        "VehicleInfo.mat", "VehicleInfo", ("Bus", "Microbus", "Minivan", "Sedan", "SUV", "Truck")
    ),
    "vtid2": Folders(num_classes=5),
    "vidmmr": Folders(),
}  # fmt: skip
