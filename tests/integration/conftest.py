"""One local Ray for all integration tests of a session."""

from collections.abc import Iterator

import pytest

from study.config_search import ResourcesConfig
from study.preflight import check_fit
from study.runtime import Runtime

NUM_CPUS = 2


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A Ray of two CPUs that only this machine can reach."""
    import ray

    from study.runtime import local_settings

    assert not ray.is_initialized(), "another test left its Ray running"
    ray.init(num_cpus=NUM_CPUS, **local_settings())
    yield
    ray.shutdown()


@pytest.fixture
def runtime_of(local_ray):
    """Makes a Runtime on the shared Ray: `runtime_of(workers_per_trial=2)`."""

    def make(**resources) -> Runtime:
        config = ResourcesConfig(**resources)
        return Runtime(config, check_fit(config, [{"CPU": float(NUM_CPUS)}]), is_ours=False)

    return make
