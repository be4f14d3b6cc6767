"""The summary of a data set says what looks wrong, and the contact sheet shows it."""

from PIL import Image

from study.config_data import ImageFolder, SyntheticVehicles
from study.data.inspect import inspect_data


def write_images(root, counts):
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (40, 30 + index), (index * 20, 90, 200)).save(root / name / f"{index}.png")


def test_a_sound_set(tmp_path):
    data = SyntheticVehicles(num_classes=2, train_per_class=10, test_per_class=3, image_size=16)
    text = inspect_data(data, cache_dir=tmp_path / "cache", sheet=tmp_path / "sheet.png")
    assert "26 in 2 classes, working size 16 x 16" in text
    assert text.splitlines()[-4:-2] == [f"{'all':<28} {16:>8} {4:>10} {6:>8}", ""]
    assert "nothing looks wrong" in text
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (150 + 10 * 16, 2 * 16)


def test_what_looks_wrong_is_said(tmp_path):
    write_images(tmp_path / "images", {"many": 10, "few": 2})
    (tmp_path / "images" / "many" / "torn.png").write_bytes(b"torn")
    data = ImageFolder(source="image-folder", path=str(tmp_path / "images"), image_size=32)
    text = inspect_data(data, cache_dir=tmp_path / "cache")
    assert "1 classes with fewer than 5 train images: few (1)" in text
    assert "1 images cannot be read:\n  many/torn.png: the bytes are no image of a known format" in text
    assert "smallest 40 x 30" in text
    assert "33% were scaled up" in text
