"""Versions and head: written completely or not at all, one head, nothing lost or repeated."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.service.builders import add_version, move

from service.contracts.jobs import now
from service.contracts.schemas import Manifest, TensorRef
from service.store import (
    BadName,
    CorruptFile,
    HeadMoved,
    MissingTensor,
    NameTaken,
    StaleFence,
    Store,
    UnknownVersion,
    VersionExists,
    WrongModel,
)
from service.store.maintenance.sweep import sweep


class TestVersions:
    def test_a_version_is_read_as_it_was_written(self, based: Store) -> None:
        ref = based.tensors.put("w", "F32", [2], b"01234567")
        version = add_version(based, tensors=[ref], hparams={"layers": [1, 2]}, job_id="job_1")
        read = Store.open(based.root).versions.read(version)
        assert (read.tensors, read.hparams, read.job_id) == ([ref], {"layers": [1, 2]}, "job_1")

    def test_a_version_is_written_once(self, based: Store) -> None:
        version = add_version(based, job_id="job_1")
        again = Manifest(id=version, weights_sha256="other", created_at=now())
        with pytest.raises(VersionExists):
            based.versions.write(again)
        assert Store.open(based.root).versions.read(version).job_id == "job_1"
        assert list((based.root / "staging").iterdir()) == []

    def test_a_version_needs_its_tensors(self, based: Store) -> None:
        ref = TensorRef(name="w", dtype="F32", shape=[1], sha256="ab" * 32)
        with pytest.raises(MissingTensor):
            add_version(based, tensors=[ref])

    def test_a_version_needs_its_parent(self, based: Store) -> None:
        with pytest.raises(UnknownVersion):
            add_version(based, parent="v77")

    def test_a_crash_before_the_rename_leaves_no_version(self, based: Store) -> None:
        left = based.root / "staging" / "v1"
        left.mkdir()
        (left / "manifest.json").write_text('{"id": "v1", "weigh')
        assert [v.id for v in Store.open(based.root).versions.all()] == ["v0"]

    def test_what_a_crash_left_in_staging_does_not_hinder_the_next_writing(
        self, based: Store
    ) -> None:
        left = based.root / "staging" / "v1"
        left.mkdir()
        (left / "manifest.json").write_text('{"id": "v1", "weigh')
        assert add_version(based) == "v1"
        assert Store.open(based.root).versions.read("v1").weights_sha256 == "v1"

    def test_a_number_is_never_given_twice(self, based: Store) -> None:
        lost = based.versions.new_id()  # and the process dies before it writes the version
        assert Store.open(based.root).versions.new_id() != lost

    def test_a_lost_counter_gives_no_number_that_is_in_use(self, based: Store) -> None:
        version = add_version(based)
        (based.root / "counter.json").unlink()
        assert based.versions.new_id() == "v2" != version

    def test_two_processes_never_get_the_same_number(self, based: Store) -> None:
        stores = [based, Store.open(based.root)]
        with ThreadPoolExecutor(4) as pool:
            ids = list(pool.map(lambda i: stores[i % 2].versions.new_id(), range(20)))
        assert len(set(ids)) == 20

    def test_versions_are_listed_newest_first_by_number(self, based: Store) -> None:
        for _ in range(11):
            add_version(based)
        assert [v.id for v in based.versions.all()][:3] == ["v11", "v10", "v9"]

    def test_the_version_of_a_job_is_found_after_a_restart(self, based: Store) -> None:
        add_version(based, job_id="job_1")
        version = add_version(based, job_id="job_2")
        found = Store.open(based.root).versions.of_job("job_2")
        assert found is not None
        assert found.id == version
        assert based.versions.of_job("job_3") is None

    def test_the_version_of_a_job_is_found_beside_a_damaged_one(self, based: Store) -> None:
        version = add_version(based, job_id="job_1")
        damaged = add_version(based, job_id="job_2")
        (based.root / "versions" / damaged / "manifest.json").write_text("{")
        found = Store.open(based.root).versions.of_job("job_1")
        assert found is not None
        assert found.id == version

    def test_lineage_goes_from_the_base_along_the_branch(self, based: Store) -> None:
        first = add_version(based)
        add_version(based)
        third = add_version(based, parent=first)
        assert [v.id for v in based.versions.lineage(third)] == ["v0", first, third]

    def test_a_damaged_manifest_is_named(self, based: Store) -> None:
        version = add_version(based)
        path = based.root / "versions" / version / "manifest.json"
        path.write_text(path.read_text()[:20])
        with pytest.raises(CorruptFile, match=f"versions/{version}"):
            Store.open(based.root).versions.read(version)

    def test_the_base_is_made_of_the_same_weights_for_ever(self, based: Store) -> None:
        add_version(based)
        move(based, "v1", expected="v0")
        based.create_base("weights-0")
        assert based.head.read().version == "v1"
        with pytest.raises(WrongModel):
            based.create_base("weights-1")


class TestHead:
    def test_before_a_base_there_is_no_head(self, store: Store) -> None:
        with pytest.raises(UnknownVersion):
            store.head.read()

    def test_head_moves_from_the_expected_version(self, based: Store) -> None:
        version = add_version(based)
        move(based, version, expected="v0", fence=3, job_id="job_1")
        head = Store.open(based.root).head.read()
        assert (head.version, head.job_id, head.fence) == (version, "job_1", 3)

    def test_head_stays_when_another_version_was_expected(self, based: Store) -> None:
        first, second = add_version(based), add_version(based)
        move(based, first, expected="v0")
        with pytest.raises(HeadMoved) as refused:
            move(based, second, expected="v0")
        assert (refused.value.expected, refused.value.actual) == ("v0", first)
        assert based.head.read().version == first
        assert len(based.head.reflog()) == 2

    def test_a_worker_with_an_older_fence_cannot_move_head(self, based: Store) -> None:
        first, second = add_version(based), add_version(based)
        move(based, first, expected="v0", fence=5)
        with pytest.raises(StaleFence):
            move(based, second, expected=first, fence=4)
        move(based, second, expected=first, fence=5)

    def test_head_cannot_move_to_a_version_that_is_not_there(self, based: Store) -> None:
        with pytest.raises(UnknownVersion):
            move(based, "v9", expected="v0")

    def test_of_two_racing_commits_one_wins(self, based: Store) -> None:
        versions = [add_version(based) for _ in range(8)]

        def commit(version: str) -> bool:
            try:
                move(Store.open(based.root), version, expected="v0")
            except HeadMoved:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(commit, versions))
        assert won.count(True) == 1
        assert based.head.read().version == versions[won.index(True)]

    def test_every_move_is_a_line_of_the_reflog(self, based: Store) -> None:
        version = add_version(based)
        move(based, version, expected="v0", job_id="job_1")
        move(based, "v0", expected=version)
        lines = [(m.previous, m.to, m.job_id) for m in based.head.reflog()]
        assert lines == [(None, "v0", None), ("v0", version, "job_1"), (version, "v0", None)]

    @pytest.mark.parametrize("kept", [0, 30])
    def test_a_line_lost_by_a_crash_is_added_again(self, based: Store, kept: int) -> None:
        """The crash came after the commit, before or within the writing of the line."""
        path = based.root / "reflog.jsonl"
        before = path.read_bytes()
        version = add_version(based)
        move(based, version, expected="v0", job_id="job_1")
        whole = based.head.reflog()
        line = path.read_bytes()[len(before) :]
        path.write_bytes(before + line[:kept])
        assert len(based.head.reflog()) == 1
        based.head.repair()
        based.head.repair()
        assert based.head.reflog() == whole

    def test_the_next_move_keeps_a_line_that_was_not_repaired_yet(self, based: Store) -> None:
        path = based.root / "reflog.jsonl"
        before = path.read_bytes()
        version = add_version(based)
        move(based, version, expected="v0")
        path.write_bytes(before)
        move(based, "v0", expected=version)
        assert [m.to for m in based.head.reflog()] == ["v0", version, "v0"]

    def test_a_reflog_that_is_no_text_is_named(self, based: Store) -> None:
        path = based.root / "reflog.jsonl"
        path.write_bytes(path.read_bytes() + b"\xff\xfe\n")
        with pytest.raises(CorruptFile, match="reflog"):
            based.head.reflog()


class TestNames:
    def test_head_base_ids_and_names_resolve_to_ids(self, based: Store) -> None:
        version = add_version(based)
        move(based, version, expected="v0")
        based.names.give("first", version)
        resolved = {
            ref: based.names.resolve(ref) for ref in ("head", "base", "v0", version, "first")
        }
        assert resolved == {
            "head": version, "base": "v0", "v0": "v0", version: version, "first": version,
        }  # fmt: skip

    @pytest.mark.parametrize(
        "ref", ["nobody", "v1", "v01", "v²", "../versions/v0", "", "HEAD", "v" + "9" * 5000]
    )
    def test_other_names_are_unknown(self, based: Store, ref: str) -> None:
        with pytest.raises(UnknownVersion) as unknown:
            based.names.resolve(ref)
        assert unknown.value.ref == ref

    @pytest.mark.parametrize(
        ("ref", "said"),
        [
            ("HEAD", "no version is called 'HEAD'; did you mean 'head'?"),
            ("releas", "no version is called 'releas'; did you mean 'release'?"),
            ("v3", "no version is called 'v3'"),
        ],
    )
    def test_a_name_that_is_nearly_a_known_one(self, based: Store, ref: str, said: str) -> None:
        for name in ("release", "v3-old"):
            based.names.give(name, "v0")
        with pytest.raises(UnknownVersion) as unknown:
            based.names.resolve(ref)
        assert str(unknown.value) == said

    def test_a_name_stands_for_one_version(self, based: Store) -> None:
        version = add_version(based)
        based.names.give("good", version)
        based.names.give("good", version)
        with pytest.raises(NameTaken):
            based.names.give("good", "v0")
        assert Store.open(based.root).names.all() == {"good": version}

    @pytest.mark.parametrize(
        "name", ["head", "base", "v0", "v12", "v" + "9" * 20, "0day", "a b", "x\n", "", "a/b"]
    )
    def test_names_that_mean_something_else_are_refused(self, based: Store, name: str) -> None:
        with pytest.raises(BadName):
            based.names.give(name, "v0")

    def test_names_given_at_the_same_time_are_all_kept(self, based: Store) -> None:
        stores = [based, Store.open(based.root)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: stores[i % 2].names.give(f"n{i}", "v0"), range(16)))
        assert len(based.names.all()) == 16


_COMMITTER = """
import sys
from service.contracts.jobs import now
from service.contracts.schemas import Manifest
from service.store import Store
store = Store.open(sys.argv[1])
print("ready", flush=True)
while True:
    head, version = store.head.read().version, store.versions.new_id()
    ref = store.tensors.put("w", "U8", [len(version)], version.encode())
    store.versions.write(
        Manifest(id=version, parent=head, tensors=[ref], weights_sha256="w", created_at=now())
    )
    store.head.move(version, expected=head, job_id=None, fence=1, who="worker", why="edit")
"""


def test_a_worker_killed_at_any_instant_leaves_a_whole_chain(based: Store) -> None:
    for delay in (0.05, 0.11, 0.17):
        command = [sys.executable, "-c", _COMMITTER, str(based.root)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
            assert worker.stdout is not None
            worker.stdout.readline()
            time.sleep(delay)
            worker.kill()
        store = Store.open(based.root)
        store.head.repair()
        sweep(store)
        line = store.versions.lineage(store.head.read().version)
        assert [move.to for move in store.head.reflog()] == [version.id for version in line]
        assert all(store.tensors.read(v.tensors[0]).decode() == v.id for v in line[1:])
    assert len(line) > 3
