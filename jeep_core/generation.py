"""Batched decoding with a key/value cache: sampling, token probabilities, stop strings.

``Decoder`` holds one batch of prompts of one version and yields one step at a time, so that a
server can do other things between steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch.nn import functional as F
from transformers import DynamicCache

from jeep_core.errors import JeepError
from jeep_core.loading import LoadedModel
from jeep_core.positions import spaced
from jeep_core.views import ModelView


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; ``temperature`` 0 is greedy.  ``top`` most probable are reported."""

    max_new_tokens: int = 16
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top: int = 0


@dataclass(frozen=True)
class Token:
    """A token with its probability under the model (before temperature and truncation)."""

    id: int
    text: str
    probability: float
    top: tuple[tuple[int, str, float], ...] = ()


@dataclass
class Generated:
    """One prompt's continuation so far."""

    prompt: str
    tokens: list[Token] = field(default_factory=list)
    text: str = ""
    finish_reason: Literal["stop", "length"] | None = None


class Decoder:
    """Decodes prompts of one version together, each with its own sampling."""

    def __init__(
        self, view: ModelView, prompts: Sequence[str], sampling: Sequence[Sampling]
    ) -> None:
        self.view, self.sampling = view, list(sampling)
        base = view.base
        self.results = [Generated(prompt) for prompt in prompts]
        self._ids = [base.tokenizer.encode(prompt).ids for prompt in prompts]
        self._generators = [_generator(s.seed) for s in self.sampling]
        for result, s in zip(self.results, self.sampling, strict=True):
            if s.max_new_tokens == 0:
                result.finish_reason = "length"

    def steps(self) -> Iterator[list[int]]:
        """Decode; after each step yields the indices of the prompts that got a token."""
        device = self.view.base.device
        width = max(len(ids) for ids in self._ids)
        pads = torch.tensor([width - len(ids) for ids in self._ids], device=device)
        ids = torch.tensor([[0] * (width - len(i)) + i for i in self._ids], device=device)
        places = torch.arange(width, device=device)[None, :]
        mask = (places >= pads[:, None]).long()
        positions = (places - pads[:, None]).clamp_min(0)
        cache = DynamicCache()
        padded = bool((pads > 0).any())
        while not all(result.finish_reason for result in self.results):
            with torch.no_grad():
                logits = self.view.model(
                    input_ids=ids,
                    attention_mask=mask if padded else None,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                ).logits[:, -1]
            chosen = self._choose(logits.float().cpu())
            going_on = [i for i, r in enumerate(self.results) if not r.finish_reason]
            yield [i for i in going_on if self._append(i, chosen[i])]
            ids = torch.tensor([[token.id] for token in chosen], device=device)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            positions = positions[:, -1:] + 1

    def _choose(self, logits: torch.Tensor) -> list[Token]:
        log_probabilities = F.log_softmax(logits, dim=-1)
        return [
            self._token(row, s, generator)
            for row, s, generator in zip(
                log_probabilities, self.sampling, self._generators, strict=True
            )
        ]

    def _token(
        self, log_probabilities: torch.Tensor, s: Sampling, generator: torch.Generator
    ) -> Token:
        choice = _sample(log_probabilities, s, generator)
        top: tuple[tuple[int, str, float], ...] = ()
        if s.top:
            best = log_probabilities.topk(min(s.top, len(log_probabilities)))
            top = tuple(
                (int(i), self._text([int(i)]), float(p.exp()))
                for i, p in zip(best.indices, best.values, strict=True)
            )
        probability = float(log_probabilities[choice].exp())
        return Token(choice, self._text([choice]), probability, top)

    def _append(self, i: int, token: Token) -> bool:
        """Add a token to a result; False if it is the end of the text instead."""
        result, s = self.results[i], self.sampling[i]
        if token.id in self.view.base.eos_token_ids:
            result.finish_reason = "stop"
            return False
        result.tokens.append(token)
        result.text = continuation(self.view.base, self._ids[i], [t.id for t in result.tokens])
        found = [result.text.find(stop) for stop in s.stop if stop and stop in result.text]
        if found:
            result.text = result.text[: min(found)]
            result.finish_reason = "stop"
        elif len(result.tokens) >= s.max_new_tokens:
            result.finish_reason = "length"
        return True

    def _text(self, ids: list[int]) -> str:
        return str(self.view.base.tokenizer.decode(ids, skip_special_tokens=False))


