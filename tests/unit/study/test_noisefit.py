"""`murk noise fit`: files in, a table and a file out, and plain words for what cannot be measured."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

from noise.camera import CameraLevel, camera_corruption, camera_noise
from noise.keyed import image_keys
from study import noisefit
from study.cli import BAD_INPUT, app
from study.noisefit import fit_folder, measure_folder, read_fit
from tests.unit.noise.pictures import scenes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("camera")
    clean_BCHW = F.avg_pool2d(scenes(3, 512, 640), 4)
    noisy_BCHW = camera_noise(clean_BCHW, CameraLevel(0.03, 0.0, 1.2), keys_B=image_keys(range(3), seed=0))
    (place / "day").mkdir()
    for index, image in enumerate(noisy_BCHW.clamp(0, 1)):
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(place / ("day" if index else ".") / f"{index}.png")
    (place / "notes.txt").write_text("no image")
    (place / ".hidden.png").write_bytes(b"no image")
    return place


def test_the_command_prints_values_units_and_counts_and_writes_the_file(folder, tmp_path):
    answer = CliRunner().invoke(app, ["noise", "fit", str(folder), "--out", str(tmp_path / "my.yaml")])
    assert answer.exit_code == 0, answer.output
    assert "3 images in" in answer.stdout
    assert "(shorter side 128 px)" in answer.stdout
    read = next(line for line in answer.stdout.splitlines() if line.startswith("read noise, sigma")).split()
    assert float(read[3]) == pytest.approx(0.03, rel=0.1)
    assert float(read[5]) == pytest.approx(0.03 * 255, rel=0.1)
    assert "cannot be told apart" in answer.stdout
    fit, _ = measure_folder(folder)
    assert read_fit(tmp_path / "my.yaml") == fit
    assert camera_corruption(read_fit(tmp_path / "my.yaml")).severities == camera_corruption(fit).severities
    assert not list(tmp_path.glob(".*"))


def test_size_gives_the_values_of_smaller_images(folder, tmp_path):
    whole, _ = measure_folder(folder)
    text = fit_folder(folder, size=64, out=tmp_path / "a.yaml")
    assert "measured at full size (shorter side 128 px)" in text
    assert "values for images of 64 px, by calculation" in text
    half = read_fit(tmp_path / "a.yaml")
    assert half == whole.resized(64)
    assert half.blur_sigma == pytest.approx(whole.blur_sigma / 2)


def test_grey_and_sixteen_bit_files_are_read(folder, tmp_path):
    with Image.open(folder / "0.png") as picture:
        grey = np.asarray(picture)[..., 1]
    sigmas = []
    for name, values in (("8", grey), ("16", grey.astype(np.uint16) * 257)):
        (tmp_path / name).mkdir()
        Image.fromarray(values).save(tmp_path / name / "a.png")
        sigmas.append(measure_folder(tmp_path / name)[0].noise_at(0.5))
    assert sigmas[0] == pytest.approx(sigmas[1], rel=1e-4)
    assert sigmas[0] == pytest.approx(0.03, rel=0.15)


def test_of_many_images_a_bounded_number_is_measured(folder, monkeypatch):
    monkeypatch.setattr(noisefit, "MAX_IMAGES", 2)
    assert "2 of 3 images in" in fit_folder(folder, size=None, out=None)


def test_the_middle_of_large_images_is_measured(folder, monkeypatch):
    monkeypatch.setattr(noisefit, "MAX_SIDE", 96)
    fit, _ = measure_folder(folder)
    assert fit.side == 128
    assert fit.noise_at(0.5) == pytest.approx(0.03, rel=0.15)


def _with(tmp_path: Path, name: str, content: bytes | Image.Image) -> Path:
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        content.save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "content", "arguments", "message"),
    [
        ("a.txt", b"text", [], "holds no images; put some"),
        ("a.png", b"text", [], r"a\.png cannot be read as an image .*take it out"),
        ("a.png", Image.new("RGB", (20, 90)), [], r"a\.png must have sides of at least 32 pixels, but has 20 x 90"),
        ("a.png", Image.new("RGB", (64, 64)), ["--size", "4"], "--size must be at least 8 pixels, but got 4"),
        ("a.png", Image.new("RGB", (64, 64), "gray"), [], "edge points .* sharp edges"),
        ("a.png", Image.new("RGB", (64, 64), "white"), [], "neither black nor white"),
        ("a.png", Image.new("RGB", (64, 64)), ["--out", "fit.csv"], r"--out must end in \.yaml"),
    ],
)
def test_what_cannot_be_measured_ends_in_one_clear_message(tmp_path, name, content, arguments, message):
    answer = CliRunner().invoke(app, ["noise", "fit", str(_with(tmp_path, name, content)), *arguments])
    assert answer.exit_code == BAD_INPUT
    assert answer.stderr.startswith("murk: ")
    assert re.search(message, answer.stderr), answer.stderr


def test_a_size_above_the_images_own_is_refused(folder):
    with pytest.raises(ValueError, match="size must be 8 to 128 pixels, the images' shorter side, but got 200"):
        fit_folder(folder, size=200, out=None)


def test_a_missing_folder_is_named():
    with pytest.raises(ValueError, match="'nowhere' is none"):
        measure_folder(Path("nowhere"))


@pytest.mark.parametrize("text", ["", "measured: 3\n", "measured: {side: 3}\n"])
def test_a_strange_file_is_refused(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match="must hold `measured`"):
        read_fit(tmp_path / "a.yaml")


def test_negative_values_are_refused(folder, tmp_path):
    fit_folder(folder, size=None, out=tmp_path / "a.yaml")
    text = (tmp_path / "a.yaml").read_text()
    (tmp_path / "b.yaml").write_text(text.replace("  blur_sigma: ", "  blur_sigma: -"))
    with pytest.raises(ValueError, match=r"measured\.blur_sigma must be a number from 0 up"):
        read_fit(tmp_path / "b.yaml")
