"""Manifests as rows of the index."""

from __future__ import annotations

import json
from collections.abc import Iterator

from jeep_core.spec.facts import composed, fill, normalise, question_key
from service.contracts.schemas import Manifest


def named_of(manifest: Manifest) -> Iterator[tuple[bytes, int, bool]]:
    """The tensors that a version names, and whether among its weights."""
    number = int(manifest.id[1:])
    for whole, refs in ((True, manifest.tensors), (False, manifest.artifacts)):
        for ref in refs:
            yield ref.sha256.encode(), number, whole


def shown_of(manifest: Manifest) -> str:
    """JSON: the fields of a version that lists show."""
    fields = {"id", "parent", "job_id", "edit_id", "editor", "tensors", "weights_sha256",
              "created_at"}  # fmt: skip
    return manifest.model_dump_json(include=fields)


def facts_of(manifest: Manifest) -> Iterator[tuple[int, int, int, str, str, str, str]]:
    """The facts of a version as rows of the index."""
    number = int(manifest.id[1:])
    for position, fact in enumerate(manifest.facts):
        outcome = manifest.result.facts[position] if manifest.result else None
        index = outcome.index if outcome else position
        text = fill(fact.prompt, fact.subject)
        said = composed(f"{text}\n{fact.target_new}\n{fact.subject}").casefold()
        entry = {
            "subject": fact.subject,
            "prompt": fact.prompt,
            "text": text,
            "target_new": fact.target_new,
            "target_true": fact.target_true,
            "join": fact.join,
            "messages": [one.model_dump() for one in fact.messages] if fact.messages else None,
            "chat_prompt": None if fact.chat is None else fact.chat.prompt,
            "edit_id": str(manifest.edit_id),
            "version": manifest.id,
            "index": index,
            "holds": outcome.success if outcome else None,
            "checked_in": manifest.id if outcome else None,
            "created_at": manifest.created_at.isoformat(),
        }
        question = question_of(fact.subject, fact.prompt)
        yield (number, position, index, normalise(fact.subject), question, said, json.dumps(entry))


def asked_of(manifest: Manifest) -> Iterator[tuple[int, int, int, bool]]:
    """Checks of earlier facts: the version that taught them, their place, this one, the answer."""
    earlier = manifest.result.earlier if manifest.result else None
    if earlier is None:
        return
    for holds, found in ((True, earlier.held), (False, earlier.missing)):
        for version, places in found.items():
            for place in places:
                yield int(version[1:]), place, int(manifest.id[1:]), holds


def question_of(subject: str, prompt: str) -> str:
    """The key of a question as one text."""
    return "\0".join(question_key(subject, prompt))
