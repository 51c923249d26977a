"""Continuing prompts and scoring continuations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch.nn import functional as F

from jeep_core.decoding.batch import Batch
from jeep_core.decoding.rows import Generated, Row, Token
from jeep_core.decoding.sampling import Sampling
from jeep_core.errors import JeepError, NumericalError
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.spec.finite import OTHER_VERSION
from jeep_core.text.encoding import encode
from jeep_core.text.joining import Join, joined

ROWS_TOGETHER = 64


class Decoder:
    """Decodes prompts of one version together, each with its own sampling."""

    def __init__(
        self, view: ModelView, prompts: Sequence[str], sampling: Sequence[Sampling]
    ) -> None:
        pairs = zip(prompts, sampling, strict=True)
        self._rows = [Row(view.base, prompt, s) for prompt, s in pairs]
        self._batch = Batch(view, max_rows=ROWS_TOGETHER)
        self._batch.add(self._rows)
        self.results = [row.result for row in self._rows]

    def steps(self) -> Iterator[list[int]]:
        """Decode; after each step yields the indices of the prompts that got a token.

        Raises:
            NumericalError: the logits of a prompt are not finite.
        """
        number = {id(row): i for i, row in enumerate(self._rows)}
        for got, _ in _steps(self._batch):
            yield sorted(number[id(row)] for row in got)


def decoded(view: ModelView, rows: Sequence[Row], monitor: Monitor = NOTHING) -> None:
    """Decode rows to their ends, up to 64 at a time; each has its answer in ``result``.

    Raises:
        NumericalError: the logits of a row are not finite.
        Whatever ``monitor.check`` raises; it is called after every step.
    """
    batch = Batch(view, max_rows=ROWS_TOGETHER)
    batch.add(rows)
    done = 0
    for _, finished in _steps(batch):
        done += len(finished)
        monitor.report("write", done, len(rows))
        monitor.check()


def _steps(batch: Batch) -> Iterator[tuple[list[Row], list[Row]]]:
    """After each step of a batch, the rows that got a token and those that have finished."""
    while len(batch):
        got, finished = batch.step()
        for row in finished:
            if row.error is not None:
                raise row.error
        yield got, finished


def generate(view: ModelView, prompts: Sequence[str], sampling: Sampling) -> list[Generated]:
    """Continue every prompt, up to 64 at a time: as one ends, the next one joins."""
    decoder = Decoder(view, prompts, [sampling] * len(prompts))
    for _ in decoder.steps():
        pass
    return decoder.results


def complete(model: LoadedModel | ModelView, prompt: str, max_new_tokens: int = 16) -> str:
    """The greedy continuation of one prompt by a model, or by an edited view of one."""
    view = model if isinstance(model, ModelView) else ModelView(model)
    return generate(view, [prompt], Sampling(max_new_tokens=max_new_tokens))[0].text


@dataclass(frozen=True)
class Scored:
    """A continuation after a prompt: its tokens, Σ log P, and how many are the arg-max."""

    tokens: int
    log_probability: float
    hits: int

    @property
    def greedy(self) -> bool:
        """Whether greedy decoding writes this continuation."""
        return self.hits == self.tokens

    @property
    def error(self) -> NumericalError | None:
        """The error if the log-probability is not finite, else None."""
        if isfinite(self.log_probability):
            return None
        what = "the log-probability of a text after a prompt"
        return NumericalError(f"{what} is not finite ({self.log_probability}); {OTHER_VERSION}")

    @property
    def mean(self) -> float:
        """Mean log-probability per token; 0 for a text that adds no token."""
        return self.log_probability / self.tokens if self.tokens else 0.0


def checked(scored: Sequence[Scored]) -> list[Scored]:
    """The same; raises ``NumericalError`` for the first that is not finite."""
    for one in scored:
        if one.error is not None:
            raise one.error
    return list(scored)


def score(
    view: ModelView, pairs: Sequence[tuple[str, str]], joins: Sequence[Join] | None = None
) -> list[Scored]:
    """Log-probability of every (prompt, target) pair, joined as ``joins`` say; default: ``auto``.

    A target whose first token merges with the prompt is scored from that token on.  Each has its
    own ``error`` where a log-probability is not finite; see `checked`.

    Raises:
        JeepError: nothing of a prompt is left before its target.
    """
    tokenizer, rows = view.base.tokenizer, []
    given: Sequence[Join] = ["auto"] * len(pairs) if joins is None else joins
    for (prompt, target), join in zip(pairs, given, strict=True):
        alone = encode(tokenizer, prompt).ids
        whole = encode(tokenizer, joined(prompt, target, join)).ids
        rows.append((whole, shared(alone, whole)))
    return score_rows(view, rows)


def shared(alone: Sequence[int], whole: Sequence[int]) -> int:
    """How many tokens of a prompt stay the same when something follows it."""
    pairs = enumerate(zip(alone, whole, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(alone), len(whole)))


def score_texts(view: ModelView, texts: Sequence[str]) -> list[Scored]:
    """Log-probability of every text after its own first token.

    Raises:
        NumericalError: one is not finite.
    """
    return checked(score_rows(view, [(encode(view.base.tokenizer, text).ids, 1) for text in texts]))


@torch.no_grad()
def score_rows(
    view: ModelView, rows: Sequence[tuple[list[int], int]], batch_tokens: int = 8192
) -> list[Scored]:
    """Score the tokens from position ``n`` on of every row ``(ids, n)``.

    Rows are run in batches of similar length, one that another one begins with as part of it;
    the head sees only the positions that count.

    Raises:
        JeepError: a row has no token before the first one to score.
    """
    if any(n < 1 for _, n in rows):
        raise JeepError("a prompt without tokens says nothing about the text after it")
    base, family = view.base, view.base.family
    backbone = family.backbone_of(view.model)
    # what predicts the last token is read before it; answers after one prompt share its row
    inputs, row_of = without_beginnings(tuple(ids[:-1] or ids) for ids, _ in rows)
    of_row: list[list[int]] = [[] for _ in inputs]
    for i, row in enumerate(row_of):
        of_row[row].append(i)
    scored: dict[int, Scored] = {}
    for batch in length_batches([len(ids) for ids in inputs], batch_tokens):
        width = len(inputs[batch[-1]])
        ids = torch.tensor([[*inputs[b], *[0] * (width - len(inputs[b]))] for b in batch])
        hidden = backbone(input_ids=ids.to(base.device), use_cache=False).last_hidden_state
        chosen = [(r, i) for r, b in enumerate(batch) for i in of_row[b]]
        # of every token to score, n in all: its number in `chosen`, its row, its position, its id
        at = [
            (k, r, p, rows[i][0][p])
            for k, (r, i) in enumerate(chosen)
            for p in range(rows[i][1], len(rows[i][0]))
        ]
        k, r, p, wanted = torch.tensor(at, dtype=torch.long).view(-1, 4).T
        # (len(chosen),): sums by answer, in float64
        sums, hits = torch.zeros(2, len(chosen), dtype=torch.float64)
        # answers that share a row are more places than the batch has tokens
        for start in range(0, len(at), batch_tokens):
            some = slice(start, start + batch_tokens)
            # (n', d): the state before a token predicts it
            states = hidden[r[some].to(base.device), p[some].to(base.device) - 1]
            logits = family.logits_of(view.model, states).float().cpu()
            # (n',)
            own = F.log_softmax(logits, dim=-1).gather(1, wanted[some][:, None])[:, 0]
            hit = logits.argmax(dim=1) == wanted[some]
            sums.index_add_(0, k[some], own.double())
            hits.index_add_(0, k[some], hit.double())
        for j, (_, i) in enumerate(chosen):
            scored[i] = Scored(len(rows[i][0]) - rows[i][1], float(sums[j]), int(hits[j]))
    return [scored[i] for i in range(len(rows))]


def without_beginnings(
    inputs: Iterable[tuple[int, ...]],
) -> tuple[list[tuple[int, ...]], list[int]]:
    """The inputs that are not the beginning of another one; for every input its row's number.

    In lexicographic order the extensions of a sequence follow it directly.
    """
    given = list(inputs)
    rows: list[tuple[int, ...]] = []
    served: dict[tuple[int, ...], int] = {}
    for one in sorted(set(given), reverse=True):
        if not rows or rows[-1][: len(one)] != one:
            rows.append(one)
        served[one] = len(rows) - 1
    return rows, [served[one] for one in given]


def length_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices in order of length, so many together that the padded batch stays small."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and lengths[i] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


__all__ = [
    "Decoder",
    "Generated",
    "Sampling",
    "Scored",
    "Token",
    "checked",
    "complete",
    "decoded",
    "generate",
    "length_batches",
    "score",
    "score_rows",
    "score_texts",
    "shared",
    "without_beginnings",
]
