"""The exceptions of the library.

JeepError
├── InvalidFacts        one or several facts cannot be edited; carries a problem per field
├── InvalidHParams      hyper-parameters, a preset or an editor name that make no sense
├── UnsupportedModel    the model's architecture or weights cannot be edited
├── UnreadableText      a text file that is not there, not UTF-8, or empty
├── NumericalError      a linear system that has no trustworthy solution
└── Cancelled           the caller asked to stop
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class JeepError(Exception):
    """Base of everything this library raises on purpose."""


@dataclass(frozen=True)
class FieldProblem:
    """What is wrong with one field: a JSON pointer (``/facts/3/prompt``), a code, a sentence."""

    pointer: str
    code: str
    message: str


class InvalidFacts(JeepError):
    """Facts that cannot be edited."""

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        self.problems = list(problems)
        first = self.problems[0]
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        super().__init__(f"{first.pointer}: {first.message}{more}")


class InvalidHParams(JeepError):
    """Unknown editors and presets, hyper-parameters out of range, layers the model lacks."""

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(f"{p.pointer}: {p.message}" for p in self.problems))


class UnsupportedModel(JeepError):
    """A model that this library does not edit."""


class UnreadableText(JeepError):
    """A text file that cannot be read; the message names it."""


class NumericalError(JeepError):
    """A linear system without a trustworthy solution; the message names the layer."""


class Cancelled(JeepError):
    """The caller's ``should_stop`` said so."""


def reason_of(error: BaseException) -> str:
    """What an exception of another library says, in one line; a bare key gets its kind."""
    kind = type(error).__name__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return kind
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"{kind}: {text}" if isinstance(error, LookupError) else text.rstrip(".:")
