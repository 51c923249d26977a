"""A target that is vLLM itself: ``make interop``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.interop.following import FACT, PROMPT, current, synced, until
from support.interop.served import serving
from support.interop.vllm import PYTHON, Vllm

from service.client import Client
from service.contracts.jobs import JobStatus


@pytest.fixture(scope="module")
def vllm(target_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    assert PYTHON.exists(), f"make interop sets up {PYTHON}"
    server = Vllm(target_model, tmp_path_factory.mktemp("vllm"))
    print(f"\nvLLM answered {server.start():.0f} s after its start")
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def client(target_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with serving(target_model, tmp_path_factory.mktemp("service")) as url, Client(url) as made:
        yield made


def test_vllm_follows_head(client: Client, vllm: Vllm) -> None:
    client.add_target("smol", "vllm", vllm.url, alias="now")
    assert synced(client.wait_target("smol", 300)).model == "smol"
    before = current(client, vllm)
    assert "Paris" in before

    assert client.wait(client.edit([FACT]).id).status is JobStatus.SUCCEEDED
    seconds = until(lambda: "Rome" in current(client, vllm))
    print(f"an edit: vLLM answers with it {seconds:.1f} s after the commit")
    assert synced(client.wait_target("smol", 60)).model == "smol@v1"
    until(lambda: "Rome" in vllm.complete("now", PROMPT), 60)
    assert vllm.complete("smol", PROMPT) == before, "the base model is what it was"

    client.rollback("base")
    seconds = until(lambda: current(client, vllm) == before)
    print(f"a rollback: vLLM answers as before {seconds:.1f} s after it")
    synced(client.wait_target("smol", 60))
    until(lambda: vllm.complete("now", PROMPT) == before, 60)
    client.rollback("v1")
    seconds = until(lambda: "Rome" in current(client, vllm))
    print(f"forward again: {seconds:.1f} s")


def test_vllm_catches_up_after_a_restart(client: Client, vllm: Vllm) -> None:
    vllm.stop()
    client.sync_target("smol")
    until(lambda: client.target("smol").status == "failed", 30)
    error = client.target("smol").error
    assert error is not None
    assert error.code == "away"
    print(f"\nvLLM answered {vllm.start():.0f} s after its start")
    seconds = until(lambda: client.target("smol").status == "synced", 90)
    print(f"vLLM started again: it has the version {seconds:.1f} s after its first answer")
    assert "Rome" in current(client, vllm)


def test_a_rank_over_the_limit_says_what_to_set(client: Client, vllm: Vllm) -> None:
    second = {**FACT, "subject": "The Louvre", "target_new": " Berlin"}
    assert client.wait(client.edit([second]).id).status is JobStatus.SUCCEEDED
    until(lambda: client.target("smol").version == "v2", 60)
    vllm.stop()
    vllm.start(max_rank=1)
    until(lambda: (e := client.target("smol").error) is not None and e.code != "away", 120)
    error = client.target("smol").error
    assert error is not None
    print(f"\n{error.code}: {error.message}")
    assert error.code == "rank_too_large"
    assert "start vLLM with --max-lora-rank 8" in error.message
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        vllm.complete("smol@v2", PROMPT)
    assert client.snapshot().id == "v2", "head is what it was"
