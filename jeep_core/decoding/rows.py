"""One prompt on its way through a batch, and the answer that it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp
from random import Random
from typing import Literal

from jeep_core.decoding.prompt_scores import PromptScores
from jeep_core.decoding.sampling import Choice, Ranked, Sampling
from jeep_core.decoding.text_stream import StopStrings, TextStream
from jeep_core.errors import NumericalError
from jeep_core.models.loading import LoadedModel
from jeep_core.spec.finite import OTHER_VERSION
from jeep_core.text.counting import counted
from jeep_core.text.encoding import encode
from jeep_core.text.sentences import has_sentence


@dataclass(frozen=True)
class Token:
    """A token with its probability under the model (before temperature and truncation).

    ``text`` is the token alone.  ``delta`` is the text that became certain with it: the deltas
    of all tokens are the answer, except a character that an end of text leaves unfinished.
    ``ranked`` are the most probable tokens with their log-probabilities, ``top`` the same with
    texts and probabilities.
    """

    id: int
    text: str
    log_probability: float
    ranked: Ranked = ()
    top: tuple[tuple[int, str, float], ...] = ()
    delta: str = ""

    @property
    def probability(self) -> float:
        """The probability, between 0 and 1."""
        return exp(self.log_probability)


@dataclass
class Generated:
    """One prompt's continuation so far.

    ``end``: the token that ended the text, which is none of its ``tokens``.  ``scores``: the
    prompt's own log-probabilities, if they were asked for.
    """

    prompt: str
    tokens: list[Token] = field(default_factory=list)
    text: str = ""
    finish_reason: Literal["stop", "length"] | None = None
    end: Token | None = None
    scores: PromptScores | None = None


class Row:
    """One prompt on its way through a batch; may be made in any thread.

    With ``ids`` these are the prompt's tokens, and its text is not read.
    """

    def __init__(
        self, base: LoadedModel, prompt: str, sampling: Sampling, ids: Sequence[int] | None = None
    ) -> None:
        self.sampling = sampling
        self.ids = list(encode(base.tokenizer, prompt).ids if ids is None else ids)
        self.result = Generated(prompt)
        self.error: NumericalError | None = None
        self.random = Random(sampling.seed)
        self._tokenizer = base.tokenizer
        self._ends = base.eos_token_ids.union(sampling.stop_ids)
        self._text = TextStream(base.tokenizer, self.ids)
        self._stops = StopStrings(sampling.stop)
        self._end_if_complete()

    @property
    def seen(self) -> list[int]:
        """The prompt's tokens and those decoded so far: the input of a batch that it joins."""
        return self.ids + [token.id for token in self.result.tokens]

    @property
    def finished(self) -> bool:
        """Whether nothing is left to decode, or nothing can be."""
        return self.result.finish_reason is not None or self.error is not None

    @property
    def unscored(self) -> bool:
        """Whether log-probabilities of the prompt were asked for and are still to be computed."""
        return self.sampling.prompt_top is not None and self.result.scores is None

    def take_scores(self, scores: PromptScores) -> None:
        """Keep the prompt's log-probabilities; a row that wanted nothing else has finished."""
        if not scores.finite:
            self.error = NumericalError(
                f"the log-probabilities of a prompt of {len(self.ids)} tokens are not finite "
                f"(NaN or infinity); {OTHER_VERSION}"
            )
        self.result.scores = scores
        self._end_if_complete()

    def fail(self) -> None:
        """End a row whose logits are not finite: any further token would be meaningless."""
        done = len(self.result.tokens)
        what = f"the logits after {counted(len(self.ids), 'token')} of prompt and {done} of answer"
        self.error = NumericalError(f"{what} are not finite (NaN or infinity); {OTHER_VERSION}")

    def add(self, choice: Choice) -> bool:
        """Add a token; False if it is the end of the text instead."""
        result = self.result
        if choice.id in self._ends:
            result.text += self._stops.add(self._text.rest(), last=True)[0]
            result.finish_reason = "stop"
            result.end = self._token(choice, "")
            return False
        piece = self._text.add(choice.id)
        last = len(result.tokens) + 1 >= self.sampling.max_new_tokens
        delta, stopped = self._stops.add(piece + (self._text.rest() if last else ""), last)
        result.tokens.append(self._token(choice, delta))
        result.text += delta
        stopped = stopped or (self.sampling.sentence and has_sentence(result.text))
        if stopped or last:
            result.finish_reason = "stop" if stopped else "length"
        return True

    def _end_if_complete(self) -> None:
        if self.sampling.max_new_tokens == 0 and not self.unscored:
            self.result.finish_reason = "length"

    def _token(self, choice: Choice, delta: str) -> Token:
        top = tuple((i, self._decode(i), exp(value)) for i, value in choice.top)
        text = self._decode(choice.id)
        return Token(choice.id, text, choice.log_probability, choice.top, top, delta)

    def _decode(self, token: int) -> str:
        return str(self._tokenizer.decode([token], skip_special_tokens=False))
