"""``jeep serve``: embedded queue, worker and api in the foreground, stopped together."""

from __future__ import annotations

import asyncio
import errno
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn

from jeep_core.errors import Coded, is_passing
from service.ops.early_worker import EarlyWorker
from service.ops.embedded_server import EmbeddedBusyError, EmbeddedError, KeptValkey
from service.ops.garbage import postponed
from service.ops.stop_signals import Signals, Stop, stop_signals
from service.ops.worker_process import WorkerProcess
from service.settings import EXIT_AGAIN, Settings, trusted_proxies
from service.store import Store, StoreError, denial, is_denied
from service.store.store import is_another

if TYPE_CHECKING:
    from service.api.http.limits import Closing

EXIT_FAILED, EXIT_USAGE = 1, 2
"""Exit codes of what may work another time, and of settings that cannot be used."""
EXIT_TAKEN = 3
"""Exit code when the port or the store is in use."""
LOOK_S = 1.0
"""How often it is looked whether another store lies in the folder."""
HURRY_LOOK_S = 0.1
"""How often an api that ends looks whether it is told again."""
REASONS_S = 0.5
"""How long the api sends reasons of what it does not answer, once it is told to hurry."""
CUT_S = 1.0
"""How long answers that are cut off then may take to let go of what they hold."""

Say = Callable[[str], None]


