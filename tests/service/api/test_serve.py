"""Starting and stopping the whole service; the worker's own part is tested elsewhere."""

import errno
import gc
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import ROOT
from support.forks.command import Running, jeep
from support.service.played_worker.supervised import NOWHERE
from support.service.serving import make_settings

from service.contracts.schemas.access import Scope
from service.serve import (
    ServeError,
    _announce_access,
    _open_store,
    _server,
    listening,
    serve,
    url_of,
)
from service.settings import Settings, SettingsError
from service.store import Store
from service.store.files import encode, replace
from service.store.store import StoreIdentity


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        for command in ("serve", "api"):
            shown = jeep(command, "--port", port, "--store", str(tmp_path / "s"),
                         "--redis-url", NOWHERE)  # fmt: skip
            assert shown.returncode == 3
            assert f"port {port} of 127.0.0.1 is taken" in shown.stderr


def test_a_store_in_use_is_named(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "s")
    with store.serve_lock():
        shown = jeep("serve", "--port", "0", "--store", str(tmp_path / "s"))
    assert shown.returncode == 3
    assert "another jeep serve already uses this store" in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("serve", "--port", "abc"), "--port"),
        (("serve", "--dtype", "int3"), "--dtype"),
        (("api",), "JEEP_REDIS_URL"),
        (("serve", "--auth", "off", "--host", "0.0.0.0"), "--auth"),
        (("worker",), "JEEP_REDIS_URL"),
        (("serve", "--store", str(ROOT)), "JEEP_STORE"),
    ],
)
def test_a_wrong_setting_is_named(arguments: tuple[str, ...], named: str) -> None:
    shown = jeep(*arguments)
    assert shown.returncode == 2
    assert named in shown.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_api_alone_stops_cleanly(number: int, tmp_path: Path) -> None:
    out, errors = tmp_path / "out", tmp_path / "errors"
    given = ("--port", "0", "--store", str(tmp_path / "s"), "--redis-url", NOWHERE)
    api = Running("api", *given, out=out, errors=errors)
    until(lambda: "startup complete" in errors.read_text())
    assert "http://127.0.0.1:" in out.read_text()
    api.send_signal(number)
    assert api.wait(20) == 0, errors.read_text()
    assert "Traceback" not in errors.read_text()


def test_a_signal_does_not_interrupt_the_end_of_a_start_that_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []

    def fails(_: Settings, say: object, stack: ExitStack, *rest: object) -> int:
        stack.callback(ended.append, "worker")
        stack.callback(signal.raise_signal, signal.SIGINT)
        raise ServeError("the queue cannot start")

    monkeypatch.setattr("service.serve._serve", fails)
    with pytest.raises(ServeError):
        serve(make_settings(tmp_path, NOWHERE), print)
    assert ended == ["worker"]


@pytest.mark.parametrize(("auth", "said"), [("keys", "jeep keys create"), ("off", "JEEP_AUTH")])
def test_the_service_prints_who_has_access(auth: str, said: str, tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "my store", NOWHERE)
    settings = settings.model_copy(update={"auth": auth})
    store = Store.open(settings.store)
    lines: list[str] = []
    _announce_access(settings, store, lines.append)
    assert said in lines[0]
    store.keys.create("me", [Scope.READ])
    _announce_access(settings, store, lines.append)
    assert len(lines) == (1 if auth == "keys" else 2)


@pytest.mark.parametrize(
    ("failing", "error", "code"),
    [
        ("getaddrinfo", socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), 1),
        ("getaddrinfo", socket.gaierror(socket.EAI_NONAME, "Name or service not known"), 2),
        ("socket.listen", OSError(errno.ENOBUFS, "No buffer space available"), 1),
        ("socket.listen", PermissionError(errno.EACCES, "Permission denied"), 2),
    ],
    ids=str,
)
def test_only_a_wrong_address_is_final(
    monkeypatch: pytest.MonkeyPatch, failing: str, error: OSError, code: int
) -> None:
    """A supervisor does not start a service again that has ended with 2."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(f"socket.{failing}", fail)
    with pytest.raises(ServeError) as caught, listening("localhost", 0):
        pass
    assert caught.value.exit_code == code


@pytest.mark.parametrize(("number", "code"), [("ENOSPC", 1), ("ESTALE", 1), ("EACCES", 2)])
def test_only_a_wrong_store_is_final(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str, code: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(getattr(errno, number), "not now")

    monkeypatch.setattr(Store, "open", fail)
    with pytest.raises(ServeError) as caught:
        _open_store(Settings(store=tmp_path))
    assert caught.value.exit_code == code


def test_the_api_alone_ends_when_its_store_is_replaced(tmp_path: Path) -> None:
    root = Store.open(tmp_path / "store").root
    given = ("--store", str(root), "--redis-url", NOWHERE, "--port", "0")
    out, errors = tmp_path / "out", tmp_path / "errors"
    api = Running("api", *given, out=out, errors=errors)
    until(lambda: "api at" in out.read_text() + errors.read_text())
    replace(root / "id.json", encode(StoreIdentity(id="another")))
    assert api.wait() == 75
    assert "holds another store now" in out.read_text() + errors.read_text()


def test_answers_wait_for_no_acknowledgement_of_their_first_part() -> None:
    """Without ``TCP_NODELAY`` an answer in two parts takes a twentieth of a second.

    asyncio sets it on the connections of sockets that name their protocol, and of no others.
    """
    with listening("127.0.0.1", 0) as sock:
        assert sock.proto == socket.IPPROTO_TCP


def test_the_printed_address_can_be_opened() -> None:
    with listening("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        assert url_of("0.0.0.0", sock) == f"http://127.0.0.1:{port}"
        assert url_of("::", sock) == f"http://[::1]:{port}"


def test_an_api_that_cannot_be_made_collects_garbage(frozen: list[bool]) -> None:
    with pytest.raises(SettingsError, match="JEEP_REDIS_URL"):
        _server(Settings(), access_log=False)
    assert frozen == [False]
    assert gc.isenabled()
