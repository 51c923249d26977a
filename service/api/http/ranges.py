"""Files that can be sent in parts, so that a broken download goes on where it ended."""

from __future__ import annotations

import re
from pathlib import Path

from fastapi import Request, Response
from fastapi.responses import FileResponse

from service.api.http.problems import ApiProblem

FILE = "application/octet-stream"
_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))")


def file_in_parts(request: Request, path: Path, size: int, sha256: str) -> Response:
    """The answer to a GET of a file: all of it, the asked part, or 304.

    The hash is the strong ``ETag``, so a part is only given of the same content (``If-Range``).
    A ``Range`` that is none, or names several parts, is answered with the whole file.

    Raises:
        ApiProblem: 416 for a part that begins after the file's end.
    """
    etag = f'"{sha256}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if etag in _listed(request.headers.get("if-none-match", "")):
        return Response(status_code=304, headers=headers)
    asked = _RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    condition = request.headers.get("if-range")
    if asked is None or condition not in (None, etag) or not _makes_sense(asked):
        _forget_range(request)
    elif int(asked[1] or 0) >= size or asked[3] == "0":
        raise ApiProblem(
            "range_not_satisfiable",
            f"the file has {size} bytes, so there are none in the range that was asked for",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return FileResponse(path, headers=headers, media_type=FILE, filename=path.name)


def _makes_sense(asked: re.Match[str]) -> bool:
    """Whether a range does not end before it begins: such a one is to be ignored."""
    return not asked[2] or int(asked[2]) >= int(asked[1])


def _listed(header: str) -> set[str]:
    """The tags of an ``If-None-Match``; a weak one matches as well."""
    return {tag.strip().removeprefix("W/") for tag in header.split(",")}


def _forget_range(request: Request) -> None:
    """Take the header out, which the response would read itself."""
    request.scope["headers"] = [
        (name, value) for name, value in request.scope["headers"] if name.lower() != b"range"
    ]
