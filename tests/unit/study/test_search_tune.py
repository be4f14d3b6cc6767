"""What Ray Tune asks of a search, without Ray: trials handed out, ends, losses."""

from pathlib import Path

import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from study.again import Again
from study.bridge import TuneSearcher, failure, settle
from study.ledger import Ledger
from study.progress import Board
from study.runtime import StopRequest
from study.storage import StudyLostError
from study.trialsource import ListSource
from tests.unit.study.searches import epoch, source_of, spec_of, told


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(str(tmp_path), "study")


class Bench:
    """A searcher with its surroundings."""

    def __init__(self, ledger: Ledger, source=None) -> None:
        self.ledger = ledger
        self.source = source or source_of(ledger)
        self.board = Board("search", 8)
        self.stop = StopRequest()
        self.pruned: set[str] = set()
        self.now = 0.0
        self.begun: dict[str, int] = {}
        self.searcher = TuneSearcher(
            self.source, 8, ledger=ledger, board=self.board, stop=self.stop, job={"executor": "inline"},
            pruned=self.pruned, again=Again(lambda key: self.begun.get(key, 0), 1, clock=lambda: self.now),
        )  # fmt: skip

    def suggest(self, trial_id: str = "t0") -> str:
        return self.searcher.suggest(trial_id)["spec"]["key"]


@pytest.fixture
def bench(ledger) -> Bench:
    return Bench(ledger)


def test_finished_trial_is_taken_from_the_ledger(bench):
    key = bench.suggest()
    bench.searcher.on_trial_result("t0", {"epoch": 1, "acc/noise": 0.1, "final": False})
    bench.ledger.append(key, "final", epoch=4, metrics={"acc/noise": 0.5})
    bench.searcher.on_trial_complete("t0", {"epoch": 4, "acc/noise": 0.5, "final": True})
    (trial,) = told(bench.source)
    assert (trial.state, trial.value, trial.intermediate_values) == (TrialState.COMPLETE, 0.5, {1: 0.1})
    assert bench.board.snapshot().best.value == 0.5


def test_pruned_trial_gets_its_event_from_the_driver(bench):
    key = bench.suggest()
    for number, value in ((1, 0.3), (2, 0.1)):
        epoch(bench.ledger, key, number, value)
    bench.searcher.on_trial_result("t0", {"epoch": 1, "acc/noise": 0.3})
    bench.pruned.add(key)
    bench.searcher.on_trial_complete("t0", {"epoch": 2, "acc/noise": 0.1})
    event = bench.ledger.events(key)[-1]
    assert (event["event"], event["epoch"], event["metrics"]) == ("pruned", 2, {"acc/noise": 0.1})
    (trial,) = told(bench.source)
    assert (trial.state, trial.last_step) == (TrialState.PRUNED, 2)


def test_a_pruned_trial_keeps_no_checkpoint_and_an_interrupted_one_its_own(bench):
    for trial, names in (("t0", []), ("t1", ["checkpoint-before.pt", "checkpoint.pt"])):
        key = bench.suggest(trial)
        epoch(bench.ledger, key, 1, 0.3)
        for name in ("checkpoint.pt", "checkpoint-before.pt"):
            bench.ledger.write_bytes(key, name, b"weights")
        if trial == "t0":
            bench.pruned.add(key)
        else:
            bench.stop.request()
        bench.searcher.on_trial_complete(trial, {"epoch": 1, "acc/noise": 0.3})
        assert sorted(path.name for path in Path(bench.ledger.path(key)).glob("checkpoint*")) == names


def test_trial_interrupted_is_not_pruned(bench):
    key = bench.suggest()
    epoch(bench.ledger, key, 1, 0.3)
    bench.stop.request()
    bench.searcher.on_trial_complete("t0", {"epoch": 1, "acc/noise": 0.3})
    assert bench.ledger.status(key) == "running"
    assert [event["event"] for event in bench.ledger.events(key)] == ["epoch"]
    assert told(bench.source)[0].state == TrialState.RUNNING


def test_no_trial_is_handed_out_after_a_request_to_stop(bench):
    bench.stop.request()
    assert bench.searcher.suggest("t0") == Searcher.FINISHED


@pytest.mark.parametrize("is_pruned", [True, False])
def test_a_study_that_another_driver_took_gets_no_event_and_no_trial(bench, monkeypatch, is_pruned):
    key = bench.suggest()
    epoch(bench.ledger, key, 1, 0.3)
    if is_pruned:
        bench.pruned.add(key)
    files, before = bench.ledger.files, bench.ledger.keys()
    bench.begun[key] = 2

    def refuse() -> None:
        raise StudyLostError("taken over")

    monkeypatch.setattr(files, "refuse_if_lost", refuse)
    bench.searcher.on_trial_complete("t0", {"epoch": 1, "acc/noise": 0.3})
    assert bench.searcher.suggest("t1") == Searcher.FINISHED
    assert [event["event"] for event in bench.ledger.events(key)] == ["epoch"]
    assert bench.ledger.keys() == before


