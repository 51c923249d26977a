"""One bit of a stored file flips.

It is found by hash; what is asked of the damaged part is refused with a message that names it;
everything else goes on, and the service says what it can go back to.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from checks import assert_whole
from harness import Service, until

from service.client import ApiError
from service.jobs import JobStatus
from service.schemas.access import Scope
from service.settings import EXIT_CONFIG
from service.store import Store

thorough = pytest.mark.thorough
SEED = 5


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a file of every kind."""
    with Service(tmp_path_factory.mktemp("bits", numbered=True)) as service:
        made = service.edited()
        service.client.name_snapshot("mine", made.result["version"])
        service.edited()
        service.store.create_key("me", [Scope.READ])
        yield service


@contextmanager
def flipped(path: Path, place: float = 0.08) -> Iterator[None]:
    """One bit at this share of the file is another one; it is as before afterwards."""
    whole = path.read_bytes()
    damaged = bytearray(whole)
    bit = random.Random(SEED).randrange(8)
    damaged[int(place * (len(whole) - 1))] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        yield
    finally:
        path.write_bytes(whole)


def head_of(service: Service) -> str:
    return service.store.head().version


def manifest(service: Service, version: str) -> Path:
    return service.root / "versions" / version / "manifest.json"


# ---------------------------------------------------------------- without which nothing can start

FATAL: dict[str, Callable[[Service], Path]] = {
    "format": lambda s: s.root / "format.json",
    "id": lambda s: s.root / "id.json",
    "model": lambda s: s.root / "model.json",
    "head": lambda s: s.root / "head.json",
    "reflog": lambda s: s.root / "reflog.jsonl",
    "base": lambda s: manifest(s, "v0"),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=thorough) for k in FATAL if k != "head"] + ["head"]
)
def test_a_start_that_cannot_succeed_names_the_file(kept: Service, kind: str) -> None:
    path = FATAL[kind](kept)
    kept.worker.stop()
    size = kept.worker.log.stat().st_size
    with flipped(path):
        kept.worker.start()
        assert kept.worker.ended() in (1, EXIT_CONFIG)
        said = kept.worker.log.read_text()[size:]
        assert path.name in said
        assert "Traceback" not in said
        assert kept.answers()
    assert_whole(kept)


# ---------------------------------------------------------------- while everything else goes on


def refused(call: Callable[[], object], path: Path | str) -> None:
    with pytest.raises(ApiError) as error:
        call()
    problem = error.value.problem
    assert problem.code in ("corrupt_version", "corrupt_file", "corrupt_tensor"), problem
    assert str(path) in problem.detail


def test_a_damaged_head_is_left_and_edited_again(kept: Service) -> None:
    """The weights of head: the start says so, the base answers, a rollback works."""
    store, head = kept.store, head_of(kept)
    mine = {ref.sha256 for ref in store.version(head).tensors}
    tensor = store.tensor_file(sorted(mine)[0])
    with flipped(tensor):
        kept.restart("worker")
        assert "head cannot be served, roll back to another version" in kept.worker.log.read_text()
        assert httpx.get(f"{kept.url}/readyz").json()["code"] == "corrupt_version"
        refused(lambda: kept.client.generate("Lyon lies in"), tensor)
        failed = kept.wait(kept.edit().id)
        assert (failed.status, failed.error.code) == (JobStatus.FAILED, "corrupt_version")
        assert kept.client.generate("Lyon lies in", "base").results[0].version == "v0"
        kept.rollback("base")
        assert kept.client.generate("Lyon lies in").results[0].version == "v0"
        kept.edited()
    kept.rollback(head)
    assert_whole(kept)


@thorough
@pytest.mark.parametrize("place", [0.0, 0.01, 0.3, 1.0])
def test_a_tensor_is_found_wherever_the_bit_is(kept: Service, place: float) -> None:
    store = kept.store
    tensor = store.tensor_file(store.version(head_of(kept)).tensors[0].sha256)
    with flipped(tensor, place):
        kept.restart("worker")
        refused(lambda: kept.client.generate("Lyon lies in"), tensor)
    assert_whole(kept)


