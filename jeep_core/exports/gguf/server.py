"""llama.cpp's server on a file, asked over the loopback interface."""

from __future__ import annotations

import http.client
import json
import secrets
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from jeep_core.errors import NotExportable
from jeep_core.exports.gguf.tools import SERVER, LlamaCpp, child_environment, last_line, started
from jeep_core.monitor import NOTHING, Monitor

START_S = 300.0
"""Seconds that a server may take to load its model."""
ANSWER_S = 300.0
"""Seconds that it may take for one answer."""
_LOOK_AGAIN = 0.1
_CONTEXT = 64
"""Tokens of a context at least: a version without facts asks nothing, and is still loaded."""


@dataclass(frozen=True)
class Reply:
    """A greedy answer: its tokens, and their text as llama.cpp writes it."""

    ids: tuple[int, ...]
    text: str


class LlamaServer:
    """A server that runs while its block does.

    ``context``: tokens of the longest prompt with its answer.

    Raises on entering:
        MissingProgram: llama-server was not found.
        NotExportable: it does not load the file, or takes too long.
        Whatever ``monitor.check`` raises.
    """

    def __init__(
        self,
        tools: LlamaCpp,
        file: Path,
        log: Path,
        context: int,
        threads: int = 1,
        monitor: Monitor = NOTHING,
    ) -> None:
        self.tools, self.file, self.log, self.monitor = tools, file, log, monitor
        self.context, self.threads = context, threads
        self._process: subprocess.Popen[bytes] | None = None
        self._port, self._key = 0, secrets.token_hex(16)

    def __enter__(self) -> LlamaServer:
        path = self.tools.needed(SERVER)
        self._port = _free_port()
        threads, context = str(self.threads), str(max(self.context, _CONTEXT))
        command = [
            str(path), "--model", str(self.file), "--host", "127.0.0.1", "--port", str(self._port),
            "--ctx-size", context, "--parallel", "1", "--threads", threads, "--threads-batch",
            threads, "--offline",
        ]  # fmt: skip
        # others on this machine cannot ask the version meanwhile; arguments could be read by them
        environment = child_environment(LLAMA_API_KEY=self._key)
        with self.log.open("wb") as out:
            self._process = started(command, out, self.tools.at_start, SERVER, environment)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the server."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def answer(self, ids: Sequence[int], length: int) -> Reply:
        """The greedy continuation of a prompt's tokens, to which nothing is added (no BOS).

        Raises:
            NotExportable: the server ended, or answered with an error.
        """
        # llama.cpp puts a BOS before texts only, never before tokens
        body = {
            "prompt": list(ids), "n_predict": length, "temperature": 0.0, "top_k": 1, "seed": 0,
            "cache_prompt": False, "return_tokens": True, "repeat_penalty": 1.0,
        }  # fmt: skip
        found = self._post("/completion", body)
        return Reply(tuple(found["tokens"]), found["content"])

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text as llama.cpp reads it, what it puts before it included.

        Raises:
            NotExportable: the server ended, or answered with an error.
        """
        body = {"content": text, "add_special": True, "parse_special": True}
        found: list[int] = self._post("/tokenize", body)["tokens"]
        return found

    def _wait(self) -> None:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            self.monitor.check()
            self._check_alive()
            try:
                if self._request("GET", "/health", None, 5.0)[0] == 200:
                    return
            except OSError:
                pass  # it does not listen yet
            time.sleep(_LOOK_AGAIN)
        raise NotExportable(
            f"llama-server has not loaded {self.file.name} in {START_S:.0f} s; its last line: "
            f"{last_line(self.log)}"
        )

    def _check_alive(self) -> None:
        assert self._process is not None
        code = self._process.poll()
        if code is not None:
            raise NotExportable(
                f"llama-server ended with {code} on {self.file.name}: {last_line(self.log)}"
            )

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        self.monitor.check()
        try:
            status, answer = self._request("POST", path, body, ANSWER_S)
        except (OSError, http.client.HTTPException) as error:
            self._check_alive()
            raise NotExportable(f"llama-server does not answer {path}: {error}") from None
        if status != 200:
            raise NotExportable(f"llama-server answered {path} with {status}: {answer[:300]!r}")
        return json.loads(answer)

    def _request(
        self, method: str, path: str, body: dict[str, Any] | None, timeout: float
    ) -> tuple[int, bytes]:
        # no proxy of the environment and no redirect is followed: it is this machine
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout)
        try:
            content = None if body is None else json.dumps(body).encode()
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
            connection.request(method, path, content, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
