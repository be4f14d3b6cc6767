"""The search, resources and tracking sections of a study file: what is searched, where it runs and is kept."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from analysis.constraints import Constraint, read_constraint, read_constraints
from study.algorithms import ABILITIES, POPULATION, Algorithm
from study.config_data import Section
from study.config_noise import Severity

MOST_KEPT = 10
"""The most checkpoints of a trial beside each other."""


class Scheduler(Section):
    """Early stopping of poor trials (ASHA, Li et al. 2020, arXiv 1810.05934).

    By epochs all trials of a search are compared with each other. By gradient passes, which cost the same whatever the
    method does with them, trials are compared with those of their own `method.name` only.
    """

    name: Literal["asha"] = Field(description="The only one that there is.")
    grace_epochs: int = Field(default=2, ge=1, description="Epochs before a trial may be stopped.")
    grace_passes_per_image: float | None = Field(
        default=None, gt=0, description="In place of grace_epochs: gradient passes for each training image."
    )
    reduction_factor: int = Field(
        default=3, ge=2, le=16, description="Of so many trials one goes on; the next look is so many times later."
    )

    @model_validator(mode="after")
    def _one_grace(self) -> Self:
        default = type(self).model_fields["grace_epochs"].default
        if self.grace_passes_per_image is not None and self.grace_epochs != default:
            raise ValueError(
                f"grace_epochs has no effect beside grace_passes_per_image, but got {self.grace_epochs}; take one of "
                "them out"
            )
        return self


Metric = Literal[
    "acc/clean", "acc/noise", "acc/worst_family",
    "cost/passes", "cost/seconds", "cost/params", "cost/macs", "cost/latency_ms",
]  # fmt: skip


class Objective(Section):
    """A headline metric and its direction."""

    metric: Metric = Field(default="acc/noise", description="On validation images; docs/search.md says what each is.")
    goal: Literal["maximise", "minimise"] = Field(
        default="maximise", description="Left out: maximise an accuracy, minimise a cost."
    )

    @model_validator(mode="before")
    @classmethod
    def _goal_of_a_cost(cls, data: Any) -> Any:
        is_cost = isinstance(data, dict) and str(data.get("metric")).startswith("cost/")
        return {"goal": "minimise", **data} if is_cost else data


def _readable(text: str) -> str:
    read_constraint(text)
    return text


class Fidelity(Section):
    """A small grid that trials of a search are scored by after each epoch, a part of the validation grid.

    The best by it, the finalists, are measured on the whole validation grid once the search has ended.
    """

    images: int = Field(default=64, ge=2, le=100_000, description="Of the validation images, by their classes' shares.")
    corruptions: Annotated[int, Field(ge=1)] | tuple[str, ...] | None = Field(
        default=None, description="Of noise.validation: names, or how many from its start; left out: all."
    )
    severities: tuple[Severity, ...] | None = Field(
        default=None, description="Of noise.validation_severities; left out: all."
    )
    finalists: int = Field(default=5, ge=1, le=1000, description="Trials that get the whole grid, best first.")


class SearchConfig(Section):
    """What is searched and how."""

    space: dict[str, dict[str, Any]] = Field(default_factory=dict, description="Dotted key -> domain (with `when`).")
    algorithm: Algorithm = Field(default="tpe", description="How settings are suggested; see docs/search.md.")
    objectives: tuple[Objective, ...] = Field(
        default=(Objective(),), min_length=1, max_length=3, description="What is sought; several: a Pareto front."
    )
    constraints: tuple[Annotated[str, AfterValidator(_readable)], ...] = Field(
        default=(), description="What a chosen trial must keep, such as clean_accuracy >= 0.9 or params <= 25e6."
    )
    trials: int = Field(default=8, ge=1, le=100_000, description="How many configurations are tried.")
    population: int | None = Field(
        default=None, ge=4, le=10_000, description=f"Trials of a generation of nsga2, nsga3; left out: {POPULATION}."
    )
    scheduler: Scheduler | None = Field(default=None, description="Stops poor trials early; left out: none is stopped.")
    seed: int = Field(default=0, ge=0, description="Seed of the sampler.")
    fidelity: Fidelity | None = Field(default=None, description="Score trials by a part of the validation grid.")
    warm_start: Annotated[tuple[str, ...], Field(min_length=1, max_length=32)] | None = Field(
        default=None,
        description="Earlier studies whose trials the sampler is told of: STUDY, STUDY/PHASE, a folder or a URL.",
    )
    optuna_storage: str | None = Field(
        default=None, description="Database that the search is also written to, for optuna-dashboard; never read back."
    )

    @property
    def limits(self) -> tuple[Constraint, ...]:
        """The constraints, read."""
        return read_constraints(self.constraints)

    @model_validator(mode="after")
    def _one_scalar_for_asha(self) -> Self:
        first, *more = self.objectives
        if self.scheduler is not None and more:
            raise ValueError("scheduler: asha needs a single objective; take one out of objectives or drop scheduler")
        if self.scheduler is not None and first.metric in _FINAL:
            raise ValueError(
                f"scheduler: asha compares trials while they train, but {first.metric} is measured at the end; take "
                "another objective or drop scheduler"
            )
        return self

    @model_validator(mode="after")
    def _parts_have_effect(self) -> Self:
        metrics = [objective.metric for objective in self.objectives]
        if len(set(metrics)) < len(metrics):
            raise ValueError(f"objectives: must not name a metric twice, but got {metrics}")
        try:
            read_constraints(self.constraints)
        except ValueError as error:
            raise ValueError(f"constraints: {error}") from None
        if self.population is not None and not ABILITIES[self.algorithm].population:
            raise ValueError(
                f"population: has no effect with algorithm: {self.algorithm}, but got {self.population}; take it out, "
                "or algorithm: nsga2"
            )
        return self


_FINAL = ("cost/params", "cost/macs", "cost/latency_ms")


class WorkerRange(Section):
    """A number of workers that goes with the cluster: as many as there is room for, from `min` to `max`."""

    min: int = Field(ge=1, le=4096, description="Workers without which a trial does not start.")
    max: int = Field(ge=1, le=4096, description="Workers that a trial takes where there is room.")

    @model_validator(mode="before")
    @classmethod
    def _of_a_list(cls, data: Any) -> Any:
        return {"min": data[0], "max": data[1]} if isinstance(data, list | tuple) and len(data) == 2 else data

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.min >= self.max:
            raise ValueError(f"min must be below max, but got {self.min} and {self.max}; write one number where it is")
        return self


class ResourcesConfig(Section):
    """Where trials run."""

    executor: Literal["auto", "inline", "ray_train"] = Field(
        default="auto",
        description="auto: one worker without GPU runs in the trial's own process, all else by Ray Train.",
    )
    workers_per_trial: Annotated[int, Field(ge=1, le=4096)] | WorkerRange = Field(
        default=1, description="Or [1, 4]: as many as there is room for, more or fewer as the cluster changes."
    )
    cpus_per_worker: float = Field(default=1.0, gt=0.0, le=1024, description="CPUs that Ray sets aside for a worker.")
    gpus_per_worker: float = Field(
        default=0.0, ge=0.0, description="1 at most; a share, such as 0.25, lets several trials use one GPU."
    )
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
        if self.executor == "inline" and self.max_workers > 1:
            raise ValueError("executor: inline runs one worker; set workers_per_trial: 1 or executor: ray_train")
        return self

    @model_validator(mode="after")
    def _whole_gpus(self) -> Self:
        if self.gpus_per_worker > 1:
            raise ValueError(
                f"gpus_per_worker must be at most 1, as a worker trains on one GPU, but got {self.gpus_per_worker:g}; "
                "for more of them set workers_per_trial"
            )
        return self

    @model_validator(mode="after")
    def _range_of_whole_workers(self) -> Self:
        if self.is_elastic and (self.cpus_per_worker % 1 or self.gpus_per_worker % 1):
            raise ValueError(
                "workers_per_trial must be one number where a worker takes a fraction of a CPU or GPU, as Ray counts "
                f"no fractions when it sizes a group, but got {self.min_workers} to {self.max_workers}; give each "
                "worker whole ones, or write one number"
            )
        return self

    @property
    def is_elastic(self) -> bool:
        """Whether the number of workers goes with the cluster."""
        return isinstance(self.workers_per_trial, WorkerRange)

    @property
    def min_workers(self) -> int:
        """Workers without which a trial does not start."""
        return self.workers_per_trial.min if isinstance(self.workers_per_trial, WorkerRange) else self.workers_per_trial

    @property
    def max_workers(self) -> int:
        """Workers that a trial takes where there is room."""
        return self.workers_per_trial.max if isinstance(self.workers_per_trial, WorkerRange) else self.workers_per_trial


class TrackingConfig(Section):
    """Where records go. Left out: a results folder beside you, with MLflow in SQLite there."""

    enabled: bool = Field(default=True, description="Write to MLflow; the ledger is always written.")
    uri: str | None = Field(default=None, description="MLflow server; left out: SQLite in the storage place.")
    storage: str | None = Field(default=None, description="Folder or fsspec URL for records and checkpoints.")
    checkpoints_kept: int = Field(
        default=2,
        ge=1,
        le=MOST_KEPT,
        description="Checkpoints of a running trial that are kept, the newest and those before it; of a finished or "
        "pruned one none stay.",
    )
    system_metrics: bool = Field(
        default=False, description="Sample the load of the machine that runs a trial's first worker, every 10 s."
    )
    register_best: bool = Field(
        default=True, description="Register the study's best model in MLflow under its name, alias champion."
    )
