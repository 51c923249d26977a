"""Answers to prompts: how probable given ones are, and the greedy one, from one reading of each.

A prompt is read once with all of its given answers after it.  They are scored there, and as far
as the greedy answer is one of them its tokens are known: every one is the arg-max after those
before it.  From there on it is decoded token by token, all prompts together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Generic, TypeVar

import torch
from transformers import DynamicCache

from jeep_core.decoding.batch import PREFILL_TOKENS, Batch
from jeep_core.decoding.generation import ROWS_TOGETHER, Scored, shared
from jeep_core.decoding.rows import Row
from jeep_core.decoding.sampling import Choice, Sampling
from jeep_core.decoding.token_tree import TokenTree, padded, padded_ids
from jeep_core.errors import JeepError
from jeep_core.models.loading import LoadedModel
from jeep_core.models.masks import Attention
from jeep_core.models.views import ModelView
from jeep_core.monitor import nothing
from jeep_core.text.encoding import encode
from jeep_core.text.joining import Join, joined

TREE_TOKENS = 192
"""Tokens in one row, unless a question has more: attention grows with their square."""
NO_PROMPT = "a prompt without tokens says nothing about the text after it"
ENCODED = 32
"""Tokens that are encoded in one step of `Unscored`, for each one that may be read."""
BESIDE, LONGEST = 8, 4
"""With a longer prompt 1 / 8 of a step's tokens are read of answers, up to 4 steps' in all."""
LOGITS = 1 << 24
"""Logits that are held at once: 64 MiB in float32."""

Owner = TypeVar("Owner")


@dataclass(frozen=True)
class Question:
    """A prompt with answers to score after it, each with how it joins.

    ``written``: the greedy answer is decoded for so many tokens, and for one more than the first
    of ``answers`` has; None: it is not asked for.
    """

    prompt: str
    answers: Sequence[tuple[str, Join]] = ()
    written: int | None = None


@dataclass(frozen=True)
class Told:
    """Scores of a question's answers in their order, and the greedy answer, "" if not asked for."""

    scores: Sequence[Scored]
    text: str = ""


class _Asked:
    """A question in tokens.

    ``texts``: prompt and answer, with the place of the first token that is scored.  ``row`` is
    what the greedy answer goes into.  ``runs`` are the tokens that are run: the prompt, if it is
    to be decoded, then each text.
    """

    def __init__(self, prompt: list[int]) -> None:
        self.prompt = prompt
        self.texts: list[tuple[list[int], int]] = []
        self.row: Row | None = None
        self.runs: list[list[int]] = []

    @classmethod
    def of(cls, view: ModelView, question: Question) -> _Asked:
        """A question in the tokens of a model."""
        base = view.base
        prompt = list(encode(base.tokenizer, question.prompt).ids)
        if not prompt:
            raise JeepError(NO_PROMPT)
        found = cls(prompt)
        for answer in question.answers:
            found.add(_text(base, question.prompt, prompt, *answer))
        if question.written is not None:
            first = len(found.texts[0][0]) - found.texts[0][1] if found.texts else 0
            room = base.max_positions - len(prompt)
            length = min(max(question.written, first + 1), room)
            found.row = Row(base, question.prompt, Sampling(length), prompt)
            # the state of an answer's last token says only how the greedy answer goes on after it
            drafts = [
                ids if len(ids) <= base.max_positions and ids[: len(prompt)] == prompt else ids[:-1]
                for ids, _ in found.texts
            ]
            found.runs = [prompt, *drafts]
        return found

    def add(self, text: tuple[list[int], int]) -> None:
        """Another text that is only scored."""
        self.texts.append(text)
        self.runs.append(text[0][:-1])

    def looked_at(self, runs: Sequence[list[int]]) -> Iterator[int]:
        """Of the places of its ``runs`` in a tree those whose next tokens count."""
        if self.row is not None:
            yield runs[0][-1]
        for (_, start), places in self.answers(runs):
            yield from places[start - 1 :]

    def answers(
        self, runs: Sequence[list[int]]
    ) -> Iterable[tuple[tuple[list[int], int], list[int]]]:
        """The ``texts`` with the places of each, where ``runs`` are the places of all runs."""
        return zip(self.texts, runs[len(runs) - len(self.texts) :], strict=True)


