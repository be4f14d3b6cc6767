"""The task section of a study file: what a trained network is judged by, its classes or its embeddings.

Part of the tree in `study.config`, which says how it is read.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, field_validator

from study.config_data import Section

Reference = Literal["same", "clean"]
"""What an image under noise is compared with: images under the same noise, or clean ones."""


class Classification(Section):
    """The classifier's own answers."""

    name: Literal["classification"] = "classification"


class Retrieval(Section):
    """Nearest neighbours by embedding: each image is a query against all others (Recall@K)."""

    name: Literal["retrieval"]
    at: tuple[Annotated[int, Field(ge=1, le=10_000)], ...] = Field(
        default=(1, 2, 4, 8), min_length=1, description="The K of Recall@K; accuracy is always Recall@1."
    )
    reference: Reference = Field(
        default="same", description="The others are under the query's own noise (same), or clean."
    )
    normalise: bool = Field(
        default=True, description="Compare by cosine; false: by Euclidean distance of embeddings as they are."
    )

    @field_validator("at")
    @classmethod
    def _rising(cls, at: tuple[int, ...]) -> tuple[int, ...]:
        if any(one >= other for one, other in pairwise(at)):
            raise ValueError(f"must rise, each once, but got {list(at)}; write it as {sorted(set(at))}")
        return at


class Verification(Section):
    """Whether two images are of the same person or thing, by the similarity of their embeddings (LFW's protocol)."""

    name: Literal["verification"]
    pairs: str = Field(
        min_length=1, description="List of pairs, a file or URL; relative paths count from the study file."
    )
    images: str | None = Field(
        default=None,
        min_length=1,
        description="Parquet file of faces or LFW's folder, or its URL; left out: the folder of pairs.",
    )
    reference: Reference = Field(
        default="same", description="A pair's second image is under the first one's noise (same), or stays clean."
    )
    validation_pairs: int = Field(
        default=600, ge=20, le=100_000, description="Pairs made of validation images, half of them of one class."
    )
    allow_overlap: bool = Field(
        default=False, description="Let persons of the pairs stand, by name, among the training classes."
    )


AnyTask = Annotated[Classification | Retrieval | Verification, Field(discriminator="name")]
