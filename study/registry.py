"""A study's best network in MLflow's model registry: made, registered once, called `champion`, read back."""

from __future__ import annotations

import io
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from analysis.identity import STUDY_TAG

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

    from study.trained import TrainedModel

ALIAS = "champion"
FOLDER = "registered_model"
"""Of the trial's run; holds what MLflow loads."""

_EXAMPLES = 2  # an example of one would fix the batch for who infers shapes from it
_PACKAGES = ("mlflow", "torch", "torchvision", "timm", "kornia", "numpy", "pandas", "pillow", "safetensors", "pydantic")

# The model's code, which MLflow copies into it and runs when it is loaded ("models from code"): nothing is pickled.
_CODE = """from mlflow.models import set_model
from study.served import ImageModel

set_model(ImageModel())
"""


class Candidate(NamedTuple):
    """A network to register.

    Attributes:
        run_id: Its trial's run.
        key: Its trial.
        digest: Of its weights; a trial that was run again has another.
        files: The two files of its trial, by name.
        facts: More tags for people, such as how it was chosen.
    """

    run_id: str
    key: str
    digest: str
    files: dict[str, bytes]
    facts: dict[str, str]


def register(client: MlflowClient, name: str, candidate: Candidate, *, study_id: str) -> tuple[str, str]:
    """Let an alias of a registered model point to this network; gives its version and the alias.

    The alias is `champion`, unless that names a network of another study or of a person's own: then it stays, and this
    one is called by its study's identity too. A network that has a version already gets no second one. The model's
    files go to the trial's run.

    Raises:
        ValueError: The network's files are damaged.
        MlflowException: MLflow is away or refuses.
    """
    _ensure_model(client, name)
    found = _version_of(client, name, candidate)
    if found is None:
        _upload(client, candidate)
        artifacts = client.get_run(candidate.run_id).info.artifact_uri
        tags = {"murk.trial": candidate.key, "murk.digest": candidate.digest, STUDY_TAG: study_id, **candidate.facts}
        found = client.create_model_version(
            name, source=f"{artifacts}/{FOLDER}", run_id=candidate.run_id, tags=tags,
            description="; ".join(candidate.facts.values()) or None,
        )  # fmt: skip
    aliases = client.get_registered_model(name).aliases
    holder = str(aliases.get(ALIAS, found.version))
    is_free = holder == str(found.version) or _study_of(client, name, holder) == study_id
    alias = ALIAS if is_free else f"{ALIAS}-{study_id}"
    own = f"{ALIAS}-{study_id}"  # one that a person has handed `champion` over to keeps its own alias up to date
    for name_of in {alias, own} if own in aliases else {alias}:
        if aliases.get(name_of) != str(found.version):
            client.set_registered_model_alias(name, name_of, str(found.version))
    return str(found.version), alias


def load_registered(name: str, *, tracking_uri: str, alias: str = ALIAS) -> TrainedModel:
    """A registered network as plain torch: `.method.network` is an `nn.Module` in eval mode, `.method.predict` its
    logits of images_BCHW in [0, 1].

    Raises:
        MlflowException: There is no such model or alias, or MLflow is away.
        ValueError: Its files are damaged.
    """
    from mlflow.artifacts import download_artifacts

    from study.tracking import connect
    from study.trained import read_model

    source = connect(tracking_uri).get_model_version_by_alias(name, alias).source
    with tempfile.TemporaryDirectory(prefix="murk-") as folder:
        place = download_artifacts(f"{source}/artifacts/model", dst_path=folder, tracking_uri=tracking_uri)
        return read_model(place)


def _ensure_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, tags={"murk.study": name})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _study_of(client: MlflowClient, name: str, version: str) -> str:
    """The study of a version; one of before there were identities is known by its run. Empty where nobody can tell."""
    from mlflow.exceptions import MlflowException

    found = client.get_model_version(name, version)
    if told := found.tags.get(STUDY_TAG):
        return told
    try:
        return client.get_run(found.run_id).data.tags.get(STUDY_TAG, "") if found.run_id else ""
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return ""


def _version_of(client: MlflowClient, name: str, candidate: Candidate) -> ModelVersion | None:
    """The earliest version of this very network that came to its end; its run must be the present one.

    A version whose run is gone points to files that may be gone too.
    """
    versions = sorted(client.search_model_versions(f"name='{name}'"), key=lambda found: int(found.version))
    wanted = (candidate.key, candidate.digest, candidate.run_id)
    for found in versions:
        if (found.tags.get("murk.trial"), found.tags.get("murk.digest"), found.run_id) == wanted:
            return found
    return None


# The weights lie twice in the run, here and among the trial's files. MLflow fetches the one folder that a version names
# and no other, so its weights must lie in it; naming the trial's own folder would have each load fetch its predictions
# too; and what was uploaded when the trial ended, before anyone knew of a champion, no client can move.
def _upload(client: MlflowClient, candidate: Candidate) -> None:
    with tempfile.TemporaryDirectory(prefix="murk-") as temporary:
        model = Path(temporary) / "model"
        model.mkdir()
        for file, content in candidate.files.items():
            (model / file).write_bytes(content)
        folder = Path(temporary) / FOLDER
        save_servable(model, folder, code=Path(temporary) / "served_model.py")
        client.log_artifacts(candidate.run_id, str(folder), FOLDER)


def save_servable(model: Path, folder: Path, *, code: Path) -> None:
    """Write the MLflow model of a folder with a network's two files; `code` is where its code is written first.

    Raises:
        ValueError: The network cannot be read.
    """
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    from study.trained import read_model

    trained = read_model(str(model))
    code.write_text(_CODE, encoding="utf-8")
    columns: list[tuple[Any, str]] = [
        (DataType.string, "predicted"), (DataType.long, "class"), (DataType.double, "confidence"),
        (Array(DataType.double), "probabilities"),
    ]  # fmt: skip
    mlflow.pyfunc.save_model(
        str(folder),
        python_model=str(code),
        artifacts={"model": str(model)},
        signature=ModelSignature(
            inputs=Schema([ColSpec(DataType.binary, "image")]), outputs=Schema([ColSpec(*item) for item in columns])
        ),
        input_example=input_example(trained.input_size),
        pip_requirements=[f"{name}=={version(name)}" for name in _PACKAGES],
        metadata={"class_names": list(trained.class_names), "image_size": trained.input_size,
                  "fingerprint": trained.fingerprint},
    )  # fmt: skip


def input_example(image_size: int) -> pd.DataFrame:
    """A frame as the model takes it: drawn pictures, as no image of the study belongs into what is given away."""
    rows, columns = np.mgrid[0:image_size, 0:image_size] * (255.0 / max(image_size - 1, 1))
    pictures = []
    for number in range(_EXAMPLES):
        pixels_HWC = np.stack([rows, columns, np.full_like(rows, 255.0 * number / _EXAMPLES)], axis=-1)
        buffer = io.BytesIO()
        Image.fromarray(pixels_HWC.astype(np.uint8)).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    frame = pd.DataFrame({"image": pictures})
    frame.columns = pd.Index(["image"], dtype=object)  # of pandas' own strings MLflow asks what pandas 3 warns of
    return frame