class ServeError(Coded, Exception):
    """The service cannot start; has the exit code for the reason."""

    code = "cannot_start"

    def __init__(self, message: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def serve(settings: Settings, say: Say, early: EarlyWorker | None = None) -> int:
    """Run everything until SIGINT or SIGTERM; the process's exit code.

    Args:
        settings: of the service.
        say: prints a line.
        early: the first worker, which waits for its settings; None: it is started here.

    Raises:
        ServeError: the store or the port is taken, or a part cannot start.
    """
    with stop_signals() as signals, ExitStack() as stack:
        try:
            return _serve(settings, say, stack, signals, early)
        except Stop:
            say("stopped while starting")
            return 0
        finally:
            signals.ends()


def serve_api(settings: Settings, say: Say) -> int:
    """``jeep api``: the api alone; its queue is at ``JEEP_REDIS_URL``.

    Raises:
        ServeError: no queue is configured, or the port or the store cannot be used.
    """
    if settings.redis_url is None:
        raise ServeError(
            "JEEP_REDIS_URL is not set: the api alone needs a queue to talk to", EXIT_USAGE
        )
    with stop_signals() as signals:
        try:
            return _serve_api(settings, say, signals)
        except Stop:
            say("stopped while starting")
            return 0


def _serve_api(settings: Settings, say: Say, signals: Signals) -> int:
    with listening(settings.host, settings.port) as sock:
        store = _open_store(settings)
        server = _server(settings, access_log=True)
        say(f"api at {url_of(settings.host, sock)}")
        _announce_access(settings, store, say)
        signals.hand_over(server)
        replaced = _end_if_replaced(store, server, say)
        server.run(sockets=[sock])
        return EXIT_AGAIN if replaced.is_set() else 0 if server.started else 1


def _serve(
    settings: Settings,
    say: Say,
    stack: ExitStack,
    signals: Signals,
    early: EarlyWorker | None,
) -> int:
    if settings.role != "writer":
        message = (
            "JEEP_ROLE: jeep serve runs a writer; start followers of it with "
            "jeep worker --role follower"
        )
        raise ServeError(message, EXIT_USAGE)
    store = _open_store(settings)
    try:
        stack.enter_context(store.serve_lock())
    except StoreError as error:
        raise ServeError(f"{settings.store}: {error}", EXIT_TAKEN) from None
    sock = stack.enter_context(listening(settings.host, settings.port))
    _announce_access(settings, store, say)
    url = url_of(settings.host, sock)
    say(f"model {settings.model}, store {settings.store}")
    if settings.redis_url is None:
        settings = settings.model_copy(update={"redis_url": _embedded(store, say, stack)})
    ended = threading.Event()
    started: list[uvicorn.Server] = []

    def end() -> None:
        ended.set()
        for server in started:
            _stop(server)

    worker = WorkerProcess(settings, say, ready_url=f"{url}/readyz", on_fatal=end, early=early)
    signals.hurry = worker.hurry
    stack.callback(worker.stop)
    worker.start()  # first: it takes the longest, and the api is imported meanwhile
    server = _server(settings, access_log=settings.log_level == "debug")
    started.append(server)
    if ended.is_set():
        _stop(server)
    say(f"listening at {url} (documentation at {url}/docs)")
    signals.hand_over(server)
    replaced = _end_if_replaced(store, server, say)
    server.run(sockets=[sock])
    say("stopping")
    if replaced.is_set():
        return EXIT_AGAIN
    return worker.fatal or (0 if server.started else 1)


def _end_if_replaced(store: Store, server: uvicorn.Server, say: Say) -> threading.Event:
    """Have the server end once another store lies in the folder; the event says that it was so."""
    replaced = threading.Event()

    def look() -> None:
        while not server.should_exit:
            time.sleep(LOOK_S)
            if (why := is_another(store)) is not None:
                say(why)
                replaced.set()
                _stop(server)

    threading.Thread(target=look, name="identity", daemon=True).start()
    return replaced


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A listening TCP socket; early connections wait in its backlog.

    Raises:
        ServeError: the address is taken or not ours.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        message = f"JEEP_HOST: cannot resolve {host!r}: {error.strerror}"
        raise ServeError(message, _exit_code(error)) from None
    with socket.socket(family, kind, proto) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
            sock.listen(2048)  # at once: until then Linux lets a second socket bind
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                message = f"port {port} of {host} is taken: choose another with --port (JEEP_PORT)"
                raise ServeError(message, EXIT_TAKEN) from None
            message = f"cannot listen on {host}:{port}: {error.strerror}"
            raise ServeError(message, _exit_code(error)) from None
        yield sock


def url_of(host: str, sock: socket.socket) -> str:
    """The address to open in a browser; a wildcard host is reached as localhost."""
    shown = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
    port = sock.getsockname()[1]
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def _open_store(settings: Settings) -> Store:
    try:
        store = Store.open(settings.store, idempotency_hours=settings.idempotency_hours)
        assert store.id  # read now: it is compared with later ones
        return store
    except (StoreError, OSError) as error:
        raise _unusable(settings, error) from None


def _unusable(settings: Settings, error: Exception) -> ServeError:
    said = denial(error, settings.store) if is_denied(error) else error
    return ServeError(f"JEEP_STORE: {said}", _exit_code(error))


def _exit_code(error: Exception) -> int:
    """2 is final for a supervisor, so it is not for what passes."""
    return EXIT_FAILED if is_passing(error) else EXIT_USAGE


def _announce_access(settings: Settings, store: Store, say: Say) -> None:
    """Announce it if authentication is off, or if there is no API key yet.

    Raises:
        ServeError: the keys cannot be read.
    """
    if settings.auth == "off":
        say("authentication is off (JEEP_AUTH): whoever is on this machine may do everything")
        return
    try:
        keys = store.keys.all()
    except OSError as error:
        raise _unusable(settings, error) from None
    if not any(key.revoked_at is None for key in keys):
        say(
            "there is no API key yet, so nobody may ask. While this runs, make one with\n"
            f"        jeep keys create NAME --store {shlex.quote(str(settings.store))}\n"
            "      or start with --auth off, for this machine alone"
        )


def _embedded(store: Store, say: Say, stack: ExitStack) -> str:
    """Start the embedded queue server and keep it running; its URL."""
    server = KeptValkey(store.valkey_folder(), say)
    stack.callback(server.stop)
    try:
        server.start()
    except EmbeddedBusyError as error:
        raise ServeError(str(error), EXIT_TAKEN) from None
    except EmbeddedError as error:
        raise ServeError(f"{error}") from None
    return server.url


def _stop(server: uvicorn.Server) -> None:
    server.should_exit = True


def server_config(settings: Settings, **options: Any) -> uvicorn.Config:
    """The api's server; ``options`` of uvicorn take precedence."""
    # a second of imports, for which no worker waits
    from service.api import create_app
    from service.api.http.limits import CLOSING_S

    proxies = trusted_proxies()
    defaults: dict[str, Any] = {
        "log_level": settings.log_level,
        "log_config": None,
        "timeout_graceful_shutdown": CLOSING_S,
        "proxy_headers": bool(proxies),
        "forwarded_allow_ips": proxies,
    }
    return uvicorn.Config(create_app(settings), **(defaults | options))


class ApiServer(uvicorn.Server):
    """Tells its app that it is told to stop, before it waits for what the app answers.

    After a second signal it does not wait: what is not answered gets its reason, or is cut off.
    """

    signals = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As uvicorn's, which ends without a reason at a SIGINT after another signal, alone."""
        cuts_off = self.force_exit  # already, after the second of more signals
        super().handle_exit(sig, frame)
        self.signals, self.force_exit = self.signals + 1, cuts_off

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        closing = self.config.app.state.api.closing  # type: ignore[union-attr]
        closing.begin()
        hurry = asyncio.create_task(self._hurry(closing))
        try:
            await super().shutdown(sockets)
        finally:
            hurry.cancel()
        if self.force_exit:  # uvicorn leaves both out then
            if cut := list(self.server_state.tasks):
                for task in cut:
                    task.cancel()
                await asyncio.wait(cut, timeout=CUT_S)
            await self.lifespan.shutdown()

    async def _hurry(self, closing: Closing) -> None:
        while self.signals < 2:
            await asyncio.sleep(HURRY_LOOK_S)
        closing.at_once()
        await asyncio.sleep(REASONS_S)
        self.force_exit = True


def _server(settings: Settings, access_log: bool) -> ApiServer:
    with postponed(kept=True):
        return ApiServer(server_config(settings, access_log=access_log))
