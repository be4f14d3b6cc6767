"""The progress line: counts, the estimate, terminals and plain streams."""

import io

import pytest

from study.progress import Best, Board, ProgressLine, Snapshot, describe, time_left


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    """A stream whose reader went away."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.fixture
def clock() -> Clock:
    return Clock()


def board_of(clock: Clock, total: int = 4, **more) -> Board:
    return Board("search", total, clock=clock, **more)


def test_counts_and_best_follow_the_trials(clock):
    board = board_of(clock)
    board.start("a", number=0, epochs=2)
    board.start("b", number=1, epochs=2)
    board.start("c", number=2, epochs=2)
    board.end("a", "finished", number=0, value=0.25)
    board.end("b", "pruned", number=1, value=0.9)
    seen = board.snapshot()
    assert (seen.finished, seen.pruned, seen.failed, seen.running) == (1, 1, 0, 1)
    assert seen.best == Best(0.25, 0), "a pruned trial is never the best"


@pytest.mark.parametrize("maximise", [True, False])
def test_of_equal_trials_the_earlier_stays_best(clock, maximise):
    board = board_of(clock, maximise=maximise)
    for number in (3, 4):
        board.end(f"k{number}", "finished", number=number, value=0.5)
    assert board.snapshot().best == Best(0.5, 3)


@pytest.mark.parametrize(("maximise", "best"), [(True, Best(0.5, 1)), (False, Best(0.25, 0))])
def test_best_follows_the_direction(clock, maximise, best):
    board = board_of(clock, maximise=maximise)
    for number, value in enumerate((0.25, 0.5)):
        board.end(f"k{number}", "finished", number=number, value=value)
    assert board.snapshot().best == best


def test_missing_value_is_no_best(clock):
    board = board_of(clock)
    board.end("a", "finished", number=0, value=None)
    assert board.snapshot().best is None


def test_no_estimate_before_the_first_epoch(clock):
    board = board_of(clock)
    board.start("a", number=0, epochs=2)
    assert board.snapshot().seconds_left is None
    assert time_left(board.snapshot()) == ""


def test_estimate_counts_epochs_still_to_come(clock):
    board = board_of(clock, total=3, max_concurrent=1)
    board.start("a", number=0, epochs=4)
    clock.now_s += 40.0
    board.reach("a", 4)
    board.end("a", "finished", number=0)
    board.start("b", number=1, epochs=4)
    clock.now_s += 10.0
    board.reach("b", 1)
    # 10 s an epoch; 3 epochs of b and 4 of the trial to come.
    assert board.snapshot().seconds_left == pytest.approx(70.0)


def test_estimate_shares_the_work_among_trials_at_once(clock):
    board = board_of(clock, total=2, max_concurrent=2)
    for key in "ab":
        board.start(key, number=0, epochs=2)
    clock.now_s += 10.0
    for key in "ab":
        board.reach(key, 1)
    assert board.snapshot().seconds_left == pytest.approx(10.0)


def test_resumed_trial_counts_only_epochs_of_this_launch(clock):
    board = board_of(clock, total=1)
    board.start("a", number=0, epochs=10, epoch=8)
    clock.now_s += 5.0
    board.reach("a", 9)
    assert board.snapshot().seconds_left == pytest.approx(5.0)


def test_trials_that_ended_are_kept_as_sums_and_estimate_the_same(clock):
    board = board_of(clock, total=6)
    for number, (epochs, length_s) in enumerate([(3, 30.0), (1, 8.0), (0, 5.0)]):
        board.start(f"k{number}", number=number, epochs=3)
        clock.now_s += length_s
        board.reach(f"k{number}", epochs)
        board.end(f"k{number}", "finished" if epochs else "failed", number=number)
    board.start("k3", number=3, epochs=3)
    clock.now_s += 10.0
    board.reach("k3", 1)
    # Five epochs in 48 s of trials that reached one; two of the trial under way and 2 x (3 + 1) / 2 are to come.
    assert board.snapshot().seconds_left == pytest.approx((2 + 2 * 2) * 48.0 / 5)
    assert list(board._courses) == ["k3"]


def test_unknown_trial_changes_nothing(clock):
    board = board_of(clock)
    board.reach("stranger", 3)
    assert board.snapshot().running == 0


def test_line_names_what_a_person_asks():
    snapshot = Snapshot("search", 16, 5, 3, 1, 2, "acc/noise", Best(0.41234, 7), 400.0)
    assert describe(snapshot) == (
        "search  9/16 trials (5 finished, 3 pruned, 1 failed), 2 running | best acc/noise 0.4123 (trial 7)"
    )
    assert time_left(snapshot) == " | about 7 min left"


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (80, "80 s"), (600, "10 min"), (7200, "2.0 h")])
def test_time_left_in_words(seconds, words):
    assert words in time_left(Snapshot("search", 2, 1, 0, 0, 1, "acc/noise", None, seconds))


def test_plain_stream_gets_a_line_only_when_something_changed(clock):
    board, stream = board_of(clock), io.StringIO()
    line = ProgressLine(board, stream)
    line.paint()
    line.paint()
    board.end("a", "finished", number=0)
    line.paint()
    assert [text.split(" (")[0] for text in stream.getvalue().splitlines()] == [
        "search  0/4 trials",
        "search  1/4 trials",
    ]


def test_terminal_gets_one_line_rewritten(clock):
    stream = Terminal()
    with ProgressLine(board_of(clock), stream):
        pass
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert text.startswith("\r\x1b[K")


def test_note_is_shown_once(clock):
    board, stream = board_of(clock), io.StringIO()
    board.note("trial 3 failed: ValueError: lr")
    line = ProgressLine(board, stream)
    line.paint()
    line.paint()
    assert stream.getvalue().count("trial 3 failed") == 1


@pytest.mark.parametrize("closed", [False, True])
def test_broken_stream_stops_nothing(clock, closed):
    stream = io.StringIO() if closed else Broken()
    line = ProgressLine(board_of(clock), stream)
    if closed:
        stream.close()
    line.paint()
    line.paint(is_last=True)
