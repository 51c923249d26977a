"""A played judge: an OpenAI-compatible server whose verdicts a test chooses."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from support.service.outward.played_targets import Played, Reply


def honest(question: dict[str, Any]) -> str:
    """Yes if a right answer stands in the answer."""
    return "Yes." if any(one in question["answer"] for one in question["right_answers"]) else "no"


class PlayedJudge(Played):
    """``say`` makes its text from a question; ``failing``: replies that come before the first
    good one, oldest first; ``refuses``: parameters that it does not take, as models that think;
    with ``query`` it is there only under that one.
    """

    def __init__(self, say: Callable[[dict[str, Any]], str] = honest) -> None:
        super().__init__(None)  # type: ignore[arg-type]  # it has no model
        self.say = say
        self.failing: list[Reply] = []
        self.refuses: tuple[str, ...] = ()
        self.query = ""

    @property
    def address(self) -> str:
        """Where its interface begins."""
        return f"{self.url}/v1"

    @property
    def questions(self) -> list[dict[str, Any]]:
        """The questions that it was asked so far."""
        return [json.loads(body["messages"][1]["content"]) for _, _, body, _ in self.asked]

    def forget(self) -> None:
        self.failing = []
        self.refuses, self.query = (), ""

    def reply(self, path: str, body: Any) -> Reply:
        if path != "/v1/chat/completions" + (self.query and f"?{self.query}"):
            return 404, {"detail": "Not Found"}
        if self.failing:
            return self.failing.pop(0)
        for name in self.refuses:
            if name in body:
                message = f"Unsupported parameter: '{name}' is not supported with this model."
                return 400, {"error": {"message": message, "code": "unsupported_parameter"}}
        said = self.say(json.loads(body["messages"][1]["content"]))
        return 200, {"choices": [{"message": {"role": "assistant", "content": said}}]}
