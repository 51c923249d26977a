"""A target that is llama.cpp itself, as a router: ``make interop``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.interop.following import FACT, PROMPT, current, synced, until
from support.interop.llama_router import Router
from support.interop.served import serving

from service.client import Client
from service.contracts.jobs import JobStatus

TOLERANCE = 0.5
"""Nats: llama.cpp rounds activations to 8 bits where matrices are quantised."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="module")
def client(target_model: Path, folder: Path) -> Iterator[Client]:
    with serving(target_model, folder) as url, Client(url) as made:
        yield made


@pytest.fixture(scope="module")
def router(client: Client, folder: Path) -> Iterator[Router]:
    """Started with the folder that the store has before anything is pushed."""
    server = Router(folder / "store" / "targets" / "artefacts", folder)
    print(f"\nllama-server answered {server.start():.1f} s after its start")
    try:
        yield server
    finally:
        server.stop()


def test_llama_cpp_follows_head(client: Client, router: Router) -> None:
    client.add_target("smol", "llama.cpp", router.url, tolerance=TOLERANCE)
    first = synced(client.wait_target("smol", 300))
    before = current(client, router)
    assert "Paris" in before

    assert client.wait(client.edit([FACT]).id).status is JobStatus.SUCCEEDED
    seconds = until(lambda: "Rome" in current(client, router))
    print(f"an edit: llama.cpp answers with it {seconds:.1f} s after the commit")
    second = synced(client.wait_target("smol", 60))
    assert second.proof is not None
    assert second.proof.telling > 0, "the version before would have failed"
    assert router.running() == sorted([str(first.model), str(second.model)])
    assert router.complete(str(first.model), PROMPT) == before, "the version before is what it was"

    client.rollback("base")
    seconds = until(lambda: current(client, router) == before)
    print(f"a rollback: llama.cpp answers as before {seconds:.1f} s after it")
    assert synced(client.wait_target("smol", 60)).model == first.model
    client.rollback("v1")
    seconds = until(lambda: "Rome" in current(client, router))
    print(f"forward again: {seconds:.1f} s")


def test_what_is_no_longer_wanted_is_unloaded_after_a_minute(
    client: Client, router: Router
) -> None:
    name = client.target("smol").model
    seconds = until(lambda: router.running() == [name], 120)
    print(f"\nthe version before was unloaded {seconds:.0f} s later")


def test_llama_cpp_catches_up_after_a_restart(client: Client, router: Router) -> None:
    router.stop()
    client.sync_target("smol")
    until(lambda: client.target("smol").status == "failed", 30)
    error = client.target("smol").error
    assert error is not None
    assert error.code == "away"
    router.start()
    assert router.running() == []
    seconds = until(lambda: client.target("smol").status == "synced", 90)
    print(
        f"\nllama-server started again: it has the version {seconds:.1f} s after its first answer"
    )
    assert router.running() == [client.target("smol").model]
    assert "Rome" in current(client, router)


def test_a_quantised_version_is_proved_within_a_wider_tolerance(
    client: Client, router: Router
) -> None:
    client.remove_target("smol")
    until(lambda: router.running() == [], 60)
    client.add_target("small", "llama.cpp", router.url, type="Q8_0", tolerance=1.0)
    shown = synced(client.wait_target("small", 300))
    assert str(shown.model).endswith(".q8_0.gguf")
    assert "Rome" in router.complete(str(shown.model), PROMPT)


def test_a_server_with_a_model_of_its_own_is_refused(client: Client, router: Router) -> None:
    [name] = router.running()
    file = router.folder / name / "model.gguf"
    router.stop()
    router.start("--model", str(file))
    client.sync_target("small")
    # while it loads its model it is busy
    waits = "away", "busy"
    until(lambda: (e := client.target("small").error) is not None and e.code not in waits, 60)
    error = client.target("small").error
    assert error is not None
    print(f"\n{error.code}: {error.message}")
    assert error.code == "no_router"
    assert client.snapshot().id == "v1", "head is what it was"
