"""Files of reports and suites are read only as they were written; head outlives its file."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.service.builders import add_version, move

from service.contracts.jobs import now
from service.contracts.schemas.evaluation import SuiteInfo
from service.store import CorruptFile, Store, is_disk_full
from service.store import head as head_module
from service.store.maintenance.backup import BackupError, back_up
from service.store.maintenance.verify import verify
from service.store.reports import HASHES
from service.store.suites import Suites

JOB = "job_1"


def damaged(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


class TestReports:
    @pytest.fixture
    def report(self, based: Store) -> Path:
        folder = based.reports.folder(JOB)
        (folder / "cases.jsonl").write_text('{"id": "1"}\n' * 5)
        (folder / "plot.png").write_bytes(b"picture")
        based.reports.seal(JOB)
        return folder

    def test_a_whole_file_is_found(self, based: Store, report: Path) -> None:
        assert based.reports.path(JOB, "plot.png").read_bytes() == b"picture"
        assert verify(based).findings == []

    @pytest.mark.parametrize("damage", [damaged, Path.unlink])
    @pytest.mark.parametrize("name", ["cases.jsonl", "plot.png"])
    def test_a_damaged_file_is_named(
        self, based: Store, report: Path, name: str, damage: Callable[[Path], None]
    ) -> None:
        damage(report / name)
        with pytest.raises(CorruptFile, match=f"{name} is"):
            based.reports.path(JOB, name)
        assert [one.path for one in verify(based).findings] == [f"reports/{JOB}/{name}"]
        other = {"cases.jsonl": "plot.png", "plot.png": "cases.jsonl"}[name]
        assert based.reports.path(JOB, other)

    def test_what_a_killed_attempt_left_is_no_part_of_it(self, based: Store, report: Path) -> None:
        (report / ".plot.png.123.tmp").touch()
        based.reports.seal(JOB)
        assert sorted(path.name for path in report.iterdir()) == [
            "cases.jsonl", HASHES, "plot.png",
        ]  # fmt: skip

    def test_damaged_hashes_are_named(self, based: Store, report: Path) -> None:
        damaged(report / HASHES)
        with pytest.raises(CorruptFile, match=HASHES):
            based.reports.path(JOB, "plot.png")
        assert [one.path for one in verify(based).findings] == [f"reports/{JOB}/{HASHES}"]

    def test_a_report_of_an_earlier_release_is_read(self, based: Store, report: Path) -> None:
        (report / HASHES).unlink()
        damaged(report / "plot.png")
        assert based.reports.path(JOB, "plot.png")
        with pytest.raises(CorruptFile, match="is missing"):
            based.reports.path(JOB, "gone.png")

    def test_a_job_without_files_has_no_report(self, based: Store) -> None:
        based.reports.seal("job_2")
        assert not (based.root / "reports" / "job_2").exists()


class TestSuites:
    @pytest.fixture
    def suites(self, based: Store) -> Suites:
        found = based.suites
        for name in ("mine", "other"):
            with found.upload() as upload:
                upload.write(b'{"subject": "Lima"}\n' * 9)
                found.add(upload, info(name, upload.sha256))
        return found

    def test_a_damaged_file_is_named(self, suites: Suites, based: Store) -> None:
        path = suites.path("mine")
        damaged(path)
        with pytest.raises(CorruptFile, match=r"mine\.data is damaged: .* upload the suite again"):
            suites.path("mine")
        assert suites.path("other")
        with suites.upload() as upload:
            upload.write(b'{"subject": "Lima"}\n' * 9)
            assert suites.add(upload, info("mine", upload.sha256))[1] is False
        assert suites.path("mine").read_bytes().count(b"Lima") == 9
        assert [suite.name for suite in suites.all()] == ["mine", "other"]

    def test_a_damaged_record_hides_no_other_suite(self, suites: Suites, based: Store) -> None:
        damaged(based.root / "suites" / "mine.json")
        with pytest.raises(CorruptFile, match=r"mine\.json is damaged"):
            suites.get("mine")
        assert [suite.name for suite in suites.all()] == ["other"]


def info(name: str, sha256: str) -> SuiteInfo:
    return SuiteInfo(
        name=name, format="counterfact", style="contrast", records=9, cases=9, dropped={},
        left_out={}, bytes=1, sha256=sha256, created_at=now(),
    )  # fmt: skip


class TestHead:
    """``head.json`` is lost: the reflog knows which version is head."""

    @pytest.fixture
    def moved(self, based: Store) -> Store:
        based.head.claim(3)
        for _ in range(2):
            move(
                based,
                add_version(based),
                expected=based.head.read().version,
                fence=3,
                job_id="job_1",
            )
        return based

    @pytest.mark.parametrize("damage", [damaged, Path.unlink])
    def test_any_process_reads_it(self, moved: Store, damage: Callable[[Path], None]) -> None:
        damage(moved.root / "head.json")
        head = Store.open(moved.root).head.read()
        assert (head.version, head.job_id) == ("v2", "job_1")
        assert head.move == moved.head.reflog()[-1]

    @pytest.mark.parametrize("damage", [damaged, Path.unlink])
    def test_the_next_start_writes_it(
        self, moved: Store, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
    ) -> None:
        damage(moved.root / "head.json")
        store = Store.open(moved.root)
        store.create_base(store.versions.read("v0").weights_sha256)
        store.head.repair()
        store.head.claim(4)
        assert "by the reflog head is v2" in caplog.text
        assert json.loads((moved.root / "head.json").read_bytes())["version"] == "v2"
        assert (store.head.read().fence, len(store.head.reflog())) == (4, 3)
        assert verify(store).findings == []

    @pytest.mark.parametrize("damage", [damaged, Path.unlink])
    def test_the_next_commit_writes_it(self, moved: Store, damage: Callable[[Path], None]) -> None:
        damage(moved.root / "head.json")
        assert not moved.head.is_replaced()
        move(moved, "v1", expected="v2", fence=3)
        assert Store.open(moved.root).head.read().version == "v1"
        assert [one.to for one in moved.head.reflog()] == ["v0", "v1", "v2", "v1"]

    def test_without_the_reflog_s_last_line_nobody_guesses(self, moved: Store) -> None:
        damaged(moved.root / "head.json")
        lines = (moved.root / "reflog.jsonl").read_bytes().splitlines(keepends=True)
        (moved.root / "reflog.jsonl").write_bytes(b"".join([*lines[:-1], b"{}\n"]))
        advice = {one.path: one.advice for one in verify(moved).findings}
        assert set(advice) == {"head.json", "reflog.jsonl"}
        assert all("backup" in one for one in advice.values())
        weights = moved.versions.read("v0").weights_sha256
        for what in ("is damaged", "is missing"):
            with pytest.raises(CorruptFile, match=rf"head\.json {what}.*last line"):
                moved.head.read()
            with pytest.raises(CorruptFile, match=rf"head\.json {what}"):
                Store.open(moved.root).head.repair()
            (moved.root / "head.json").unlink(missing_ok=True)
        Store.open(moved.root).create_base(weights)
        assert not (moved.root / "head.json").exists(), "the base was made head"

    def test_a_job_that_is_head_is_found_in_a_damaged_reflog(self, moved: Store) -> None:
        path = moved.root / "reflog.jsonl"
        path.write_bytes(path.read_bytes().replace(b'"v1"', b'"v7"', 1))
        found = moved.head.move_of("job_1")
        assert found is not None
        assert found.to == "v2"
        with pytest.raises(CorruptFile):
            moved.head.move_of("job_2")
        assert moved.head.committed() == {"v0", "v2"}

    def test_a_first_start_on_a_full_disk_says_so(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        replace = head_module.replace

        def full(path: Path, data: bytes) -> None:
            if path.name == "head.json":
                raise OSError(errno.ENOSPC, "No space left on device")
            replace(path, data)

        monkeypatch.setattr(head_module, "replace", full)
        with pytest.raises(OSError, match="No space") as error:
            store.create_base("0" * 64)
        assert is_disk_full(error.value)
        monkeypatch.undo()
        store.create_base("0" * 64)
        assert store.head.read().version == "v0"

    @pytest.mark.parametrize("damage", [damaged, Path.unlink])
    def test_a_lost_file_is_not_backed_up(
        self, moved: Store, damage: Callable[[Path], None], tmp_path: Path
    ) -> None:
        damage(moved.root / "head.json")
        with pytest.raises((CorruptFile, BackupError), match=r"head\.json is"):
            back_up(moved, tmp_path / "backup")

    def test_a_damaged_line_of_the_reflog_does_not_keep_head_from_moving(
        self, moved: Store
    ) -> None:
        path = moved.root / "reflog.jsonl"
        path.write_bytes(path.read_bytes().replace(b'"v1"', b'"v7"', 1))
        move(moved, "v1", expected="v2", fence=3)
        assert moved.head.read().version == "v1"
        with pytest.raises(CorruptFile, match=r"reflog\.jsonl has a damaged line, number 2"):
            moved.head.reflog()

    def test_the_base_s_manifest_is_written_again(self, moved: Store) -> None:
        weights = moved.versions.read("v0").weights_sha256
        damaged(moved.root / "versions" / "v0" / "manifest.json")
        store = Store.open(moved.root)
        assert store.create_base(weights).weights_sha256 == weights
        assert verify(Store.open(moved.root)).findings == []
