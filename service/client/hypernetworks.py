"""Networks of MEND and MALMEN, from Python."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from service.client.transport import Transport, given
from service.schemas import JobOut, Network


class Hypernetworks(Transport):
    """Calls about trained networks."""

    def train_hypernetwork(self, editor: str, **options: Any) -> JobOut:
        """Queue a training; options as in ``POST /hypernetworks`` (hparams, steps, data, …)."""
        body = {"editor": editor, **given(options)}
        return self._model(JobOut, "POST", "/hypernetworks", json=body)

    def hypernetworks(self) -> Iterator[Network]:
        """The networks of the served model: trained ones, then shipped ones."""
        return (Network.model_validate(item) for item in self._pages("/hypernetworks"))
