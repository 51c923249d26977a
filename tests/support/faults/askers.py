"""Clients that ask all the time, and what they were told: every answer is kept with its request."""

from __future__ import annotations

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


@dataclass
class Asked:
    """One request and its end: the version and text of its result, or the code of a problem."""

    prompt: str
    wanted: str
    minimum: str | None
    stream: bool
    tokens: int = 0
    version: str | None = None
    text: str = ""
    code: str | None = None


@dataclass
class Asker(threading.Thread):
    """One client.  ``head`` is what the test knows of head: nothing older may answer."""

    url: str
    store: Store
    seed: int
    stop: threading.Event
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
        return Asked(chance.choice(PROMPTS), wanted, minimum, chance.random() < 0.5)

    def _ask(self, client: Client, one: Asked) -> None:
        options = {"max_new_tokens": TOKENS, "min_version": one.minimum}
        try:
            if one.stream:
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
