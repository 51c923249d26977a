"""A hub on loopback that answers what huggingface_hub's upload asks, and keeps what it is sent."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c" * 40


@dataclass
class Hub:
    """The requests with the tokens they brought, the blobs, and the files that were committed.

    ``redirect`` and ``fail`` are beginnings of paths whose requests are sent elsewhere, or
    answered with 403.
    """

    url: str = ""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    visibility: str = ""
    redirect: str | None = None
    fail: str | None = None

    def commit(self, lines: list[dict[str, Any]]) -> None:
        """Take the files of a commit, all of them or none."""
        found = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                found[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                found[value["path"]] = self.blobs[value["oid"]]
        self.files |= found


def _answer(hub: Hub, path: str, body: bytes) -> dict[str, Any]:
    """The answer to a request; files of 1 KiB and more are blobs."""
    given: dict[str, Any] = json.loads(body) if body.startswith(b"{") and b"\n" not in body else {}
    if path == "/api/repos/create":
        hub.visibility = given["visibility"]
        return {"url": f"{hub.url}/{given['organization']}/{given['name']}"}
    if "/preupload/" in path:
        modes = ("regular", "lfs")
        files = [
            {"path": one["path"], "uploadMode": modes[one["size"] >= 1024], "shouldIgnore": False}
            for one in given["files"]
        ]
        return {"files": files}
    if path.endswith("/info/lfs/objects/batch"):
        objects = [
            {**one, "actions": {"upload": {"href": f"{hub.url}/blobs/{one['oid']}"}}}
            for one in given["objects"]
        ]
        return {"transfer": "basic", "objects": objects}
    if path.startswith("/blobs/"):
        assert hashlib.sha256(body).hexdigest() == path.removeprefix("/blobs/")
        hub.blobs[path.removeprefix("/blobs/")] = body
        return {}
    if path == "/api/validate-yaml":
        return {"errors": [], "warnings": []}
    if "/commit/" in path:
        hub.commit([json.loads(line) for line in body.splitlines()])
        repository = path.removeprefix("/api/models").partition("/commit/")[0]
        return {"commitUrl": f"{hub.url}{repository}/commit/{COMMIT}", "commitOid": COMMIT}
    raise AssertionError(f"huggingface_hub asks for {path}, which this hub does not know")


@contextmanager
def recording_hub() -> Iterator[Hub]:
    """A hub that runs for the length of the block."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _take(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            hub.requests.append((self.command, self.path, self.headers.get("Authorization", "")))
            if hub.redirect is not None and self.path.startswith(hub.redirect):
                self.send_response(307)
                self.send_header("Location", "http://127.0.0.2:9/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            refused = hub.fail is not None and self.path.startswith(hub.fail)
            answer = {"error": "no right to write"} if refused else _answer(hub, self.path, body)
            text = json.dumps(answer).encode()
            self.send_response(403 if refused else 200)
            self.send_header("Content-Type", "application/json")
            if refused:
                self.send_header("X-Error-Message", answer["error"])
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_PUT = do_GET = _take  # noqa: N815 - the names that http.server calls

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
