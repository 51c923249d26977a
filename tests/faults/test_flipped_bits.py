"""One bit of a stored file flips.

It is found by hash; requests that need the damaged part are refused with a message that names it;
everything else continues, and the service says which versions remain usable.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from support.faults.checks import assert_whole
from support.faults.flips import flip, flipped, head_of, manifest, refused, thorough
from support.faults.harness import Service
from support.faults.processes import until

from service.contracts.jobs import JobStatus
from service.settings import EXIT_CONFIG
from service.store import Store
from service.store.index.sums import EVERY
from service.store.maintenance.backup import back_up

# ---------------------------------------------------------------- files needed to start

FATAL: dict[str, Callable[[Service], Path]] = {
    "format": lambda s: s.root / "format.json",
    "id": lambda s: s.root / "id.json",
    "model": lambda s: s.root / "model.json",
}


@pytest.mark.parametrize(
    "kind", ["format", *(pytest.param(kind, marks=thorough) for kind in FATAL if kind != "format")]
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


# ---------------------------------------------------------------- files that are made again


@pytest.mark.parametrize(
    ("damage", "restart"),
    [
        ("flipped", True),
        pytest.param("flipped", False, marks=thorough),
        pytest.param("gone", True, marks=thorough),
        pytest.param("gone", False, marks=thorough),
    ],
)
def test_head_is_known_from_the_reflog(kept: Service, damage: str, restart: bool) -> None:
    path, head = kept.root / "head.json", head_of(kept)
    size = kept.worker.log.stat().st_size
    if damage == "flipped":
        flip(path, 30)
    else:
        path.unlink()
    if restart:
        kept.restart("worker", "api")
    assert kept.client.generate("Lyon lies in").results[0].version == head
    done = kept.edited()
    assert f"by the reflog head is {head}" in kept.worker.log.read_text()[size:]
    assert json.loads(path.read_bytes())["version"] == done.result["version"]
    assert_whole(kept)


@thorough
def test_the_base_s_manifest_is_written_again(kept: Service) -> None:
    flip(manifest(kept, "v0"), 20)
    kept.restart("worker", "api")
    assert f"{manifest(kept, 'v0')} is damaged" in kept.worker.log.read_text()
    assert kept.client.generate("Lyon lies in", "base").results[0].version == "v0"
    kept.edited()
    assert_whole(kept)


@thorough
@pytest.mark.parametrize("line", [1, -1])
def test_with_a_damaged_reflog_everything_but_edits_goes_on(kept: Service, line: int) -> None:
    """Whether a job has moved head already must be known; the advice is followed in the end."""
    path, head = kept.root / "reflog.jsonl", head_of(kept)
    lines = path.read_bytes().splitlines(keepends=True)
    place = sum(map(len, lines[:line])) + 5
    flip(path, place)
    kept.restart("worker", "api")
    failed = kept.wait(kept.edit().id)
    assert (failed.status, failed.error.code) == (JobStatus.FAILED, "corrupt_file")
    assert str(path) in failed.error.message
    assert kept.client.generate("Lyon lies in").results[0].version == head
    assert head in [version.id for version in kept.client.snapshots()]
    kept.rollback("base")
    kept.rollback(head)
    assert kept.client.generate("Lyon lies in").results[0].version == head
    if line == 1:
        flip(path, place)
    else:  # its last line was written again
        left = path.read_bytes().splitlines(keepends=True)
        del left[len(lines) - 1]
        path.write_bytes(b"".join(left))
    kept.edited()
    assert_whole(kept)


@pytest.mark.parametrize(
    ("part", "restart"),
    [
        ("row", True),
        pytest.param("row", False, marks=thorough),
        pytest.param("header", True, marks=thorough),
        pytest.param("page", True, marks=thorough),
        pytest.param("gone", False, marks=thorough),
    ],
)
def test_the_index_is_made_again(kept: Service, part: str, restart: bool) -> None:
    """Lists are those of the records, before and after an edit."""

    def listed() -> tuple[list[str], list[tuple[str, str, str]]]:
        facts = list(kept.client.facts())
        versions = [version.id for version in kept.client.snapshots()]
        return versions, [(one.version, one.target_new, one.state) for one in facts]

    kept.edited()
    before, jobs = listed(), [job.id for job in kept.client.jobs()]
    path = kept.root / "index" / "catalogue.sqlite"
    if part == "row":
        store = kept.store
        with store.catalogue.database.writing() as connection:
            connection.execute("UPDATE fact SET entry = replace(entry, 'holds', 'hulds')")
        store.catalogue.database.close()
    elif part == "gone":
        path.unlink()
    else:
        for name in ("worker", "api"):
            kept.part(name).stop()
        flip(path, 3 if part == "header" else path.stat().st_size // 2)
        for name in ("worker", "api"):
            kept.part(name).start()
        kept.wait_ready()
    if restart and part == "row":
        kept.restart("worker", "api")
    assert listed() == before
    assert [job.id for job in kept.client.jobs()] == jobs
    kept.edited()
    assert len(listed()[0]) == len(before[0]) + 1
    assert_whole(kept)


# ---------------------------------------------------------------- while everything else goes on


def test_a_damaged_head_is_left_and_edited_again(kept: Service) -> None:
    """The weights of head: the start reports it, the base answers, a rollback works."""
    store, head = kept.store, head_of(kept)
    mine = {ref.sha256 for ref in store.versions.read(head).tensors}
    tensor = store.tensors.path(sorted(mine)[0])
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
    tensor = store.tensors.path(store.versions.read(head_of(kept)).tensors[0].sha256)
    with flipped(tensor, place):
        kept.restart("worker")
        refused(lambda: kept.client.generate("Lyon lies in"), tensor)
    assert_whole(kept)


@thorough
def test_damaged_keys_of_an_edit_fail_what_builds_on_them(kept: Service) -> None:
    store = kept.store
    tensor = store.tensors.path(store.versions.read(head_of(kept)).artifacts[0].sha256)
    with flipped(tensor, 0.5):
        kept.restart("worker")
        failed = kept.wait(kept.edit().id)
        assert (failed.status, failed.error.code) == (JobStatus.FAILED, "corrupt_version")
        assert str(tensor) in failed.error.message
        assert kept.client.generate("Lyon lies in").results[0].version == head_of(kept)
    assert_whole(kept)


@thorough
def test_a_damaged_manifest_of_head_is_named(kept: Service) -> None:
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
def test_a_damaged_manifest_beside_head_takes_nothing_down(kept: Service, tmp_path: Path) -> None:
    """Lists, edits, retention and backup of the others."""
    staged = kept.wait(kept.edit(activate=False).id).result["version"]
    with flipped(manifest(kept, staged)):
        kept.restart("worker", "api")
        states = {version.id: version.state for version in kept.client.snapshots()}
        assert (states.pop(staged), states[head_of(kept)]) == ("damaged", "head")
        assert "damaged" not in states.values()
        refused(lambda: kept.client.snapshot(staged), manifest(kept, staged))
        kept.edited()
        assert list(back_up(Store.open(kept.root), tmp_path / "b").backup.damaged_versions) == [
            staged
        ]
        log = kept.worker.log.read_text()
        assert f"{staged} is damaged and passed over" in log
        assert "retention:" not in log[log.rindex("loading") :]
    kept.restart("worker", "api")
    assert_whole(kept)


@thorough
def test_damaged_names_and_counter_are_named(kept: Service) -> None:
    with flipped(kept.root / "names.json"):
        refused(lambda: kept.client.generate("Lyon lies in", "mine"), kept.root / "names.json")
        assert kept.client.generate("Lyon lies in").results[0].version == head_of(kept)
    with flipped(kept.root / "counter.json"):
        failed = kept.wait(kept.edit().id)
        assert (failed.status, failed.error.code) == (JobStatus.FAILED, "corrupt_file")
        assert "counter.json" in failed.error.message
    assert_whole(kept)


@thorough
def test_a_damaged_record_of_a_job_is_named(kept: Service) -> None:
    ended, waiting = kept.edited(), kept.edit_halted("optimise")
    path = kept.root / "jobs" / f"{ended.id}.json"
    with flipped(path):
        refused(lambda: kept.client.job(ended.id), path)
        assert ended.id not in [job.id for job in kept.client.jobs()]
        kept.worker.halts.let_go()
        assert kept.wait(waiting.id).status is JobStatus.SUCCEEDED
    assert_whole(kept)


@thorough
def test_a_damaged_key_or_audit_line_is_found(kept: Service) -> None:
    claim = next((kept.root / "idempotency").glob("*.json"))
    key, audit = next((kept.root / "keys").glob("*.json")), kept.root / "audit.jsonl"
    with flipped(claim), flipped(key), flipped(audit):
        store = Store.open(kept.root)
        assert store.keys.all() == []
        lines = audit.read_bytes().count(b"\n")
        assert len(list(store.audit.entries())) == lines - 1
        kept.edited()
        kept.restart("worker")
    assert_whole(kept)


@thorough
def test_drafts_are_computed_again(kept: Service) -> None:
    first = kept.edited()
    for _ in range(2):
        kept.edited()
    halts = kept.halt("worker", "swap")
    revert = kept.revert(first.result["edit_id"])
    until(halts.reached, "the worker is about to move head")
    kept.worker.kill()
    drafts = sorted((kept.root / "work" / revert.id / "drafts").iterdir())
    assert drafts
    for draft in drafts:
        flip(draft, 40)
    assert kept.wait(revert.id).status is JobStatus.SUCCEEDED
    assert f"{drafts[0]} is damaged" in kept.worker.log.read_text()
    assert_whole(kept)


@thorough
def test_a_state_of_a_long_line_is_made_again(kept: Service) -> None:
    lengthened(kept, EVERY)
    state = kept.root / "index" / "sums" / f"{head_of(kept)}.json"
    kept.edited()
    assert state.exists()
    kept.worker.stop()
    flip(state, 40)
    kept.worker.start()
    kept.wait_ready()
    kept.edited()
    assert f"{state} is damaged" in kept.worker.log.read_text()
    assert_whole(kept)


def lengthened(service: Service, count: int) -> None:
    """Put versions that change nothing on top of head, where no worker is running."""
    service.worker.stop()
    store, head = service.store, service.store.head.read()
    tip = store.versions.read(head.version)
    for _ in range(count):
        more = {"id": store.versions.new_id(), "parent": tip.id, "job_id": None, "artifacts": []}
        tip = tip.model_copy(update=more)
        store.versions.write(tip)
    store.head.move(
        tip.id, expected=head.version, job_id=None, fence=head.fence, who="test", why="longer"
    )
    service.worker.start()
    service.wait_ready()


# ---------------------------------------------------------------- versions without tensors


@pytest.fixture(scope="module")
def worn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose version v2 has lost its tensors."""
    folder = tmp_path_factory.mktemp("thin", numbered=True)
    with Service(folder, JEEP_KEEP_VERSIONS=1) as service:
        for _ in range(4):
            service.edited()
        service.restart("worker")
        until(lambda: thin_file(service).exists(), "the tensors of v2 are dropped")
        yield service


def thin_file(service: Service) -> Path:
    return service.root / "versions" / "v2" / "thin.json"


@thorough
@pytest.mark.parametrize("kind", ["thin.json", "factors"])
def test_a_version_that_cannot_be_rebuilt_is_named(worn: Service, kind: str) -> None:
    store = worn.store
    factor = next(ref for ref in store.versions.read("v2").artifacts if ref.name.startswith("u."))
    path = thin_file(worn) if kind == "thin.json" else store.tensors.path(factor.sha256)
    with flipped(path, 0.5):
        worn.restart("worker")
        refused(lambda: worn.client.generate("Lyon lies in", "v2"), path)
        refused(lambda: worn.client.rollback("v2"), path)
        assert worn.client.generate("Lyon lies in").results[0].version == head_of(worn)
        assert worn.client.generate("Lyon lies in", "base").results[0].version == "v0"
    assert worn.client.generate("Lyon lies in", "v2").results[0].version == "v2"
    assert_whole(worn)
