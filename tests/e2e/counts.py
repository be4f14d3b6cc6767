"""What a study has in its ledger and in MLflow, counted at two moments: nothing gone, nothing twice."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from study.ledger import Ledger
from study.tracking import Tracker, connect, sync
from tests.integration import projected

ENDS = {"final", "failed", "pruned"}
EPOCH_METRIC = "lr"
"""In MLflow it has a point for each epoch and none else."""
MLFLOW_S = 120.0


class Counted(NamedTuple):
    """What a study has at a moment; what is there twice stands here twice.

    Attributes:
        trials: Keys, by the ledger.
        epochs: (trial, epoch) of each epoch recorded.
        ends: (trial, how) of each end recorded.
        runs: (trial, run id) of each run in MLflow, of deleted ones too: a double that was put away was made.
        logged: (trial, epoch) of each point of `EPOCH_METRIC` in MLflow.
    """

    trials: list[str]
    epochs: list[tuple[str, int]]
    ends: list[tuple[str, str]]
    runs: list[tuple[str, str]]
    logged: list[tuple[str, int]]

    @property
    def shown(self) -> list[str]:
        """The trials that MLflow has runs of."""
        return sorted(key for key, _ in self.runs)


def beside(ledger: Ledger) -> str:
    """The MLflow database beside a study's records, where the driver's is without `tracking.uri`."""
    return f"sqlite:///{Path(ledger.storage)}/mlflow.db"


def look(ledger: Ledger, uri: str | None = None, *, tracker: Tracker | None = None) -> Counted:
    """What a study has now; nothing is written.

    Args:
        uri: Left out: that beside the ledger.
        tracker: It follows the study: MLflow is to hold what the ledger holds now before it is counted.
    """
    trials = ledger.keys()
    events = [(key, event) for key in trials for event in ledger.events(key)]
    if tracker is not None:
        assert tracker.flush(MLFLOW_S), "MLflow did not come up to the ledger"
    runs, logged = _in_mlflow(uri or beside(ledger), ledger.study)
    return Counted(
        trials=trials,
        epochs=[(key, event["epoch"]) for key, event in events if event["event"] == "epoch"],
        ends=[(key, event["event"]) for key, event in events if event["event"] in ENDS],
        runs=runs,
        logged=logged,
    )


def count(ledger: Ledger, uri: str | None = None) -> Counted:
    """What a study that no driver runs has, after MLflow was brought up to it, and then once more to no effect."""
    uri = uri or beside(ledger)
    projected.set_phase(ledger, "search", "search", "finished")
    sync(ledger, uri)
    return settled(ledger, uri)


def settled(ledger: Ledger, uri: str | None = None) -> Counted:
    """What a study has that MLflow shows whole: writing it there once more finds nothing to write."""
    uri = uri or beside(ledger)
    found = look(ledger, uri)
    again = sync(ledger, uri)
    assert (again.runs, again.metrics, again.files) == (0, 0, 0), again
    assert look(ledger, uri) == found
    return found


def expect_once(
    found: Counted, before: Sequence[Counted], *, epochs: Mapping[str, int], failed: Sequence[str] = ()
) -> None:
    """These trials are there with so many epochs and one end, once each, and all that there was before a fault.

    Args:
        epochs: Of each trial.
        failed: Trials whose end is a failure.
    """
    wanted = sorted((key, epoch) for key, most in epochs.items() for epoch in range(1, most + 1))
    assert sorted(found.trials) == sorted(epochs)
    assert sorted(found.epochs) == wanted
    assert sorted(found.ends) == sorted((key, "failed" if key in failed else "final") for key in epochs)
    expect_shown_once(found)
    assert before, "nothing was counted before"
    for earlier in before:
        expect_kept(earlier, found)


def expect_shown(found: Counted) -> None:
    """MLflow has a run for each trial of the ledger and a point for each epoch; it may have come to more meanwhile."""
    assert found.trials
    assert set(found.trials) <= set(found.shown)
    assert not Counter(found.epochs) - Counter(found.logged)


def expect_shown_once(found: Counted) -> None:
    """MLflow has one run for each trial of the ledger and one point for each epoch, and no more."""
    assert len(set(found.epochs)) == len(found.epochs)
    assert found.shown == sorted(found.trials)
    assert sorted(found.logged) == sorted(found.epochs)


def expect_kept(before: Counted, after: Counted) -> None:
    """What there was is there, the runs under the same ids."""
    assert before.trials
    assert before.runs
    for name, had, has in zip(Counted._fields, before, after, strict=True):
        gone = Counter(had) - Counter(has)
        assert not gone, f"{name} that were there are gone: {gone}"


def is_under_way(ledger: Ledger, *, finished: int) -> bool:
    """Whether so many trials are done, MLflow knows of one of them, and another is in its middle."""
    done = [key for key in ledger.keys() if ledger.status(key) == "finished"]
    running = [key for key in ledger.keys() if ledger.status(key) == "running"]
    epochs = [[event["event"] for event in ledger.events(key)].count("epoch") for key in running]
    is_shown = any(ledger.read_bytes(key, "mlflow.json") for key in done)
    return len(done) >= finished and is_shown and any(1 <= number <= 3 for number in epochs)


def states(ledger: Ledger, uri: str | None = None) -> set[str]:
    """The states of a study's runs in MLflow, those of its phases among them."""
    client = connect(uri or beside(ledger))
    experiment = client.get_experiment_by_name(ledger.study)
    assert experiment is not None
    return {run.info.status for run in client.search_runs([experiment.experiment_id], max_results=1000)}


def trained_again(ledger: Ledger, key: str) -> list[int]:
    """For each time that a trial went on: how many epochs it had recorded and trained again."""
    found, last = [], 0
    for event in ledger.events(key):
        if event["event"] == "epoch":
            last = max(last, event["epoch"])
        elif event["event"] == "resume":
            found.append(last - min(last, event["epoch"]))
    return found


def _in_mlflow(uri: str, study: str) -> tuple[list[tuple[str, str]], list[tuple[str, int]]]:
    """(trial, run id) of each trial's run, then (trial, step) of each point of `EPOCH_METRIC`."""
    client = connect(uri)
    from mlflow.entities import ViewType

    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        return [], []
    runs, logged, token = [], [], None
    while True:
        page = client.search_runs(
            [experiment.experiment_id], run_view_type=ViewType.ALL, max_results=1000, page_token=token
        )
        for run in page:
            key, name = run.data.tags.get("murk.trial"), run.info.run_id
            if key is not None:
                runs.append((key, name))
                logged += [(key, point.step) for point in client.get_metric_history(name, EPOCH_METRIC)]
        token = page.token
        if not token:
            return sorted(runs), sorted(logged)
