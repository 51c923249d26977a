"""Clients that ask all the time, and what they were told: every answer is kept with its request."""

from __future__ import annotations

import json
import random
import threading
from dataclasses import dataclass, field
from functools import lru_cache

import httpx

from jeep_core.decoding.generation import complete
from jeep_core.models.views import ModelView
from service.client import ApiError, Client
from service.store import Store
from service.worker.versions.tensors import get_all
from support.faults.checks import base

PROMPTS = ("Town 1 lies in", "Lyon lies in", "Town 3 lies in")
TOKENS = 60
WAYS = ("generate", "completions", "chat")
"""Through which calls is asked: the first is the service's own, the others are OpenAI's."""
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
"""Chat template by which a chat asks for the same tokens as a prompt."""


@dataclass
class Asked:
    """One request and its end: the version and text of its result, or the code of a problem."""

    prompt: str
    wanted: str
    minimum: str | None
    stream: bool
    way: str = WAYS[0]
    tokens: int = 0
    version: str | None = None
    text: str = ""
    code: str | None = None


@dataclass
class Asker(threading.Thread):
    """One client, which asks in one of its ``ways`` after the other."""

    url: str
    store: Store
    seed: int
    stop: threading.Event
    ways: tuple[str, ...] = WAYS[:1]
    asked: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        chance = random.Random(self.seed)
        with Client(self.url, timeout=90) as client:
            while not self.stop.is_set():
                one = self._next(chance)
                self.asked.append(one)
                self._ask(client, one)

    def _next(self, chance: random.Random) -> Asked:
        head = self.store.head.read().version
        wanted = chance.choice(["head", "head", "head", "base", head])
        minimum = head if wanted == "head" and chance.random() < 0.5 else None
        way = self.ways[len(self.asked) % len(self.ways)]
        return Asked(chance.choice(PROMPTS), wanted, minimum, chance.random() < 0.5, way)

    def _ask(self, client: Client, one: Asked) -> None:
        options = {"max_new_tokens": TOKENS, "min_version": one.minimum}
        try:
            if one.way != "generate":
                ask_openai(self.url, one)
            elif one.stream:
                for name, said in client.stream(one.prompt, one.wanted, **options):
                    one.tokens += name == "token"
                    if name == "result":
                        [found] = said.results
                        one.version, one.text = found.version, found.text
            else:
                [found] = client.generate(one.prompt, one.wanted, **options).results
                one.version, one.text = found.version, found.text
        except ApiError as error:
            one.code = error.problem.code
        except httpx.TransportError as error:
            one.code = f"lost: {error}"


def ask_openai(url: str, one: Asked) -> None:
    """Ask below ``/v1``, as programs for OpenAI do, without their retries."""
    body = {
        "model": one.wanted,
        "max_tokens": TOKENS,
        "temperature": 0,
        "stream": one.stream,
        "min_version": one.minimum,
    }
    if one.way == "chat":
        path, body["messages"] = "chat/completions", [{"role": "user", "content": one.prompt}]
    else:
        path, body["prompt"] = "completions", one.prompt
    with httpx.stream("POST", f"{url}/v1/{path}", json=body, timeout=90) as answer:
        if one.stream and answer.is_success:
            lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
            said = [line.removeprefix("data: ") for line in lines]  # the others are signs of life
            if said[-1:] == ["[DONE]"]:
                said.pop()
            elif "error" not in (json.loads(said[-1]) if said else {}):
                one.code = "lost: the stream has no end"
        else:
            said = [answer.read().decode()]
    for part in map(json.loads, said):
        if "error" in part:
            one.code = part["error"]["code"]
            continue
        one.version = part["model_version"]
        for choice in part["choices"]:
            text = choice.get("text") or (choice.get("delta") or choice.get("message", {})).get(
                "content"
            )
            one.text += text or ""
            one.tokens += bool(text)


class Answers:
    """What versions say, by the tensors in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._said = lru_cache(maxsize=None)(self._say)

    def are_right(self, one: Asked) -> bool:
        """Whether an answer is that of the version it names."""
        assert one.version is not None
        return one.text == self._said(one.version, one.prompt)

    def _say(self, version: str, prompt: str) -> str:
        found = get_all(self._store, self._store.versions.read(version).tensors)
        return complete(ModelView(base(), found), prompt, TOKENS)
