"""The decoding thread: requests join and leave between steps, several versions in turn."""

from __future__ import annotations

import logging
import queue as queues
import threading
from collections.abc import Iterable

from jeep_core.decoding.asking import Unscored
from jeep_core.decoding.batch import Batch
from jeep_core.decoding.rows import Row
from jeep_core.errors import NumericalError
from jeep_core.models.views import ModelView
from service.contracts.schemas import WorkerReply
from service.ops import logs, tracing
from service.queue import RequestQueue
from service.worker.decoding.blocks import blocks_of
from service.worker.decoding.replies import Pending, Slot, error_of, error_reply
from service.worker.failures import Stopping
from service.worker.gate import Gate
from service.worker.metrics import BATCH_ROWS, TOKENS

log = logging.getLogger(__name__)
WAIT_S = 0.5
ROWS_TOGETHER = 64

Replies = list[tuple[str, WorkerReply]]


class Group:
    """The slots that are decoded together, and the candidates that are still to be scored."""

    def __init__(self, view: ModelView) -> None:
        self.view, self.batch = view, Batch(view, ROWS_TOGETHER)
        self.slots: dict[Row, Slot] = {}
        self._unscored: Unscored[Slot] = Unscored(view)

    def add(self, slot: Slot) -> None:
        """Let a slot join at the next step."""
        self.slots[slot.row] = slot
        self.batch.add([slot.row])
        for i, scored in enumerate(slot.scores):
            if scored is None:
                answer = slot.pending.candidates[i], slot.pending.join
                self._unscored.add(slot, i, slot.row.result.prompt, answer)

    def remove(self, slots: list[Slot]) -> None:
        """Remove slots that nobody waits for any more."""
        rows = {slot.row for slot in slots}
        self.batch.drop(rows)
        self._unscored.drop({*slots})
        for row in rows:
            del self.slots[row]

    def step(self) -> None:
        """One step of decoding, and scores of as many candidates as others can wait for."""
        if len(self.batch):
            got, finished = self.batch.step()
            TOKENS.inc(len(got))
            BATCH_ROWS.observe(len({*got, *finished}))
            for row in finished:
                if row.error is not None:
                    self._fail(self.slots[row], row.error)
        for slot, i, scored in self._unscored.step():
            slot.scores[i] = scored
            if scored.error is not None:
                self._fail(slot, scored.error)

    @staticmethod
    def _fail(slot: Slot, error: NumericalError) -> None:
        """Mark a slot as failed because its version's logits are not finite."""
        if slot.error is None:
            slot.error = error_of(NumericalError(f"{slot.version}: {error}"))

    def take_complete(self) -> list[Slot]:
        """Remove and return the slots that are complete or have failed."""
        complete = [slot for slot in self.slots.values() if slot.complete]
        self.remove([slot for slot in complete if slot.error is not None])
        for slot in complete:
            self.slots.pop(slot.row, None)
        return complete


