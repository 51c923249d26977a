"""The profiles ``cluster`` (followers) and ``ray`` of the compose file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import PREFIX, Settings

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
WHOLE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = WHOLE["services"]
RAY = {"ray-head", "ray-worker", "ray-member"}


def words(service: str) -> str:
    command = SERVICES[service].get("command") or [""]
    return command[-1] if command[0] == "sh" else " ".join(command)


def owner_of(service: str) -> str:
    """The service whose networks it is in."""
    mode = SERVICES[service].get("network_mode", "")
    return mode.removeprefix("service:") or service


def test_the_profiles_have_what_is_needed_and_the_rest_starts_without_them() -> None:
    for profile, names in (("cluster", {"follower"}), ("ray", RAY)):
        assert {name for name, one in SERVICES.items() if one.get("profiles") == [profile]} == names
    started = {name for name, one in SERVICES.items() if "profiles" not in one}
    assert started == {"valkey", "worker", "api"}
    for name in started:
        assert started >= {*SERVICES[name].get("depends_on", ())}


def test_there_is_one_writer_and_so_many_followers_of_its_store() -> None:
    writer, follower = SERVICES["worker"], SERVICES["follower"]
    assert "scale" not in writer
    assert "JEEP_ROLE" not in writer["environment"]
    assert follower["environment"]["JEEP_ROLE"] == "follower"
    assert follower["scale"] == "${JEEP_FOLLOWERS:-2}"
    assert {"store:/store", "cache:/cache"} < {*follower["volumes"]}
    assert follower["image"] == writer["image"]
    # a host name of its own: its health is that of the follower on this host
    assert "hostname" not in follower


def test_variables_are_settings() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name, service in SERVICES.items():
        given = {key for key in service.get("environment", {}) if key.startswith(PREFIX)}
        assert given <= known, name


def test_containers_have_longer_to_end_than_they_drain() -> None:
    for name in ("worker", "follower"):
        grace = SERVICES[name]["stop_grace_period"]
        assert int(grace.removesuffix("s")) >= Settings.model_fields["drain_s"].default + 30


class TestRay:
    def test_its_nodes_have_an_image_with_ray_unless_it_is_left_out(self) -> None:
        """Else they would end and be started again for ever."""
        built = SERVICES["worker"]["build"]["args"]["EXTRAS"]
        extras = built.removeprefix("${WORKER_EXTRAS:-").removesuffix("}")
        assert extras.split(",") == ["worker", "ray"]
        assert {SERVICES[name]["image"] for name in RAY} == {SERVICES["worker"]["image"]}

    def test_actors_have_a_share_of_the_gpu_where_the_writer_has_one(self) -> None:
        share = SERVICES["worker"]["environment"]["JEEP_EXECUTOR_GPUS"]
        assert share == "${JEEP_EXECUTOR_GPUS:-0.5}"
        without = (DEPLOY / "compose.cpu.yaml").read_text()
        assert 'JEEP_DEVICE: cpu\n      JEEP_EXECUTOR_GPUS: "0"\n' in without

    @pytest.mark.parametrize("name", ["ray-head", "ray-worker", "ray-member"])
    def test_a_node_asks_for_the_token_and_has_no_dashboard(self, name: str) -> None:
        node = SERVICES[name]
        assert node["environment"]["RAY_AUTH_MODE"] == "token"
        [secret] = node["secrets"]
        assert node["environment"]["RAY_AUTH_TOKEN_PATH"] == f"/run/secrets/{secret}"
        assert "ray start" in words(name)
        assert "--block" in words(name)
        assert "--disable-usage-stats" in words(name)
        assert ("--head" in words(name)) == ("--include-dashboard=false" in words(name))
        assert "ports" not in node

    def test_its_ports_are_open_to_the_writer_and_its_nodes_alone(self) -> None:
        """A node listens on every address of its container, in whatever network that is."""
        nodes = {name for name in SERVICES if "ray start" in words(name)}
        assert nodes == {"ray-head", "ray-worker", "ray-member"}
        inside = nodes | {owner_of(name) for name in nodes}
        assert inside - nodes == {"worker"}
        open_to = set[str]()
        for name in nodes:
            shared = {*SERVICES[owner_of(name)]["networks"]}
            open_to |= {n for n in SERVICES if shared & {*SERVICES[owner_of(n)]["networks"]}}
        # the queue's server is spoken to by the writer, and runs no code of others
        assert open_to == inside | {"valkey"}
        assert {*SERVICES["valkey"]["networks"]}.isdisjoint(SERVICES["ray-head"]["networks"])
        assert SERVICES["ray-head"]["networks"] == SERVICES["ray-worker"]["networks"] == ["ray"]
        for name in SERVICES["worker"]["networks"]:
            assert WHOLE["networks"][name] == {"internal": True}

    def test_api_and_followers_reach_the_queue_by_another_network_than_the_writer(self) -> None:
        for name in ("worker", "follower", "api"):
            assert {*SERVICES[name]["networks"]} & {*SERVICES["valkey"]["networks"]}, name
        assert {*SERVICES["worker"]["networks"]}.isdisjoint(SERVICES["follower"]["networks"])

    def test_the_writer_and_its_node_are_one_machine_to_ray(self) -> None:
        member, writer = SERVICES["ray-member"], SERVICES["worker"]
        assert {member[key] for key in ("network_mode", "pid", "ipc")} == {"service:worker"}
        assert writer["ipc"] == "shareable"
        assert "networks" not in member
        [shared] = member["volumes"]
        assert shared in writer["volumes"]
        assert member["image"] == writer["image"]
        for key, value in member["environment"].items():
            assert key == "HF_HUB_OFFLINE" or writer["environment"][key] == value
        assert {*member["secrets"]} < {*writer["secrets"]}

    def test_addresses_are_those_of_the_head(self) -> None:
        assert "--port=6379" in words("ray-head")
        for name in ("ray-worker", "ray-member"):
            assert "--address=ray-head:6379" in words(name)
        address = SERVICES["worker"]["environment"]["JEEP_EXECUTOR_ADDRESS"]
        assert address == "${JEEP_EXECUTOR_ADDRESS:-ray-head:6379}"

    def test_only_the_writer_speaks_to_it(self) -> None:
        assert SERVICES["follower"]["environment"]["JEEP_EXECUTOR"] == "here"
        assert "RAY_AUTH_TOKEN_PATH" not in SERVICES["api"]["environment"]
