"""What edits are given: prefixes that are kept, and second moments that the worker may lack."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.library.tiny import bigram_view

from jeep_core.moments.source import imported_path
from service.contracts.schemas import WorkerInfo
from service.settings import Settings
from service.store import Store
from service.worker.editing.prefixes import kept_prefixes
from service.worker.process import has_corpus, say_moments


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


@pytest.mark.parametrize(
    ("model", "corpus", "expected"),
    [("atlas-gptj", None, True), ("/models/mine", None, False), ("/models/mine", "c.txt", True)],
)
def test_a_corpus_is_needed_beside_the_bundled_ones(
    tmp_path: Path, model: str, corpus: str | None, expected: bool
) -> None:
    (tmp_path / "c.txt").write_text("text")
    settings = Settings(corpus=tmp_path / corpus if corpus else None)
    assert has_corpus(model, settings) is expected


@pytest.mark.parametrize(
    ("text", "imported", "said"),
    [
        (True, None, ""),
        (False, None, "until then edits by editors that need them are refused"),
        (False, "wikipedia", "jeep moments import --name wikipedia FILE.npz"),
    ],
)
def test_the_worker_says_which_editors_lack_second_moments(
    store: Store, caplog: pytest.LogCaptureFixture, text: bool, imported: str | None, said: str
) -> None:
    found = WorkerInfo.model_construct(model_hash="1" * 64, corpus=text, moments=imported)
    say_moments(store, found)
    assert said in caplog.text
    assert bool(caplog.text) is bool(said)
    if said:
        assert "jeep, memit, pmet, rome, alphaedit" in caplog.text
    if imported:
        path = imported_path(store.base.moments_folder, imported, "1" * 64, 3)
        path.parent.mkdir(parents=True)
        path.touch()
        caplog.clear()
        say_moments(store, found)
        assert caplog.text == ""
