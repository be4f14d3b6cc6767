"""Search algorithms: what each takes, resuming as if nothing had happened, populations, constraints."""

import hashlib
import json

import pytest
from optuna.trial import TrialState

from study.algorithms import ALGORITHMS, refusals, remarks
from study.config import StudyConfig
from study.config_search import Objective, SearchConfig
from study.ledger import Ledger, TrialSpec
from study.searcher import OptunaSource
from study.space import parse

BASE = StudyConfig(name="base")
TWO = (Objective(), Objective(metric="cost/passes"))
SMALL = [{"x": x / 4, "c": c} for x in range(5) for c in ("a", "b", "c")]


class MixedSpace:
    """A float in steps and a choice: 15 configurations, so that suggestions repeat."""

    def encode(self, params):
        return params

    def suggest(self, trial):
        x = trial.suggest_float("x", 0.0, 1.0, step=0.25)
        return {"x": x, "c": trial.suggest_categorical("c", ["a", "b", "c"])}

    def configurations(self):
        return SMALL


class WideSpace:
    """Two floats and a choice."""

    def encode(self, params):
        return params

    def suggest(self, trial):
        return {name: trial.suggest_float(name, 0.0, 1.0) for name in ("x", "y")} | {
            "c": trial.suggest_categorical("c", ["a", "b", "c"])
        }


def spec_of(params: dict, number: int) -> TrialSpec:
    key = hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()[:16]
    return TrialSpec(key, "study", "search", "search", number, 0, {}, "f", "unused", "unused", params)


def facts_of(spec: TrialSpec) -> dict[str, float]:
    return {"cost/params": {"a": 1.0, "b": 2.0, "c": 9.0}[spec.params["c"]]}


def figures(params: dict) -> dict[str, float]:
    """Accuracy grows with x, and so does what it costs."""
    bonus = {"a": 0.0, "b": 0.1, "c": 0.2}[params["c"]]
    cost = 0.2 + params["x"] + params.get("y", 0.0)
    return {"acc/noise": 0.7 * params["x"] + bonus, "cost/passes": cost, **facts_of(spec_of(params, 0))}


def source_of(ledger: Ledger, space, search: SearchConfig) -> OptunaSource:
    source = OptunaSource(space, search, spec_of=spec_of, ledger=ledger, phase="search", facts_of=facts_of)
    source.feed()
    return source


def run(ledger: Ledger, space, search: SearchConfig, count: int, cuts: frozenset = frozenset()) -> list[dict]:
    """The trials of a search, one after the other, begun anew before each of `cuts`."""
    source, drawn = source_of(ledger, space, search), []
    for number in range(count):
        if number in cuts:
            source = source_of(ledger, space, search)
        spec = source.next_spec()
        if spec is None:
            break
        drawn.append(spec.params)
        ledger.append(spec.key, "final", epoch=1, step=0, metrics=figures(spec.params), final=True)
        source.on_end(spec.key, "finished", ledger.metrics(spec.key))
    run.source = source  # type: ignore[attr-defined]
    return drawn


def told() -> list:
    return run.source._study.get_trials(deepcopy=False)  # type: ignore[attr-defined]


# --------------------------------------------------------------------------------------------------------- resuming
@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "more"),
    [
        *((name, {}) for name in ALGORITHMS if name != "gp"),
        ("tpe", {"constraints": ("params <= 5", "passes <= 1")}),
        ("tpe", {"objectives": TWO}),
        ("nsga2", {"objectives": TWO, "constraints": ("params <= 5", "passes <= 1")}),
        ("nsga3", {"objectives": TWO}),
    ],
)
def test_a_search_cut_off_goes_on_as_if_it_were_not(tmp_path, algorithm, more):
    more = more | ({"population": 4} if algorithm.startswith("nsga") else {})
    search = SearchConfig(algorithm=algorithm, trials=14, seed=3, **more)
    count = 14
    whole = run(Ledger(str(tmp_path), "whole"), MixedSpace(), search, count)
    states = [(trial.state, trial.params, trial.values, trial.constraints) for trial in told()]
    cut = run(Ledger(str(tmp_path), "cut"), MixedSpace(), search, count, frozenset({1, 6, 9, 11}))
    assert cut == whole
    assert [(trial.state, trial.params, trial.values, trial.constraints) for trial in told()] == states
    assert len({json.dumps(params) for params in whole}) == len(whole)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["nsga2", "nsga3", "qmc", "tpe", "gp"])
