"""The ScaledObject is one that KEDA 2 takes.

The schema is narrow: of what KEDA documents of a ScaledObject and of its Prometheus scaler, the
fields that ours has.  A field that is not in it fails, and is to be looked up before it is added.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
import yaml
from support.kubernetes import Object, named, rendered, whole_files


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    """An object without other properties than these."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required,
        "properties": properties,
    }


def whole(least: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": least}


TEXT = {"type": "string", "minLength": 1}
NUMBER_AS_TEXT = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"}
YES_OR_NO = {"enum": ["true", "false"]}
# the values of a trigger's metadata are strings, whatever they stand for
PROMETHEUS = closed(
    ["serverAddress", "query", "threshold"],
    serverAddress={"type": "string", "pattern": "^https?://"},
    query=TEXT,
    threshold=NUMBER_AS_TEXT,
    activationThreshold=NUMBER_AS_TEXT,
    ignoreNullValues=YES_OR_NO,
)
TRIGGER = closed(
    ["type", "metadata"],
    type={"const": "prometheus"},
    name=TEXT,
    metricType={"enum": ["Value", "AverageValue"]},  # Utilization is of cpu and memory
    metadata=PROMETHEUS,
)
SPEC = closed(
    ["scaleTargetRef", "triggers"],
    scaleTargetRef=closed(["name"], apiVersion=TEXT, kind=TEXT, name=TEXT),
    pollingInterval=whole(1),
    cooldownPeriod=whole(0),
    minReplicaCount=whole(0),
    maxReplicaCount=whole(1),
    # the behavior is Kubernetes' own: `test_the_autoscaler_that_keda_makes_is_valid`
    advanced=closed([], horizontalPodAutoscalerConfig=closed([], behavior={"type": "object"})),
    triggers={"type": "array", "minItems": 1, "items": TRIGGER},
)
SCHEMA = closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "keda.sh/v1alpha1"},
    kind={"const": "ScaledObject"},
    metadata={"type": "object", "required": ["name"]},
    spec=SPEC,
)


def problems(one: Object) -> list[str]:
    """All that is wrong with a ScaledObject: by the schema, then what KEDA itself refuses."""
    found = [error.message for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(one)]
    if found:
        return found
    spec = one["spec"]
    if spec.get("minReplicaCount", 0) > spec.get("maxReplicaCount", 100):
        found.append("the least number is above the most")
    names = [trigger["name"] for trigger in spec["triggers"] if "name" in trigger]
    if len(set(names)) < len(names):
        found.append("two triggers have the same name")
    return found


def in_files() -> Object:
    documents = [one for file in whole_files() for one in yaml.safe_load_all(file.read_text())]
    [found] = [one for one in documents if one["kind"] == "ScaledObject"]
    return found


def in_rendered() -> Object:
    return named(rendered("gpu-scaled"), "ScaledObject", "follower")


@pytest.mark.parametrize("found", [in_files, in_rendered])
def test_it_is_valid(found: Callable[[], Object]) -> None:
    assert problems(found()) == []


Change = Callable[[Any], object]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s["triggers"][0]["metadata"].update(threshold=120), "120"),
        (lambda s: s["triggers"][0]["metadata"].update(ignoreNullValues=False), "False"),
        (lambda s: s["triggers"][0]["metadata"].pop("query"), "'query' is a required property"),
        (lambda s: s["triggers"][1].update(metrictype="Value"), "'metrictype' was unexpected"),
        (lambda s: s["triggers"][1].update(metricType="Utilization"), "'Utilization'"),
        (lambda s: s["triggers"][1].update(name=s["triggers"][0]["name"]), "the same name"),
        (lambda s: s["scaleTargetRef"].pop("name"), "'name' is a required property"),
        (lambda s: s.update(minReplicas=1), "'minReplicas' was unexpected"),
        (lambda s: s.update(minReplicaCount=9), "above the most"),
        (lambda s: s.update(pollingInterval=0), "0 is less than the minimum"),
        (lambda s: s.update(triggers=[]), "[]"),
        (lambda s: s["advanced"].update(behavior={}), "'behavior' was unexpected"),
    ],
)
def test_what_keda_would_refuse_or_ignore_is_found(change: Change, said: str) -> None:
    one = copy.deepcopy(in_rendered())
    change(one["spec"])
    assert any(said in problem for problem in problems(one)), problems(one)
