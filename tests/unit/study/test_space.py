"""Search spaces: drawing, conditions, what Optuna stores, and overriding of dotted keys."""

import json
import pickle
from contextlib import nullcontext

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.methods.registry import METHODS
from study.config import StudyConfig, TrialConfig
from study.domains import Domain
from study.keys import canonical, near_keys, places, unions
from study.override import apply, written
from study.problems import ProblemsError, near
from study.space import for_phase, parse
from study.spaceread import key_problem

BASE = StudyConfig(name="base")
SPACE = {
    "method.stages": {"int": [1, 3], "when": {"method.name": "pmal"}},
    "method.name": {"choice": ["plain", "pmal"]},
    "method.head_widths": {"choice": [[32, 64], [64, 128]], "when": {"method.stages": [2, 3]}},
    "optim.sam.rho": {"log_uniform": [0.01, 0.5]},
    "optim.lr": {"uniform": [0.01, 0.1]},
    "train.batch_size": {"log_int": [8, 64]},
    "train.epochs": {"int": [3, 9], "step": 3},
    "noise.train": {"choice": [None, ["speckle_noise"], [{"name": "brightness", "probability": 0.3}]]},
    "optim.weight_decay": {"fixed": 0.001, "when": {"optim.name": "sgd"}},
}
PARSED = parse(SPACE, BASE)


@pytest.fixture(autouse=True)
def quiet_optuna():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


def refused(space, base=BASE):
    with pytest.raises(ProblemsError) as caught:
        parse(space, base)
    return str(caught.value)


def optuna_study(seed=0):
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))


# ------------------------------------------------------------------------------------------------------------- drawing
def test_draws_are_valid_configurations_and_follow_conditions():
    space = PARSED
    study, seen = optuna_study(), set()
    for _ in range(40):
        params = space.suggest(study.ask())
        config = apply(BASE.trial(), params)
        method = params["method.name"]
        seen.add(method)
        assert config.method.name == method
        assert ("method.stages" in params) == (method == "pmal")
        assert ("method.head_widths" in params) == (params.get("method.stages") in (2, 3))
        assert 0.01 <= params["optim.sam.rho"] <= 0.5
        assert 0.01 <= params["optim.lr"] <= 0.1
        assert 8 <= params["train.batch_size"] <= 64
        assert params["train.epochs"] in (3, 6, 9)
        assert params["optim.weight_decay"] == config.optim.weight_decay == 0.001
    assert seen == {"plain", "pmal"}


def test_what_is_searched_wins_over_the_file():
    base = apply(BASE, {"optim.lr": 0.5})
    params = parse({"optim.lr": {"float": [0.01, 0.1]}}, base).suggest(optuna_study().ask())
    assert apply(base.trial(), params).optim.lr == params["optim.lr"] <= 0.1


def test_optuna_stores_simple_values():
    space, study = PARSED, optuna_study()
    for _ in range(20):
        trial = study.ask()
        params = space.suggest(trial)
        assert all(value is None or isinstance(value, (bool, int, float, str)) for value in trial.params.values())
        assert "optim.weight_decay" not in trial.params
        assert space.decode(trial.params) == params
        assert space.encode(params) == trial.params


def test_encoded_params_replay_with_their_distributions():
    space, study = PARSED, optuna_study()
    for _ in range(20):
        trial = study.ask()
        params = space.suggest(trial)
        fixed = optuna.trial.FixedTrial(space.encode(params))
        assert space.suggest(fixed) == params
        assert fixed.distributions == trial.distributions


def test_a_pickled_space_draws_the_same():
    space = PARSED
    copy = pickle.loads(pickle.dumps(space))
    assert copy == space
    one, other = optuna_study(seed=3), optuna_study(seed=3)
    assert [space.suggest(one.ask()) for _ in range(5)] == [copy.suggest(other.ask()) for _ in range(5)]
    assert pickle.loads(pickle.dumps(space.suggest))(optuna_study(seed=3).ask())
    assert space.draws(5) == copy.draws(5)


def test_a_space_read_from_a_record_is_the_same():
    record = StudyConfig.model_validate(json.loads(BASE.model_dump_json()))
    assert parse(json.loads(json.dumps(SPACE)), record) == PARSED


def test_equal_values_of_other_type_are_kept_apart():
    domain = Domain("model.pretrained", "choice", items=(True, 1, "1"))
    assert domain.options() == ["true", "1", '"1"']
    assert [domain.decode(option) for option in domain.options()] == [True, 1, "1"]


