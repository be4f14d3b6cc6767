"""Study files: what is read, what is refused and what is said about it."""

import json
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from study.config import StudyConfig, TrialConfig
from study.keys import places
from study.studyfile import LoadedStudy, StudyFileError, load_study, load_study_text
from study.yamlfile import YamlError, read_yaml

ROOT = Path(__file__).parents[3]
PRESETS = ROOT / "study" / "presets"
BROKEN = sorted((ROOT / "tests" / "golden" / "broken_studies").glob("*.yaml"))


def write(folder: Path, text: str, name: str = "study.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, *sets: str, name: str | None = None) -> str:
    with pytest.raises(StudyFileError) as caught:
        load_study(path, sets, name)
    return str(caught.value).replace(str(path), "FILE")


# ------------------------------------------------------------------------------------------------------- broken files
def test_there_are_many_broken_files():
    assert len(BROKEN) >= 45


@pytest.mark.parametrize("path", BROKEN, ids=[path.stem for path in BROKEN])
def test_broken_file_is_refused_with_its_stored_message(path):
    text = refusal(path)
    assert f"{text}\n" == path.with_suffix(".txt").read_text(encoding="utf-8")
    assert all(line.startswith("FILE:") for line in text.splitlines())


def test_missing_file_names_what_is_near(tmp_path):
    write(tmp_path, "name: a\n", "robust.yaml")
    text = refusal(tmp_path / "robst.yaml")
    assert "no such file; near: robust.yaml; study files that come with Murk: " in text
    assert "quickstart" in text


def test_folder_is_no_study_file(tmp_path):
    write(tmp_path, "name: a\n", "robust.yaml")
    assert "but is a folder; near: robust.yaml" in refusal(tmp_path)


def test_huge_file_is_refused(tmp_path):
    assert "at most 1,000,000 characters" in refusal(write(tmp_path, "# x\n" * 300_000))


def test_problems_come_in_the_order_of_the_file_and_once(tmp_path):
    path = write(tmp_path, "train: {epochs: 0}\nname: a\noptim: {lr: -1}\nmodel: {pretrained: 3}\n")
    lines = refusal(path).splitlines()
    assert [line.split(":")[1] for line in lines] == ["1", "3", "4"]
    assert lines[2] == "FILE:4: model.pretrained: must be true or false or text, but got 3"


# ------------------------------------------------------------------------------------------------------------ reading
@pytest.mark.parametrize("preset", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_are_valid(preset):
    study = load_study(preset)
    assert study.config.name == preset.stem
    assert study.text == preset.read_text(encoding="utf-8")


def test_numbers_and_words_follow_yaml_1_2():
    data, _ = read_yaml("a: 1e-3\nb: off\nc: yes\nd: 0x1F\ne: ~\nf: '3'\ng: True\nh: 2001-01-01\ni: .5\nj: 1_000\n")
    assert data == {
        "a": 1e-3, "b": "off", "c": "yes", "d": 31, "e": None, "f": "3", "g": True, "h": "2001-01-01", "i": 0.5,
        "j": 1000,
    }  # fmt: skip
    assert isinstance(data["a"], float)


def test_yaml_1_1_directive_changes_nothing():
    assert read_yaml("%YAML 1.1\n---\na: off\n")[0] == {"a": "off"}


def test_lines_of_nested_values():
    _, lines = read_yaml("a:\n  b: 1\n  c:\n    - 1\n    - d: 2\n")
    assert lines["a", "b"] == 2
    assert lines["a", "c", 1] == 5
    assert lines["a", "c", 1, "d"] == 5


def test_aliases_are_copies():
    data, _ = read_yaml("a: &x {b: [1]}\nc: *x\n")
    assert data["c"] == data["a"]
    assert data["c"] is not data["a"]


def test_relative_paths_count_from_the_file(tmp_path):
    text = (
        "name: a\ndata: {source: parquet, path: images/cars.parquet}\nmodel: {pretrained: ../w.safetensors}\n"
        "search:\n  space:\n    model.pretrained: {choice: [false, one.safetensors, /two.safetensors]}\n"
        "    optim.lr: {float: [0.1, 0.2], when: {model.pretrained: one.safetensors}}\n"
        "phases:\n  - {kind: search, name: s}\n  - {kind: train, name: t, set: {model.pretrained: x.safetensors}}\n"
    )
    config = load_study(write(tmp_path, text)).config
    assert config.data.path == str(tmp_path / "images" / "cars.parquet")
    assert config.model.pretrained == str(tmp_path.parent / "w.safetensors")
    space = config.search.space
    assert space["model.pretrained"]["choice"] == [False, str(tmp_path / "one.safetensors"), "/two.safetensors"]
    assert space["optim.lr"]["when"] == {"model.pretrained": str(tmp_path / "one.safetensors")}
    assert config.phases[1].set == {"model.pretrained": str(tmp_path / "x.safetensors")}


def test_urls_stay(tmp_path):
    text = "name: a\ndata: {source: parquet, path: 's3://bucket/cars.parquet'}\n"
    assert load_study(write(tmp_path, text)).config.data.path == "s3://bucket/cars.parquet"


def test_sources_tell_where_a_value_was_written(tmp_path):
    study = load_study(write(tmp_path, "name: a\noptim:\n  lr: 0.1\n"), ["train.epochs=3"], "b")
    assert study.sources["optim.lr"].endswith("study.yaml:3")
    assert study.sources["train.epochs"] == "--set train.epochs=3"
    assert study.sources["name"] == "--name b"


def test_recorded_study_reads_back_the_same():
    config = load_study(PRESETS / "quickstart.yaml").config
    record = json.loads(json.dumps(config.model_dump(mode="json")))
    again = load_study_text(record, text="name: quickstart\n")
    assert again.config == config
    assert again.text == "name: quickstart\n"


def test_record_of_another_version_is_refused():
    with pytest.raises(StudyFileError, match=r"study\.json:1: gone: is no setting"):
        load_study_text({"name": "a", "gone": 1})


# -------------------------------------------------------------------------------------------------------------- --set
@pytest.fixture
def quickstart(tmp_path):
    return Path(shutil.copy(PRESETS / "quickstart.yaml", tmp_path / "study.yaml"))


def test_set_overrides_in_yaml(quickstart):
    sets = ["optim.sam.rho=1e-1", "train.augment={flip: 0}", "phases.confirm.seeds=[7]", "phases.0.name=search"]
    config = load_study(quickstart, sets, "other").config
    assert (config.optim.sam.rho, config.train.augment.flip, config.phases[1].seeds) == (0.1, 0, (7,))
    assert config.name == "other"


def test_set_reaches_into_the_space(quickstart):
    config = load_study(quickstart, ["search.space.optim.sam.rho.log_uniform=[0.1, 0.3]"]).config
    assert config.search.space["optim.sam.rho"] == {"log_uniform": [0.1, 0.3]}


def test_set_paths_count_from_the_working_directory(quickstart, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    config = load_study(quickstart, ["data={source: parquet, path: cars.parquet}"]).config
    assert config.data.path == str(tmp_path / "here" / "cars.parquet")


def test_set_of_a_branch_drops_the_settings_of_the_other(tmp_path):
    path = write(tmp_path, "name: a\nmethod: {name: pmal, stages: 2}\n")
    assert load_study(path, ["method.name=plain"]).config.method.model_dump() == {"name": "plain"}


def test_set_below_a_section_that_the_file_lacks(tmp_path):
    config = load_study(write(tmp_path, "name: a\n"), ["data.num_classes=4", "phases.confirm.top=2"]).config
    assert (config.data.source, config.data.num_classes, config.phases[1].top) == ("synthetic-vehicles", 4, 2)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("optim.sam.rho=11", "--set optim.sam.rho=11: optim.sam.rho: must be a number from 0 to 10, but got 11"),
        ("optim.sam.rho", "--set optim.sam.rho: must be KEY=VALUE with a dotted key, such as optim.sam.rho=0.1"),
        ("optim..rho=1", "--set optim..rho=1: must be KEY=VALUE with a dotted key, such as optim.sam.rho=0.1"),
        ("=1", "--set =1: must be KEY=VALUE with a dotted key, such as optim.sam.rho=0.1"),
        ("optim.rho=1", "--set optim.rho=1: optim.rho: is no setting; near: optim.sam.rho"),
        ("optim.lr=[1", "--set optim.lr=[1: optim.lr: must close by ']' the list or mapping that begins here"),
        ("optim.lr=.inf", "--set optim.lr=.inf: optim.lr: must be a finite number below 2^63, but got .inf"),
        (
            "train={epochs: 0}",
            "--set train={epochs: 0}: train.epochs: must be a whole number from 1 to 100000, but got 0",
        ),
        (
            "phases.last.top=2",
            "--set phases.last.top=2: phases.last.top: no item 'last': there are 0 to 1, or by name search, confirm",
        ),
        (
            "noise.held_out=[motion_blur]",
            "--set noise.held_out=[motion_blur]: noise.held_out: ['motion_blur'] must also stand in test: held-out "
            "noise is what test reads",
        ),
    ],
)
def test_set_errors_name_the_set(quickstart, item, message):
    assert refusal(quickstart, item) == message


def test_name_errors_name_the_option(quickstart):
    assert refusal(quickstart, name="a/b").startswith("--name a/b: name: must be a name of at most 64 letters")


# --------------------------------------------------------------------------------------------------------------- fuzz
def load_text(content: bytes) -> LoadedStudy | StudyFileError:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.yaml"
        path.write_bytes(content)
        try:
            return load_study(path)
        except StudyFileError as error:
            return error


def is_clear(outcome: LoadedStudy | StudyFileError) -> bool:
    return isinstance(outcome, LoadedStudy) or all(
        "study.yaml" in line and ": " in line for line in str(outcome).split("\n") if line
    )


KEYS = sorted({part for key in places(StudyConfig) for part in key.split(".")} | {"x", "space", "set", "when"})
DOTTED = sorted(places(TrialConfig))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 2**70),
    st.floats(),
    st.sampled_from([*KEYS, *DOTTED, "plain", "pmal", ""]),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KEYS, *DOTTED]), inner, max_size=4),
    max_leaves=12,
)
FUZZ = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.slow
@FUZZ
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass"))))
@example(b"? a\n? b\n")
@example(b"&a : *a")
@example(b"a: !!binary x")
def test_random_bytes_give_a_clear_error(content):
    assert is_clear(load_text(content))


