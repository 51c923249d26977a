"""Options of all tests, and one width of the terminal for every command that they run.

A console keeps the ``COLUMNS`` that it finds when it is made; made without one, it asks each time.

Certificates are read once: every client that httpx makes would read them again, a twentieth of a
second for each of thousands, and no test speaks TLS.
"""

import gc
import os
from functools import cache

os.environ.pop("COLUMNS", None)

import httpx._transports.default

import service.cli.common  # noqa: F401  (makes the consoles)

gc.disable()  # until everything is imported

httpx._transports.default.create_ssl_context = cache(httpx.create_ssl_context)

pytest_plugins = ["support.durations"]


def pytest_collection_finish() -> None:
    """What has been imported stays: each look through it for garbage takes half a second."""
    gc.collect()
    gc.freeze()
    gc.enable()
