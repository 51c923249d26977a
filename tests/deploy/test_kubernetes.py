"""The Kubernetes manifests: valid, and everything that one names is in another."""

from __future__ import annotations

import json
import re
import tomllib
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml
from support.kubernetes import (
    KUBERNETES,
    OVERLAYS,
    WITH_GPU,
    WITH_RAY,
    Object,
    named,
    of_kind,
    pods_of,
    rendered,
    selects,
    variables,
    whole_files,
)

from service.settings import PREFIX, Settings, load_settings

ROOT = KUBERNETES.parents[1]
PAGE = (ROOT / "docs/kubernetes.md").read_text()
VERSIONS = ["1.31", kubernetes_validate.latest_version()]
"""The oldest that the page names, and the newest that is known."""


def problem(thing: Object, version: str) -> str | None:
    return _problem(json.dumps(thing), version)


@cache
def _problem(written: str, version: str) -> str | None:
    """Of one object; most overlays have the same ones, and each look reads a megabyte of schema."""
    thing = json.loads(written)
    try:
        kubernetes_validate.validate(thing, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{thing['kind']} {thing['metadata']['name']}: {error.message}"
    return None


@pytest.fixture(params=OVERLAYS)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return rendered(request.param)


@pytest.mark.parametrize("version", VERSIONS)
class TestSchema:
    def test_every_object_is_valid(self, objects: list[Object], version: str) -> None:
        own = [one for one in objects if one["kind"] != "ScaledObject"]
        assert [found for one in own if (found := problem(one, version))] == []

    def test_the_files_are_valid_before_they_are_put_together(self, version: str) -> None:
        documents = [one for file in whole_files() for one in yaml.safe_load_all(file.read_text())]
        own = [one for one in documents if one["kind"] != "ScaledObject"]
        assert len(own) > 20
        assert [found for one in own if (found := problem(one, version))] == []

    def test_the_autoscaler_that_keda_makes_is_valid(self, version: str) -> None:
        scaled = named(rendered("gpu-scaled"), "ScaledObject", "follower")["spec"]
        autoscaler = {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "follower"},
            "spec": {
                "scaleTargetRef": scaled["scaleTargetRef"],
                "minReplicas": scaled["minReplicaCount"],
                "maxReplicas": scaled["maxReplicaCount"],
                **scaled["advanced"]["horizontalPodAutoscalerConfig"],
            },
        }
        assert problem(autoscaler, version) is None


class TestSelectors:
    def test_workloads_select_their_own_pods_and_no_others(self, objects: list[Object]) -> None:
        every = pods_of(objects)
        for one in every.values():
            selector = one.workload["spec"]["selector"]
            assert [p.name for p in every.values() if selects(selector, p.labels)] == [one.name]

    def test_services_and_budgets_select_the_pods_of_their_name(
        self, objects: list[Object]
    ) -> None:
        every = pods_of(objects).values()
        for one in of_kind(objects, "Service", "PodDisruptionBudget"):
            selector = one["spec"]["selector"]
            selector = selector if "matchLabels" in selector else {"matchLabels": selector}
            found = [pods.name for pods in every if selects(selector, pods.labels)]
            assert found == [one["metadata"]["name"]]

    def test_every_selector_of_a_policy_finds_pods(self, objects: list[Object]) -> None:
        every = [pods.labels for pods in pods_of(objects).values()]
        for policy in of_kind(objects, "NetworkPolicy"):
            spec = policy["spec"]
            peers = [p for rule in spec.get("ingress", ()) for p in rule["from"]]
            peers += [p for rule in spec.get("egress", ()) for p in rule["to"]]
            selectors = [p["podSelector"] for p in peers if "podSelector" in p]
            for selector in [spec["podSelector"], *selectors]:
                assert any(selects(selector, labels) for labels in every), policy["metadata"]
                wanted = selector.get("matchExpressions", ())
                names = {pods.name for pods in pods_of(objects).values()}
                assert all({*rule["values"]} <= names for rule in wanted)

    def test_a_set_s_service_exists(self, objects: list[Object]) -> None:
        for one in of_kind(objects, "StatefulSet"):
            assert named(objects, "Service", one["spec"]["serviceName"])