def _text(
    base: LoadedModel, prompt: str, alone: list[int], answer: str, join: Join
) -> tuple[list[int], int]:
    """Tokens of a prompt with an answer, and the place of the first one that is scored.

    ``alone`` are the prompt's own tokens.
    """
    ids = list(encode(base.tokenizer, joined(prompt, answer, join)).ids)
    start = shared(alone, ids)
    if start < 1:
        raise JeepError(NO_PROMPT)
    return ids, start


@torch.no_grad()
def ask(
    view: ModelView, questions: Sequence[Question], check: Callable[[], None] = nothing
) -> list[Told]:
    """The answers of a version; ``check`` is called now and then, and may raise to end the work.

    An answer whose first token merges with the prompt is scored from that token on.  Scores have
    an ``error`` where they are not finite; see `Scored`.

    Raises:
        JeepError: a prompt has no tokens.
        NumericalError: the logits of a greedy answer are not finite.
        Whatever ``check`` raises.
    """
    told: list[Told] = []
    for start in range(0, len(questions), ROWS_TOGETHER):
        check()
        told += _together(view, questions[start : start + ROWS_TOGETHER])
    return told


def _together(view: ModelView, questions: Sequence[Question]) -> list[Told]:
    asked = [_Asked.of(view, question) for question in questions]
    batch = Batch(view, max_rows=ROWS_TOGETHER)
    scores: dict[int, list[Scored]] = {}
    # prompts that begin alike come together, in one tree
    for some in _readings(asked, sorted(range(len(asked)), key=lambda i: asked[i].prompt)):
        reading = _Reading(view, [[asked[i] for i in tree] for tree in some])
        numbers = (i for tree in some for i in tree)
        scores |= zip(numbers, reading.scores(), strict=True)
        reading.hand_over(batch)
    while len(batch):
        for row in batch.step()[1]:
            if row.error is not None:
                raise row.error
    return [Told(scores[i], one.row.result.text if one.row else "") for i, one in enumerate(asked)]


def _readings(asked: Sequence[_Asked], order: Sequence[int]) -> Iterator[list[list[int]]]:
    """Numbers of questions by tree, in as many readings as there are too many tokens for one."""
    trees: list[list[int]] = []
    sizes: list[int] = []
    tree = TokenTree()
    for i in order:
        if trees and len(tree) + sum(map(tree.missing, asked[i].runs)) <= TREE_TOKENS:
            trees[-1].append(i)
        else:
            tree = TokenTree()
            trees.append([i])
            sizes.append(0)
        for run in asked[i].runs:
            tree.add(run)
        sizes[-1] = len(tree)
        if len(trees) > 1 and max(sizes) * len(trees) > PREFILL_TOKENS:
            yield trees[:-1]
            trees, sizes = trees[-1:], sizes[-1:]
    if trees:
        yield trees