@FUZZ
@given(st.text(alphabet="ab:-[]{},&*!|>'\"%@#?\n \t.0", max_size=40))
def test_random_yaml_is_read_or_refused(text):
    with suppress(YamlError):
        read_yaml(text)


@FUZZ
@given(st.dictionaries(st.sampled_from(sorted(StudyConfig.model_fields)), TREES, max_size=4))
def test_random_trees_give_a_config_or_a_clear_error(tree):
    text = json.dumps({"name": "fuzz", **tree}).replace("Infinity", ".inf").replace("NaN", ".nan")
    assert is_clear(load_text(text.encode()))


DOMAINS = st.fixed_dictionaries(
    {},
    optional={
        "int": TREES,
        "float": st.lists(SCALARS, max_size=3),
        "log_uniform": st.lists(SCALARS, max_size=2),
        "choice": st.lists(TREES, max_size=3),
        "fixed": TREES,
        "step": SCALARS,
        "when": st.dictionaries(st.sampled_from(DOTTED), TREES, max_size=2),
    },
)


@pytest.mark.slow
@FUZZ
@given(st.dictionaries(st.sampled_from(DOTTED), DOMAINS, max_size=3), st.dictionaries(st.sampled_from(DOTTED), TREES))
def test_random_spaces_give_a_config_or_a_clear_error(space, overrides):
    phases = [{"kind": "search", "name": "s", "set": overrides}]
    tree = {"name": "fuzz", "search": {"space": space}, "phases": phases}
    text = json.dumps(tree).replace("Infinity", ".inf").replace("NaN", ".nan")
    assert is_clear(load_text(text.encode()))


