"""What edits are given: prefixes that are kept, and second moments that the worker may lack."""

from __future__ import annotations

import json
import logging

import pytest
from support.library.tiny import bigram_view

from jeep_core.moments.source import imported_path
from service.contracts.schemas import WorkerInfo
from service.store import Store
from service.worker.editing.prefixes import kept_prefixes
from service.worker.members.publishing import say_moments


@pytest.mark.parametrize("left", [b'["", "The', b"", b"\xff"])
def test_damaged_prefixes_are_sampled_again(
    store: Store, left: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    base = bigram_view({"The": {"town": 0.9}, "town": {"is": 0.9}, "is": {"there": 0.9}}).base
    whole = kept_prefixes(store, base, 3)
    path = store.base.prefixes_file
    assert kept_prefixes(store, base, 2) == whole[:2]
    assert not caplog.messages
    path.write_bytes(left)
    assert kept_prefixes(store, base, 3) == whole
    assert [text.endswith("sampled again") for text in caplog.messages] == [True]
    assert str(path) in caplog.text
    assert json.loads(path.read_text(encoding="utf-8"))["prefixes"] == whole
    assert [entry.name for entry in path.parent.iterdir()] == ["prefixes.json"]


def test_the_worker_says_where_second_moments_come_from_and_what_is_not_imported(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "service")
    text = WorkerInfo.model_construct(model_hash="1" * 64, moments=None, moments_from="some text")
    say_moments(store, text)
    assert [one.getMessage() for one in caplog.records] == ["second moments: some text"]
    caplog.clear()
    found = text.model_copy(update={"moments": "wikipedia"})
    say_moments(store, found)
    assert "jeep moments import --name wikipedia FILE.npz" in caplog.text
    assert "jeep, memit, pmet, rome, alphaedit" in caplog.text
    path = imported_path(store.base.moments_folder, "wikipedia", "1" * 64, 3)
    path.parent.mkdir(parents=True)
    path.touch()
    caplog.clear()
    say_moments(store, found)
    assert "jeep moments import" not in caplog.text
