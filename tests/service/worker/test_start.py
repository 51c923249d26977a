"""A worker that cannot work as configured reports it in one sentence and ends with code 78.

One whose folder holds another store ends with 75, to be started again.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from signal import SIGTERM
from threading import Thread
from types import SimpleNamespace

import pytest
from support import TINY_GPTJ

from jeep_core import atlas
from service.settings import EXIT_CONFIG, Settings, SettingsError
from service.store import Store
from service.store.files import encode, replace
from service.store.store import StoreIdentity, is_another
from service.worker import process
from service.worker.input_files import check_inputs, own_relations
from service.worker.members import common, follower
from service.worker.members.follower import Follower
from service.worker.members.publishing import head_of, prepare
from service.worker.process import Worker

GOLDEN = TINY_GPTJ


def said(settings: Settings, caplog: pytest.LogCaptureFixture) -> str:
    """The sentence with which a worker refuses to start."""
    with caplog.at_level(logging.ERROR):
        assert Worker(settings).run() == EXIT_CONFIG
    [line] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert line.exc_info is None
    return line.getMessage()


@pytest.mark.parametrize("role", ["writer", "follower"])
def test_one_that_is_told_to_stop_while_its_model_is_fetched_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    """Its model may be fetched from a hub that hangs, by threads that nothing ends."""
    handlers: dict[int, Callable[[int, None], None]] = {}
    monkeypatch.setattr(process.signal, "signal", handlers.__setitem__)
    for part in (process.logs, process.tracing):
        monkeypatch.setattr(part, "configure", lambda *_: None)
    monkeypatch.setattr(process.sys, "setswitchinterval", lambda _: None)
    monkeypatch.setattr(process.os, "_exit", sys.exit)
    monkeypatch.setattr(Follower, "_joined", lambda _: SimpleNamespace())

    def told_to_stop(_: Settings) -> None:
        handlers[SIGTERM](SIGTERM, None)
        pytest.fail("it goes on")

    for module in (process, follower):
        monkeypatch.setattr(module, "load_base", told_to_stop)
    given = {"store": tmp_path / "store", "role": role, "redis_url": "redis://127.0.0.1:9"}
    with pytest.raises(SystemExit) as ended:
        process.main(Settings.model_validate(given))
    assert ended.value.code == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model folder of its own."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "model"))


def config(folder: Path, **values: object) -> None:
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(record | values))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: config(folder, n_layer=99), "n_layer = 99"),
        (lambda folder: config(folder, activation_function="no"), "KeyError: 'no'"),
        (lambda folder: config(folder, vocab_size="x"), "vocab_size"),
        (lambda folder: config(folder, rotary_dim=999), "does not run"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "is damaged"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "is damaged"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "an adapter"),
        (shutil.rmtree, "is not there"),
    ],
)
def test_a_model_folder_that_cannot_be_served_stops_the_worker(
    store: Store, folder: Path, caplog: pytest.LogCaptureFixture, damage: object, sentence: str
) -> None:
    damage(folder)  # type: ignore[operator]
    assert sentence in said(Settings(store=store.root, model=str(folder)), caplog)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{", "is not JSON"),
        (b"[" * 10**5, "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[]", "is not an object"),
        (b'{"capital": 3}', "the template of 'capital' must be a text"),
        (b'{"capital": " "}', "the template of 'capital' must be a text"),
        (b'{"capital": "{} and {}"}', "the template of 'capital' must be a text with one {}"),
    ],
)
def test_wrong_relations_stop_the_worker(
    store: Store,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    content: bytes,
    sentence: str,
) -> None:
    path = tmp_path / "relations.json"
    path.write_bytes(content)
    message = said(Settings(store=store.root, relations=path), caplog)
    assert message.startswith(f"JEEP_RELATIONS: {path}")
    assert sentence in message


def test_own_relations_are_published(tmp_path: Path) -> None:
    path = tmp_path / "relations.json"
    path.write_text('{"capital": "The capital of {} is", "mayor": "is led by"}')
    assert own_relations(path) == {"capital": "The capital of {} is", "mayor": "is led by"}
    path.unlink()
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        own_relations(path)


@pytest.mark.parametrize("setting", ["corpus", "perplexity_text"])
@pytest.mark.parametrize(
    ("content", "sentence"), [(b"one\n\xff\n", "is not text in UTF-8"), (b"\n \n", "has no text")]
)
def test_wrong_texts_stop_the_worker(
    store: Store,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    setting: str,
    content: bytes,
    sentence: str,
) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    settings = Settings(store=store.root).model_copy(update={setting: path})
    message = said(settings, caplog)
    assert message.startswith(f"JEEP_{setting.upper()}: {path} {sentence}")


def test_a_text_that_disappears_before_the_start_stops_the_worker(
    store: Store, tmp_path: Path
) -> None:
    settings = Settings(store=store.root).model_copy(update={"corpus": tmp_path / "gone"})
    with pytest.raises(SettingsError, match=r"JEEP_CORPUS: .*gone cannot be read: No such file"):
        check_inputs(settings)


@pytest.mark.parametrize(
    "content", ["- a", "editor: [", "editor: jeep", "[" * 10**4, "editor: 3\nmodel: 3", "\0"]
)
def test_wrong_presets_stop_the_worker(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "mine.yaml").write_text(content)
    message = said(Settings(store=store.root, presets=tmp_path / "presets"), caplog)
    assert message.startswith("JEEP_PRESETS: ")
    assert "mine.yaml is not a preset: " in message
    assert "\n" not in message


def test_moments_that_were_not_imported_stop_the_worker(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    message = said(Settings(store=store.root, model=str(GOLDEN), moments="wikipedia"), caplog)
    assert message.startswith("JEEP_MOMENTS: ")
    assert message.endswith("jeep moments import --name wikipedia FILE.npz")


def test_a_store_of_another_model_says_which_and_how_to_go_on(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    base = common.load("atlas-gptj", "cpu", "float32")
    prepare(store, base, Settings(store=store.root))
    message = said(Settings(store=store.root, model="atlas-gptj", dtype="bfloat16"), caplog)
    assert f"{store.root} belongs to atlas-gptj in float32 (hash " in message
    assert "(JEEP_MODEL, JEEP_DTYPE), or choose another JEEP_STORE" in message


@pytest.mark.parametrize(
    "error", [MemoryError("80 GiB"), RuntimeError("cannot allocate memory: 80 GiB")], ids=repr
)
def test_a_model_that_does_not_fit_into_memory_is_tried_again(
    store: Store,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    """Others may have the memory: the service starts the worker again after a while."""

    def load(*_: object) -> None:
        raise error

    monkeypatch.setattr(common, "load", load)
    assert Worker(Settings(store=store.root)).run() == 1
    assert f"atlas-gptj does not fit into memory: {error}" in caplog.text


def test_the_bundled_texts_pass_the_checks_at_start() -> None:
    check_inputs(Settings(corpus=atlas.CORPUS, perplexity_text=atlas.HELDOUT))


def test_a_worker_ends_when_another_store_lies_in_its_folder(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(process, "LOOK_S", 0.001)
    worker = Worker(Settings(store=store.root))
    opened = Store.open(store.root)
    assert opened.id  # as by its queue
    looked: list[bool] = []
    waiting = Thread(target=lambda: looked.append(worker._wait(opened)))
    waiting.start()
    form = store.root / "format.json"
    aside = form.rename(form.with_suffix(".aside"))
    replace(store.root / "id.json", encode(StoreIdentity(id="another")))
    assert not worker.stop.wait(0.1), "a restore is still going on"
    aside.rename(form)
    waiting.join(10)
    assert (looked, worker.stop.is_set()) == ([True], True)
    assert "holds another store now" in caplog.text


def test_a_store_whose_identity_cannot_be_read_is_not_another(store: Store) -> None:
    assert store.id
    (store.root / "id.json").write_bytes(b"\x00")
    assert is_another(store) is None


def test_a_worker_that_is_told_to_stop_ends(store: Store) -> None:
    worker = Worker(Settings(store=store.root))
    worker.stop.set()
    assert worker._wait(store) is False


def test_the_head_of_a_store_that_is_away_is_not_known(store: Store) -> None:
    """A heartbeat says so, and goes on."""
    store.create_base("weights-0")
    assert head_of(store) == "v0"
    store.root.rename(store.root.with_name("away"))
    assert head_of(store) is None
