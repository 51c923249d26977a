"""Calls for edits: submit facts, plan, take a batch back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from service.client.asynchronous.aside import aside
from service.client.asynchronous.transport import Transport
from service.client.files import StrPath
from service.client.requests import FILE, JSON_PARAMS, FactDict, fact_dicts, given, segment
from service.contracts.schemas import Edit, EditPlan, JobOut
from service.contracts.schemas.jobs import EditSummary


class EditCalls(Transport):
    """``/edits``."""

    async def edit(
        self,
        facts: Sequence[FactDict],
        *,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> JobOut:
        """Submit facts; options as in ``POST /edits`` (editor, preset, hparams, …).

        Safe to repeat: a key is generated where none is given, and a lost answer is requested
        again.
        """
        body = {"facts": fact_dicts(facts), **given(options)}
        return await self._queued("/edits", body, idempotency_key)

    async def edit_file(
        self,
        path: StrPath,
        *,
        format: str = "auto",
        limit: int | None = None,
        drop_bad: bool = False,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> JobOut:
        """Submit the records of a file in any format of suites, or the first ``limit`` of them.

        Other options as in ``POST /edits``.  ``imported`` of the job says how many facts that
        makes and what was lost.  Safe to repeat, as ``edit``.
        """
        as_json = {name: json.dumps(options.pop(name)) for name in JSON_PARAMS if name in options}
        asked = {"format": format, "limit": limit, "drop_bad": drop_bad or None}
        params = given({**asked, **as_json, **options})
        headers = {"Idempotency-Key": idempotency_key or str(uuid4()), "Content-Type": FILE}
        content = await aside(Path(path).read_bytes)
        return await self._model(
            JobOut, "POST", "/edits", content=content, params=params, headers=headers, again=True
        )

    async def plan(self, facts: Sequence[FactDict], **options: Any) -> EditPlan:
        """Plan an edit without queuing it: tokens, positions, repeated facts."""
        body = {"facts": fact_dicts(facts), **given(options)}
        return await self._model(EditPlan, "POST", "/edits", json=body, params={"dry_run": "true"})

    def edits(self) -> AsyncIterator[EditSummary]:
        """Submitted batches, newest first, without their facts."""
        return self._pages(EditSummary, "/edits")

    async def edit_result(self, edit_id: str) -> Edit:
        """A batch with its facts and, once there is one, its result."""
        return await self._model(Edit, "GET", f"/edits/{segment(edit_id)}")

    async def revert(
        self, edit_id: str, *, idempotency_key: str | None = None, **options: Any
    ) -> JobOut:
        """Remove one batch from head's history; options: ``parent``, ``snapshot_name``.

        Safe to repeat: a key is generated where none is given, and a lost answer is requested
        again.
        """
        url = f"/edits/{segment(edit_id)}/revert"
        return await self._queued(url, given(options), idempotency_key)
