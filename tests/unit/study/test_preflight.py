"""Whether a trial fits a cluster, and what is said when it does not."""

import pytest
from pydantic import ValidationError

from study.config_search import ResourcesConfig
from study.nodes import layout, total
from study.preflight import Capacity, check_fit, resolve_executor

SMALL = [{"CPU": 2.0, "memory": 8e9}]
GPUS = [{"CPU": 16.0, "GPU": 4.0}, {"CPU": 16.0, "GPU": 4.0}, {"CPU": 4.0}]


@pytest.mark.parametrize(
    ("settings", "executor"),
    [
        ({}, "inline"),
        ({"workers_per_trial": 2}, "ray_train"),
        ({"gpus_per_worker": 0.5}, "ray_train"),
        ({"gpus_per_worker": 1, "executor": "inline"}, "inline"),
        ({"executor": "ray_train"}, "ray_train"),
    ],
)
def test_executor(settings, executor):
    assert resolve_executor(ResourcesConfig(**settings)) == executor


def test_inline_trials_fill_the_cpus():
    assert check_fit(ResourcesConfig(), SMALL) == Capacity("inline", 2, {"CPU": 1.0})


def test_workers_of_one_trial_may_take_every_cpu():
    """The function that starts them takes no share of a CPU, or the last worker would wait for ever."""
    capacity = check_fit(ResourcesConfig(workers_per_trial=2), SMALL)
    assert capacity.max_concurrent == 1
    assert "CPU" not in capacity.per_trial


def test_concurrency_counts_places_on_each_node():
    """Three CPUs on each of two nodes hold one worker of two CPUs each, not three."""
    nodes = [{"CPU": 3.0}, {"CPU": 3.0}]
    assert check_fit(ResourcesConfig(cpus_per_worker=2), nodes).max_concurrent == 2
    assert check_fit(ResourcesConfig(cpus_per_worker=2, workers_per_trial=2), nodes).max_concurrent == 1


def test_gpus_bind_before_cpus():
    assert check_fit(ResourcesConfig(workers_per_trial=4, gpus_per_worker=1), GPUS).max_concurrent == 2


def test_shared_gpus():
    assert check_fit(ResourcesConfig(gpus_per_worker=0.25, executor="inline"), GPUS).max_concurrent == 32


def test_fractions_of_a_cpu_are_counted_whole():
    assert check_fit(ResourcesConfig(cpus_per_worker=0.1), [{"CPU": 0.3}]).max_concurrent == 3


def test_user_lowers_the_concurrency():
    assert check_fit(ResourcesConfig(max_concurrent=1), SMALL).max_concurrent == 1


def test_worker_groups_never_exceed_what_fits():
    resources = ResourcesConfig(workers_per_trial=4, gpus_per_worker=1, max_concurrent=50)
    assert check_fit(resources, GPUS).max_concurrent == 2


def test_inline_trials_may_wait_for_a_cluster_to_grow():
    assert check_fit(ResourcesConfig(max_concurrent=50), SMALL).max_concurrent == 50


EIGHT = [{"CPU": 32.0, "GPU": 8.0}]


@pytest.mark.parametrize(
    ("share", "trials"), [(1, 8), (0.6, 8), (0.5, 16), (0.34, 16), (0.33, 24), (0.3, 24), (0.25, 32), (0.1, 80)]
)
def test_a_share_of_a_gpu_lies_on_one_gpu(share, trials):
    """Two of 0.6 do not meet on three GPUs' rests; Ray would keep the ninth waiting for ever."""
    resources = ResourcesConfig(gpus_per_worker=share, cpus_per_worker=0.1, executor="inline")
    assert check_fit(resources, EIGHT).max_concurrent == trials


def test_several_gpus_for_each_trial_over_nodes():
    resources = ResourcesConfig(workers_per_trial=6, gpus_per_worker=1, cpus_per_worker=2)
    assert check_fit(resources, [{"CPU": 8.0, "GPU": 4.0}] * 3).max_concurrent == 2


@pytest.mark.parametrize(
    ("nodes", "trials"),
    [([{"CPU": 1.0}], 1), ([{"CPU": 4.0}], 1), ([{"CPU": 5.0}], 2), ([{"CPU": 4.0}, {"CPU": 4.0}], 2)],
)
def test_a_trial_of_one_to_four_workers_takes_what_is_there(nodes, trials):
    resources = ResourcesConfig(workers_per_trial=[1, 4])
    assert (resources.min_workers, resources.max_workers) == (1, 4)
    assert resolve_executor(resources) == "ray_train"
    assert check_fit(resources, nodes).max_concurrent == trials


def test_fewer_than_the_least_do_not_fit():
    with pytest.raises(
        ValueError, match=r"needs 2 workers with 1 CPU each, but only 1 of 2.*workers_per_trial\.min to 1"
    ):
        check_fit(ResourcesConfig(workers_per_trial={"min": 2, "max": 4}), [{"CPU": 1.0}])


def test_a_range_is_kept_in_records_as_it_was_meant():
    resources = ResourcesConfig(workers_per_trial=[1, 4])
    assert resources.model_dump(mode="json")["workers_per_trial"] == {"min": 1, "max": 4}
    assert ResourcesConfig(**resources.model_dump(mode="json")) == resources


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"workers_per_trial": [4, 1]}, "min must be below max, but got 4 and 1"),
        ({"workers_per_trial": [1, 4], "gpus_per_worker": 0.5}, "must be one number where a worker takes a fraction"),
        ({"workers_per_trial": [1, 4], "executor": "inline"}, "inline runs one worker"),
        ({"gpus_per_worker": 2}, "at most 1, as a worker trains on one GPU, but got 2; .*set workers_per_trial"),
    ],
)
def test_resources_that_make_no_sense(settings, words):
    with pytest.raises(ValidationError, match=words):
        ResourcesConfig(**settings)


def test_layout_says_what_each_kind_of_node_holds():
    resources = ResourcesConfig(workers_per_trial=4, gpus_per_worker=1, cpus_per_worker=2)
    assert layout(resources, GPUS) == [
        "2 nodes with 16 CPUs and 4 GPUs: 4 workers each",
        "1 node with 4 CPUs: no worker, ever",
    ]
    assert total(GPUS) == {"CPU": 36.0, "GPU": 8.0}


@pytest.mark.parametrize(
    ("settings", "nodes", "words"),
    [
        ({"gpus_per_worker": 1}, SMALL, ["no node has 1 GPU", "0 GPUs", "lower resources.gpus_per_worker"]),
        ({"cpus_per_worker": 4}, SMALL, ["no node has 4 CPUs", "2 CPUs", "lower resources.cpus_per_worker"]),
        ({"workers_per_trial": 3}, SMALL, ["only 2 of 3 workers", "set resources.workers_per_trial to 2"]),
        (
            {"cpus_per_worker": 8, "gpus_per_worker": 1},
            [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 16.0}],
            ["only 0 of 1 workers", "lower resources.cpus_per_worker"],
        ),
        ({}, [], ["no living node", "larger cluster"]),
    ],
)
def test_refusal_says_what_is_missing_and_the_way_out(settings, nodes, words):
    with pytest.raises(ValueError, match="resources: a trial needs") as caught:
        check_fit(ResourcesConfig(**settings), nodes)
    assert [word for word in words if word not in str(caught.value)] == []
