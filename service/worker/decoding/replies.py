"""Requests in progress and their answers: what every kind of them shares."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from jeep_core.decoding.generation import Scored
from jeep_core.decoding.rows import Row
from jeep_core.models.views import ModelView
from jeep_core.text.joining import Join
from service.contracts.jobs import JobError
from service.contracts.schemas import WorkerReply, WorkerRequest
from service.worker.failures import failure, is_foreseen

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Slot:
    """One prompt that one version answers: a row to decode, candidates to score.

    ``sent``: how many tokens of a stream have gone out; ``scores_sent``: its prompt's scores have.
    ``error``: why it is not answered.
    """

    pending: Pending
    version: str
    view: ModelView
    row: Row
    scores: list[Scored | None]
    sent: int = 0
    scores_sent: bool = False
    error: JobError | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing is left to compute, or an error prevents it."""
        return self.error is not None or (self.row.finished and None not in self.scores)


@dataclass(eq=False)
class Pending(ABC):
    """A request in progress: a slot per answer, in the order of the answers.

    ``gone``: nobody waits for it any more.  ``ended``: its last reply is sent.
    """

    request: WorkerRequest
    slots: list[Slot] = field(default_factory=list, init=False)
    left: int = field(default=0, init=False)
    gone: bool = field(default=False, init=False)
    ended: bool = field(default=False, init=False)
    began_ns: int = field(default_factory=time.time_ns, init=False)

    @property
    def candidates(self) -> Sequence[str]:
        """Continuations to score after every prompt."""
        return ()

    @property
    def join(self) -> Join:
        """How candidates follow prompts."""
        return "auto"

    @property
    def alone(self) -> bool:
        """Whether it is computed in a batch of its own."""
        return False

    @property
    @abstractmethod
    def stream(self) -> bool:
        """Whether tokens are sent as they come."""

    @abstractmethod
    def new_tokens(self, slot: Slot) -> list[WorkerReply]:
        """The tokens of a stream that have not gone out yet."""

    @abstractmethod
    def result(self) -> WorkerReply:
        """The last reply, once every slot is complete or has failed."""

    @abstractmethod
    def _make_slots(self, views: Sequence[ModelView]) -> list[Slot]:
        """A slot per answer; ``views`` are those of the request's versions."""

    def prepare(self, views: Sequence[ModelView]) -> None:
        """Make the slots, and mark those that cannot be given to the model."""
        self.slots = self._make_slots(views)
        for slot in self.slots:
            slot.error = _unservable(slot)
        self.left = sum(slot.error is None for slot in self.slots)

    @property
    def errors(self) -> list[JobError]:
        """Why answers are missing."""
        return [slot.error for slot in self.slots if slot.error is not None]


def _unservable(slot: Slot) -> JobError | None:
    """Return the reason why a prompt cannot be given to the model, else None.

    The api has already checked this, but perhaps for the model of the previous worker.
    """
    ids, base = slot.row.ids, slot.view.base
    room = base.max_positions - slot.row.sampling.max_new_tokens
    if not ids:
        return JobError(code="empty", message="the prompt has no tokens")
    if len(ids) > room:
        message = f"at most {max(room, 0)} tokens leave room for the answer, not {len(ids)}"
        return JobError(code="too_long", message=message)
    last = base.vocabulary - 1
    if not 0 <= min(ids) <= max(ids) <= last:
        message = f"a token of the prompt is none of the model's, which are 0 to {last}"
        return JobError(code="invalid_request", message=message)
    return None


def error_reply(error: Exception) -> WorkerReply:
    """The last reply of a request that cannot be answered."""
    return WorkerReply(event="error", data=error_of(error).model_dump(mode="json"))


def error_of(error: Exception) -> JobError:
    """Code and sentence for an exception; unforeseen ones are logged."""
    if not is_foreseen(error):
        log.exception("a request failed", exc_info=error)
    return failure(error)
