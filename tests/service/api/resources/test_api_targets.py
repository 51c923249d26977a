"""``/targets``: registering, showing, following, removing, and refusals."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from support.service.serving import running

from service.client import ApiError, Client
from service.contracts.jobs import now
from service.contracts.schemas.access import Scope
from service.contracts.schemas.targets import TargetState
from service.settings import Settings, SettingsError, load_settings
from service.store import Store

TARGET = {"name": "smol", "kind": "vllm", "address": "http://127.0.0.1:8001"}


def test_a_target_is_registered_shown_and_removed(client: Client, model: Store) -> None:
    added = client.add_target("smol", "vllm", "http://127.0.0.1:8001", alias="now")
    assert (added.status, added.wanted, added.version, added.follow) == ("new", "v0", None, "head")
    assert client.target("smol").id == client.target(added.id).id == added.id
    assert [one.name for one in client.targets()] == ["smol"]
    client.remove_target("smol")
    assert client.targets() == []
    with pytest.raises(ApiError, match="404 unknown_target"):
        client.target("smol")
    assert len(model.targets.with_removed()) == 1, "the worker has yet to unload what it loaded"
    actions = [(entry.action, entry.status) for entry in client.audit()]
    assert actions == [("remove_target", 204), ("add_target", 201)]


def test_the_address_of_a_new_target_is_in_the_header(http: httpx.Client, model: Store) -> None:
    answer = http.post("/targets", json=TARGET)
    assert answer.status_code == 201
    assert http.get(answer.headers["location"]).json()["name"] == "smol"


def test_what_it_follows_can_be_changed(client: Client, model: Store) -> None:
    client.add_target("smol", "vllm", "http://127.0.0.1:8001")
    client.name_snapshot("release", "v0")
    assert client.follow_with_target("smol", "release").follow == "release"
    with pytest.raises(ApiError, match="404 unknown_version"):
        client.follow_with_target("smol", "v7")
    with pytest.raises(ApiError, match="404 unknown_target"):
        client.follow_with_target("other", "head")
    assert client.target("smol").follow == "release"


def test_a_look_can_be_asked_for(client: Client, model: Store) -> None:
    added = client.add_target("smol", "vllm", "http://127.0.0.1:8001")
    assert client.sync_target("smol").id == added.id
    assert model.targets.take_asked(added.id)
    assert not model.targets.take_asked(added.id)


def test_the_client_waits_for_a_try_that_ended_later(client: Client, model: Store) -> None:
    added = client.add_target("smol", "vllm", "http://127.0.0.1:8001")
    assert client.wait_target("smol", 0.3).status == "new"
    moment = now()
    model.targets.set_state(added.id, TargetState(version="v0", looked_at=moment))
    assert client.wait_target("smol", 5).status == "synced"
    assert client.wait_target("smol", 0.3, after=moment).looked_at == moment


@pytest.mark.parametrize(
    ("change", "code", "where"),
    [
        ({"address": "http://127.0.0.1:8001/?a=b"}, "invalid_request", "/address"),
        ({"address": "http://me:secret@127.0.0.1:8001"}, "invalid_request", "/address"),
        ({"address": "ftp://127.0.0.1"}, "invalid_request", "/address"),
        ({"address": "http://127.0.0.1:99999"}, "address_refused", "/address"),
        ({"address": "http://127.0.0.1:0"}, "address_refused", "/address"),
        ({"address": "http://127.0.0.1:8001/v1"}, "invalid_request", "/address"),
        ({"address": "http://127.0.0.1:8001/a/v1/"}, "invalid_request", "/address"),
        ({"alias": "smol@v3"}, "invalid_request", "/alias"),
        ({"address": "http://192.168.7.7:8001"}, "address_refused", "/address"),
        ({"address": "http://[::ffff:10.0.0.1]:80"}, "address_refused", "/address"),
        ({"address": "http://169.254.169.254/latest"}, "address_refused", "/address"),
        ({"kind": "ollama"}, "invalid_request", "/kind"),
        ({"kind": "sglang", "alias": "now"}, "invalid_request", "/alias"),
        ({"kind": "llama.cpp", "alias": "now"}, "invalid_request", "/alias"),
        ({"kind": "llama.cpp", "model": "smol"}, "invalid_request", "/model"),
        ({"kind": "vllm", "type": "Q8_0"}, "invalid_request", "/type"),
        ({"kind": "llama.cpp", "type": "Q3_K"}, "invalid_request", "/type"),
        ({"secret": "../key"}, "invalid_request", "/secret"),
        ({"secret": "key"}, "no_secret", "/secret"),
        ({"follow": "no such thing"}, "invalid_request", "/follow"),
        ({"follow": "v9"}, "unknown_version", None),
        ({"name": "a/b"}, "invalid_request", "/name"),
        ({"folder": "relative"}, "invalid_request", "/folder"),
        ({"tolerance": 0}, "invalid_request", "/tolerance"),
        ({"more": 1}, "invalid_request", "/more"),
    ],
)
def test_what_cannot_be_a_target_is_refused(
    change: dict[str, Any], code: str, where: str | None, http: httpx.Client, model: Store
) -> None:
    answer = http.post("/targets", json={**TARGET, **change})
    assert answer.status_code in (404, 422)
    problem = answer.json()
    assert problem["code"] == code
    if where is not None:
        assert [error["pointer"] for error in problem["errors"]] == [where]
    assert model.targets.with_removed() == []
    assert "secret@" not in answer.text


def test_a_name_is_taken_once_and_there_is_a_limit(settings: Settings, model: Store) -> None:
    with running(settings.model_copy(update={"max_targets": 1})) as url, Client(url) as client:
        client.add_target("a", "vllm", "http://127.0.0.1:1")
        with pytest.raises(ApiError, match="409 name_taken"):
            client.add_target("a", "sglang", "http://127.0.0.1:2")
        with pytest.raises(ApiError, match=r"413 over_limit: .*JEEP_MAX_TARGETS allows 1"):
            client.add_target("b", "vllm", "http://127.0.0.1:1")


def test_an_address_of_a_route_is_refused_with_what_to_leave_out(
    http: httpx.Client, model: Store
) -> None:
    answer = http.post("/targets", json={**TARGET, "address": "http://127.0.0.1:8001/v1"})
    assert answer.status_code == 422
    assert "leave /v1 out" in answer.json()["errors"][0]["message"]


@pytest.mark.parametrize(
    ("kind", "field", "value", "says"),
    [
        ("sglang", "alias", "now", "only vllm has names for adapters"),
        ("vllm", "type", "Q8_0", "only llama.cpp reads GGUF files"),
        ("llama.cpp", "model", "smol", "only a server with a base model"),
        ("vllm", "tolerance", "1", "must be a number"),
    ],
)
def test_what_a_kind_does_not_know_is_refused_by_its_field(
    kind: str, field: str, value: str, says: str, http: httpx.Client, model: Store
) -> None:
    answer = http.post("/targets", json={**TARGET, "kind": kind, field: value})
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert error["pointer"] == f"/{field}"
    assert says in error["message"]


def test_two_targets_that_would_undo_one_another_are_refused(client: Client, model: Store) -> None:
    client.add_target("a", "vllm", "http://127.0.0.1:8001", alias="now")
    with pytest.raises(ApiError, match=r"409 server_taken: .*'a' has the alias 'now'"):
        client.add_target("b", "vllm", "http://localhost:8001/", alias="now")
    client.add_target("b", "vllm", "http://127.0.0.1:8001")
    client.add_target("c", "sglang", "http://127.0.0.1")
    with pytest.raises(ApiError, match=r"409 server_taken: .*'c' replaces the model"):
        client.add_target("d", "sglang", "http://127.0.0.1:80/")
    client.add_target("d", "sglang", "http://127.0.0.1:81")
    client.add_target("e", "llama.cpp", "http://127.0.0.1:82", type="Q8_0")
    with pytest.raises(ApiError, match=r"409 server_taken: .*'e' loads and unloads versions"):
        client.add_target("f", "llama.cpp", "http://127.0.0.1:82")
    for host in ("127.1", "2130706433", "0x7f000001", "127.000.000.001", "[::ffff:127.0.0.1]"):
        with pytest.raises(ApiError, match="409 server_taken"):
            client.add_target("f", "llama.cpp", f"http://{host}:82/.")
    with pytest.raises(ApiError, match="409 server_taken"):
        client.add_target("f", "llama.cpp", "http://[0:0:0:0:0:0:0:1]:82")
    assert [one.name for one in client.targets()] == ["a", "b", "c", "d", "e"]
    assert client.target("e").type == "Q8_0"


def test_only_administrators_register_them(settings: Settings, model: Store) -> None:
    scopes = [Scope.READ, Scope.GENERATE, Scope.EDIT]
    _, key = model.keys.create("editor", scopes)
    given = settings.model_copy(update={"auth": "keys"})
    with running(given) as url, Client(url, api_key=key) as client:
        assert client.targets() == []
        for call in (
            lambda: client.add_target("a", "vllm", "http://127.0.0.1:1"),
            lambda: client.remove_target("a"),
            lambda: client.sync_target("a"),
            lambda: client.follow_with_target("a", "head"),
        ):
            with pytest.raises(ApiError, match="403 insufficient_scope"):
                call()


@pytest.mark.parametrize("text", ["", "localhost", "10.0.0.0/33", "127.0.0.1,,::1"])
def test_a_list_of_networks_that_is_none_stops_the_service(text: str) -> None:
    if not text:
        assert load_settings(targets_allow=text or None).targets_allow == "127.0.0.0/8,::1"
        return
    with pytest.raises(SettingsError, match="JEEP_TARGETS_ALLOW"):
        load_settings(targets_allow=text)
