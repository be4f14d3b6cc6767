"""CUB-200-2011 as it is published: labels, split and boxes by the number of the image; what lacks is named."""

import numpy as np
import pytest
from PIL import Image

from study.config_data import Cub200
from study.data.prepare import prepare_data
from study.data.sources import open_source

CLASSES = ["001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross", "010.Red_winged_Blackbird"]
BOX = (4.0, 2.0, 9.0, 11.0)
PER_CLASS = 6


def write_set(root):
    """White inside of the box, black around it; the first two thirds of each class are train."""
    home = root / "CUB_200_2011"
    lines = {name: [] for name in ("images", "image_class_labels", "train_test_split", "bounding_boxes", "classes")}
    number = 0
    for label, name in enumerate(CLASSES, start=1):
        lines["classes"].append(f"{label} {name}")
        for index in range(PER_CLASS):
            number += 1
            file = f"{name}/{name[4:]}_{index:04}_{number}.jpg"
            pixels = np.full((20, 30, 3), number, dtype=np.uint8)
            pixels[2:13, 4:13] = 255
            (home / "images" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(home / "images" / file, "PNG")
            lines["images"].append(f"{number} {file}")
            lines["image_class_labels"].append(f"{number} {label}")
            lines["train_test_split"].append(f"{number} {int(index < 4)}")
            lines["bounding_boxes"].append(f"{number} {' '.join(map(str, BOX))}")
    for name, items in lines.items():
        (home / f"{name}.txt").write_text("\n".join(items) + "\n")
    return Cub200(source="cub-200", path=str(root), image_size=8, validation_share=0.25)


def change(root, name, old, new):
    file = root / "CUB_200_2011" / f"{name}.txt"
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def test_the_official_split_and_labels(tmp_path):
    data = write_set(tmp_path / "birds")
    splits = prepare_data(data, cache_dir=tmp_path / "cache")
    assert [len(part) for part in splits.by_name().values()] == [12, 4, 8]
    assert splits.class_names == (
        "Black footed Albatross",
        "Laysan Albatross",
        "Sooty Albatross",
        "Red winged Blackbird",
    )
    assert splits.test.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert splits.source_sizes.tolist() == [[30, 20]] * 24
    inside = data.model_copy(update={"path": f"{data.path}/CUB_200_2011"})
    assert prepare_data(inside, cache_dir=tmp_path / "cache").fingerprint == splits.fingerprint


def test_boxes_are_cut_to_the_pixel(tmp_path):
    data = write_set(tmp_path / "birds").model_copy(update={"crop_to_box": True})
    splits = prepare_data(data, cache_dir=tmp_path / "cache")
    assert splits.source_sizes.tolist() == [[9, 11]] * 24
    for part in splits.by_name().values():
        assert part.images.min() == 255


def test_half_of_the_classes_unseen(tmp_path):
    data = write_set(tmp_path / "birds")
    with pytest.raises(ValueError, match=r"data.unseen_classes must leave two"):
        prepare_data(data.model_copy(update={"unseen_classes": 0.5, "max_classes": 3}), cache_dir=tmp_path / "cache")
    with pytest.raises(ValueError, match=r"0.5 of 4 classes gives 0, 2 and 2"):
        prepare_data(data.model_copy(update={"unseen_classes": 0.5}), cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("images", "\n3 001", "\n2 001", r"a images.txt with each number once, but line 3 has 2 again"),
        ("images", "\n3 001", "\nx 001", r"line 3 is 'x 001.Bl"),
        (
            "image_class_labels",
            "\n7 2\n",
            "\n7 5\n",
            r"image_class_labels.txt gives image 7 of images.txt the label '5'",
        ),
        ("image_class_labels", "\n7 2\n", "\n", r"image_class_labels.txt with a line for each image, but image 7"),
        (
            "train_test_split",
            "\n7 1\n",
            "\n7 2\n",
            r"train_test_split.txt of 0 and 1, but image 7 of images.txt has '2'",
        ),
        ("bounding_boxes", "\n7 4.0 2.0 ", "\n7 4.0 nan ", r"four numbers .* but image 7 of .* has '4.0 nan 9.0 11.0'"),
        ("bounding_boxes", "\n7 4.0 2.0 ", "\n7 4.0 ", r"bounding_boxes.txt whose lines are .* and 4 more, but line 7"),
        ("bounding_boxes", "\n7 4.0 2.0 9.0", "\n7 4.0 2.0 0.0", r"image 7 of images.txt\) goes from x 4 to 4"),
    ],
)
def test_a_line_that_does_not_fit_is_refused(tmp_path, name, old, new, message):
    data = write_set(tmp_path / "birds")
    change(tmp_path / "birds", name, old, new)
    with pytest.raises(ValueError, match=message):
        open_source(data.model_copy(update={"crop_to_box": True}))
    if name == "bounding_boxes":
        assert open_source(data)


@pytest.mark.parametrize("file", ["images.txt", "classes.txt", "train_test_split.txt", "image_class_labels.txt"])
def test_a_list_that_lacks_is_named(tmp_path, file):
    data = write_set(tmp_path / "birds")
    (tmp_path / "birds" / "CUB_200_2011" / file).unlink()
    with pytest.raises(ValueError, match=rf"must be the folder of CUB-200-2011, .* there is no .*{file}"):
        open_source(data)


def test_an_image_that_lacks_is_named_and_boxes_are_read_only_where_they_are_cut(tmp_path):
    data = write_set(tmp_path / "birds")
    home = tmp_path / "birds" / "CUB_200_2011"
    (home / "bounding_boxes.txt").unlink()
    assert open_source(data)
    with pytest.raises(ValueError, match=r"there is no .*bounding_boxes.txt"):
        open_source(data.model_copy(update={"crop_to_box": True}))
    next(home.glob("images/002*/*_7.jpg")).unlink()
    with pytest.raises(ValueError, match=r"1 of 24 are missing, .*_7.jpg' \(image 7 of images.txt\)"):
        open_source(data)
    assert len(open_source(data.model_copy(update={"on_corrupt": "skip"})).listing().labels) == 24
