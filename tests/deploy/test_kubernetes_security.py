"""The Kubernetes manifests: what pods may do, whom they reach, and how many there are."""

from __future__ import annotations

import pytest
from support.kubernetes import (
    APART,
    INTERNET,
    OVERLAYS,
    STRANGER,
    WITH_RAY,
    Object,
    may_reach,
    named,
    of_kind,
    pods_of,
    rendered,
    variables,
)

RAY = {"ray-head", "ray-worker", "writer"}
STORE = {"api", "writer", "follower"}


@pytest.fixture(params=OVERLAYS)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return rendered(request.param)


def test_the_namespace_takes_restricted_pods_only(objects: list[Object]) -> None:
    namespace = named(objects, "Namespace", "jeep")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    others = [one for one in objects if one["kind"] != "Namespace"]
    assert {one["metadata"]["namespace"] for one in others} == {"jeep"}


def test_every_pod_drops_its_privileges(objects: list[Object]) -> None:
    for pods in pods_of(objects).values():
        pod = pods.spec["securityContext"]
        assert pod["runAsNonRoot"] is True
        assert pod["runAsUser"] == pod["runAsGroup"] == pod["fsGroup"] != 0
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pods.containers:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pods.spec.keys()
        kinds = {kind for volume in pods.spec["volumes"] for kind in volume} - {"name"}
        assert kinds <= {"emptyDir", "persistentVolumeClaim", "secret"}


def test_no_pod_has_a_token_of_the_cluster_or_variables_of_its_services(
    objects: list[Object],
) -> None:
    for pods in pods_of(objects).values():
        assert pods.spec["automountServiceAccountToken"] is False
        # a service `ray-head` would set RAY_HEAD_PORT, one named `jeep` JEEP_PORT
        assert pods.spec["enableServiceLinks"] is False


def test_secrets_are_files_and_in_no_environment_or_manifest(objects: list[Object]) -> None:
    assert of_kind(objects, "Secret") == []
    for pods in pods_of(objects).values():
        for container in pods.containers:
            sources = [one["valueFrom"] for one in container.get("env", ()) if "valueFrom" in one]
            assert all("secretKeyRef" not in source for source in sources)
            assert all("secretRef" not in source for source in container.get("envFrom", ()))
            names = {mount["name"] for mount in container["volumeMounts"] if "readOnly" in mount}
            secrets = {volume["name"] for volume in pods.spec["volumes"] if "secret" in volume}
            assert names & secrets == secrets & {m["name"] for m in container["volumeMounts"]}
        for volume in pods.spec["volumes"]:
            if secret := volume.get("secret"):
                assert secret["defaultMode"] == 0o440


def test_containers_have_requests_and_a_limit_of_memory(objects: list[Object]) -> None:
    for pods in pods_of(objects).values():
        for container in pods.containers:
            resources = container["resources"]
            assert resources["requests"].keys() == {"cpu", "memory"}
            assert "memory" in resources["limits"]
        for volume in pods.spec["volumes"]:
            assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"]


class TestNetwork:
    def test_what_no_policy_names_is_closed(self, objects: list[Object]) -> None:
        closed = named(objects, "NetworkPolicy", "nothing")["spec"]
        assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}

    def test_the_api_alone_can_be_reached_from_elsewhere(self, objects: list[Object]) -> None:
        for name, pods in pods_of(objects).items():
            for port in {*pods.ports.values(), 9999}:
                reached = may_reach(objects, STRANGER, name, port)
                assert reached == ((name, port) == ("api", 8000)), (name, port)
                assert not may_reach(objects, INTERNET, name, port)

    def test_no_pod_reaches_anything_outside(self, objects: list[Object]) -> None:
        for name in pods_of(objects):
            assert not may_reach(objects, name, INTERNET, 443)
            assert not may_reach(objects, name, STRANGER, 443)

    def test_the_queue_is_reached_by_those_who_have_its_password(
        self, objects: list[Object]
    ) -> None:
        every = pods_of(objects)
        reach = {name for name in every if may_reach(objects, name, "valkey", 6379)}
        having = {
            name
            for name, pods in every.items()
            for volume in pods.spec["volumes"]
            for item in volume.get("secret", {}).get("items", ())
            if item["key"] == "redis_password"
        }
        assert reach == STORE == having - {"valkey"}

    @pytest.mark.parametrize("overlay", WITH_RAY)
    def test_ray_s_ports_are_open_to_those_who_have_its_token(self, overlay: str) -> None:
        objects = rendered(overlay)
        every = pods_of(objects)
        for receiver in RAY:
            for port in (6379, 6380, 40123):
                senders = {name for name in every if may_reach(objects, name, receiver, port)}
                assert senders == RAY
        having = {
            name
            for name, pods in every.items()
            if "jeep-ray" in [v.get("secret", {}).get("secretName") for v in pods.spec["volumes"]]
        }
        assert having == RAY

    def test_without_ray_no_pod_reaches_a_worker(self) -> None:
        objects = rendered("cpu")
        for sender in [*pods_of(objects), STRANGER]:
            assert not may_reach(objects, sender, "writer", 40123)
            assert not may_reach(objects, sender, "follower", 40123)


