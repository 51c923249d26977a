"""Threads that a lane keeps for its next job."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from service.worker.staying import staying


def test_the_next_work_finds_the_threads_of_the_last() -> None:
    names = {staying("kept", 1).submit(lambda: threading.current_thread().name).result()}
    names |= {staying("kept", 1).submit(lambda: threading.current_thread().name).result()}
    assert names == {"kept_0"}
    assert staying("kept", 2) is not staying("kept", 1)
    assert staying("other", 1) is not staying("kept", 1)


def test_they_are_of_one_thread_and_end_with_it() -> None:
    found: list[tuple[ThreadPoolExecutor, threading.Thread]] = []

    def lane() -> None:
        pool = staying("kept", 1)
        found.append((pool, pool.submit(threading.current_thread).result()))

    before = staying("kept", 1)
    lanes = threading.Thread(target=lane)
    lanes.start()
    lanes.join()
    pool, thread = found.pop()
    assert pool is not before
    del pool
    thread.join(30)
    assert not thread.is_alive()
