"""Log lines: one JSON object each or text, with the ids of request and job where known."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest

from service.ops import logs

Written = Callable[[], list[str]]


@pytest.fixture
def log_as() -> Iterator[Callable[[Literal["json", "text"]], tuple[logging.Logger, Written]]]:
    """A logger whose lines can be read."""
    logger = logging.getLogger("spoken.here")
    handler = logging.StreamHandler(io.StringIO())
    logger.addHandler(handler)
    logger.propagate = False

    def made(kind: Literal["json", "text"]) -> tuple[logging.Logger, Written]:
        handler.setFormatter(logs.formatter(kind, "worker"))
        return logger, lambda: handler.stream.getvalue().splitlines()

    yield made
    logger.removeHandler(handler)


def test_a_json_line_says_when_where_and_what(log_as) -> None:
    logger, written = log_as("json")
    with logs.bound(request_id="req_1", job_id="job_1"):
        logger.warning("%s facts, “quoted”\nand more", 3)
    [line] = written()
    fields = json.loads(line)
    assert fields.pop("time").endswith("Z")
    assert fields == {
        "part": "worker",
        "level": "warning",
        "logger": "spoken.here",
        "message": "3 facts, “quoted”\nand more",
        "request_id": "req_1",
        "job_id": "job_1",
    }


def test_a_text_line_has_the_same(log_as) -> None:
    logger, written = log_as("text")
    with logs.bound(request_id="req_1", job_id=None):
        logger.warning("%s facts", 3)
    [line] = written()
    for part in ("warning", "3 facts", "spoken.here", "request_id=req_1"):
        assert part in line
    assert "job_id" not in line


def test_ids_end_with_their_block_and_stay_in_their_thread(log_as) -> None:
    logger, written = log_as("json")
    with logs.bound(job_id="job_1"):
        other = threading.Thread(target=logger.warning, args=("elsewhere",))
        other.start()
        other.join()
    logger.warning("afterwards")
    assert ["job_id" in json.loads(line) for line in written()] == [False, False]


@pytest.mark.parametrize("kind", ["json", "text"])
def test_no_line_has_an_api_key(log_as, kind: Literal["json", "text"]) -> None:
    """In an address, in a text, in an error that quotes the request."""
    logger, written = log_as(kind)
    token = f"jeep_{'A' * 26}_{'s' * 43}"
    logger.warning("GET %s", f"/jobs?key={token}")
    logger.warning(f"told {token}")
    try:
        raise ValueError(f"{token} is no number")
    except ValueError:
        logger.exception("it failed")
    text = "\n".join(written())
    assert "sss" not in text
    assert text.count(f"jeep_{'A' * 26}…") >= 3


@pytest.mark.parametrize("kind", ["json", "text"])
def test_a_traceback_shows_no_values(log_as, kind: Literal["json", "text"]) -> None:
    logger, written = log_as(kind)

    def fail(prompt: Any) -> None:
        raise RuntimeError("broken")

    try:
        fail(" ".join(["a", "private", "prompt"]))  # the line itself is shown
    except RuntimeError:
        logger.exception("it failed")
    text = "\n".join(written())
    assert "RuntimeError: broken" in text
    assert "a private prompt" not in text
    if kind == "json":
        assert "RuntimeError: broken" in json.loads(text)["exception"]


def test_a_process_writes_nothing_but_json_lines() -> None:
    code = (
        "import logging, warnings\n"
        "from service.ops import logs\n"
        "from service.settings import Settings\n"
        "logs.configure(Settings(log_format='json', log_level='info'), 'api')\n"
        "logging.getLogger('service.api').info('ours')\n"
        "logging.getLogger('uvicorn.error').info('the server')\n"
        "logging.getLogger('other').info('not wanted')\n"
        "logging.getLogger('other').warning('wanted')\n"
        "warnings.warn('careful')\n"
        "logs.say('listening')\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in shown.stderr.splitlines()]
    assert [line["logger"] for line in lines] == [
        "service.api",
        "uvicorn.error",
        "other",
        "py.warnings",
        "service.ops.logs",
    ]
    assert shown.stdout == ""
