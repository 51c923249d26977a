"""Requests about versions: moves of head, and tensors that are needed again."""

from __future__ import annotations

import logging

from service.contracts.schemas import Activation, Restored, RollbackResult, WorkerRequest
from service.queue import Lease
from service.store import HeadMoved, Store
from service.worker.metrics import FACTS_APPLIED, ROLLBACKS
from service.worker.versions import rebuild
from service.worker.versions.views import VersionViews

log = logging.getLogger(__name__)


class VersionRequests:
    """Carries out requests that name one version."""

    def __init__(self, store: Store, lease: Lease, views: VersionViews) -> None:
        self._store, self._lease, self._views = store, lease, views

    def roll_back(self, request: WorkerRequest) -> RollbackResult:
        """Make the target ready to serve, then move head to it.

        Raises:
            StoreError: there is no such version, or it is damaged.
        """
        [target] = request.versions
        self._make_ready(target)
        while True:
            previous = self._store.head.read().version
            try:
                self._store.head.move(
                    target,
                    expected=previous,
                    job_id=None,
                    fence=self._lease.fence,
                    who=str(request.body.get("who", "api")),
                    why=str(request.body.get("why") or "rollback"),
                )
                break
            except HeadMoved:
                continue  # an edit was committed in between: roll back from there
        ROLLBACKS.inc()
        log.info("head goes from %s back to %s", previous, target)
        weights = self._store.versions.read(target).weights_sha256
        return RollbackResult(version=target, previous=previous, weights_sha256=weights)

    def activate(self, request: WorkerRequest) -> Activation:
        """Make a staged version ready to serve, then move head to it from its parent.

        If it is head already, nothing happens: the request may be a repetition.

        Raises:
            HeadMoved: head is not the version's parent.
            StoreError: there is no such version, or it is damaged.
        """
        [target] = request.versions
        self._make_ready(target)
        manifest = self._store.versions.read(target)
        if self._store.head.read().version != target:
            self._store.head.move(
                target,
                expected=str(manifest.parent),
                job_id=None,
                fence=self._lease.fence,
                who=str(request.body.get("who", "api")),
                why=str(request.body.get("why") or f"activate {manifest.edit_id}"),
            )
            FACTS_APPLIED.inc(len(manifest.facts))
            log.info("head goes from %s to %s, which was staged", manifest.parent, target)
        return Activation(
            version=target,
            previous=str(manifest.parent),
            weights_sha256=manifest.weights_sha256,
        )

    def restore(self, request: WorkerRequest) -> Restored:
        """Store the tensors of a version whose tensors were dropped.

        Raises:
            StoreError: there is no such version, or it is damaged.
            OSError: the tensors cannot be written.
        """
        [target] = request.versions
        self._give_back(target)
        return Restored(version=target)

    def _make_ready(self, target: str) -> None:
        """Load a version into memory and make sure that its tensors stay in the store for now."""
        try:
            self._give_back(target)
        except OSError as error:  # it is in memory, and can be rebuilt when it is read
            log.error("the tensors of %s are not in the store: %s", target, error)
            self._views.get(target)

    def _give_back(self, target: str) -> None:
        whole = self._store.versions.want(target)
        view = self._views.get(target)
        if not whole:
            rebuild.restore(self._store, self._store.versions.read(target), view.replaced)
