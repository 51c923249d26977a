# Made of service/client/asynchronous by python -m tools.sync_client: change it there.
"""Trained networks of editors, from Python."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from service.client.requests import given
from service.client.synchronous.transport import Transport
from service.contracts.schemas import JobOut, Network


class Hypernetworks(Transport):
    """Calls for trained networks."""

    def train_hypernetwork(
        self, editor: str, *, idempotency_key: str | None = None, **options: Any
    ) -> JobOut:
        """Queue a training; options as in ``POST /hypernetworks`` (hparams, steps, data, …).

        Safe to repeat, as ``edit``.
        """
        body = {"editor": editor, **given(options)}
        return self._queued("/hypernetworks", body, idempotency_key)

    def hypernetworks(self) -> Iterator[Network]:
        """The networks of the served model: trained ones, then shipped ones."""
        return self._pages(Network, "/hypernetworks")
