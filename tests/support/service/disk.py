"""A disk that is not waited for."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def hasty_disk() -> Iterator[None]:
    """Files reach the disk when the system likes; only a power cut could tell.

    A durable write waits several milliseconds, and a test of the api makes dozens.  The tests of
    the store and of crashes of the whole service wait.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