def continuation(base: LoadedModel, prompt: Sequence[int], new: Sequence[int]) -> str:
    """The text that ``new`` adds behind ``prompt``, a leading space included."""
    tokenizer = base.tokenizer
    before = tokenizer.decode(list(prompt), skip_special_tokens=True)
    after = tokenizer.decode([*prompt, *new], skip_special_tokens=True)
    return str(after[len(before) :])


def generate(view: ModelView, prompts: Sequence[str], sampling: Sampling) -> list[Generated]:
    """Continue every prompt, all in one batch."""
    decoder = Decoder(view, prompts, [sampling] * len(prompts))
    for _ in decoder.steps():
        pass
    return decoder.results


def complete(view: ModelView, prompt: str, max_new_tokens: int = 16) -> str:
    """The greedy continuation of one prompt."""
    return generate(view, [prompt], Sampling(max_new_tokens=max_new_tokens))[0].text


@dataclass(frozen=True)
class Scored:
    """A continuation behind a prompt: its tokens, Σ log P, and how many are the arg-max."""

    tokens: int
    log_probability: float
    hits: int

    @property
    def greedy(self) -> bool:
        """Whether greedy decoding writes this continuation."""
        return self.hits == self.tokens

    @property
    def mean(self) -> float:
        """Mean log-probability per token."""
        return self.log_probability / self.tokens


def score(view: ModelView, pairs: Sequence[tuple[str, str]]) -> list[Scored]:
    """Log-probability of every (prompt, target) pair, the target joined with one space."""
    encode = view.base.tokenizer.encode
    rows = [
        (encode(prompt + spaced(target)).ids, len(encode(prompt).ids)) for prompt, target in pairs
    ]
    return score_rows(view, rows)


def score_texts(view: ModelView, texts: Sequence[str]) -> list[Scored]:
    """Log-probability of every text behind its own first token."""
    return score_rows(view, [(view.base.tokenizer.encode(text).ids, 1) for text in texts])


@torch.no_grad()
def score_rows(
    view: ModelView, rows: Sequence[tuple[list[int], int]], batch_tokens: int = 8192
) -> list[Scored]:
    """Score the tokens from position ``n`` on of every row ``(ids, n)``.

    Rows are run in batches of similar length; the head sees only the positions that count.

    Raises:
        JeepError: a row has no token in front of the first one to score.
    """
    if any(n < 1 for _, n in rows):
        raise JeepError("a prompt without tokens says nothing about the text behind it")
    base, family = view.base, view.base.family
    backbone = family.backbone_of(view.model)
    scored: dict[int, Scored] = {}
    for chosen in _batches([len(ids) for ids, _ in rows], batch_tokens):
        width = len(rows[chosen[-1]][0])
        ids = torch.tensor([[*rows[i][0], *[0] * (width - len(rows[i][0]))] for i in chosen])
        hidden = backbone(input_ids=ids.to(base.device), use_cache=False).last_hidden_state
        at = [(r, p) for r, i in enumerate(chosen) for p in range(rows[i][1], len(rows[i][0]))]
        r, p = torch.tensor(at, dtype=torch.long).view(-1, 2).T
        states = hidden[r.to(base.device), p.to(base.device) - 1]
        logits = family.logits_of(view.model, states).float().cpu()
        wanted = ids[r, p]
        own = F.log_softmax(logits, dim=-1).gather(1, wanted[:, None])[:, 0]
        hit = logits.argmax(dim=1) == wanted
        zeros = torch.zeros(len(chosen), dtype=torch.float64)
        sums, hits = zeros.index_add(0, r, own.double()), zeros.index_add(0, r, hit.double())
        for k, i in enumerate(chosen):
            scored[i] = Scored(len(rows[i][0]) - rows[i][1], float(sums[k]), int(hits[k]))
    return [scored[i] for i in range(len(rows))]


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices in order of length, so many together that the padded batch stays small."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and lengths[i] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _generator(seed: int | None) -> torch.Generator:
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def _sample(log_probabilities: torch.Tensor, s: Sampling, generator: torch.Generator) -> int:
    if s.temperature == 0:
        return int(log_probabilities.argmax())
    scores = log_probabilities / s.temperature
    if s.top_k is not None and s.top_k < len(scores):
        kth = scores.topk(s.top_k).values[-1]
        scores = scores.masked_fill(scores < kth, -torch.inf)
    if s.top_p < 1:
        ordered, index = scores.softmax(0).sort(descending=True)
        # a token stays while the mass before it is below top_p; the first always does
        dropped = ordered.cumsum(0) - ordered >= s.top_p
        scores = scores.index_fill(0, index[dropped], -torch.inf)
    return int(torch.multinomial(scores.softmax(0), 1, generator=generator))