def test_a_search_in_a_wide_space_goes_on_too(tmp_path, algorithm):
    more = {"population": 4, "objectives": TWO} if algorithm.startswith("nsga") else {"constraints": ("passes <= 1",)}
    search = SearchConfig(algorithm=algorithm, trials=18, seed=1, **more)
    count = 13 if algorithm == "gp" else 18
    whole = run(Ledger(str(tmp_path), "whole"), WideSpace(), search, count)
    cut = run(Ledger(str(tmp_path), "cut"), WideSpace(), search, count, frozenset({5, 10, 12, 15}))
    assert cut == whole


def generations() -> list[int]:
    return [trial.system_attrs.get("NSGAIISampler:generation", -1) for trial in told()]


def test_a_population_is_continued_and_would_start_over_without_its_record(tmp_path):
    ledger = Ledger(str(tmp_path), "study")
    search = SearchConfig(algorithm="nsga2", trials=12, population=4, objectives=TWO, seed=1)
    run(ledger, WideSpace(), search, 10)
    assert generations() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    again = source_of(ledger, WideSpace(), search)
    attrs = again._study._storage.get_study_system_attrs(again._study._study_id)
    assert {name: len(value) for name, value in attrs.items() if "parent" in name} == {
        "NSGAIISampler:parent:1": 4, "NSGAIISampler:parent:2": 4,
    }  # fmt: skip
    (tmp_path / "study" / "searches" / "search.jsonl").unlink()
    forgetful = source_of(ledger, WideSpace(), search)
    forgetful.next_spec()
    assert forgetful._study.get_trials()[-1].system_attrs["NSGAIISampler:generation"] == 0


def test_a_trial_under_way_keeps_its_generation(tmp_path):
    ledger = Ledger(str(tmp_path), "study")
    search = SearchConfig(algorithm="nsga2", trials=12, population=4, objectives=TWO, seed=1)
    run(ledger, WideSpace(), search, 9)
    open_spec = run.source.next_spec()
    again = source_of(ledger, WideSpace(), search)
    assert again.next_spec() == open_spec
    assert again._study.get_trials()[-1].system_attrs["NSGAIISampler:generation"] == 2


def test_suggestions_of_a_trial_that_was_never_made_are_left_aside(tmp_path):
    """The process died between the two files."""
    ledger = Ledger(str(tmp_path), "study")
    search = SearchConfig(algorithm="tpe", trials=14, seed=3, constraints=("params <= 5",))
    run(ledger, MixedSpace(), search, 6)
    expected = len(source_of(ledger, MixedSpace(), search)._study.get_trials())
    line = {"number": 6, "refused": [{"params": SMALL[0], "state": "FAIL", "values": None, "constraints": {},
            "epochs": {}, "attrs": {}}], "attrs": {}, "study": {}}  # fmt: skip
    ledger.files.append_line(json.dumps(line), "searches", "search.jsonl")
    ledger.files.append_line('{"number": 6, "refu', "searches", "search.jsonl")
    assert len(source_of(ledger, MixedSpace(), search)._study.get_trials()) == expected


def test_a_grid_tries_everything_once_in_order(tmp_path):
    search = SearchConfig(algorithm="grid", trials=99)
    assert run(Ledger(str(tmp_path), "study"), MixedSpace(), search, 99, frozenset({4})) == SMALL
    assert run.source.exhausted


class LongSpace:
    """A whole number up to 1,199, of which a constraint can take away all but the last."""

    def encode(self, params):
        return params

    def suggest(self, trial):
        return {"x": trial.suggest_int("x", 0, 1199), "c": trial.suggest_categorical("c", ["a"])}

    def configurations(self):
        return [{"x": x, "c": "a"} for x in range(1200)]


def nearly_all_too_large(spec: TrialSpec) -> dict[str, float]:
    return {"cost/params": 1.0 if spec.params["x"] in (400, 1199) else 9.0}


