"""Answers that are being written while something breaks."""

from __future__ import annotations

from threading import Thread

import httpx

from service.client import ApiError
from support.faults.harness import Service
from support.faults.processes import PATIENCE_S

TOKENS = 60


class Answer(Thread):
    """A stream of tokens, and how it ended: its result, a problem, or a lost connection."""

    def __init__(self, service: Service) -> None:
        super().__init__(daemon=True)
        self.tokens, self.end = 0, ""
        self._client = service.client
        self.start()

    def run(self) -> None:
        try:
            for name, _ in self._client.stream("Lyon lies in", max_new_tokens=TOKENS):
                self.tokens += name == "token"
                self.end = name
        except ApiError as error:
            self.end = error.problem.code
        except httpx.TransportError:
            self.end = "lost"

    def ended(self) -> str:
        self.join(PATIENCE_S)
        assert not self.is_alive(), "the stream stays open"
        return self.end