class TestRay:
    @pytest.mark.parametrize("overlay", WITH_RAY)
    def test_every_node_asks_for_the_token_and_has_no_dashboard(self, overlay: str) -> None:
        objects = rendered(overlay)
        nodes = []
        for pods in pods_of(objects).values():
            for container in pods.containers:
                command = container.get("command", [])
                if container["name"] == "ray":
                    nodes.append(pods.name)
                    assert command[:2] == ["ray", "start"]
                    assert {"--block", "--disable-usage-stats"} < {*command}
                    assert ("--head" in command) == ("--include-dashboard=false" in command)
                    assert not [one for one in command if "client-server" in one]
                if container["name"] == "ray" or pods.name == "writer":
                    given = variables(container, objects)
                    assert given["RAY_AUTH_MODE"] == "token"
                    assert given["RAY_USAGE_STATS_ENABLED"] == "0"
                    folder = given["RAY_AUTH_TOKEN_PATH"].rpartition("/")[0]
                    assert folder in [mount["mountPath"] for mount in container["volumeMounts"]]
        assert {*nodes} == RAY

    @pytest.mark.parametrize("overlay", WITH_RAY)
    def test_the_writer_and_its_node_are_one_machine_to_ray(self, overlay: str) -> None:
        objects = rendered(overlay)
        writer = pods_of(objects)["writer"]
        node, worker = writer.container("ray"), writer.container("worker")
        assert writer.spec["shareProcessNamespace"] is True
        assert node["restartPolicy"] == "Always"
        assert node["image"] == worker["image"]
        for path in ("/tmp", "/dev/shm"):
            [shared] = {
                mount["name"]
                for one in (node, worker)
                for mount in one["volumeMounts"]
                if mount["mountPath"] == path
            }
            assert shared

    @pytest.mark.parametrize("overlay", WITH_RAY)
    def test_nodes_have_the_image_and_models_of_the_writer_and_nothing_of_the_store(
        self, overlay: str
    ) -> None:
        objects = rendered(overlay)
        every = pods_of(objects)
        images = {every[name].container("ray")["image"] for name in RAY}
        assert len(images) == 1
        assert "/models" in [
            mount["mountPath"] for mount in every["ray-worker"].containers[0]["volumeMounts"]
        ]
        modes = named(objects, "PersistentVolumeClaim", "models")["spec"]["accessModes"]
        assert modes == ["ReadWriteMany"]
        followers = variables(every["follower"].container("worker"), objects)
        assert followers.get("JEEP_EXECUTOR", "here") == "here"


class TestStore:
    @pytest.mark.parametrize("overlay", OVERLAYS)
    def test_pods_with_the_store_are_on_the_node_of_the_store(self, overlay: str) -> None:
        objects, having = rendered(overlay), STORE - ({"follower"} if overlay in APART else set())
        for name, pods in pods_of(objects).items():
            claims = [v.get("persistentVolumeClaim", {}) for v in pods.spec["volumes"]]
            has_store = "store" in [claim.get("claimName") for claim in claims]
            assert has_store == (name in having)
            assert (pods.spec.get("nodeSelector") == {"jeep-edit/store": "here"}) == has_store
        store = named(objects, "PersistentVolumeClaim", "store")
        assert store["spec"]["accessModes"] == ["ReadWriteOnce"]

    @pytest.mark.parametrize("overlay", APART)
    def test_followers_without_it_have_a_folder_and_a_way_to_the_api(self, overlay: str) -> None:
        objects = rendered(overlay)
        follower = pods_of(objects)["follower"]
        given = variables(follower.container("worker"), objects)
        assert given["JEEP_STORE_URL"] == "http://api"
        [offered] = named(objects, "Service", "api")["spec"]["ports"]
        assert (offered["port"], may_reach(objects, "follower", "api", 8000)) == (80, True)
        [own] = [one for one in follower.spec["volumes"] if one["name"] == "store"]
        room_gb = int(own["emptyDir"]["sizeLimit"].removesuffix("Gi"))
        assert int(given["JEEP_STORE_CACHE_MB"]) < 1000 * room_gb
        keys = [item["path"] for volume in follower.spec["volumes"]
                for item in volume.get("secret", {}).get("items", ())]  # fmt: skip
        assert sorted(keys) == ["jeep_redis_password", "jeep_store_key"]

    def test_there_is_one_writer_with_a_name_that_stays(self, objects: list[Object]) -> None:
        writers = []
        for pods in pods_of(objects).values():
            for container in pods.containers:
                if variables(container, objects).get("JEEP_ROLE") == "writer":
                    writers.append(pods.workload)
        [writer] = writers
        assert (writer["kind"], writer["spec"]["replicas"]) == ("StatefulSet", 1)

    def test_followers_and_apis_go_one_after_the_other(self, objects: list[Object]) -> None:
        budgets = {one["metadata"]["name"]: one for one in of_kind(objects, "PodDisruptionBudget")}
        assert {"api", "follower"} <= budgets.keys()
        for budget in budgets.values():
            assert budget["spec"]["maxUnavailable"] == 1
            # else one that never becomes ready keeps a node from being emptied
            assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