def test_conditions_read_what_is_not_searched():
    space = parse({"optim.lr": {"float": [0.1, 0.2], "when": {"optim.name": ["sgd", "adamw"]}}}, BASE)
    assert all("optim.lr" in params for params in space.draws(5))


def test_conditions_compare_values_however_they_are_written():
    choices = {"choice": [["speckle_noise"], [{"name": "speckle_noise", "probability": 0.1}]]}
    long = [{"name": "speckle_noise", "severities": [1, 2, 3], "probability": 0.5}]
    space = {"noise.train": choices, "optim.lr": {"float": [0.1, 0.2], "when": {"noise.train": [long]}}}
    for params in parse(space, BASE).draws(20):
        assert ("optim.lr" in params) == (params["noise.train"] == ["speckle_noise"])


def test_a_section_may_be_one_choice():
    methods = [{"name": "plain"}, {"name": "pmal", "stages": 2}]
    space = parse(
        {"method": {"choice": methods}, "optim.lr": {"float": [0.1, 0.2], "when": {"method.stages": 2}}}, BASE
    )
    for params in space.draws(20):
        assert ("optim.lr" in params) == (params["method"]["name"] == "pmal")
        assert apply(BASE, params).method.name == params["method"]["name"]


def test_count_of_configurations():
    count = {"optim.name": {"choice": ["sgd", "adamw"]}, "train.epochs": {"int": [2, 8], "step": 3}}
    assert parse(count, BASE).count() == 6
    conditional = {"method.name": SPACE["method.name"], "method.stages": SPACE["method.stages"]}
    assert parse(conditional, BASE).count() == 4
    assert PARSED.count() is None
    assert parse({"train.epochs": {"int": [1, 100_000]}}, BASE).count() is None
    assert parse({}, BASE).count() == 1


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_any_draw_survives_the_way_through_optuna(seed):
    space = PARSED
    params = space.suggest(optuna_study(seed).ask())
    assert space.decode(json.loads(json.dumps(space.encode(params)))) == params
    assert apply(BASE.trial(), params) == apply(BASE.trial(), dict(reversed(params.items())))


# ------------------------------------------------------------------------------------------------------------- refusals
def test_a_refused_combination_names_only_its_own_keys():
    space = {**SPACE, "optim.warmup_epochs": {"int": [0, 3]}}
    assert refused(space) == (
        "can draw {train.epochs: 3, optim.warmup_epochs: 3}, which is refused: optim.warmup_epochs: must be below "
        "train.epochs, but got 3 of 3; narrow a range or add a `when`"
    )


def test_a_rare_condition_is_tried_all_the_same():
    rare = {
        "train.epochs": {"int": [10, 100_000]},
        "optim.warmup_epochs": {"fixed": 5_000, "when": {"train.epochs": 4_321}},
    }
    assert "optim.warmup_epochs: 5000" in refused(rare)


def test_all_wrong_entries_are_told_at_once():
    space = {"optim.rho": {"float": [0, 1]}, "optim.lr": {"flaot": [0, 1]}, "method.stages": {"int": [0, 3]}}
    lines = refused(space).splitlines()
    assert [line.split(": ")[0] for line in lines] == ["optim.rho", "optim.lr.flaot", "method.stages.int.0"]


def test_a_key_of_every_branch_needs_no_condition():
    # data.path is part of two of three sources and cannot be searched at all; the methods share only their name
    shared = [key for key, items in places().items() if key.startswith("method.") and len(items) == len(METHODS)]
    assert shared == ["method.name"]
    assert "measured by" in refused({"data.path": {"choice": ["a"]}})


@pytest.mark.parametrize("key", sorted(places()))
def test_every_setting_of_a_trial_takes_its_own_default_as_fixed(key):
    place = places()[key][0]
    default = place.field.get_default(call_default_factory=True, validated_data={})
    if place.field.is_required() or hasattr(default, "model_dump"):
        return
    name = dict(place.branch).get("method.name")
    entry = {"fixed": json.loads(json.dumps(default)), **({"when": {"method.name": name}} if name else {})}
    space = {key: entry, **({"method.name": {"choice": ["plain", name]}} if name else {})}
    if name and METHODS[name].taught:
        space["method.teacher"] = {"fixed": "another/0123456789abcdef", "when": {"method.name": name}}
    if key == "method.name":
        space = {key: {"fixed": "plain"}}
    if name == "distil":  # of which one loss at least has a weight; a weight of 0 is a loss that is not there
        others = "kd" if key != "method.losses.kd" else "dkd"
        space[f"method.losses.{others}"] = {"fixed": 1.0, "when": {"method.name": name}}
    shared = bool(key_problem(key))  # what all trials share
    with pytest.raises(ProblemsError, match="measured by") if shared else nullcontext():
        parse(space, _with_other_budget(key))


