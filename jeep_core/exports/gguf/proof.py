"""The proof sheet of a GGUF file: what llama.cpp answers where the version was edited.

Every question is asked twice, of the version in this library and of the file in llama.cpp, with
the same tokens and greedily, and both answers are judged by one rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from jeep_core.decoding.generation import Decoder
from jeep_core.decoding.sampling import Sampling
from jeep_core.decoding.scoring import goes_on
from jeep_core.exports.gguf.server import LlamaServer, Reply
from jeep_core.models.giving_way import giving_way
from jeep_core.models.views import ModelView
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.spec.chats import as_asked_in_chat
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import Contexts
from jeep_core.text.encoding import encode
from jeep_core.text.joining import Join, joined

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from jeep_core.text.chat import ChatTemplate

ANSWER_TOKENS = 10
"""Of an answer to an edited fact, more if the new answer is longer."""
NEIGHBOR_TOKENS = 5
"""Of an answer to a neighborhood prompt."""
TOGETHER = 64
"""Questions that the version is asked between two looks at the monitor."""


class Asked(StrEnum):
    """The kind of a question: the edited prompt, its form in a chat, a rephrasing, a neighbour."""

    PROMPT = "prompt"
    CHAT = "chat"
    PARAPHRASE = "paraphrase"
    NEIGHBOR = "neighbor"


@dataclass(frozen=True)
class Question:
    """A prompt, its tokens, and those of the new answer; ``fact`` is the number of its fact.

    A neighbour has no answer that is right: its answers are compared with one another.
    """

    fact: int
    asks: Asked
    text: str
    ids: tuple[int, ...]
    wanted: str = ""
    target: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """How many tokens of an answer tell what it is."""
        if self.asks is Asked.NEIGHBOR:
            return NEIGHBOR_TOKENS
        return max(ANSWER_TOKENS, len(self.target) + 1)

    def answered(self, reply: Reply) -> bool:
        """Whether a greedy answer is the new one, all of it and as whole words."""
        n = len(self.target)
        return reply.ids[:n] == self.target and not goes_on(reply.text, self.wanted)


@dataclass(frozen=True)
class Compared:
    """A question with the answers of the version and of the file.

    ``other_tokens``: llama.cpp reads its text as other tokens than those that were asked.
    """

    question: Question
    version: Reply
    file: Reply
    other_tokens: bool = False

    @property
    def holds(self) -> tuple[bool, bool]:
        """Whether the version, and whether the file answers with the new answer."""
        return self.question.answered(self.version), self.question.answered(self.file)

    @property
    def same(self) -> bool:
        """Whether both answers have the same tokens."""
        return self.version.ids == self.file.ids


@dataclass(frozen=True)
class Held:
    """How many questions of a kind were asked, and how many were answered with the new answer.

    ``survived``: those that the version and the file answer so.
    """

    asked: int
    version: int
    file: int
    survived: int

    @property
    def share(self) -> float | None:
        """Of what the version answers, the share that the file still answers; None of nothing."""
        return self.survived / self.version if self.version else None


@dataclass(frozen=True)
class ProofSheet:
    """The answers of a file beside those of its version.

    A fact holds if its prompt is answered with the new answer and, where it was edited for a
    chat too, its form in a chat.
    """

    compared: Sequence[Compared]

    def held(self, asks: Asked) -> Held:
        """The counts of one kind of question."""
        return _held([c.holds for c in self.compared if c.question.asks is asks])

    @property
    def facts(self) -> Held:
        """The counts of whole facts."""
        return _held(list(self._by_fact().values()))

    @property
    def lost(self) -> list[int]:
        """The numbers of the facts that hold in the version and not in the file."""
        return [fact for fact, (version, file) in self._by_fact().items() if version and not file]

    @property
    def neighbors_same(self) -> tuple[int, int]:
        """How many neighbours are answered with the same tokens, and how many were asked."""
        found = [c.same for c in self.compared if c.question.asks is Asked.NEIGHBOR]
        return sum(found), len(found)

    @property
    def other_tokens(self) -> int:
        """How many prompts llama.cpp reads as other tokens."""
        return sum(c.other_tokens for c in self.compared)

    def _by_fact(self) -> dict[int, tuple[bool, bool]]:
        found: dict[int, tuple[bool, bool]] = {}
        for c in self.compared:
            if c.question.asks in (Asked.PROMPT, Asked.CHAT):
                version, file = found.get(c.question.fact, (True, True))
                found[c.question.fact] = (version and c.holds[0], file and c.holds[1])
        return found


def questions_of(
    tokenizer: Tokenizer,
    facts: Sequence[Fact],
    contexts: Contexts,
    chat: ChatTemplate | None,
    first: int = 0,
) -> list[Question]:
    """The questions of facts that were edited together: prompts, chats, rephrasings, neighbours.

    ``first`` is the number of the first fact.

    Raises:
        InvalidFacts: a fact has no form in a chat, and was edited for one.
    """
    found: list[Question] = []
    for number, fact in enumerate(facts, first):
        plain = contexts != "chat" and not fact.messages
        if plain:
            found.append(_question(tokenizer, number, Asked.PROMPT, fact, fact.text))
        if contexts != "plain" or fact.messages:
            asked = as_asked_in_chat(fact, chat)
            found.append(_question(tokenizer, number, Asked.CHAT, asked, asked.text))
        for text in fact.paraphrase_prompts:
            found.append(_question(tokenizer, number, Asked.PARAPHRASE, fact, text))
        for text in fact.neighborhood_prompts:
            ids = tuple(encode(tokenizer, text).ids)
            found.append(Question(number, Asked.NEIGHBOR, text, ids))
    return found


def compared(
    questions: Sequence[Question],
    replies: Sequence[Reply],
    server: LlamaServer,
    monitor: Monitor = NOTHING,
) -> ProofSheet:
    """Ask a running server all questions, and set its answers beside the version's.

    Raises:
        NotExportable: the server ended, or answered with an error.
        Whatever ``monitor.check`` raises.
    """
    found = []
    for done, (question, version) in enumerate(zip(questions, replies, strict=True)):
        monitor.report("ask", done, len(questions))
        file = server.answer(question.ids, question.length)
        other = server.tokens(question.text) != list(question.ids)
        found.append(Compared(question, version, file, other))
    monitor.report("ask", len(questions), len(questions))
    return ProofSheet(found)


def prove_file(
    view: ModelView,
    questions: Sequence[Question],
    server: LlamaServer,
    monitor: Monitor = NOTHING,
) -> ProofSheet:
    """Ask all questions of a version, and then of a file in a server that is started for it.

    Raises:
        MissingProgram, NotExportable: llama-server is missing, or does not load the file.
        NumericalError: the logits of the version are not finite.
        Whatever ``monitor.check`` raises.
    """
    with giving_way(view, monitor):
        replies = replies_of(view, questions, monitor)
    with server:
        return compared(questions, replies, server, monitor)


def replies_of(
    view: ModelView, questions: Sequence[Question], monitor: Monitor = NOTHING
) -> list[Reply]:
    """The greedy answers of a version, as the server would give them.

    Raises:
        NumericalError: the logits are not finite.
        Whatever ``monitor.check`` raises.
    """
    found: list[Reply] = []
    for start in range(0, len(questions), TOGETHER):
        some = questions[start : start + TOGETHER]
        decoder = Decoder(view, [q.text for q in some], [Sampling(q.length) for q in some])
        for _ in decoder.steps():
            monitor.check()
        found += [Reply(tuple(t.id for t in r.tokens), r.text) for r in decoder.results]
    return found


def longest(questions: Sequence[Question]) -> int:
    """Tokens of the longest prompt with its answer."""
    return max((len(q.ids) + q.length for q in questions), default=1)


def _held(pairs: Sequence[tuple[bool, bool]]) -> Held:
    return Held(
        asked=len(pairs),
        version=sum(version for version, _ in pairs),
        file=sum(file for _, file in pairs),
        survived=sum(version and file for version, file in pairs),
    )


def _question(tokenizer: Tokenizer, number: int, asks: Asked, fact: Fact, text: str) -> Question:
    alone, target = _split(tokenizer, text, fact.target_new, fact.join)
    return Question(number, asks, text, alone, fact.target_new, target)


def _split(
    tokenizer: Tokenizer, text: str, answer: str, join: Join
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens of a prompt, and those that the answer adds to it."""
    alone = tuple(encode(tokenizer, text).ids)
    whole = tuple(encode(tokenizer, joined(text, answer, join)).ids)
    return alone, whole[len(alone) :]
