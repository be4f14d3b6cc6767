"""The command line: what it prints, its exit codes, and that bad input ends in one line without a traceback."""

import io
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from pydantic import TypeAdapter
from typer.testing import CliRunner, Result

from noise.families import CORRUPTIONS
from study.cli import BAD_INPUT, INTERRUPTED, app
from study.config_data import DataConfig
from study.trial import run_trial
from tests.unit.study.trials import PMAL, tiny_config, tiny_spec


def _murk(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_presets_are_listed_and_printed() -> None:
    listed = _murk("presets")
    assert listed.exit_code == 0
    first_words = {line.split()[0] for line in listed.stdout.splitlines() if line}
    assert {"quickstart", "real-cars", "gpu-cluster"} <= first_words
    assert _murk("presets", "quickstart").stdout.startswith("# Quick start")
    unknown = _murk("presets", "nope")
    assert unknown.exit_code == BAD_INPUT
    assert "no preset 'nope'" in unknown.stderr


def test_schema_is_json_and_names_the_sections() -> None:
    schema = json.loads(_murk("schema").stdout)
    sections = {"data", "model", "method", "noise", "optim", "train", "search", "resources", "tracking", "phases"}
    assert sections <= set(schema["properties"])


def test_a_wrong_study_ends_with_2_and_names_file_line_and_key() -> None:
    Path("bad.yaml").write_text("name: bad\noptim:\n  lr: 0.1\n  mometum: 0.9\n")
    for command in ("run", "check", "train"):
        answer = _murk(command, "bad.yaml")
        assert answer.exit_code == BAD_INPUT, answer.output
        assert "bad.yaml:4" in answer.stderr
        assert "momentum" in answer.stderr
    assert not Path("results").exists()


def test_resume_and_report_of_an_unknown_study_say_so() -> None:
    for command in ("resume", "report", "sync"):
        answer = _murk(command, "nobody")
        assert answer.exit_code == BAD_INPUT, answer.output
        assert "nobody" in answer.stderr


def test_noise_list_prints_every_corruption_or_those_asked_for() -> None:
    whole = _murk("noise", "list")
    assert whole.exit_code == 0, whole.output
    for name, corruption in CORRUPTIONS.items():
        line = next(line for line in whole.stdout.splitlines() if line.split()[:1] == [name])
        assert corruption.group in line
    assert "0.08  0.12  0.18  0.26  0.38" in whole.stdout
    some = _murk("noise", "list", "kornia", "contrast")
    names = {line.split()[0] for line in some.stdout.split("sources")[0].splitlines() if line.startswith("  ")}
    assert names >= {"contrast", "kornia.rain"}
    assert "gaussian_blur" not in names
    unknown = _murk("noise", "list", "kornia.rian")
    assert unknown.exit_code == BAD_INPUT
    assert "near: kornia.rain" in unknown.stderr


@pytest.mark.slow
def test_noise_preview_draws_a_sheet_and_refuses_what_it_cannot_draw() -> None:
    Image.new("RGB", (40, 30), "teal").save("a.png")
    done = _murk("noise", "preview", "a.png", "--families", "blur", "--severities", "1,5", "--size", "32")
    assert done.exit_code == 0, done.output
    with Image.open("noise-preview.png") as sheet:
        assert sheet.width > 3 * 96
    for source in ("quickstart", "a"):
        if source == "a":
            _image_folder(Path("a"), ("cat", "dog"), 2)
        shown = _murk("noise", "preview", source, "--row", "1", "--families", "contrast,surveillance", "--size", "32")
        assert shown.exit_code == 0, shown.output
        assert "10 corruptions of" in shown.stdout
    Path("no.png").write_bytes(b"not an image")
    for args, said in (
        (["no.png"], "cannot be read as an image"),
        (["missing.png"], "cannot be read as an image"),
        (["a.png", "--row", "1"], "--row goes with an image set"),
        (["a", "--row", "4"], "--row must be 0 to 3, but got 4"),
        (["a.png", "--size", "4"], "--size must be 8 pixels or more"),
        (["a.png", "--families", "gausian_noise"], "gaussian_noise"),
        (["a.png", "--severities", "1,9"], "severities must be numbers from 1 to 5"),
    ):
        answer = _murk("noise", "preview", *args)
        assert answer.exit_code == BAD_INPUT
        assert said in answer.stderr


def test_inspect_counts_a_presets_images() -> None:
    done = _murk("data", "inspect", "quickstart", "--set", "data.num_classes=2", "--set", "data.train_per_class=5",
                 "--sheet", "sheet.png")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "in 2 classes" in done.stdout
    assert Path("sheet.png").is_file()
    answer = _murk("data", "inspect", "missing-folder")
    assert answer.exit_code == BAD_INPUT


def test_duplicates_of_a_presets_images() -> None:
    sets = ["--set", "data.num_classes=2", "--set", "data.train_per_class=5"]
    done = _murk("data", "duplicates", "quickstart", *sets, "--sheet", "sheet.png")
    assert done.exit_code == 0, done.output
    assert "0 of the pairs are the same bytes" in done.stdout
    assert Path("sheet.png").is_file()
    as_json = _murk("data", "duplicates", "quickstart", *sets, "--distance", "80", "--json")
    assert json.loads(as_json.stdout)["distance"] == 80
    for args, said in (
        (["--distance", "300"], "--distance must be from 0 to 256 bits, but got 300"),
        (["--sheet", "sheet.txt"], "--sheet must end in .png"),
    ):
        answer = _murk("data", "duplicates", "quickstart", *sets, *args)
        assert answer.exit_code == BAD_INPUT
        assert said in answer.stderr


def test_an_interrupt_outside_a_phase_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("study.plan.make_plan", interrupted)
    answer = _murk("check", "quickstart")
    assert answer.exit_code == INTERRUPTED
    assert answer.stderr == "murk: stopped\n"


@pytest.mark.slow
def test_evaluate_gives_the_trials_own_figures_on_its_validation_images(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path, tiny_config(method=PMAL, noise={"validation_severities": [2, 4]}))
    metrics = run_trial(spec)
    done = _murk("evaluate", f"{spec.study}/{spec.key}", "--storage", spec.storage, "--noise", "gaussian_noise",
                 "--out", "rows.csv")  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = pd.read_csv("rows.csv").set_index(["corruption", "severity"])["accuracy"]
    assert rows["clean", 0] == pytest.approx(metrics["acc/clean"])
    assert (rows["gaussian_noise", 2] + rows["gaussian_noise", 4]) / 2 == pytest.approx(metrics["acc/noise"])
    folder = Path(spec.storage) / spec.study / "trials" / spec.key
    for model, said in (
        (f"{spec.study}/nothere", "has no trial 'nothere'"),
        (str(tmp_path), "holds no trained model"),
        ("just-a-word", "must be STUDY/KEY"),
    ):
        answer = _murk("evaluate", model, "--storage", spec.storage)
        assert answer.exit_code == BAD_INPUT
        assert said in answer.stderr
    (folder / "model.safetensors").write_bytes(b"\x08\x00\x00\x00garbage")
    damaged = _murk("evaluate", str(folder))
    assert damaged.exit_code == BAD_INPUT
    assert "damaged" in damaged.stderr


def _image_folder(place: Path, names: tuple[str, ...], count: int) -> None:
    for label, name in enumerate(names):
        (place / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (40, 40), (number * 11, 90, 60 * label)).save(place / name / f"{number}.png")


def test_evaluate_leaves_the_models_own_training_images_out_and_says_so(tmp_path: Path) -> None:
    _image_folder(tmp_path / "pets", ("cat", "dog", "fox"), 10)
    images = {"source": "image-folder", "path": str(tmp_path / "pets"), "image_size": 32, "validation_share": 0.2,
              "test_share": 0.2}  # fmt: skip
    tiny = tiny_config()
    spec = tiny_spec(tmp_path, tiny.model_copy(update={"data": TypeAdapter(DataConfig).validate_python(images)}))
    run_trial(spec)
    model = ("evaluate", f"{spec.study}/{spec.key}", "--storage", spec.storage, "--noise", "contrast")
    answer = _murk(*model, "--data", "pets")
    assert answer.exit_code == 0, answer.stderr
    assert "of the model's training images are left out" in answer.stdout
    assert "are of its test images, so this is no first look" in answer.stdout
    num_train = int(re.findall(r"(\d+) of the model's training", answer.stdout)[0])
    num_shown = int(re.findall(r"^(\d+) images", answer.stdout, re.MULTILINE)[0])
    assert num_train >= 12
    assert num_train + num_shown == 30
    Image.new("RGB", (40, 40), (7, 7, 7)).save(tmp_path / "pets" / "cat" / "0.png")
    changed = _murk(*model)
    assert changed.exit_code == BAD_INPUT
    assert "are not those that the model was trained with" in changed.stderr


def test_evaluate_takes_a_model_file_beside_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tiny_spec(tmp_path)
    run_trial(spec)
    monkeypatch.chdir(Path(spec.storage) / spec.study / "trials" / spec.key)
    assert _murk("evaluate", "model.safetensors", "--noise", "contrast").exit_code == 0


def test_evaluate_on_images_of_ones_own_wants_the_models_classes(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path)
    run_trial(spec)
    for name in ("cat", "dog"):
        for number in range(6):
            place = tmp_path / "pets" / name / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            data = io.BytesIO()
            Image.new("RGB", (40, 40), (number * 20, 90, 30 if name == "cat" else 200)).save(data, format="PNG")
            place.write_bytes(data.getvalue())
    answer = _murk("evaluate", f"{spec.study}/{spec.key}", "--storage", spec.storage, "--data", "pets")
    assert answer.exit_code == BAD_INPUT
    assert "must have the model's 3 classes" in answer.stderr
