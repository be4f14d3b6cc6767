"""A pickle planted in each table of a trial's records: nothing of it runs, and the table is named."""

import io
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.embeddings import read_embeddings
from analysis.heads import read_heads
from analysis.load import Snapshot, iter_predictions, read_study
from analysis.similarity import read_similarity

KEY = "00000000000c0000"
READERS: dict[str, Callable[[Snapshot], object]] = {
    "cells.parquet": lambda found: found.frame(),
    "predictions.parquet": lambda found: list(iter_predictions(found, trials=[KEY])),
    "heads.parquet": lambda found: read_heads(found, trials=[KEY]),
    "similarity.parquet": lambda found: read_similarity(found, trials=[KEY]),
    "retrieval.parquet": lambda found: read_embeddings(found, "retrieval", trials=[KEY]),
    "verification.parquet": lambda found: read_embeddings(found, "verification", trials=[KEY]),
}


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.mark,)


def as_extension(content: bytes) -> bytes:
    """A table whose column says that it is of an extension type described by a pickle, as old Arrows read them."""
    described = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": content}
    schema = pa.schema([pa.field("name", pa.string(), metadata=described)])
    buffer = io.BytesIO()
    pq.write_table(pa.table({"name": ["clean"]}, schema=schema), buffer)
    return buffer.getvalue()


def as_pandas(content: bytes) -> bytes:
    """A table whose pandas metadata holds the pickle."""
    table = pa.Table.from_pandas(pd.DataFrame({"name": ["clean"]}))
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({b"pandas": content}), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("way", [bytes, as_extension, as_pandas])
@pytest.mark.parametrize("name", READERS)
def test_nothing_runs_and_the_table_is_named(
    study_folder: Path, tmp_path: Path, name: str, way: Callable[[bytes], bytes]
) -> None:
    folder = shutil.copytree(study_folder, tmp_path / study_folder.name)
    assert (folder / "trials" / KEY).is_dir()
    (folder / "trials" / KEY / name).write_bytes(way(pickle.dumps(Payload(tmp_path / "IT-RAN"))))
    with pytest.raises(ValueError, match=f"{name} of trial {KEY}"):
        READERS[name](read_study(str(folder)))
    assert not (tmp_path / "IT-RAN").exists()
