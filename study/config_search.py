"""The search, resources and tracking sections of a study file: what is searched, where it runs and is kept."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from study.config_data import Section


class Scheduler(Section):
    """Early stopping of poor trials (ASHA, Li et al. 2020, arXiv 1810.05934)."""

    name: Literal["asha"]
    grace_epochs: int = Field(default=2, ge=1)
    reduction_factor: int = Field(default=3, ge=2, le=16)


class Objective(Section):
    """A headline metric and its direction."""

    metric: Literal["acc/clean", "acc/noise", "acc/worst_family", "cost/passes", "cost/seconds"] = "acc/noise"
    goal: Literal["maximise", "minimise"] = "maximise"


class SearchConfig(Section):
    """What is searched and how."""

    space: dict[str, dict[str, Any]] = Field(default_factory=dict, description="Dotted key -> domain (with `when`).")
    algorithm: Literal["tpe", "random"] = "tpe"
    objectives: tuple[Objective, ...] = Field(default=(Objective(),), min_length=1, max_length=3)
    trials: int = Field(default=8, ge=1, le=100_000)
    scheduler: Scheduler | None = None
    seed: int = Field(default=0, ge=0, description="Seed of the sampler.")

    @model_validator(mode="after")
    def _one_scalar_for_asha(self) -> Self:
        if self.scheduler is not None and len(self.objectives) > 1:
            raise ValueError("scheduler: asha needs a single objective; take one out of objectives or drop scheduler")
        return self


class ResourcesConfig(Section):
    """Where trials run."""

    executor: Literal["auto", "inline", "ray_train"] = Field(
        default="auto",
        description="auto: one worker without GPU runs in the trial's own process, all else by Ray Train.",
    )
    workers_per_trial: int = Field(default=1, ge=1, le=4096)
    cpus_per_worker: float = Field(default=1.0, gt=0.0, le=1024)
    gpus_per_worker: float = Field(default=0.0, ge=0.0, le=16)
    max_concurrent: int | None = Field(default=None, ge=1, description="Trials at once; left out: as many as fit.")
    retries: int = Field(
        default=1, ge=0, le=100, description="How often a trial that lost its process is started again."
    )
    on_out_of_memory: Literal["fail", "halve"] = Field(
        default="fail",
        description="halve: a trial that runs out of memory in training goes on from its last checkpoint with half as "
        "many images in a forward pass (the update is that of train.micro_batch; batch norms see the smaller slices).",
    )
    hang_timeout_s: float | None = Field(
        default=1800.0,
        ge=1.0,
        description="Seconds without a forward pass after which a trial's process is ended and the trial tried again; "
        "null: never.",
    )

    @model_validator(mode="after")
    def _inline_is_one_worker(self) -> Self:
        if self.executor == "inline" and self.workers_per_trial > 1:
            raise ValueError("executor: inline runs one worker; set workers_per_trial: 1 or executor: ray_train")
        return self


class TrackingConfig(Section):
    """Where records go. Left out: a results folder beside you, with MLflow in SQLite there."""

    enabled: bool = Field(default=True, description="Write to MLflow; the ledger is always written.")
    uri: str | None = Field(default=None, description="MLflow server; left out: SQLite in the storage place.")
    storage: str | None = Field(default=None, description="Folder or fsspec URL for records and checkpoints.")