# ---------------------------------------------------------------------------------- real noisy images, the normaliser
def test_folders_of_real_images_count_from_the_study_file(tmp_path, monkeypatch):
    path = write(tmp_path, "name: a\nnoise:\n  real: {camera: shots/2024, far: 's3://bucket/far.parquet', abs: /b}\n")
    assert load_study(path).config.noise.real == {
        "camera": str(tmp_path / "shots" / "2024"), "far": "s3://bucket/far.parquet", "abs": "/b",
    }  # fmt: skip
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    again = load_study(path, ["noise.real.camera=here"]).config.noise.real
    assert again["camera"] == str(tmp_path / "else" / "here")
    assert load_study(path, ["noise.real={only: x}"]).config.noise.real == {"only": str(tmp_path / "else" / "x")}


@pytest.mark.parametrize(
    ("real", "message"),
    [
        ("{gaussian_noise: x}", "must give each folder a name of its own, but 'gaussian_noise' is Murk's own name"),
        ("{clean: x}", "must give each folder a name of its own, but 'clean'"),
        ("{pmal_pair: x}", "must give each folder a name of its own, but 'pmal_pair'"),
        ("{my camera: x}", "name of letters, digits, '_' and '-', but got 'my camera'"),
        ("{camera: ''}", "must give a folder or a parquet file to each name, but 'camera' has none"),
        ("[x]", "must be a mapping of keys to values, but got"),
    ],
)
def test_names_of_real_images_that_are_refused(tmp_path, real, message):
    text = refusal(write(tmp_path, f"name: a\nnoise:\n  real: {real}\n"))
    assert text.startswith("FILE:3: noise.real")
    assert message in text


