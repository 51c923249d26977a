"""The client for programs with an event loop, against the real api."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.service.finished_jobs import finished_export
from support.service.played_worker.worker import PlayedWorker

from service.client import (
    ApiError,
    AsyncClient,
    BadAnswer,
    Client,
    ClientClosed,
    ClientError,
    InvalidAddress,
    InvalidArgument,
    JobTimeout,
    NothingLost,
    NotReady,
    Unreachable,
)
from service.contracts.jobs import JobStatus
from service.contracts.schemas import GeneratedToken
from service.store import Store

FACTS = [{"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}]


def with_client(url: str, work: Callable[[AsyncClient], Awaitable[Any]], **options: Any) -> Any:
    """The result of some work with a client, in an event loop of its own."""

    async def run() -> Any:
        async with AsyncClient(url, **options) as client:
            return await work(client)

    return asyncio.run(run())


def test_it_edits_asks_exports_and_rolls_back(
    url: str, worker: PlayedWorker, tmp_path: Path
) -> None:
    async def work(client: AsyncClient) -> None:
        await client.wait_ready(10)
        heard: list[JobStatus] = []
        job = await client.edit(FACTS, snapshot_name="one", hparams={"n_steps": 2})
        done = await client.wait(job.id, lambda status, progress: heard.append(status))
        assert (done.status, heard[0], heard[-1]) == (
            JobStatus.SUCCEEDED, JobStatus.QUEUED, JobStatus.SUCCEEDED,
        )  # fmt: skip
        answers = (await client.generate("Lyon is", ["base", "head"], max_new_tokens=3)).results
        assert [answer.version for answer in answers] == ["v0", "v1"]
        assert await client.export("one", tmp_path / "x.safetensors") > 16
        assert (await client.rollback("base")).previous == "v1"
        assert [version.id async for version in client.snapshots()] == ["v1", "v0"]
        assert [one.version async for one in client.edits()] == ["v1"]

    with_client(url, work)


def test_tokens_come_one_by_one_and_the_rest_can_be_left(url: str, worker: PlayedWorker) -> None:
    async def work(client: AsyncClient) -> None:
        said = [one async for one in client.stream("Lyon is")]
        assert [name for name, _ in said] == ["token"] * 4 + ["result"]
        assert all(isinstance(one, GeneratedToken) for _, one in said[:-1])
        async with aclosing(client.stream("Lyon is")) as tokens:
            assert (await anext(tokens))[0] == "token"
        with pytest.raises(ApiError, match="broke off"):
            [one async for one in client.stream("break")]

    with_client(url, work)


def test_other_tasks_go_on_while_a_job_is_waited_for(url: str, worker: PlayedWorker) -> None:
    async def work(client: AsyncClient) -> JobStatus:
        worker.go.clear()
        job = await client.edit(FACTS)
        waiting = asyncio.create_task(client.wait(job.id))
        assert (await client.snapshot()).id == "v0"
        assert not waiting.done()
        with pytest.raises(JobTimeout):
            await client.wait(job.id, timeout=0.3)
        worker.go.set()
        return (await waiting).status

    assert with_client(url, work) is JobStatus.SUCCEEDED


def test_a_download_goes_on_where_it_broke_off(
    url: str, http: httpx.Client, model: Store, tmp_path: Path
) -> None:
    export_id, folder = finished_export(http, model)
    ranges: list[str] = []

    class Breaking(httpx.AsyncHTTPTransport):
        """Breaks the first answer with the weights after its first part."""

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            answer = await super().handle_async_request(request)
            if not request.url.path.endswith("weights.bin"):
                return answer
            ranges.append(request.headers.get("Range", ""))
            if len(ranges) > 1:
                return answer
            return httpx.Response(200, headers=answer.headers, stream=Broken())

    class Broken(httpx.AsyncByteStream):
        async def __aiter__(self) -> Any:
            # ``_append`` writes parts of 2^20 bytes at least, or what there is at the end
            yield (folder / "weights.bin").read_bytes()[:100]
            raise httpx.ReadError("broken")

    async def work(client: AsyncClient) -> list[Path]:
        (tmp_path / "to").mkdir()
        part = tmp_path / "to" / "weights.bin.part"
        part.write_bytes((folder / "weights.bin").read_bytes()[:40])
        return await client.download_export(export_id, tmp_path / "to")

    paths = with_client(url, work, transport=Breaking())
    assert ranges[0] == "bytes=40-"
    assert len(ranges) == 2
    weights = next(path for path in paths if path.name == "weights.bin")
    assert weights.read_bytes() == (folder / "weights.bin").read_bytes()


def test_a_suite_and_a_file_of_facts_are_uploaded(
    url: str, worker: PlayedWorker, tmp_path: Path
) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text('{"subject": "Lyon", "prompt": "{} lies in", "target_new": "Peru"}')

    async def work(client: AsyncClient) -> tuple[str, int]:
        suite = await client.add_suite("mine", path)
        done = await client.wait((await client.edit_file(path)).id)
        return suite.name, (await client.edit_result(done.resource_id)).facts[0].prompt.count("{}")

    assert with_client(url, work) == ("mine", 1)


class TestErrors:
    """One family, whose members carry what a program needs."""

    def test_a_refusal_has_its_parts(self, client: Client, worker: PlayedWorker) -> None:
        with pytest.raises(ApiError) as caught:
            client.edit([{**FACTS[0], "prompt": "nothing"}])
        error = caught.value
        assert (error.status, error.code) == (422, "invalid_facts")
        assert error.errors[0]["pointer"] == "/facts/0/prompt"
        assert error.detail == error.problem.detail
        assert error.request_id.startswith("req_")
        assert error.retry_after is None

    def test_a_refusal_for_now_says_when_to_try_again(self, client: Client, model: Store) -> None:
        with pytest.raises(ApiError) as caught:
            client.generate("Lyon")
        assert caught.value.status == 503
        assert caught.value.retry_after
        with pytest.raises(NotReady):
            client.wait_ready(0.0)

    def test_no_service_another_one_and_no_address(self) -> None:
        def page(_: httpx.Request) -> httpx.Response:
            return httpx.Response(200, text="<html>")

        with (
            Client("http://service", transport=httpx.MockTransport(page)) as other,
            pytest.raises(BadAnswer),
        ):
            other.snapshot()
        with (
            pytest.raises(BadAnswer),
            Client("http://service", transport=httpx.MockTransport(page)) as other,
        ):
            list(other.follow("job_1"))
        with pytest.raises(InvalidAddress):
            Client("http://here:port")
        with Client("http://127.0.0.1:9") as nobody, pytest.raises(Unreachable) as caught:
            nobody.rollback("base")
        assert isinstance(caught.value.__cause__, httpx.ConnectError)

    @pytest.mark.parametrize(
        "kind",
        [
            *(ApiError, BadAnswer, ClientClosed, InvalidAddress, InvalidArgument, JobTimeout),
            *(NothingLost, NotReady, Unreachable),
        ],
    )
    def test_all_are_of_the_family(self, kind: type[Exception]) -> None:
        assert issubclass(kind, ClientError)
