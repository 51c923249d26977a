"""The store is made of components, each with files of its own."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from support import ROOT
from support.service.builders import MakeJob

from service.store import Store
from service.store.base.files import BaseFiles
from service.store.errors import ErrorLog
from service.store.tensors import Tensors

COMPONENTS = {
    "tensors", "versions", "head", "names", "journal", "drafts", "reports", "suites", "keys",
    "audit", "base", "exports", "targets", "artefacts", "catalogue", "checks", "committed",
    "sums", "head_log",
}  # fmt: skip


def test_beside_its_components_a_store_has_few_members(store: Store) -> None:
    public = {name for name in (*vars(store), *dir(Store)) if not name.startswith("_")}
    assert public >= COMPONENTS
    assert len(public - COMPONENTS) <= 10
    assert Store.__bases__ == (object,)


def test_components_are_classes_of_their_own(store: Store) -> None:
    parts = {name: type(getattr(store, name)) for name in COMPONENTS}
    assert len(set(parts.values())) == len(COMPONENTS)
    assert all(cls.__bases__ == (object,) for cls in parts.values())


def test_a_component_works_without_the_whole_store(store: Store) -> None:
    ref = store.tensors.put("w", "U8", [3], b"abc")
    assert Tensors(store.root).read(ref) == b"abc"


def test_locks_of_a_store_are_held_for_the_block_and_free_after_it(store: Store) -> None:
    store.create_base("weights")
    with store.locked("head", "names"):
        pass
    store.names.give("mine", "v0")
    assert store.head.read().version == "v0"


class TestBaseFiles:
    def test_prefixes_are_kept(self, store: Store) -> None:
        assert store.base.prefixes() == []
        store.base.keep_prefixes(["", "Çok. "])
        assert Store.open(store.root).base.prefixes() == ["", "Çok. "]

    @pytest.mark.parametrize("left", [b"", b"{", b"3", b'{"other": []}', b"\xff\xfe"])
    def test_prefixes_that_cannot_be_read_count_as_none(self, store: Store, left: bytes) -> None:
        store.base.prefixes_file.write_bytes(left)
        assert store.base.prefixes() == []

    def test_prefixes_of_earlier_releases_are_a_bare_list(self, store: Store) -> None:
        store.base.prefixes_file.write_text('["", "one"]')
        assert store.base.prefixes() == ["", "one"]

    def test_a_command_can_ask_for_a_folder_of_a_store_that_is_not_there(
        self, tmp_path: Path
    ) -> None:
        base = BaseFiles(tmp_path / "none")
        folders = (base.moments_folder, base.networks_folder, base.probes_folder)
        names = ["base/moments", "base/hypernetworks", "base/probes"]
        assert [path.relative_to(tmp_path / "none").as_posix() for path in folders] == names
        assert not (tmp_path / "none").exists()


def test_only_their_owner_spells_the_folder_of_the_base_models_files() -> None:
    owner = ROOT / "service" / "store" / "base" / "files.py"
    path = re.compile(r'/ "base"|"base" /|\] == "base"|"base/')
    modules = [one for one in (ROOT / "service").rglob("*.py") if one != owner]
    assert [one.name for one in modules if path.search(one.read_text("utf-8"))] == []


def test_what_a_job_has_kept_is_dropped_whole(store: Store, make_job: MakeJob) -> None:
    job = make_job()
    (store.drafts.work_folder(job.id) / "part").write_text("x")
    (store.reports.folder(job.id) / "report.json").write_text("{}")
    store.drafts.drop(job.id)
    store.reports.drop(job.id)
    store.reports.drop(job.id)
    assert list((store.root / "work").iterdir()) == list((store.root / "reports").iterdir()) == []


def test_an_error_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    errors = ErrorLog()
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            errors.once("v3 is damaged")
        errors.once("v4 is damaged")
    assert caplog.messages == ["v3 is damaged", "v4 is damaged"]
