"""How Ray is started."""

from study.runtime import cluster_settings, local_settings


def test_without_an_address_no_head_of_this_machine_is_joined() -> None:
    assert local_settings()["address"] == "local"
    assert cluster_settings("10.0.0.1:6379")["address"] == "10.0.0.1:6379"
