"""Answers to lm-eval's requests by a view of the model.

The object has the methods by which lm-eval asks a model, and imports nothing of it.  Tokens are
made, cut and joined by the rules of lm-eval's ``hf`` backend, so that figures compare:

- the tokenizer is the model's own, and puts BOS before a text where the model's own does;
- white space at the end of a context belongs to what follows it;
- a text without a context follows BOS, or EOS where the model has none;
- what is too long is cut on its left, and long texts are read in windows.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jeep_core.decoding.generation import decoded
from jeep_core.decoding.rows import Row
from jeep_core.decoding.sampling import Sampling
from jeep_core.decoding.scoring import AnswerTokens, read_tokens
from jeep_core.errors import JeepError
from jeep_core.evaluation.harness.catalogue import InvalidTask
from jeep_core.models.special_tokens import special_tokens
from jeep_core.models.views import ModelView
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.text.chat import template_of
from jeep_core.text.encoding import encode, opening

TOGETHER = 256
"""Requests whose answers are kept at once."""
DEFAULT_NEW_TOKENS = 256
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names of one option of ``generation_kwargs``; the first that is given counts."""
OPTIONS = frozenset((*LENGTHS, "until", "do_sample", "temperature", "top_p", "top_k"))

Asked = tuple[Any, ...]
Batch = Callable[[Sequence[Asked], Sequence[str], Monitor], list[Any]]
"""Answers requests, of which the keys are given, too."""


class Request(Protocol):
    """A request of lm-eval: ``args`` are two texts, one text, or a text and options."""

    @property
    def args(self) -> tuple[Any, ...]:
        """The parts of the question."""
        ...


class Kept(Protocol):
    """Answers of an earlier attempt, and where new ones are kept."""

    def read(self) -> Iterable[Mapping[str, Any]]:
        """The records that were appended."""
        ...

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Keep records durably."""
        ...


@dataclass
class Forgetful:
    """Keeps nothing."""

    def read(self) -> Iterator[Mapping[str, Any]]:
        """Nothing."""
        return iter(())

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Forget the records."""