class DecodeLoop:
    """Answers the requests given to ``put``; ``run`` is a thread's body and ends at ``stop``."""

    def __init__(self, requests: RequestQueue, gate: Gate) -> None:
        self._requests, self._gate = requests, gate
        self._arrived: queues.SimpleQueue[Pending] = queues.SimpleQueue()
        self._groups: dict[tuple[str, str], Group] = {}
        self.rounds = 0
        """Steps so far: while something is decoded, it rises."""
        self._thread: int | None = None
        self.stop = threading.Event()

    @property
    def works(self) -> bool:
        """Whether something is being decoded."""
        return bool(self._groups)

    @property
    def blocks(self) -> int:
        """Blocks of the model so far: it rises during a step, too."""
        return blocks_of(self._thread)

    def put(self, pending: Pending) -> None:
        """Let a prepared request join at the next step.  For any thread."""
        self._gate.busy()
        self._arrived.put(pending)

    def run(self) -> None:
        """Decode until stopped; requests not answered by then are refused."""
        self._thread = threading.get_ident()
        try:
            while not self.stop.is_set():
                self._collect()
                if self._groups:
                    self._gate.busy()  # a request may have been put while the gate was being opened
                    self._round()
                    self.rounds += 1
            self._refuse_all()
        finally:
            self._gate.idle()

    def _collect(self) -> None:
        """Accept the requests that have arrived; without work, wait for one."""
        try:
            while True:
                waiting = not self._groups
                if waiting and self._arrived.empty():
                    self._gate.idle()
                self._admit(self._arrived.get(block=waiting, timeout=WAIT_S if waiting else None))
        except queues.Empty:
            return

    def _admit(self, pending: Pending) -> None:
        alone = pending.request.id if pending.alone else ""
        if not pending.left:  # no prompt of it can be answered
            pending.ended = True
            self._requests.reply_all([(pending.request.id, pending.result())])
        for slot in pending.slots:
            if slot.error is not None:
                continue
            group = self._groups.get((slot.version, alone))
            if group is None:
                group = self._groups[slot.version, alone] = Group(slot.view)
            group.add(slot)

    def _round(self) -> None:
        """One step of every group; the replies of all go out together."""
        replies: Replies = []
        for key, group in list(self._groups.items()):
            left = [s for s in group.slots.values() if s.pending.gone or s.pending.ended]
            if left:
                group.remove(left)
            try:
                replies += self._step(group)
            except Exception as error:
                replies += self._failed(key, error)
            if not group.slots:
                del self._groups[key]
        if replies:
            self._requests.reply_all(replies)

    def _failed(self, key: tuple[str, str], error: Exception) -> Replies:
        """Handle a failed step: every request continues alone, then every prompt of it.

        A prompt that was already alone has failed.
        """
        group = self._groups[key]
        slots = list(group.slots.values())
        group.slots.clear()
        if len(slots) == 1:
            return self._gave_up(slots[0], error)
        log.warning("decoding together failed, what was together goes on apart: %s", error)
        group.batch = Batch(group.view, ROWS_TOGETHER)  # frees its memory
        one_request = len({slot.pending.request.id for slot in slots}) == 1
        for i, slot in enumerate(slots):
            name = slot.pending.request.id
            alone = slot.version, f"{name}/{i}" if one_request else name
            self._groups.setdefault(alone, Group(slot.view)).add(slot)
        return []

    def _gave_up(self, slot: Slot, error: Exception) -> Replies:
        """Record that one answer of a request failed; the others are awaited."""
        with logs.bound(request_id=slot.pending.request.request_id):
            slot.error = error_of(error)
        return self._done(slot)

    def _step(self, group: Group) -> Replies:
        group.step()
        replies: Replies = [
            (slot.pending.request.id, reply)
            for slot in group.slots.values()
            if slot.pending.stream and not slot.pending.ended
            for reply in slot.pending.new_tokens(slot)
        ]
        for slot in group.take_complete():
            replies += self._done(slot)
        return replies

    def _done(self, slot: Slot) -> Replies:
        """Count an answer; return the reply of its request, if this was the last one."""
        pending = slot.pending
        pending.left -= 1
        if pending.left or pending.ended:
            return []
        pending.ended = True
        tracing.recorded(pending.request.kind, pending.request.traceparent, pending.began_ns)
        return [(pending.request.id, pending.result())]

    def _refuse_all(self) -> None:
        self._collect_rest()
        replies = [
            reply
            for g in self._groups.values()
            for reply in _refuse(g.slots.values(), Stopping("the worker is stopping"))
        ]
        if replies:
            self._requests.reply_all(replies)

    def _collect_rest(self) -> None:
        while not self._arrived.empty():
            self._admit(self._arrived.get())


def _refuse(slots: Iterable[Slot], error: Exception) -> Replies:
    """Send one error to every request that has one of these slots."""
    replies: Replies = []
    for slot in slots:
        if not slot.pending.ended:
            slot.pending.ended = True
            with logs.bound(request_id=slot.pending.request.request_id):
                replies.append((slot.pending.request.id, error_reply(error)))
    return replies