@thorough
def test_damaged_keys_of_an_edit_fail_what_builds_on_them(kept: Service) -> None:
    store = kept.store
    tensor = store.tensor_file(store.version(head_of(kept)).artifacts[0].sha256)
    with flipped(tensor, 0.5):
        kept.restart("worker")
        failed = kept.wait(kept.edit().id)
        assert (failed.status, failed.error.code) == (JobStatus.FAILED, "corrupt_version")
        assert str(tensor) in failed.error.message
        assert kept.client.generate("Lyon lies in").results[0].version == head_of(kept)
    assert_whole(kept)


@thorough
def test_a_damaged_manifest_of_head(kept: Service) -> None:
    head = head_of(kept)
    with flipped(manifest(kept, head)):
        kept.restart("worker", "api")
        refused(lambda: kept.client.generate("Lyon lies in"), manifest(kept, head))
        refused(lambda: kept.client.snapshot(head), manifest(kept, head))
        failed = kept.wait(kept.edit().id)
        assert (failed.status, failed.error.code) == (JobStatus.FAILED, "corrupt_file")
        kept.rollback("base")
        kept.edited()
    kept.rollback(head)
    kept.restart("api")
    assert_whole(kept)


@thorough
def test_names_and_counter(kept: Service) -> None:
    with flipped(kept.root / "names.json"):
        refused(lambda: kept.client.generate("Lyon lies in", "mine"), kept.root / "names.json")
        assert kept.client.generate("Lyon lies in").results[0].version == head_of(kept)
    with flipped(kept.root / "counter.json"):
        failed = kept.wait(kept.edit().id)
        assert (failed.status, failed.error.code) == (JobStatus.FAILED, "corrupt_file")
        assert "counter.json" in failed.error.message
    assert_whole(kept)


@thorough
def test_the_record_of_a_job(kept: Service) -> None:
    ended, waiting = kept.edited(), kept.edit_halted("optimise")
    path = kept.root / "jobs" / f"{ended.id}.json"
    with flipped(path):
        refused(lambda: kept.client.job(ended.id), path)
        assert ended.id not in [job.id for job in kept.client.jobs()]
        kept.worker.halts.let_go()
        assert kept.wait(waiting.id).status is JobStatus.SUCCEEDED
    assert_whole(kept)


@thorough
def test_an_idempotency_key_a_key_and_a_line_of_the_audit_log(kept: Service) -> None:
    claim = next((kept.root / "idempotency").glob("*.json"))
    key, audit = next((kept.root / "keys").glob("*.json")), kept.root / "audit.jsonl"
    with flipped(claim), flipped(key), flipped(audit):
        store = Store.open(kept.root)
        assert store.api_keys() == []
        lines = audit.read_bytes().count(b"\n")
        assert len(list(store.audited())) == lines - 1
        kept.edited()
        kept.restart("worker")
    assert_whole(kept)


@thorough
def test_what_the_worker_published_is_published_again(kept: Service) -> None:
    for name in ("info.json", "tokenizer.json"):
        path = kept.root / "model" / name
        with flipped(path):
            kept.api.stop()
            kept.api.start()
            until(kept.answers, "the api is there")
            refused(lambda: kept.client.edit([kept.fact()]), path)
            kept.restart("worker")
            kept.edited()
    assert_whole(kept)


@thorough
def test_what_an_edit_is_computed_with(kept: Service) -> None:
    """Prefixes are sampled again; second moments are refused until their file is removed."""
    base = kept.root / "base"
    before = (base / "prefixes.json").read_bytes()
    with flipped(base / "prefixes.json"):
        kept.edited()
        assert (base / "prefixes.json").read_bytes() == before
    for path in sorted((base / "moments").glob("*.safetensors")):
        with flipped(path):
            kept.restart("worker")
            failed = kept.wait(kept.edit().id)
            assert failed.status is JobStatus.FAILED
            assert path.name in failed.error.message
            path.unlink()
            kept.restart("worker")
            kept.edited()
    assert_whole(kept)
