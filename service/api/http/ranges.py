"""Files that can be sent in parts, so that a broken download goes on where it ended."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fastapi import Request, Response
from fastapi.responses import FileResponse, StreamingResponse

from service.api.http.problems import ApiProblem

FILE = "application/octet-stream"
_CHUNK = 2**20
_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))")


def file_in_parts(request: Request, path: Path, size: int, sha256: str) -> Response:
    """The answer to a GET of a file: all of it, the asked part, or 304.

    The hash is the strong ``ETag``, so a part is only given of the same content (``If-Range``).
    A ``Range`` that is none, or names several parts, is answered with the whole file.

    Raises:
        ApiProblem: 416 for a part that begins after the file's end.
    """
    headers = _headers(sha256)
    if unchanged(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    if _asked(request, size, headers["ETag"]) is None:
        _forget_range(request)
    return FileResponse(path, headers=headers, media_type=FILE, filename=path.name)


def data_in_parts(request: Request, path: Path, data: slice, sha256: str) -> Response:
    """As `file_in_parts`, of the bytes from ``data.start`` to ``data.stop`` of a file alone.

    The file is opened before the answer begins, so that it is sent whole though it be removed.

    Raises:
        ApiProblem: as `file_in_parts`.
        OSError: the file cannot be opened.
    """
    headers, size = _headers(sha256), data.stop - data.start
    if unchanged(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    part = _asked(request, size, headers["ETag"])
    first, end = (0, size) if part is None else part
    headers |= {"Accept-Ranges": "bytes", "Content-Length": str(end - first)}
    if part is not None:
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
    file = path.open("rb")
    file.seek(data.start + first)
    return StreamingResponse(
        _chunks(file, end - first),
        status_code=200 if part is None else 206,
        headers=headers,
        media_type=FILE,
    )


def unchanged(request: Request, etag: str) -> bool:
    """Whether the caller has this content already (``If-None-Match``)."""
    return etag in _listed(request.headers.get("if-none-match", ""))


def _headers(sha256: str) -> dict[str, str]:
    return {"ETag": f'"{sha256}"', "Cache-Control": "private, no-cache"}


def _asked(request: Request, size: int, etag: str) -> tuple[int, int] | None:
    """The first byte that is asked for and the one after the last; None: all of them.

    Raises:
        ApiProblem: 416.
    """
    asked = _RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    condition = request.headers.get("if-range")
    if asked is None or condition not in (None, etag) or not _makes_sense(asked):
        return None
    if int(asked[1] or 0) >= size or asked[3] == "0":
        raise ApiProblem(
            "range_not_satisfiable",
            f"the file has {size} bytes, so there are none in the range that was asked for",
            headers={"Content-Range": f"bytes */{size}"},
        )
    if asked[3]:
        return max(0, size - int(asked[3])), size
    return int(asked[1]), min(size, int(asked[2]) + 1) if asked[2] else size


def _chunks(file: BinaryIO, count: int) -> Iterator[bytes]:
    """So many bytes from where a file stands; fewer where it ends before, which ends the answer."""
    with file:
        while count > 0 and (chunk := file.read(min(_CHUNK, count))):
            count -= len(chunk)
            yield chunk


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