def test_a_lost_study_is_a_request_to_stop():
    lost: list[str] = []
    stop = StopRequest(lambda: bool(lost))
    assert not stop.requested
    assert not stop.wait(0.0)
    lost.append("driver")
    assert stop.requested
    assert stop.wait(60.0)


def test_lost_process_is_a_recorded_failure(bench):
    key = bench.suggest()
    bench.begun[key] = 2
    bench.searcher.on_trial_complete("t0", None, error=True)
    assert bench.ledger.status(key) == "failed"
    assert "process was lost" in failure(bench.ledger, key)
    assert told(bench.source)[0].state == TrialState.FAIL
    assert any("process was lost" in note for note in bench.board.take_notes())


def test_trial_without_a_place_goes_out_again(bench):
    """As after the loss of a node: one process started, the next one found no place, retries are left."""
    key = bench.suggest("t0")
    bench.begun[key] = 1
    for event in ("start", "out_of_memory", "resume", "out_of_memory", "resume"):
        bench.ledger.append(key, event)  # a process that halved its micro-batch twice is one process
    bench.searcher.on_trial_complete("t0", None, error=True)
    assert bench.ledger.status(key) == "running"
    assert told(bench.source)[0].state == TrialState.RUNNING
    assert any("goes on elsewhere" in note for note in bench.board.take_notes())
    assert bench.suggest("t1") != key, "it waits while others go out"
    bench.now = 6.0
    assert bench.suggest("t2") == key
    for epochs in range(1, 5):
        epoch(bench.ledger, key, epochs, 0.5)
    bench.ledger.append(key, "final", epoch=4, metrics={"acc/noise": 0.5})
    bench.searcher.on_trial_complete("t2", {"epoch": 4, "acc/noise": 0.5, "final": True})
    assert bench.board.snapshot().finished == 1
    assert len({bench.suggest(f"n{number}") for number in range(6)}) == 6, "8 trials in all"
    assert bench.searcher.suggest("none left, but some under way") is None


def test_trial_that_finds_no_place_fails_at_last(bench):
    key = bench.suggest("t0")
    for number in range(20):
        bench.searcher.on_trial_complete(f"t{number}", None, error=True)
        if bench.ledger.status(key) == "failed":
            break
        bench.now += 60.0
        assert bench.suggest(f"t{number + 1}") == key
    assert bench.ledger.status(key) == "failed"
    assert 600 < bench.now < 900


def test_trial_that_waits_is_left_to_the_next_launch_on_a_request_to_stop(bench):
    key = bench.suggest("t0")
    bench.searcher.on_trial_complete("t0", None, error=True)
    bench.stop.request()
    assert bench.searcher.suggest("t1") == Searcher.FINISHED
    assert bench.ledger.status(key) == "running"


def test_failure_that_the_trial_recorded_is_kept(bench):
    key = bench.suggest()
    bench.ledger.append(key, "failed", error="ValueError: lr must be positive\nmore")
    bench.searcher.on_trial_complete("t0", {"epoch": 1, "acc/noise": 0.3})
    assert len(bench.ledger.events(key)) == 1
    assert failure(bench.ledger, key) == "ValueError: lr must be positive"
    assert told(bench.source)[0].state == TrialState.FAIL


def test_trial_that_just_ends_again_and_again_is_a_failure(bench):
    key = bench.suggest()
    bench.begun[key] = 1
    bench.searcher.on_trial_complete("t0", {"epoch": 1, "acc/noise": 0.3})
    assert bench.ledger.status(key) == "running"
    bench.now = 6.0
    assert bench.suggest() == key
    bench.begun[key] = 2
    bench.searcher.on_trial_complete("t0", {"epoch": 1, "acc/noise": 0.3})
    assert "without its last report" in failure(bench.ledger, key)


@pytest.mark.parametrize("event", ["final", "failed"])
def test_settling_keeps_an_end_that_is_there(ledger, event):
    ledger.append("k", event, epoch=4, metrics={"acc/noise": 0.5})
    before = ledger.events("k")
    settle(ledger, "k", is_lost=True, is_pruned=True, is_stopping=True)
    assert ledger.events("k") == before


def test_searcher_keeps_nothing_in_rays_files(bench, tmp_path):
    place = tmp_path / "searcher.pkl"
    bench.searcher.save(str(place))
    assert not place.exists()
    assert bench.searcher.__getstate__() == {}
    with pytest.raises(NotImplementedError, match="murk resume"):
        bench.searcher.restore(str(place))


def test_list_gives_each_trial_once_and_writes_it(ledger):
    specs = [spec_of({"optim.lr": lr}, number) for number, lr in enumerate((0.1, 0.2))]
    bench = Bench(ledger, ListSource(specs, ledger))
    assert [bench.suggest("t0"), bench.suggest("t1")] == [spec.key for spec in specs] == ledger.keys("search")
    assert bench.searcher.suggest("t2") is None, "one of them may have to go out again"
    for number, spec in enumerate(specs):
        bench.ledger.append(spec.key, "final", epoch=1, metrics={"acc/noise": 0.5})
        bench.searcher.on_trial_complete(f"t{number}", {"epoch": 1, "acc/noise": 0.5, "final": True})
    assert bench.searcher.suggest("t2") == Searcher.FINISHED