def _with_other_budget(key):
    """One of both kinds of budget stands at its default, nothing, only where the other is set."""
    kinds = {"train.budget.passes": "passes_per_image", "train.budget.passes_per_image": "passes"}
    return apply(BASE, {"train.budget": {kinds[key]: 60}}) if key in kinds else BASE


# ------------------------------------------------------------------------------------------------------------- override
def test_apply_keeps_the_type_and_the_rest():
    changed = apply(BASE, {"optim.sam.rho": 0.2, "train.augment": {"flip": 0.0}})
    assert isinstance(changed, StudyConfig)
    assert (changed.optim.sam.rho, changed.train.augment.flip, changed.name) == (0.2, 0.0, "base")
    assert type(apply(BASE.trial(), {"optim.lr": 0.2})) is TrialConfig
    assert apply(BASE, {}) == BASE


def test_apply_changes_branches_whatever_the_order():
    pmal = apply(BASE, {"method.stages": 2, "method.name": "pmal"})
    assert pmal.method.model_dump()["stages"] == 2
    plain = apply(pmal, {"method.name": "plain"})
    assert plain.method.model_dump() == {"name": "plain"}


def test_apply_is_the_same_on_a_config_that_was_read_back():
    config = apply(BASE.trial(), {"method.name": "pmal", "optim.lr": 0.2})
    back = TrialConfig.model_validate(json.loads(config.model_dump_json()))
    for overrides in ({"method.name": "plain"}, {"method.stages": 1}, {"train.seed": 5}):
        assert apply(back, overrides) == apply(config, overrides)


def test_apply_refuses_in_words():
    with pytest.raises(ProblemsError, match=r"^optim\.rho: is no setting; near: optim\.sam\.rho$"):
        apply(BASE, {"optim.rho": 1})
    with pytest.raises(ValueError, match=r"train\.epochs: must be a whole number from 1 to 100000, but got 0"):
        apply(BASE.trial(), {"train.epochs": 0})


def test_written_holds_what_differs_and_what_chooses_a_branch():
    config = StudyConfig.model_validate({"name": "a", "optim": {"lr": 0.05, "sam": {"rho": 0.2}}})
    assert written(config) == {
        "data": {"source": "synthetic-vehicles"},
        "method": {"name": "plain"},
        "task": {"name": "classification"},
        "optim": {"sam": {"rho": 0.2}},
        "name": "a",
    }
    assert StudyConfig.model_validate(written(config)) == config


def test_a_phase_sees_its_own_settings_and_search():
    study = StudyConfig.model_validate(
        {
            "name": "a",
            "search": {"trials": 4},
            "phases": [
                {"kind": "search", "name": "s", "set": {"train.epochs": 2}, "search": {"trials": 9}},
                {"kind": "train", "name": "t"},
            ],
        }
    )
    first, second = (for_phase(study, phase) for phase in study.phases)
    assert (first.train.epochs, first.search.trials) == (2, 9)
    assert second == study


# ----------------------------------------------------------------------------------------------------------------- keys
def test_near_keys_go_by_writing_and_by_description():
    assert near_keys("optim.rho") == ["optim.sam.rho"]
    assert near_keys("optim.learning_rate")[0] == "optim.lr"
    assert near("train.epoch", places())[0] == "train.epochs"
    assert near("zzz", places()) == []


def test_unions_name_their_branches():
    assert set(unions()) == {"data.source", "method.name", "task.name"}
    assert {"plain", "pmal"} <= set(unions()["method.name"])


def test_canonical_form_of_two_ways_to_write_a_value():
    short = canonical("noise.train", ["speckle_noise"])
    assert short == canonical("noise.train", [{"name": "speckle_noise", "severities": [1, 2, 3], "probability": 0.5}])
    assert canonical("optim.sam.rho", 1) == 1.0