class TestReferences:
    def test_volumes_that_are_mounted_exist_and_the_others_too(self, objects: list[Object]) -> None:
        for pods in pods_of(objects).values():
            templates = pods.workload["spec"].get("volumeClaimTemplates", ())
            there = [one["name"] for one in pods.spec["volumes"]]
            there += [one["metadata"]["name"] for one in templates]
            mounted = {m["name"] for one in pods.containers for m in one["volumeMounts"]}
            assert mounted == {*there}
            assert len({*there}) == len(there)

    def test_claims_and_configurations_that_are_named_exist(self, objects: list[Object]) -> None:
        claims = {one["metadata"]["name"] for one in of_kind(objects, "PersistentVolumeClaim")}
        asked = {
            volume["persistentVolumeClaim"]["claimName"]
            for pods in pods_of(objects).values()
            for volume in pods.spec["volumes"]
            if "persistentVolumeClaim" in volume
        }
        assert asked == claims
        for pods in pods_of(objects).values():
            for container in pods.containers:
                assert variables(container, objects) is not None

    def test_the_page_says_how_every_secret_is_made(self, objects: list[Object]) -> None:
        for pods in pods_of(objects).values():
            for volume in pods.spec["volumes"]:
                if secret := volume.get("secret"):
                    command = re.search(rf"secret generic {secret['secretName']} .*", PAGE)
                    assert command, secret
                    for item in secret["items"]:
                        assert f"--from-file={item['key']}=" in command[0]

    def test_a_secret_of_a_setting_has_its_name(self, objects: list[Object]) -> None:
        for name in {"api", "writer", "follower"}:
            volumes = {one["name"]: one for one in pods_of(objects)[name].spec["volumes"]}
            for item in volumes["secrets"]["secret"]["items"]:
                assert item["path"].removeprefix("jeep_") in Settings.model_fields

    def test_images_have_tags_and_ours_the_version(self, objects: list[Object]) -> None:
        version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
        for pods in pods_of(objects).values():
            for container in pods.containers:
                name, _, tag = container["image"].partition(":")
                assert tag not in ("", "latest")
                assert not name.startswith("jeep-") or tag == version


class TestPorts:
    def test_services_and_probes_name_ports_that_their_containers_have(
        self, objects: list[Object]
    ) -> None:
        every = pods_of(objects)
        for service in of_kind(objects, "Service"):
            ports = every[service["metadata"]["name"]].ports
            assert all(p["targetPort"] in ports for p in service["spec"].get("ports", ()))
        for pods in every.values():
            for container in pods.containers:
                probes = [v for k, v in container.items() if k.endswith("Probe")]
                asked = [p.get("httpGet") or p.get("tcpSocket") for p in probes]
                assert all(one["port"] in pods.ports for one in asked if one)

    def test_policies_open_ports_that_their_pods_have(self, objects: list[Object]) -> None:
        every = pods_of(objects).values()
        for policy in of_kind(objects, "NetworkPolicy"):
            rules = policy["spec"].get("ingress", ())
            opened = {port["port"] for rule in rules for port in rule.get("ports", ())}
            for pods in every:
                if opened and selects(policy["spec"]["podSelector"], pods.labels):
                    assert opened <= {*pods.ports.values()}

    def test_addresses_are_those_of_services(self, objects: list[Object]) -> None:
        every = pods_of(objects)
        for pods in every.values():
            for container in pods.containers:
                given = variables(container, objects)
                urls = [given.get("JEEP_REDIS_URL")]
                if address := given.get("JEEP_EXECUTOR_ADDRESS"):
                    urls.append(f"ray://{address}")
                urls += [
                    f"ray://{a[10:]}" for a in container.get("command", ()) if "--address=" in a
                ]
                for url in filter(None, urls):
                    host, port = urlsplit(url).hostname, urlsplit(url).port
                    [offered] = named(objects, "Service", str(host))["spec"]["ports"]
                    assert offered["port"] == port == every[str(host)].ports[offered["targetPort"]]

    def test_the_api_listens_where_its_port_is_declared(self, objects: list[Object]) -> None:
        api = pods_of(objects)["api"]
        given = variables(api.container("api"), objects)
        assert given["JEEP_HOST"] == "0.0.0.0"
        assert int(given["JEEP_PORT"]) == api.ports["http"]


