"""The manifests of ``deploy/kubernetes`` as they are applied, and who may reach whom by them."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tools.rendered_manifests import KUBERNETES, RENDERED, overlays

OVERLAYS = overlays()
WITH_RAY = [name for name in OVERLAYS if name.endswith("-ray")]
APART = [name for name in OVERLAYS if name.endswith("-apart")]
"""Those whose followers do not share the store's volume."""
WITH_GPU = [name for name in OVERLAYS if name.startswith("gpu")]
COMPONENT = "app.kubernetes.io/component"

Object = dict[str, Any]


@functools.cache
def rendered_text(overlay: str) -> str:
    """What ``kubectl apply -k`` would send."""
    return (RENDERED / f"{overlay}.yaml").read_text("utf-8")


@functools.cache
def _parsed(overlay: str) -> bytes:
    return pickle.dumps(list(yaml.safe_load_all(rendered_text(overlay))))


def rendered(overlay: str) -> list[Object]:
    """Objects of the caller's own: read once, as a hundred tests parse what takes tenths."""
    return list(pickle.loads(_parsed(overlay)))


def whole_files() -> list[Path]:
    """Files of whole objects; the others in the folder are settings, patches or kustomizations."""
    named: list[Path] = []
    for file in sorted(KUBERNETES.glob("*/**/kustomization.yaml")):
        resources = yaml.safe_load(file.read_text()).get("resources", ())
        named += [file.parent / name for name in resources if name.endswith(".yaml")]
    return named + sorted(KUBERNETES.glob("*.yaml"))


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [one for one in objects if one["kind"] in kinds]


def named(objects: list[Object], kind: str, name: str) -> Object:
    [found] = [one for one in of_kind(objects, kind) if one["metadata"]["name"] == name]
    return found


@dataclass(frozen=True)
class Pods:
    """The pods of one workload."""

    workload: Object

    @property
    def labels(self) -> dict[str, str]:
        return self.workload["spec"]["template"]["metadata"]["labels"]

    @property
    def name(self) -> str:
        return self.labels[COMPONENT]

    @property
    def spec(self) -> Object:
        return self.workload["spec"]["template"]["spec"]

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    @property
    def ports(self) -> dict[str, int]:
        ports = [port for one in self.containers for port in one.get("ports", ())]
        return {port["name"]: port["containerPort"] for port in ports}

    def container(self, name: str) -> Object:
        [found] = [one for one in self.containers if one["name"] == name]
        return found


def pods_of(objects: list[Object]) -> dict[str, Pods]:
    """Component → its pods."""
    found = [Pods(one) for one in of_kind(objects, "Deployment", "StatefulSet")]
    assert len({pods.name for pods in found}) == len(found)
    return {pods.name: pods for pods in found}


def variables(container: Object, objects: list[Object]) -> dict[str, str]:
    """The environment of a container, but for what is only known when it runs."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        found |= named(objects, "ConfigMap", source["configMapRef"]["name"])["data"]
    return found | {one["name"]: one["value"] for one in container.get("env", ()) if "value" in one}


def selects(selector: Object, labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items()
    if not all(labels.get(key) == value for key, value in wanted):
        return False
    for rule in selector.get("matchExpressions", ()):
        assert rule["operator"] == "In"
        if labels.get(rule["key"]) not in rule["values"]:
            return False
    return True


STRANGER = "a pod of another namespace"
INTERNET = "an address outside the cluster"


def may_reach(objects: list[Object], sender: str, receiver: str, port: int) -> bool:
    """Whether the policies let ``sender`` connect to ``port`` of ``receiver``, over TCP."""
    leaves = enters = True
    if sender not in (STRANGER, INTERNET):
        leaves = any(_allowed(objects, "egress", sender, receiver, port))
    if receiver not in (STRANGER, INTERNET):
        enters = any(_allowed(objects, "ingress", receiver, sender, port))
    return leaves and enters


def _allowed(objects: list[Object], way: str, subject: str, peer: str, port: int) -> Iterator[bool]:
    pods = pods_of(objects)
    policies = [
        one["spec"]
        for one in of_kind(objects, "NetworkPolicy")
        if way.capitalize() in one["spec"]["policyTypes"]
        and selects(one["spec"]["podSelector"], pods[subject].labels)
    ]
    if not policies:
        yield True  # pods that no policy selects are open
    for policy in policies:
        for rule in policy.get(way, ()):
            peers = rule.get("from" if way == "ingress" else "to")
            ports = rule.get("ports")
            yield (peers is None or any(_is(one, peer, pods) for one in peers)) and (
                ports is None
                or any((one["protocol"], one["port"]) == ("TCP", port) for one in ports)
            )


def _is(rule: Object, peer: str, pods: dict[str, Pods]) -> bool:
    if peer == INTERNET:
        return "ipBlock" in rule
    if "namespaceSelector" in rule:  # of all namespaces, or of one that is not this
        assert "podSelector" not in rule
        return rule["namespaceSelector"] == {}
    return peer in pods and selects(rule["podSelector"], pods[peer].labels)