class Answers:
    """A model as lm-eval asks it: log-probabilities in nats, texts up to a stop string."""

    rank = 0
    world_size = 1
    tokenizer_name = "the model's own"

    def __init__(
        self, view: ModelView, kept: Kept | None = None, monitor: Monitor = NOTHING, seed: int = 0
    ) -> None:
        self._view, self._kept, self._monitor, self._seed = view, kept or Forgetful(), monitor, seed
        self._found = {str(row["key"]): row["answer"] for row in self._kept.read()}
        self.max_length = view.base.max_positions
        self.prefix = _prefix(view)
        """Id of the token that a text without a context follows."""

    @property
    def prefix_text(self) -> str:
        """The text of that token."""
        return str(self._view.base.tokenizer.id_to_token(self.prefix))

    @property
    def opening(self) -> str:
        """The special tokens that the tokenizer puts before every text; mostly none."""
        return opening(self._view.base.tokenizer)

    def loglikelihood(self, requests: Sequence[Request]) -> list[tuple[float, bool]]:
        """Log-probability of each continuation after its context; whether it is the greedy one.

        Raises:
            InvalidTask: a continuation has no tokens, or more than the model has room for.
            Whatever the monitor raises.
        """
        found = self._answered("loglikelihood", requests, self._scored, "score")
        return [(float(value), bool(greedy)) for value, greedy in found]

    def loglikelihood_rolling(self, requests: Sequence[Request]) -> list[float]:
        """Log-probability of each text, all of its tokens included.

        Raises:
            Whatever the monitor raises.
        """
        found = self._answered("loglikelihood_rolling", requests, self._rolled, "read")
        return [float(value) for value in found]

    def generate_until(self, requests: Sequence[Request]) -> list[str]:
        """The continuation of each context, up to the first of its stop strings.

        Raises:
            InvalidTask: an option is unknown, or nothing is left of the model's room.
            Whatever the monitor raises.
        """
        return [str(text) for text in self._answered("generate", requests, self._written, "write")]

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The text of messages, the assistant's answer begun or the last message to be continued.

        Raises:
            NoTemplate, RefusedMessages
        """
        text = template_of(self._view.base).render(chat_history, add_generation_prompt)
        if add_generation_prompt:
            return text
        last = chat_history[-1]["content"]
        place = text.rfind(last.strip())
        return text if place < 0 else text[: place + len(last.strip())]

    def _answered(
        self, kind: str, requests: Sequence[Request], answer: Batch, phase: str
    ) -> list[Any]:
        """Answers in the order of the requests; those kept before are not computed again."""
        asked = [tuple(request.args) for request in requests]
        keys = list(_keys(kind, asked))
        missing = [i for i, key in enumerate(keys) if key not in self._found]
        for start in range(0, len(missing), TOGETHER):
            chunk = missing[start : start + TOGETHER]
            done = len(keys) - len(missing) + start
            monitor = self._counting(phase, done, len(chunk), len(keys))
            monitor.check()
            found = answer([asked[i] for i in chunk], [keys[i] for i in chunk], monitor)
            rows = [{"key": keys[i], "answer": one} for i, one in zip(chunk, found, strict=True)]
            self._kept.append(rows)
            self._found |= {row["key"]: row["answer"] for row in rows}
        self._monitor.report(phase, len(keys), len(keys))
        return [self._found[key] for key in keys]

    def _counting(self, phase: str, before: int, requests: int, total: int) -> Monitor:
        """A monitor that receives rows of a chunk and reports requests."""

        def report(_: str, done: int, rows: int) -> None:
            self._monitor.report(phase, before + done * requests // rows, total)

        return self._monitor.reporting(report)

    def _scored(self, asked: Sequence[Asked], _: Sequence[str], monitor: Monitor) -> list[Any]:
        tokens = [self._pair(context, continuation) for context, continuation in asked]
        readings = read_tokens(self._view, tokens, monitor)
        return [[one.log_probability, one.greedy] for one in readings]

    def _rolled(self, asked: Sequence[Asked], _: Sequence[str], monitor: Monitor) -> list[Any]:
        windows = [list(self._windows(text)) for (text,) in asked]
        readings = read_tokens(self._view, [one for some in windows for one in some], monitor)
        values = iter(readings)
        return [sum(next(values).log_probability for _ in some) for some in windows]

    def _written(self, asked: Sequence[Asked], keys: Sequence[str], monitor: Monitor) -> list[Any]:
        base = self._view.base
        rows, stops = [], []
        for (context, options), key in zip(asked, keys, strict=True):
            sampling = self._sampling(options, f"{self._seed}/{key}")
            room = self.max_length - sampling.max_new_tokens
            if room <= 0:
                raise InvalidTask(
                    f"generation_kwargs: max_gen_toks {sampling.max_new_tokens} leaves no room "
                    f"for a prompt in the {self.max_length} tokens of this model: ask for fewer"
                )
            ids = self._tokens(context)[-room:] or [self.prefix]
            rows.append(Row(base, "", sampling, ids))
            stops.append(sampling.stop)
        decoded(self._view, rows, monitor)
        texts = []
        for row, stop in zip(rows, stops, strict=True):
            # as lm-eval does: of the answer's tokens alone, without the space that some
            # tokenizers write at the start of a text
            text = base.tokenizer.decode([token.id for token in row.result.tokens])
            for one in stop:
                text = text.split(one)[0]
            texts.append(text)
        return texts

    def _sampling(self, options: Mapping[str, Any], seed: str) -> Sampling:
        unknown = sorted(set(options) - OPTIONS)
        if unknown:
            known = ", ".join(sorted(OPTIONS))
            raise InvalidTask(f"generation_kwargs: {unknown[0]} is not known here: use {known}")
        until = options.get("until") or []
        stops = [until] if isinstance(until, str) else [str(one) for one in until]
        special = {one: self._special(one) for one in stops}
        temperature = float(options.get("temperature") or 0.0)
        hot = options.get("do_sample", temperature > 0) and temperature > 0
        given = (options[name] for name in LENGTHS if options.get(name) is not None)
        return Sampling(
            max_new_tokens=int(next(given, DEFAULT_NEW_TOKENS)),
            temperature=temperature if hot else 0.0,
            top_k=int(options["top_k"]) if hot and options.get("top_k") else None,
            top_p=float(options.get("top_p", 1.0)) if hot else 1.0,
            seed=seed,
            stop=tuple(one for one in stops if one and special[one] is None),
            stop_ids=frozenset(token for token in special.values() if token is not None),
        )

    def _special(self, text: str) -> int | None:
        """The id of a special token, which shows in no text."""
        tokenizer = self._view.base.tokenizer
        token = tokenizer.token_to_id(text)
        if token is None or tokenizer.decode([token], skip_special_tokens=True):
            return None
        return int(token)

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = encode(self._view.base.tokenizer, text).ids
        return ids

    def _pair(self, context: str, continuation: str) -> AnswerTokens:
        """The tokens of both, cut on the left to what the model has room for."""
        stripped = context.rstrip()
        following = context[len(stripped) :] + continuation
        before = self._tokens(stripped) if context else []
        if before:
            answer = self._tokens(stripped + following)[len(before) :]
        else:
            tokenizer = self._view.base.tokenizer
            answer = tokenizer.encode(following, add_special_tokens=False).ids
            before = [self.prefix]
            if answer[:1] == before:
                answer = answer[1:]
        if not 0 < len(answer) <= self.max_length:
            raise InvalidTask(
                f"the answer {continuation[:60]!r} has {len(answer)} tokens after its prompt, and "
                f"needs 1 to {self.max_length}: change the task's target or its delimiter"
            )
        ids = tuple([*before, *answer][-(self.max_length + 1) :])
        return AnswerTokens(ids, len(ids) - len(answer))

    def _windows(self, text: str) -> Iterator[AnswerTokens]:
        """A text in windows that predict every token once, each after as many as there is room."""
        ids, room = self._tokens(text), self.max_length
        for done in range(0, len(ids), room):
            end = min(done + room, len(ids))
            if done == 0:
                yield AnswerTokens((self.prefix, *ids[:end]), 1)
            else:
                seen = tuple(ids[end - room - 1 : end])
                yield AnswerTokens(seen, len(seen) - (end - done))


def _prefix(view: ModelView) -> int:
    """The token that a text without a context follows.

    Raises:
        JeepError: the model names neither BOS nor EOS.
    """
    tokens = special_tokens(view.base)
    for name in ("bos_token", "eos_token"):
        token = view.base.tokenizer.token_to_id(tokens.get(name, ""))
        if token is not None:
            return int(token)
    raise JeepError(
        "the model's configuration names neither bos_token_id nor eos_token_id: lm-eval needs one"
    )


def _keys(kind: str, asked: Sequence[Asked]) -> Iterator[str]:
    """A key for each request; a request that is repeated has one for each time."""
    seen: Counter[str] = Counter()
    for args in asked:
        text = json.dumps([kind, *args], ensure_ascii=False, sort_keys=True, default=str)
        key = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
        seen[key] += 1
        yield f"{key}-{seen[key]}"