class TestSettings:
    def test_variables_are_settings_with_values_that_are_taken(
        self, objects: list[Object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known = {PREFIX + name.upper() for name in Settings.model_fields}
        for name in ("api", "writer", "follower"):
            pods = pods_of(objects)[name]
            given = variables(pods.spec["containers"][0], objects)
            ours = {key: value for key, value in given.items() if key.startswith(PREFIX)}
            assert ours.keys() <= known
            with monkeypatch.context() as environment:
                for key, value in ours.items():
                    environment.setenv(key, value)
                assert load_settings().role == ("follower" if name == "follower" else "writer")

    def test_workers_have_longer_to_end_than_they_drain(
        self, objects: list[Object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("writer", "follower"):
            pods = pods_of(objects)[name]
            given = variables(pods.container("worker"), objects)
            monkeypatch.setenv("JEEP_DRAIN_S", given["JEEP_DRAIN_S"])
            assert pods.spec["terminationGracePeriodSeconds"] >= load_settings().drain_s + 30

    @pytest.mark.parametrize("name", ["api", "writer", "follower"])
    def test_parts_are_asked_as_their_images_ask_them(self, name: str) -> None:
        container = pods_of(rendered("cpu"))[name].spec["containers"][0]
        part = "api" if name == "api" else "worker"
        assert container["image"].startswith(f"jeep-{part}:")
        for probe in ("startupProbe", "readinessProbe"):
            if part == "api":
                assert container[probe]["httpGet"]["path"] == "/livez"
            else:
                command = container[probe]["exec"]["command"]
                assert command == ["python3", "-m", "service.ops.health", "worker"]
        # the check fails while the queue is away, and must not end what works on
        assert ("livenessProbe" in container) == (part == "api")

    def test_the_queue_s_server_refuses_before_its_container_is_killed(self) -> None:
        """Without a limit of its own its policy of memory never holds."""
        [container] = pods_of(rendered("cpu"))["valkey"].containers
        command = container["command"][-1]
        assert "--maxmemory-policy noeviction" in command
        [own] = re.findall(r"--maxmemory (\d+)mb", command)
        [whole] = re.findall(r"^(\d+)Gi$", container["resources"]["limits"]["memory"])
        assert 0.5 <= int(own) / (int(whole) * 1024) <= 0.75


class TestGpus:
    @pytest.mark.parametrize("overlay", OVERLAYS)
    def test_only_overlays_for_gpus_ask_for_them(self, overlay: str) -> None:
        asked = {
            name
            for name, pods in pods_of(rendered(overlay)).items()
            for container in pods.containers
            if container["resources"]["limits"].get("nvidia.com/gpu") == 1
        }
        wanted = {"writer", "follower"} if overlay in WITH_GPU else set()
        assert asked == wanted | ({"ray-worker"} if overlay == "gpu-ray" else set())

    @pytest.mark.parametrize("overlay", WITH_RAY)
    def test_ray_has_room_for_the_actors_of_both_lanes(
        self, overlay: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        every = pods_of(rendered(overlay))
        given = variables(every["writer"].container("worker"), rendered(overlay))
        for key, value in given.items():
            monkeypatch.setenv(key, value)
        settings = load_settings()
        [node] = every["ray-worker"].containers
        nodes = every["ray-worker"].workload["spec"]["replicas"]
        [cpus] = [int(a.partition("=")[2]) for a in node["command"] if a.startswith("--num-cpus=")]
        assert int(node["resources"]["limits"]["cpu"]) == cpus
        assert nodes * (cpus // settings.executor_cpus) >= 2 * settings.executor_workers
        gpus = node["resources"]["limits"].get("nvidia.com/gpu", 0)
        assert bool(gpus) == bool(settings.executor_gpus)
        if gpus:
            assert nodes * (gpus // settings.executor_gpus) >= 2 * settings.executor_workers


class TestAutoscaling:
    def test_followers_are_scaled_by_metrics_that_exist(self) -> None:
        metrics = json.loads((Path(__file__).parent / "metric_names.json").read_text())
        scaled = named(rendered("gpu-scaled"), "ScaledObject", "follower")["spec"]
        queries = [trigger["metadata"]["query"] for trigger in scaled["triggers"]]
        assert any("jeep_queue_oldest_age_seconds" in query for query in queries)
        for query in queries:
            [name] = re.findall(r"jeep_\w+", query)
            labels = re.findall(r"\{(\w+)=|by \((\w+)\)", query)
            assert {one for pair in labels for one in pair if one} <= {*metrics[name]}

    def test_whoever_scales_owns_the_number(self) -> None:
        objects = rendered("gpu-scaled")
        target = named(objects, "ScaledObject", "follower")["spec"]["scaleTargetRef"]
        follower = named(objects, target["kind"], target["name"])
        assert follower["apiVersion"] == target["apiVersion"]
        assert "replicas" not in follower["spec"]
        assert follower["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 1
