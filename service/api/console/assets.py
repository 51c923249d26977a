"""Scripts, styles and pictures of the console; open to everyone, as the sign-in needs them."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request, Response

from service.api.http.access import public
from service.api.http.problems import ApiProblem
from service.api.http.sessions import CONSOLE

router = APIRouter()

TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""The files that are served; others beside them are not."""


@dataclass(frozen=True)
class Asset:
    """A file as it is sent: plain and compressed, with its type and its tag."""

    content: bytes
    compressed: bytes
    media_type: str
    tag: str


@cache
def assets() -> dict[str, Asset]:
    """All files by their path below ``static``; read once."""
    return dict(_below(files("service.api.console") / "static", ""))


def _below(folder: Traversable, prefix: str) -> list[tuple[str, Asset]]:
    found: list[tuple[str, Asset]] = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _below(entry, f"{prefix}{entry.name}/")
        elif media_type := TYPES.get("." + entry.name.rpartition(".")[2]):
            content = entry.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            compressed = gzip.compress(content, 9, mtime=0)
            found.append((prefix + entry.name, Asset(content, compressed, media_type, tag)))
    return found


@router.get(CONSOLE + "/static/{path:path}")
@public
def asset(path: str, request: Request) -> Response:
    """A file of the pages.  Browsers keep it and ask whether it is still the same."""
    found = assets().get(path)
    if found is None:
        raise ApiProblem("not_found", f"there is no file {path!r}")
    headers = {"ETag": found.tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    if found.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    content = found.content
    if "gzip" in request.headers.get("accept-encoding", ""):
        content, headers["Content-Encoding"] = found.compressed, "gzip"
    return Response(content, headers=headers, media_type=found.media_type)
