"""Downloads of exports by the client: whole in the end, and nothing else is touched."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.service.finished_jobs import finished_export

from jeep_core.exports.folders import verify, write_record
from service.client import ApiError, Client, DamagedDownload
from service.client.files import LOCK
from service.contracts.jobs import now
from service.contracts.schemas.exports import ExportFile
from service.store import Store

WEIGHTS = bytes(range(256)) * 100
Finished = tuple[str, Path]


def submit(http: httpx.Client, version: str = "base", **body: Any) -> httpx.Response:
    return http.post(f"/snapshots/{version}/export", json=body)


@pytest.fixture
def done(http: httpx.Client, model: Store) -> Finished:
    return finished_export(http, model, WEIGHTS)


class TestDownload:
    """By the client: every file has its hash in the end, whatever was there before."""

    def whole(self, folder: Path) -> None:
        assert (folder / "weights.bin").read_bytes() == WEIGHTS
        assert (folder / "inner" / "empty.txt").read_bytes() == b""
        assert not list(folder.rglob("*.part"))

    def test_of_all_files(self, client: Client, done: Finished, tmp_path: Path) -> None:
        seen: dict[str, int] = {}
        paths = client.download_export(
            done[0], tmp_path / "out", lambda file, n: seen.update({file.path: n})
        )
        self.whole(tmp_path / "out")
        assert len(paths) == 3
        assert seen["weights.bin"] == len(WEIGHTS)

    def test_goes_on_where_it_ended(self, client: Client, done: Finished, tmp_path: Path) -> None:
        (tmp_path / "weights.bin.part").write_bytes(WEIGHTS[:7000])
        told: list[int] = []
        client.download_export(done[0], tmp_path, lambda file, n: told.append(n))
        self.whole(tmp_path)
        assert told[1] > 7000, "nothing before that was sent again"

    def test_of_a_damaged_part_begins_again(
        self, client: Client, done: Finished, tmp_path: Path
    ) -> None:
        (tmp_path / "weights.bin.part").write_bytes(b"x" * 7000)
        client.download_export(done[0], tmp_path)
        self.whole(tmp_path)

    def test_leaves_whole_files_alone_and_mends_others(
        self, client: Client, done: Finished, tmp_path: Path
    ) -> None:
        client.download_export(done[0], tmp_path)
        before = (tmp_path / "export.json").stat().st_ino
        (tmp_path / "weights.bin").write_bytes(WEIGHTS[:-1] + b"?")
        client.download_export(done[0], tmp_path)
        self.whole(tmp_path)
        assert (tmp_path / "export.json").stat().st_ino == before

    def test_removes_what_an_earlier_export_left_and_nothing_else(
        self, client: Client, done: Finished, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        out.mkdir()
        (out / "facts.jsonl").write_text("{}")
        (out / "weights.bin").write_bytes(b"of another version")
        write_record(out, {"version": "v1"})
        (out / "mine.txt").write_text("not of the export")
        client.download_export(done[0], out)
        self.whole(out)
        assert not (out / "facts.jsonl").exists()
        assert (out / "mine.txt").read_text() == "not of the export"
        assert {one.path for one in verify(out)} == {"weights.bin", "inner/empty.txt"}

    def test_removes_nothing_by_a_record_that_is_damaged(
        self, client: Client, done: Finished, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        out.mkdir()
        (out / "facts.jsonl").write_text("{}")
        write_record(out, {"version": "v1"})
        record = (out / "export.json").read_bytes()
        (out / "export.json").write_bytes(record.replace(b"v1", b"v2"))
        client.download_export(done[0], out)
        self.whole(out)
        assert (out / "facts.jsonl").exists()

    def test_of_a_damaged_file_of_the_service_is_refused(
        self, client: Client, done: Finished, tmp_path: Path
    ) -> None:
        (done[1] / "weights.bin").write_bytes(b"?" * len(WEIGHTS))
        with pytest.raises(DamagedDownload, match="arrived damaged twice"):
            client.download_export(done[0], tmp_path)
        assert not (tmp_path / "weights.bin").exists()

    def test_survives_connections_that_break(
        self, client: Client, done: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain, calls = client._http.stream, [0]

        def breaking(*given: Any, **more: Any) -> AbstractContextManager[httpx.Response]:
            calls[0] += 1
            if calls[0] == 1:
                raise httpx.ReadError("broken")
            return plain(*given, **more)

        monkeypatch.setattr(client._http, "stream", breaking)
        client.download_export(done[0], tmp_path)
        self.whole(tmp_path)

    def test_into_a_folder_of_another_one_is_refused(
        self, client: Client, done: Finished, tmp_path: Path
    ) -> None:
        """Both would append to the same parts."""
        tried: list[str] = []

        def second(file: ExportFile, n: int) -> None:
            with pytest.raises(OSError, match=r"another download into .* is running") as refused:
                client.download_export(done[0], tmp_path)
            tried.append(str(refused.value))

        client.download_export(done[0], tmp_path, second)
        assert len(tried) >= 3
        assert str(tmp_path) in tried[0]
        self.whole(tmp_path)
        assert not (tmp_path / LOCK).exists()

    def test_goes_on_after_one_that_was_killed(
        self, client: Client, done: Finished, tmp_path: Path
    ) -> None:
        """Its lock file is there, and nobody holds it."""
        (tmp_path / LOCK).touch()
        client.download_export(done[0], tmp_path)
        self.whole(tmp_path)
        assert not (tmp_path / LOCK).exists()

    def test_that_breaks_off_leaves_no_lock(
        self, client: Client, done: Finished, tmp_path: Path
    ) -> None:
        (done[1] / "weights.bin").write_bytes(b"?" * len(WEIGHTS))
        with pytest.raises(DamagedDownload):
            client.download_export(done[0], tmp_path)
        assert not (tmp_path / LOCK).exists()

    @pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a\\..\\x", ""])
    def test_never_leaves_its_folder(
        self, http: httpx.Client, client: Client, model: Store, tmp_path: Path, name: str
    ) -> None:
        export_id, folder = finished_export(http, model)
        job = model.journal.read(folder.name)
        assert job.result is not None
        job.result["files"][0]["path"] = name
        model.journal.save(job.model_copy(update={"finished_at": now()}))
        with pytest.raises(OSError, match="outside the folder"):
            client.download_export(export_id, tmp_path / "out")

    def test_of_an_unfinished_or_removed_export_says_so(
        self, http: httpx.Client, client: Client, done: Finished, tmp_path: Path
    ) -> None:
        export_id = submit(http, format="peft").json()["resource_id"]
        with pytest.raises(ApiError, match="no_result"):
            client.download_export(export_id, tmp_path)
        client.remove_export(done[0])
        with pytest.raises(ApiError, match="export_gone"):
            client.download_export(done[0], tmp_path)