class _Reading:
    """Trees of questions run once; ``asked`` are the questions, tree by tree."""

    def __init__(self, view: ModelView, questions: Sequence[Sequence[_Asked]]) -> None:
        self._view = view
        self._trees = [TokenTree() for _ in questions]
        self.asked = [one for tree in questions for one in tree]
        self._tree_of = [number for number, tree in enumerate(questions) for _ in tree]
        # by question: the places of its runs in its tree
        self._runs = [
            [self._trees[tree].add(run) for run in one.runs]
            for one, tree in zip(self.asked, self._tree_of, strict=True)
        ]
        # (tree, place) of every place that is looked at, with its number
        self._number: dict[tuple[int, int], int] = {}
        for tree, one, runs in zip(self._tree_of, self.asked, self._runs, strict=True):
            for place in one.looked_at(runs):
                self._number.setdefault((tree, place), len(self._number))
        self._cache = DynamicCache()
        self._states = self._run()  # (n, d) at these places
        # what is most probable after each of them, None where it is not finite
        self._best: list[Choice | None] = []

    def _run(self) -> torch.Tensor:
        base, device = self._view.base, self._view.base.device
        goes_on = any(one.row is not None for one in self.asked)
        given: dict[str, Any] = {"cache": self._cache} if goes_on else {}
        if not goes_on and all(tree.is_path for tree in self._trees):  # no mask of t x t is needed
            given["input_ids"] = padded_ids(self._trees).to(device)  # (r, t)
        else:
            ids, positions, sees = (t.to(device) for t in padded(self._trees))  # (r, t), (r, t, t)
            mask = Attention.of(base).among(positions, sees, base.dtype)
            given |= {"input_ids": ids, "position_ids": positions, "attention_mask": mask}
        backbone = base.family.backbone_of(self._view.model)
        hidden: torch.Tensor = backbone(**given, use_cache=goes_on).last_hidden_state
        tree, place = torch.tensor(list(self._number), device=device).T
        return hidden[tree, place]

    def scores(self) -> list[list[Scored]]:
        """Scores of every question's answers."""
        wanted: list[tuple[int, int]] = []
        ends: list[tuple[int, int]] = []
        for q, (tree, one, runs) in enumerate(
            zip(self._tree_of, self.asked, self._runs, strict=True)
        ):
            for (ids, start), places in one.answers(runs):
                wanted += [
                    (self._number[tree, places[p - 1]], ids[p]) for p in range(start, len(ids))
                ]
                ends.append((q, len(wanted)))
        log_p = self._predictions(wanted)
        found: list[list[Scored]] = [[] for _ in self.asked]
        begin = 0
        for q, end in ends:
            hits = sum(self._is_best(number, token) for number, token in wanted[begin:end])
            found[q].append(Scored(end - begin, sum(log_p[begin:end]), hits))
            begin = end
        return found

    def _is_best(self, number: int, token: int) -> bool:
        best = self._best[number]
        return best is not None and best.id == token

    def _predictions(self, wanted: Sequence[tuple[int, int]]) -> list[float]:
        """log P of tokens after places ``wanted``, by number; what is best is kept for all."""
        device = self._states.device
        at, token = torch.tensor(wanted, dtype=torch.long, device=device).view(-1, 2).T  # (m,) each
        log_p = torch.zeros(len(at), dtype=torch.float64, device=device)
        family, model = self._view.base.family, self._view.model
        together = max(1, LOGITS // self._view.base.vocabulary)
        for start in range(0, len(self._states), together):
            states = self._states[start : start + together]
            # (n', V)
            spread = family.logits_of(model, states).float().log_softmax(dim=-1)
            best = spread.argmax(dim=-1)
            values = spread.gather(1, best[:, None])[:, 0]
            self._best += [
                Choice(i, value) if isfinite(value) else None
                for i, value in zip(best.tolist(), values.tolist(), strict=True)
            ]
            mine = ((at >= start) & (at < start + together)).nonzero()[:, 0]
            log_p[mine] = spread[at[mine] - start, token[mine]].double()
        sums: list[float] = log_p.tolist()
        return sums

    def hand_over(self, batch: Batch) -> None:
        """Give the rows their first tokens, and let a batch go on with them.

        Raises:
            NumericalError: the logits after one are not finite.
        """
        rows: list[Row] = []
        paths: list[tuple[int, list[int]]] = []
        for tree, one, runs in zip(self._tree_of, self.asked, self._runs, strict=True):
            if one.row is None or one.row.finished:
                continue
            path = self._followed(one.row, tree, runs[0])
            if one.row.error is not None:
                raise one.row.error
            if not one.row.finished:
                rows.append(one.row)
                paths.append((tree, path))
        if rows:
            batch.go_on(rows, self._past(paths))

    def _followed(self, row: Row, tree: int, prompt: Sequence[int]) -> list[int]:
        """The places of a row's tokens but for its last one, which is not run yet."""
        path = list(prompt)
        while True:
            choice = self._best[self._number[tree, path[-1]]]
            if choice is None:
                row.fail()
                return path
            row.add(choice)
            following = self._trees[tree].child(path[-1], choice.id)
            if row.finished or following is None or (tree, following) not in self._number:
                return path
            path.append(following)

    def _past(self, paths: Sequence[tuple[int, list[int]]]) -> DynamicCache:
        """Keys and values of k rows by layer, (k, heads, width, head size), each at the end."""
        device, width = self._view.base.device, max(len(path) for _, path in paths)
        tree = torch.tensor([[number] for number, _ in paths], device=device)
        # what is left of a shorter row is hidden by the batch
        place = torch.tensor([[0] * (width - len(p)) + p for _, p in paths], device=device)
        past, layers = DynamicCache(), list[Any](self._cache.layers)
        for number, layer in enumerate(layers):
            # (k, width, heads, head size) to (k, heads, width, head size)
            at = tree.to(layer.keys.device), slice(None), place.to(layer.keys.device)
            keys, values = (t[at].transpose(1, 2) for t in (layer.keys, layer.values))
            past.update(keys, values, number)
        return past


class Unscored(Generic[Owner]):
    """Answers that wait to be scored, of which a bounded number of tokens is read at a time.

    A prompt is read once with as many of its answers as there is room for; one that alone is more
    than a step reads, with a few.  The answers of one owner have one prompt and are read together:
    if the score of one is not finite, those of others may not be either.
    """

    def __init__(self, view: ModelView, tokens: int = PREFILL_TOKENS) -> None:
        self._view, self._tokens = view, tokens
        self._waiting: deque[tuple[Owner, int, str, tuple[str, Join]]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, owner: Owner, number: int, prompt: str, answer: tuple[str, Join]) -> None:
        """Let an answer, known by its owner and a number, be scored after those that wait."""
        self._waiting.append((owner, number, prompt, answer))

    def drop(self, owners: Collection[Owner]) -> None:
        """Forget the answers of some owners."""
        self._waiting = deque(one for one in self._waiting if one[0] not in owners)

    @torch.no_grad()
    def step(self) -> list[tuple[Owner, int, Scored]]:
        """Score the next answers: one at least, up to 64 as long as there is room for them.

        An answer whose first token merges with the prompt is scored from that token on.

        Raises:
            JeepError: nothing of a prompt is left before its answer.
        """
        names: list[tuple[Owner, int]] = []
        found: list[tuple[Owner, int, Scored]] = []
        asked: list[_Asked] = []
        trees: list[TokenTree] = []
        encoded, most = 0, ENCODED * self._tokens
        while self._waiting and len(names) + len(found) < ROWS_TOGETHER and encoded < most:
            owner, number, prompt, answer = self._waiting[0]
            known = bool(names) and names[-1][0] is owner
            alone = asked[-1].prompt if known else self._ids(prompt)
            ids, start = _text(self._view.base, prompt, alone, *answer)
            encoded += len(ids) + (0 if known else len(alone))
            tree = trees[-1] if known else TokenTree()
            rows, width = len(trees) + (not known), len(tree) + tree.missing(ids[:-1])
            room = self._tokens if rows > 1 else self._room_with(alone)
            if names and rows * max(width, *map(len, trees)) > room:
                break
            self._waiting.popleft()
            if start == len(ids):  # it adds no token
                found.append((owner, number, Scored(0, 0.0, 0)))
                continue
            if not known:
                trees.append(tree)
                asked.append(_Asked(alone))
            tree.add(ids[:-1])
            asked[-1].add((ids, start))
            names.append((owner, number))
        if asked:
            scores = _Reading(self._view, [[one] for one in asked]).scores()
            every = (one for some in scores for one in some)
            found += [(*name, one) for name, one in zip(names, every, strict=True)]
        return found

    def _room_with(self, prompt: Sequence[int]) -> int:
        """Tokens that may be read of a prompt and its answers, without others."""
        several = len(prompt) + self._tokens // BESIDE
        return max(self._tokens, min(several, LONGEST * self._tokens))

    def _ids(self, prompt: str) -> list[int]:
        return list(encode(self._view.base.tokenizer, prompt).ids)
