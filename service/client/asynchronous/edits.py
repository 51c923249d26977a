"""Calls for edits: submit facts, plan, take a batch back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from service.client.asynchronous.aside import aside
from service.client.asynchronous.transport import Transport
from service.client.files import StrPath
from service.client.requests import (
    FILE,
    FactDict,
    edit_params,
    fact_dicts,
    given,
    no_dry_run,
    segment,
)
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

        Raises:
            InvalidArgument: ``dry_run``, which is what ``plan`` does.
        """
        no_dry_run(options, "edit() submits: call plan()")
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

        Raises:
            InvalidArgument: an option that there is not, or ``dry_run``, which is what
                ``plan_file`` does; nothing is sent.
            OSError: the file cannot be read.
        """
        no_dry_run(options, "edit_file() submits: call plan_file()")
        params = edit_params(options, format=format, limit=limit, drop_bad=drop_bad)
        headers = {"Idempotency-Key": idempotency_key or str(uuid4()), "Content-Type": FILE}
        content = await aside(Path(path).read_bytes)
        return await self._model(
            JobOut, "POST", "/edits", content=content, params=params, headers=headers, again=True
        )

    async def plan(self, facts: Sequence[FactDict], **options: Any) -> EditPlan:
        """Plan an edit without queuing it: tokens, positions, repeated facts.

        Raises:
            InvalidArgument: ``dry_run``, which is what this does.
        """
        no_dry_run(options, "plan() is the dry run: leave it out")
        body = {"facts": fact_dicts(facts), **given(options)}
        return await self._model(EditPlan, "POST", "/edits", json=body, params={"dry_run": "true"})

    async def plan_file(
        self,
        path: StrPath,
        *,
        format: str = "auto",
        limit: int | None = None,
        drop_bad: bool = False,
        **options: Any,
    ) -> EditPlan:
        """Plan the edit that ``edit_file`` would submit, without queuing it.

        ``imported`` of the plan says how many facts the records make and what was lost.

        Raises:
            InvalidArgument: an option that there is not; nothing is sent.
            OSError: the file cannot be read.
        """
        no_dry_run(options, "plan_file() is the dry run: leave it out")
        params = edit_params(options, format=format, limit=limit, drop_bad=drop_bad)
        params["dry_run"] = "true"
        content = await aside(Path(path).read_bytes)
        headers = {"Content-Type": FILE}
        return await self._model(
            EditPlan, "POST", "/edits", content=content, params=params, headers=headers
        )

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
