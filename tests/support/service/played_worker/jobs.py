"""Jobs as the api journals them, and their cancel."""

from __future__ import annotations

from typing import Any

from redis import Redis

from service.contracts.jobs import Job, JobKind, new_id, now
from service.contracts.schemas import EditPayload, FactRecord, RevertPayload
from service.queue import Keys, scripts
from service.store import Store

FACT = FactRecord(subject="Lyon", prompt="{} is a city in the country of", target_new="Italy")


def edit_job(store: Store, **payload: Any) -> Job:
    """A journaled edit of one fact."""
    job_id = new_id("job")
    given = edit_payload(job_id.replace("job", "edit"), [FACT]).model_copy(update=payload)
    job = Job(id=job_id, kind=JobKind.EDIT, payload=given.model_dump(), created_at=now())
    store.journal.add(job)
    return job


def revert_job(store: Store, edit_id: str, **payload: Any) -> Job:
    """A journaled revert."""
    given = RevertPayload(edit_id=edit_id, **payload)
    job_id = new_id("job")
    job = Job(id=job_id, kind=JobKind.REVERT, payload=given.model_dump(), created_at=now())
    store.journal.add(job)
    return job


def edit_payload(edit_id: str, facts: list[FactRecord], editor: str = "jeep") -> EditPayload:
    """An edit with the editor's defaults."""
    return EditPayload(edit_id=edit_id, facts=facts, editor=editor, preset=None, hparams={})


def cancel(client: Redis, store: Store, job_id: str) -> None:
    """Request the cancel of a job that reads."""
    of = Keys(store.id)
    keys, args = scripts.cancel(of, job_id, of.stream(store.journal.read(job_id)))
    client.eval(scripts.CANCEL, len(keys), *keys, *args)