def long_source(ledger: Ledger, algorithm: str, constraint: str = "params <= 5") -> OptunaSource:
    search = SearchConfig.model_validate({"algorithm": algorithm, "trials": 2000, "constraints": (constraint,)})
    source = OptunaSource(
        LongSpace(), search, spec_of=spec_of, ledger=ledger, phase="search", facts_of=nearly_all_too_large
    )
    source.feed()
    return source


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["grid", "random"])
def test_a_constraint_that_refuses_hundreds_in_a_row_does_not_end_a_search(tmp_path, algorithm):
    ledger = Ledger(str(tmp_path), "whole")
    source, first = long_source(ledger, algorithm), []
    while (spec := source.next_spec()) is not None:
        first.append(spec)
        ledger.append(spec.key, "final", epoch=1, step=0, metrics={"acc/noise": 0.5}, final=True)
        source.on_end(spec.key, "finished", {"acc/noise": 0.5})
    assert sorted(spec.params["x"] for spec in first) == [400, 1199]
    assert source.exhausted
    assert not source.gave_up
    cut = Ledger(str(tmp_path), "cut")
    again = []
    for _ in first:
        source = long_source(cut, algorithm)
        spec = source.next_spec()
        again.append(spec)
        cut.append(spec.key, "final", epoch=1, step=0, metrics={"acc/noise": 0.5}, final=True)
    assert again == first


def test_a_search_gives_up_after_its_own_number_of_too_large_suggestions(tmp_path, monkeypatch):
    monkeypatch.setattr("study.searcher.MAX_STATIC_ASKS", 20)
    source = long_source(Ledger(str(tmp_path), "study"), "random", "params <= 0.5")
    with pytest.raises(ValueError, match="20 new suggestions in a row"):
        source.next_spec()
    assert source.gave_up
    assert source.skipped == 20


# ------------------------------------------------------------------------------------------------------- constraints
def test_optuna_is_told_by_how_much_a_constraint_is_broken_also_at_a_later_launch(tmp_path):
    ledger = Ledger(str(tmp_path), "study")
    search = SearchConfig(algorithm="random", trials=4, constraints=("passes <= 0.5", "noise_accuracy >= 0.2"))
    drawn = run(ledger, MixedSpace(), search, 4)
    expected = [
        {"passes <= 0.5": (figures(p)["cost/passes"] - 0.5) / 0.5,
         "noise_accuracy >= 0.2": (0.2 - figures(p)["acc/noise"]) / 0.2} for p in drawn
    ]  # fmt: skip
    for source in (run.source, source_of(ledger, MixedSpace(), search)):
        complete = [trial for trial in source._study.get_trials() if trial.state == TrialState.COMPLETE]
        found = [next(trial.constraints for trial in complete if trial.params == params) for params in drawn]
        assert found == [pytest.approx(item) for item in expected]


def test_a_suggestion_that_is_too_large_is_not_trained_and_told_as_infeasible(tmp_path):
    ledger = Ledger(str(tmp_path), "study")
    search = SearchConfig(algorithm="random", trials=8, constraints=("params <= 5",), seed=1)
    drawn = run(ledger, MixedSpace(), search, 8)
    assert {params["c"] for params in drawn} == {"a", "b"}
    large = [trial for trial in told() if trial.params["c"] == "c"]
    assert large
    assert run.source.skipped == len(large)
    for source in (run.source, source_of(ledger, MixedSpace(), search)):
        found = [trial for trial in source._study.get_trials() if trial.params["c"] == "c"]
        assert {(trial.state, trial.constraints["params <= 5"]) for trial in found} == {(TrialState.PRUNED, 0.8)}


def test_no_suggestion_small_enough_is_one_error_with_the_nearest(tmp_path):
    search = SearchConfig(algorithm="tpe", trials=8, constraints=("params <= 0.5",))
    with pytest.raises(ValueError, match=r"none was trained; the nearest breaks params <= 0.5 \(it has 1\)"):
        run(Ledger(str(tmp_path), "study"), MixedSpace(), search, 8)


def test_a_pruned_trial_is_not_infeasible_for_an_accuracy_it_had_no_time_to_reach(tmp_path):
    ledger = Ledger(str(tmp_path), "study")
    limits = ("noise_accuracy >= 0.9", "passes <= 10", "params <= 5")
    source = source_of(ledger, MixedSpace(), SearchConfig(algorithm="random", trials=4, constraints=limits))
    for passes in (1.0, 20.0):
        spec = source.next_spec()
        source.on_end(spec.key, "pruned", {"acc/noise": 0.1, "cost/passes": passes})
    first, second = [trial for trial in source._study.get_trials() if "noise" not in trial.params][-2:]
    assert (set(first.constraints), set(second.constraints)) == ({"params <= 5"}, {"params <= 5", "passes <= 10"})


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "more", "gain"), [("tpe", {}, 0.3), ("nsga2", {"population": 8}, 0.2)])
def test_constraints_steer_the_search_also_when_resumed(tmp_path, algorithm, more, gain):
    """Accuracy rises with x, but only x + y below 0.5 is allowed: an eighth of the square."""

    def share(cuts: frozenset, **extra) -> float:
        search = SearchConfig(algorithm=algorithm, trials=60, seed=5, **more, **extra)
        drawn = run(Ledger(str(tmp_path), f"s{len(cuts)}{len(extra)}"), WideSpace(), search, 60, cuts)
        late = [params["x"] + params["y"] <= 0.5 for params in drawn[30:]]
        return sum(late) / len(late)

    free = share(frozenset())
    kept = share(frozenset(), constraints=("passes <= 0.7",))
    assert kept >= free + gain
    assert share(frozenset({30, 45}), constraints=("passes <= 0.7",)) == kept


