"""Sets given by lists: each published layout in small, sets of the user's own, and errors that name file and line."""

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from scipy.io import savemat

import study.data.cache as cache_module
from study.config_data import ImageList
from study.data.layouts import LAYOUTS
from study.data.prepare import data_fingerprint, prepare_data
from study.data.sources import open_source
from study.plan import make_plan
from study.studyfile import StudyFileError, load_study

CARS = [("1", "1101"), ("1", "9"), ("78", "1")]
COLOURS = iter(range(1000))


def write_image(path, size=(30, 20), box=None):
    """A grey image of its own; white inside of the box, whose last column and row count, from 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), next(COLOURS) % 200, dtype=np.uint8)
    if box is not None:
        pixels[box[1] - 1 : box[3], box[0] - 1 : box[2]] = 255
    Image.fromarray(pixels).save(path, "PNG")


def cells(*names):
    """A MATLAB cell array, n x 1; an empty text is an empty cell."""
    array = np.empty((len(names), 1), dtype=object)
    for row, name in enumerate(names):
        array[row, 0] = name if name else np.zeros((0, 0))
    return array


def write_compcars(root):
    """data/image/MAKE/MODEL/YEAR/NAME.jpg, label/ beside it, split lists with one path a line."""
    data = root / "data"
    (data / "train_test_split" / "classification").mkdir(parents=True)
    (data / "misc").mkdir()
    for split, count in (("train", 3), ("test", 2)):
        lines = [f"{make}/{model}/2014/{split}{n}.jpg" for make, model in CARS for n in range(count)]
        for line in lines:
            write_image(data / "image" / line, box=(4, 6, 13, 15))
            label = data / "label" / line.replace(".jpg", ".txt")
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("4\n1\n4 6 13 15 \n")
        (data / "train_test_split" / "classification" / f"{split}.txt").write_text("\n".join(lines) + "\n")
    makes, models = [""] * 78, [""] * 1101
    makes[0], makes[77], models[8], models[0], models[1100] = "Audi", "BMW", "Audi A4L", "X5", ""
    savemat(data / "misc" / "make_model_name.mat", {"make_names": cells(*makes), "model_names": cells(*models)})
    return {"layout": "compcars", "path": str(root)}


def write_surveillance(root):
    """sv_data/image/MODEL/NAME.jpg, lists of MODEL/NAME.jpg, and a table of make, model and web-nature id."""
    data = root / "sv_data"
    for split, count in (("train", 3), ("test", 1)):
        lines = [f"{model}/{split}{n}.jpg" for model in (1, 2, 10) for n in range(count)]
        for line in lines:
            write_image(data / "image" / line)
        (data / f"{split}_surveillance.txt").write_text("\n".join(lines))
    table = np.empty((10, 3), dtype=object)
    for row in range(10):
        table[row] = ["BMW", "BMW X5" if row == 0 else f"series {row + 1}", row + 100]
    savemat(data / "sv_make_model_name.mat", {"sv_make_model_name": table})
    return {"layout": "compcars-surveillance", "path": str(root)}


def write_bit_vehicle(root, category="SUV", right=40):
    """Images beside VehicleInfo.mat, an n x 1 struct array; the last image shows two vehicles."""
    kinds = ["Bus", "Microbus", "Minivan", "Sedan", "SUV", "Truck"]
    box_type = [(name, object) for name in ("left", "top", "right", "bottom", "category")]
    item_type = [(name, object) for name in ("name", "height", "width", "vehicles", "nVehicles")]
    items = np.empty((25, 1), dtype=item_type)
    for number in range(25):
        vehicles = [(2, 3, 11, 12, kinds[number % 6])] + [(21, 1, right, 20, category)] * (number == 24)
        name = f"vehicle_{number + 1:07}.jpg"
        write_image(root / name, box=vehicles[0][:4])
        items[number, 0] = (name, 20, 30, np.array([vehicles], dtype=box_type), len(vehicles))
    savemat(root / "VehicleInfo.mat", {"VehicleInfo": items})
    return {"layout": "bit-vehicle", "path": str(root)}


def write_vtid2(root):
    for name in ("Hatchback", "Other", "Pickup", "SUV", "Seden"):
        for number in range(5):
            write_image(root / name / f"PIC_{number}.jpg")
    return {"layout": "vtid2", "path": str(root)}


def write_vidmmr(root):
    for split, count in (("Train", 4), ("Test", 2)):
        for name in ("Honda City", "Suzuki Mehran"):
            for number in range(count):
                write_image(root / split / name / f"{number}.jpg")
    return {"layout": "vidmmr", "path": str(root)}


def write_own(root, *, line="images/{name}.png {label}", labels=("cat", "dog")):
    for split, count in (("train", 4), ("test", 2)):
        lines = []
        for label in labels:
            for number in range(count):
                name = f"{label}/{split}{number}"
                lines.append(line.format(name=name, label=label))
                write_image(root / "images" / f"{name}.png")
        (root / f"{split}.txt").write_text("\n".join(lines))
    return {"path": str(root), "lists": {"train": "train.txt", "test": "test.txt"}}


def section(settings, **more):
    return ImageList.model_validate({"source": "image-list", "image_size": 8, **settings, **more})


LAYOUT_SETS = {
    "compcars": (write_compcars, [6, 3, 6], ("Audi A4L", "Audi 1101", "BMW X5")),
    "compcars-surveillance": (write_surveillance, [6, 3, 3], ("BMW X5", "BMW series 2", "BMW series 10")),
    "bit-vehicle": (write_bit_vehicle, [14, 6, 6], ("Bus", "Microbus", "Minivan", "Sedan", "SUV", "Truck")),
    "vtid2": (write_vtid2, [15, 5, 5], ("Hatchback", "Other", "Pickup", "SUV", "Seden")),
    "vidmmr": (write_vidmmr, [6, 2, 4], ("Honda City", "Suzuki Mehran")),
}


def test_every_layout_is_tested_here():
    assert LAYOUT_SETS.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("name", LAYOUT_SETS)
def test_a_published_layout(tmp_path, name):
    write, counts, names = LAYOUT_SETS[name]
    data = section(write(tmp_path / "set"))
    splits = prepare_data(data, cache_dir=tmp_path / "cache")
    assert [len(part) for part in splits.by_name().values()] == counts
    assert splits.class_names == names
    for part in splits.by_name().values():
        assert set(part.labels.tolist()) == set(range(len(names)))


@pytest.mark.parametrize(("name", "inner"), [("compcars", "data"), ("compcars-surveillance", "sv_data")])
def test_a_set_is_found_from_its_inner_folder_too(tmp_path, name, inner):
    settings = LAYOUT_SETS[name][0](tmp_path / "set")
    one, other = section(settings), section(settings, path=str(tmp_path / "set" / inner))
    assert len({data_fingerprint(data, cache_dir=tmp_path / "cache") for data in (one, other)}) == 1


def test_compcars_is_cut_to_the_boxes_of_its_label_files(tmp_path):
    data = section(write_compcars(tmp_path / "set"), crop_to_box=True)
    splits = prepare_data(data, cache_dir=tmp_path / "cache")
    assert splits.source_sizes.tolist() == [[10, 10]] * 15
    assert splits.train.images.min() == 255
    label = tmp_path / "set" / "data" / "label" / "78" / "1" / "2014" / "train0.txt"
    for text, got in (("4\n1\n", "2 lines"), ("4\n1\n1 2 three 4", "1 2 three 4")):
        label.write_text(text)
        with pytest.raises(ValueError, match=rf"third line of .*train0.txt', .*train.txt line 7, but got '{got}'"):
            open_source(data)


def test_each_vehicle_of_an_image_is_an_image_of_its_own(tmp_path):
    source = open_source(section(write_bit_vehicle(tmp_path / "set")))
    labels = source.listing().labels
    assert len(labels) == 26
    assert labels[24:].tolist() == [0, 4]
    places = [source.place(row) for row in (24, 25)]
    assert places == ["vehicle_0000025.jpg box 1,2,11,12", "vehicle_0000025.jpg box 20,0,40,20"]
    raws = list(source.read(np.array([24, 25]), image_size=8))
    assert raws[0].content == raws[1].content
    assert raws[0].identity() != raws[1].identity()


def test_a_box_beyond_the_image_is_cut_and_one_outside_is_no_image(tmp_path):
    settings = write_bit_vehicle(tmp_path / "set")  # the second vehicle of the last image: x 21 to 40 of 30
    splits = prepare_data(section(settings), cache_dir=tmp_path / "cache")
    assert [10, 20] in splits.source_sizes.tolist()
    write_image(tmp_path / "set" / "vehicle_0000025.jpg", size=(15, 20))
    data = section(settings, on_corrupt="skip")
    splits = prepare_data(data, cache_dir=tmp_path / "cache")
    assert splits.skipped == [
        ("vehicle_0000025.jpg box 20,0,40,20", "the box 20,0,40,20 lies outside of the image of 15 x 20")
    ]


@pytest.mark.parametrize(
    ("line", "settings"),
    [
        ("images/{name}.png {label}", {}),
        ("{name}.png\t{label}", {"images": "images", "separator": "\t"}),
        ('"{name}.png", {label}', {"images": "images", "separator": ","}),
        ("{label};x;{name}.png", {"images": "images", "separator": ";", "columns": {"path": 2, "label": 0}}),
        ("{name}.png", {"images": "images", "label_part": 0}),
        ("{name}.png", {"images": "images", "label_part": -2}),
        (".\\{name}.png", {"images": "images", "label_part": 0}),
        ("{name}.png 17", {"images": "images", "label_part": 0, "columns": {"path": 0}}),
    ],
)
def test_lists_of_ones_own(tmp_path, line, settings):
    data = section(write_own(tmp_path / "set", line=line), **settings)
    splits = prepare_data(data, cache_dir=tmp_path / "cache")
    assert [len(part) for part in splits.by_name().values()] == [6, 2, 4]
    assert splits.class_names == ("cat", "dog")
    assert splits.test.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("base", [0, 1])
def test_numbered_labels_with_names(tmp_path, base):
    settings = write_own(tmp_path / "set", labels=(str(base + 1), str(base + 10)))
    (tmp_path / "set" / "names.txt").write_text("\n".join(f"car {number}" for number in range(11)))
    source = open_source(section(settings, label_base=base, class_names="names.txt"))
    assert source.listing().class_names == ("car 1", "car 10")
    assert open_source(section(settings)).listing().class_names == (str(base + 1), str(base + 10))


def test_a_head_line_is_skipped_and_a_validation_list_is_followed(tmp_path):
    settings = write_own(tmp_path / "set")
    train = (tmp_path / "set" / "train.txt").read_text()
    (tmp_path / "set" / "train.txt").write_text(f"path label\n{train}")
    (tmp_path / "set" / "val.txt").write_text("head\n" + (tmp_path / "set" / "test.txt").read_text())
    data = section(settings, skip_lines=1, lists={"train": "train.txt", "validation": "val.txt"})
    splits = prepare_data(data, cache_dir=tmp_path / "cache")
    assert [len(splits.validation), len(splits.train) + len(splits.test)] == [4, 8]


@pytest.mark.parametrize(
    ("settings", "text", "message"),
    [
        ({}, "images/cat/train0.png", r"data.lists.train must have 2 columns or more, .*train.txt line 2 is"),
        ({"separator": ","}, "a b", "with ',' between them, but train.txt line 2 is 'a b'"),
        ({}, "/images/cat/train0.png cat", "paths below data.path, but train.txt line 2"),
        ({}, "../cat/train0.png cat", "paths below data.path, but train.txt line 2"),
        ({}, "images/cat/none.png cat", r"1 of 13 are missing, the first .*none.png' \(train.txt line 2\)"),
        ({"label_base": 1}, "images/cat/train0.png 0", "a whole number from 1 on as its label, but train.txt line 1"),
        ({"label_part": 4}, "", "with the label in part 4 of their path, but train.txt line 1 has 3 parts"),
        ({"lists": {"train": "none.txt"}}, "", r"data.lists.train must be a text file .* there is no .*none.txt'"),
        ({"separator": ",", "columns": {"label": 1}}, "images/cat/train0.png,", "each image a label, but train.txt"),
    ],
)
def test_a_line_that_does_not_fit_is_named(tmp_path, monkeypatch, settings, text, message):
    own = write_own(tmp_path / "set")
    lines = (tmp_path / "set" / "train.txt").read_text().splitlines()
    if settings.get("separator"):
        lines = [line.replace(" ", ",") for line in lines]
    if settings.get("label_part"):
        lines = [line.split()[0] for line in lines]
    (tmp_path / "set" / "train.txt").write_text("\n".join([lines[0], text, *lines[1:]]))
    monkeypatch.setattr(cache_module, "decode_all", None)
    with pytest.raises(ValueError, match=message):
        open_source(section(own, **settings))


def test_a_file_that_can_be_none_is_missing_not_a_crash(tmp_path):
    settings = write_own(tmp_path / "set")
    train = tmp_path / "set" / "train.txt"
    lines = train.read_text()
    for name in ("images/cat", "x" * 300, "a\0b"):  # a folder, a name too long, one that no file can have
        train.write_text(f"{lines}\n{name} cat\n")
        with pytest.raises(ValueError, match=r"1 of 13 are missing, .*\(train.txt line 9\)"):
            open_source(section(settings))
        assert len(prepare_data(section(settings, on_corrupt="skip"), cache_dir=tmp_path / "cache").skipped) == 1


@pytest.mark.parametrize(
    ("file", "line"), [("test.txt", "images/cat/train0.png cat"), ("train.txt", "./images/cat/train0.png dog")]
)
def test_an_image_in_two_splits_or_classes_is_refused(tmp_path, file, line):
    settings = write_own(tmp_path / "set")
    place = tmp_path / "set" / file
    place.write_text(f"{place.read_text()}\n{line}\n")
    message = rf"images/cat/train0.png stands at train.txt line 1 and, .* at {file} line \d; take one out"
    with pytest.raises(ValueError, match=message):
        open_source(section(settings))


def test_a_line_that_stands_twice_is_one_image(tmp_path):
    settings = write_own(tmp_path / "set")
    place = tmp_path / "set" / "train.txt"
    place.write_text(f"{place.read_text()}\n" + "images/cat/train0.png cat\n" * 3)
    assert len(open_source(section(settings)).listing().labels) == 12


def test_an_empty_first_column_moves_no_other(tmp_path):
    settings = write_own(tmp_path / "set", line="\timages/{name}.png\t{label}\tx")
    source = open_source(section(settings, separator="\t", columns={"path": 1, "label": 2}))
    assert source.listing().class_names == ("cat", "dog")


def test_names_that_lack_and_text_that_is_none_are_refused(tmp_path):
    settings = write_own(tmp_path / "set", labels=("1", "2"))
    (tmp_path / "set" / "names.txt").write_text("one")
    with pytest.raises(ValueError, match="a line for each label, from 1 to 1, but the lists have 2; add the names"):
        open_source(section(settings, label_base=1, class_names="names.txt"))
    (tmp_path / "set" / "train.txt").write_bytes(b"caf\xe9.png 1")
    with pytest.raises(ValueError, match=r"data.lists.train must be text in UTF-8, but .*train.txt' is not \(byte 3\)"):
        open_source(section(settings))
    (tmp_path / "set" / "train.txt").write_text("")
    (tmp_path / "set" / "test.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"the lists below .* name none"):
        open_source(section(settings))


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("compcars", "data/train_test_split/classification/train.txt", r"compcars, but there is no .*train.txt"),
        ("compcars", "data/train_test_split/classification/test.txt", r"data.path: must be a text file .*test.txt"),
        ("compcars", "data/misc/make_model_name.mat", "names of the classes, but there is no .*make_model_name.mat"),
        ("compcars-surveillance", "sv_data/sv_make_model_name.mat", "there is no .*sv_make_model_name.mat"),
        ("bit-vehicle", "VehicleInfo.mat", "must be the folder of VehicleInfo.mat"),
        ("bit-vehicle", "vehicle_0000003.jpg", r"1 of 26 are missing, .*vehicle_0000003.jpg' \(.* entry 3\)"),
    ],
)  # fmt: skip
def test_what_a_published_set_lacks_is_named(tmp_path, name, spoil, message):
    data = section(LAYOUT_SETS[name][0](tmp_path / "set"))
    (tmp_path / "set" / spoil).unlink()
    with pytest.raises(ValueError, match=message):
        open_source(data)


def test_a_set_of_other_classes_is_refused(tmp_path):
    settings = write_vtid2(tmp_path / "deep" / "set")
    with pytest.raises(ValueError, match=r"holds the 5 class folders of vtid2, but .* has 1: set; correct the path"):
        open_source(section(settings, path=str(tmp_path / "deep")))
    with pytest.raises(ValueError, match=r"Sedan, SUV, Truck, but VehicleInfo.mat entry 25 has 'Tram'"):
        open_source(section(write_bit_vehicle(tmp_path / "bit", category="Tram")))
    with pytest.raises(ValueError, match=r"must be a folder, but got .*nowhere"):
        open_source(section(settings, path=str(tmp_path / "nowhere")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "layout must be one of compcars, .*, but is not there"),
        ({"layout": "compcars", "lists": {"train": "a"}}, "lists has no effect beside layout: compcars"),
        ({"layout": "vtid2", "crop_to_box": True}, "must be left out with layout: vtid2, which has no boxes"),
        ({"layout": "bit-vehicle", "crop_to_box": False}, "crop_to_box must be left out with layout: bit-vehicle"),
        ({"lists": {"test": "a"}}, "lists must name a list for train, but has test only"),
        ({"lists": {"train": "a"}, "columns": {"path": 0}}, "columns must say where the label stands"),
        ({"lists": {"train": "a"}, "columns": {"label": 0}}, "columns must differ for path and label, but both are 0"),
        ({"lists": {"train": "a"}, "columns": {"label": 1}, "label_part": 0}, "label_part has no effect beside"),
        ({"lists": {"train": "a"}, "label_part": -1}, "must be a folder of the path, .* got -1, which is"),
        ({"lists": {"train": "a"}, "class_names": "n.txt"}, "class_names needs label_base"),
        ({"lists": {"train": "a"}, "crop_to_box": False}, "crop_to_box has no effect on lists of your own"),
    ],
)  # fmt: skip
def test_settings_without_effect_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        section({"path": "set", **settings})


def test_a_box_of_a_vehicle_that_is_no_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"boxes of whole numbers, but VehicleInfo.mat entry 25 has right = nan"):
        open_source(section(write_bit_vehicle(tmp_path / "bit", right=np.nan)))


def test_check_names_the_line_of_the_study_file_before_anything_starts(tmp_path):
    write_own(tmp_path / "set")
    (tmp_path / "set" / "test.txt").write_text("images/cat/test0.png")
    study = tmp_path / "mine.yaml"
    study.write_text(
        "name: mine\ndata:\n  source: image-list\n  path: set\n  lists:\n    train: train.txt\n    test: test.txt\n"
    )
    with pytest.raises(StudyFileError, match=r"mine.yaml:7: data.lists.test: must have 2 columns .*test.txt line 1 is"):
        make_plan(load_study(study))
    study.write_text("name: mine\ndata: {source: image-list, layout: compcars, path: set}\n")
    with pytest.raises(
        StudyFileError, match=r"mine.yaml:2: data.path: must be the folder of compcars, but there is no"
    ):
        make_plan(load_study(study))