def test_real_images_belong_to_the_study_and_are_not_searched(tmp_path):
    text = refusal(write(tmp_path, "name: a\nsearch:\n  space:\n    noise.real: {choice: [{}, {a: b}]}\n"))
    assert "noise.real: is what all trials of a study are measured by" in text


IMAGENET = """name: a
data: {source: image-folder, path: imagenet, image_size: 224}
noise: {test: [contrast], test_severities: [1, 2, 3, 4, 5]}
report: {normaliser: alexnet}
"""


def test_alexnet_is_for_imagenet_alone(tmp_path):
    path = write(tmp_path, IMAGENET)
    assert load_study(path).config.report.normaliser == "alexnet"
    for change, reason in {
        "data.image_size=64": "alexnet needs images of 224 px, but data.image_size is 64",
        "noise.scale=tiny": 'alexnet needs ImageNet\'s severity table, but noise.scale is "tiny"',
        "noise.test_severities=[1, 3]": "alexnet needs severities 1 to 5, but noise.test_severities is [1, 3]",
        "noise.test=[resolution]": 'a test corruption of ImageNet-C, but noise.test is ["resolution"]',
        "data={source: synthetic-vehicles, image_size: 224}": "alexnet needs ImageNet's 1,000 classes",
    }.items():
        text = refusal(path, change)
        assert reason in text
        assert "report.normaliser" in text
        assert text.endswith("; change it, or use baseline")


def test_a_family_in_a_list_of_noise_stands_for_its_corruptions(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("name: s\nnoise: {train: [extra], test: [common, surveillance], held_out: [surveillance],\n"
                    "        validation: [pmal]}\n")  # fmt: skip
    noise = load_study(path).config.noise
    assert len(noise.test) == 15 + 9
    assert noise.test[-9:] == noise.held_out
    assert [item.probability for item in noise.train or ()] == [0.125] * 4
    assert noise.validation == ("pmal_gaussian",)
