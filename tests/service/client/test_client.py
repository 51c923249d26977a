"""The Python client against the real api."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.service.played_worker.worker import PlayedWorker
from support.service.serving import running

from service.client import ApiError, Client, DamagedDownload, JobTimeout, Unreachable
from service.client.synchronous import transport
from service.client.synchronous.transport import RETRIES
from service.contracts.jobs import JobStatus, Progress
from service.settings import Settings

FACTS = [{"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}]


def test_the_client_edits_asks_exports_and_rolls_back(
    client: Client, worker: PlayedWorker, tmp_path: Path
) -> None:
    client.wait_ready(10)
    assert client.plan(FACTS).facts[0].subject == "Lyon"
    heard: list[tuple[JobStatus, Progress]] = []
    job = client.edit(FACTS, snapshot_name="one", hparams={"n_steps": 2})
    done = client.wait(job.id, lambda status, progress: heard.append((status, progress)))
    assert done.status is JobStatus.SUCCEEDED
    assert heard[0][0] is JobStatus.QUEUED
    assert any(progress.phase == "values" for _, progress in heard)
    assert heard[-1][0] is JobStatus.SUCCEEDED

    result = client.edit_result(str(done.edit_id)).result
    assert result is not None
    assert result.version == "v1"
    answers = client.generate("Lyon is", ["base", "head"], max_new_tokens=3).results
    assert [answer.version for answer in answers] == ["v0", "v1"]
    names = [name for name, _ in client.stream("Lyon is")]
    assert names == ["token"] * 4 + ["result"]
    assert client.name_snapshot("two").names == ["one", "two"]
    assert client.diff("base", "head").edits_added == [done.edit_id]
    assert client.export("one", tmp_path / "x.safetensors") > 16
    assert client.rollback("base", why="enough", cancel_queued=True).previous == "v1"
    assert client.snapshot().id == "v0"
    assert [s.id for s in client.snapshots()] == ["v1", "v0"]
    assert [e.version for e in client.edits()] == ["v1"]
    assert [j.id for j in client.jobs(JobStatus.SUCCEEDED)] == [done.id]


def test_errors_carry_the_problem(client: Client, worker: PlayedWorker) -> None:
    with pytest.raises(ApiError, match="/facts/0/prompt") as caught:
        client.edit([{**FACTS[0], "prompt": "nothing"}])
    assert caught.value.problem.code == "invalid_facts"
    with pytest.raises(ApiError, match="broke off"):
        list(client.stream("break"))
    with pytest.raises(ApiError) as unknown:
        client.wait("job_1")
    assert unknown.value.problem.status == 404


def test_waiting_ends_after_its_timeout(client: Client, worker: PlayedWorker) -> None:
    worker.go.clear()
    job = client.edit(FACTS)
    with pytest.raises(JobTimeout):
        client.wait(job.id, timeout=1)
    assert client.cancel(job.id).status in (JobStatus.CANCELLING, JobStatus.CANCELLED)
    assert client.wait(job.id).status is JobStatus.CANCELLED


def test_keep_alive_comments_are_no_events(
    client: Client, worker: PlayedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.api.http.limits.PING_SECONDS", 0.05)
    worker.go.clear()
    job = client.edit(FACTS)
    threading.Timer(0.5, worker.go.set).start()
    assert client.wait(job.id).status is JobStatus.SUCCEEDED


def test_waiting_outlives_a_restart_of_the_api(settings: Settings, worker: PlayedWorker) -> None:
    worker.go.clear()
    with running(settings) as url:
        port = int(url.rpartition(":")[2])
        client = Client(url)
        job = client.edit(FACTS)
        statuses: list[JobStatus] = []
        started = threading.Event()

        def hear(status: JobStatus, _: Progress) -> None:
            statuses.append(status)
            if status is JobStatus.RUNNING:
                started.set()

        results: list[JobStatus] = []
        waiting = threading.Thread(target=lambda: results.append(client.wait(job.id, hear).status))
        waiting.start()
        assert started.wait(10)
    with running(settings, port):
        worker.go.set()
        waiting.join(20)
    client.close()
    assert results == [JobStatus.SUCCEEDED]
    assert statuses.count(JobStatus.QUEUED) == 1


def test_an_answer_that_was_lost_is_asked_again(
    client: Client, url: str, worker: PlayedWorker
) -> None:
    """A proxy that drops the first answer: the edit is made once."""
    dropped: list[httpx.Request] = []

    class Dropping(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            answer = super().handle_request(request)
            if request.url.path == "/edits" and not dropped:
                answer.read()
                dropped.append(request)
                raise httpx.ReadError("connection lost", request=request)
            return answer

    client._http = httpx.Client(base_url=url, transport=Dropping())
    job = client.edit(FACTS)
    assert dropped
    assert client.wait(job.id).status is JobStatus.SUCCEEDED
    assert len(list(worker.store.journal.all())) == 1


def test_reading_is_tried_again_and_then_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("service.client.synchronous.transport.sleep", waits.append)
    with Client("http://127.0.0.1:9") as nobody, pytest.raises(Unreachable):
        list(nobody.snapshots())
    assert len(waits) == RETRIES - 1


def test_a_client_without_a_service_says_so() -> None:
    with Client("http://127.0.0.1:9") as nobody:
        assert not nobody.ready()
        with pytest.raises(httpx.TransportError):
            nobody.rollback("base")


@pytest.mark.parametrize("answer", [b"", b"0123456789" * 1000])
def test_a_download_of_anything_else_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    """Nothing, as often as it is asked; or far more than the file has bytes."""
    monkeypatch.setattr(transport, "sleep", lambda seconds: None)
    monkeypatch.setattr(transport, "_CHUNK", 100)
    asked: list[str] = []
    written: list[int] = []

    def answers(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        assert len(asked) < 20
        return httpx.Response(200, content=answer)

    def counted(function: Callable[..., Any], *given: Any) -> Any:
        written.extend(len(one) for one in given if isinstance(one, bytes))
        return function(*given)

    monkeypatch.setattr(transport, "aside", counted)
    there = httpx.MockTransport(answers)
    with Client("http://service", transport=there) as client, pytest.raises(DamagedDownload):
        client.download_tensor("v1", "0" * 64, 250, tmp_path / "file")
    assert sum(written) <= 2 * 300
    assert not (tmp_path / "file").exists()


def test_a_redirect_says_where_to() -> None:
    """The key is sent nowhere but to the address that was given."""
    answer = httpx.Response(301, headers={"Location": "https://service/store"})
    there = httpx.MockTransport(lambda request: answer)
    with (
        Client("http://service", transport=there) as client,
        pytest.raises(ApiError, match="https://service/store"),
    ):
        client.store_state()
