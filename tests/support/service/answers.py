"""A decoding thread without a queue: replies are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from service.contracts.schemas import WorkerReply
from service.worker.decoding.decode_loop import DecodeLoop
from service.worker.decoding.replies import Pending
from service.worker.gate import Gate


class Answers:
    """Takes the replies instead of the queue; may act at the moment one is sent."""

    def __init__(self, *expected: Pending) -> None:
        self.gate = Gate(0.5)
        self.loop = DecodeLoop(self, self.gate)  # type: ignore[arg-type]
        self.sent: list[tuple[str, WorkerReply]] = []
        self.batches: list[int] = []
        self.when: Callable[[str, WorkerReply, int], None] = lambda *_: None
        self._missing = {one.request.id for one in expected}

    def reply_all(self, replies: list[tuple[str, WorkerReply]]) -> None:
        self.batches.append(len(replies))
        for request_id, reply in replies:
            self.sent.append((request_id, reply))
            self.when(request_id, reply, len(self.of(request_id)))
            if reply.event != "token":
                self._missing.discard(request_id)
        if not self._missing:
            self.loop.stop.set()

    def of(self, request_id: str) -> list[WorkerReply]:
        return [reply for i, reply in self.sent if i == request_id]

    def run(self, *first: Pending) -> None:
        for one in first:
            self.loop.put(one)
        assert self.gate.contended
        self.loop.run()
        assert not self.gate.contended

    def result(self, one: Pending) -> list[dict[str, Any]]:
        last = self.of(one.request.id)[-1]
        assert last.event == "result", last
        return list(last.data["results"])