def test_the_best_that_is_shown_keeps_the_constraints(tmp_path):
    source = source_of(Ledger(str(tmp_path), "s"), MixedSpace(), SearchConfig(constraints=("passes <= 1",)))
    assert source.figure({"acc/noise": 0.5, "cost/passes": 2.0}) is None
    assert source.figure({"acc/noise": 0.5, "cost/passes": 1.0}) == 0.5
    assert source.figure({"acc/noise": 0.5}) is None


# ------------------------------------------------------------------------------------------------- what each takes
CONDITIONAL = parse(
    {"method.name": {"choice": ["plain", "pmal"]}, "method.stages": {"int": [1, 2], "when": {"method.name": "pmal"}}},
    BASE,
)
ENDLESS = parse({"optim.lr": {"log_uniform": [0.01, 0.1]}}, BASE)


@pytest.mark.parametrize(
    ("algorithm", "space", "count", "words"),
    [
        ("gp", CONDITIONAL, None, "gp takes no conditions and would draw all at random, but method.stages has `when`"),
        ("qmc", CONDITIONAL, None, "qmc takes no conditions"),
        ("grid", ENDLESS, None, "grid needs values that can be counted, but optim.lr is continuous; add step"),
        ("grid", CONDITIONAL, 30, "of which there are 30, but search.trials is 8"),
        ("grid", CONDITIONAL, None, "10,000 configurations at most"),
    ],
)
def test_a_space_that_an_algorithm_cannot_take_is_refused(algorithm, space, count, words):
    (text,) = refusals(SearchConfig(algorithm=algorithm), space.domains, count)
    assert words in text


@pytest.mark.parametrize("algorithm", ["tpe", "random", "nsga2", "nsga3"])
def test_conditions_are_taken(algorithm):
    assert list(refusals(SearchConfig(algorithm=algorithm), CONDITIONAL.domains, None)) == []


def test_a_condition_on_what_is_fixed_concerns_no_sampler():
    entry = {
        "method.name": {"choice": ["plain", "pmal"]},
        "method.stages": {"fixed": 2, "when": {"method.name": "pmal"}},
    }
    assert list(refusals(SearchConfig(algorithm="gp"), parse(entry, BASE).domains, None)) == []


def test_what_a_person_should_know_is_said():
    def said(**search) -> str:
        return " / ".join(remarks(SearchConfig(**search), CONDITIONAL.domains))

    assert "nsga2 draws its first 20 trials at random, so this is a random search" in said(algorithm="nsga2")
    assert "it draws method.stages at random" in said(algorithm="nsga2", trials=50)
    assert "learns nothing from trials that asha stops" in said(algorithm="nsga2", scheduler={"name": "asha"})
    soft = said(algorithm="random", constraints=("params <= 9", "passes <= 9"))
    assert soft == "random does not steer by passes <= 9; trials that break them are run and never chosen"
    assert said(algorithm="tpe", trials=50) == ""


def test_values_in_steps_and_points_make_a_grid():
    space = parse(
        {
            "optim.lr": {"log_uniform": [0.001, 0.1], "points": 3},
            "optim.momentum": {"float": [0.1, 0.5], "step": 0.2},
            "train.batch_size": {"int": [8, 16], "step": 8},
        },
        BASE,
    )
    found = space.configurations()
    assert len(found) == space.count() == 3 * 3 * 2
    assert [item["optim.lr"] for item in found[::6]] == [0.001, 0.01, 0.1]
    assert [item["optim.momentum"] for item in found[:6:2]] == [0.1, 0.3, 0.5]
    for params in found:
        stored = space.encode(params)
        assert space.decode(stored) == params
