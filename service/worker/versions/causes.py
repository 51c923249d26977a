"""The facts of a version as causes of its answers: which columns of its updates are whose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jeep_core.editors import available
from jeep_core.evaluation.explanation import Attribution, Batch, Cause, can_split
from jeep_core.models.delta import Update
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.text.counting import counted
from service.contracts.schemas import FactEntry, Manifest
from service.contracts.schemas.effects.explanation import ExplainedFact
from service.store import Store
from service.store.history import facts_of
from service.worker.failures import Refused
from service.worker.versions.tensors import TensorCache
from service.worker.versions.views import VersionViews, updates_of

NOT_EXPLAINABLE = "not_explainable"
"""Code of the refusal where no batch of a version has columns for its facts."""


@dataclass(frozen=True)
class Causes:
    """A version with its batches: ``whole`` says, by number, why one cannot be taken apart."""

    attribution: Attribution
    batches: Sequence[Manifest]
    whole: Mapping[int, str]
    entries: Mapping[tuple[int, int], FactEntry]

    @property
    def warnings(self) -> list[str]:
        """A sentence for every batch that is shown as a whole."""
        return [f"{self.batches[number].id}: {why}" for number, why in self.whole.items()]

    def described(self, cause: Cause, share: float, without: float | None = None) -> ExplainedFact:
        """A cause as it is answered."""
        batch = self.batches[cause.batch]
        if cause.fact is None:
            why = self.whole[cause.batch]
            return ExplainedFact(
                version=batch.id, edit_id=batch.edit_id, share=share, without=without, why=why
            )
        entry = self.entries[cause.batch, cause.fact]
        return ExplainedFact(
            version=batch.id,
            edit_id=batch.edit_id,
            index=entry.index,
            subject=entry.subject,
            prompt=entry.text,
            target_new=entry.target_new,
            state=entry.state,
            share=share,
            without=without,
        )


def causes_of(
    base: LoadedModel, store: Store, views: VersionViews, version: str, after: str | None = None
) -> Causes:
    """The causes of a version, on a view of its own; with ``after`` only what came after that one.

    Raises:
        Refused: the version has edits, and none of them can be taken apart.
        UnknownVersion, CorruptFile, CorruptTensor: the version, or one below it, is damaged.
    """
    line = store.versions.lineage(version)
    first = next((i + 1 for i, one in enumerate(line) if one.id == after), 0)
    artifacts = TensorCache(store)
    batches: list[Batch] = []
    manifests: list[Manifest] = []
    whole: dict[int, str] = {}
    for manifest in line[first:]:
        updates = updates_of(artifacts, manifest)
        if not updates:
            continue
        why = _why_whole(manifest, updates)
        if why is not None:
            whole[len(batches)] = why
        batches.append(Batch(updates, None if why else len(manifest.facts)))
        manifests.append(manifest)
    if batches and len(whole) == len(batches):
        reasons = "; ".join(dict.fromkeys(whole.values()))
        message = f"{version} cannot be explained by its facts: {reasons}"
        raise Refused(NOT_EXPLAINABLE, message)
    view = ModelView(base, views.get(version).replaced)
    return Causes(Attribution(view, batches), manifests, whole, _entries(line, manifests))


def _why_whole(manifest: Manifest, updates: Mapping[str, Update]) -> str | None:
    """Why the updates of a batch cannot be taken apart by facts; None if they can."""
    record, n = available()[0].get(str(manifest.editor)), len(manifest.facts)
    if record is None:
        return f"its editor {manifest.editor!r} is not installed here, so its columns are unknown"
    if not record.columns_per_fact:
        return f"the updates of the editor {manifest.editor!r} have no column for each fact"
    if any(update.dense is not None for update in updates.values()):
        return (
            f"{counted(n, 'fact')} at once were kept as whole matrices, which take less room than "
            "columns: edit fewer facts in a batch"
        )
    if not all(can_split(update, n) for update in updates.values()):
        return f"its columns are not those of {counted(n, 'fact')}"
    return None


def _entries(
    line: Sequence[Manifest], manifests: Sequence[Manifest]
) -> dict[tuple[int, int], FactEntry]:
    """The facts of the batches, by the number of the batch and the fact's place in it."""
    number = {manifest.id: i for i, manifest in enumerate(manifests)}
    places = dict.fromkeys(number, 0)
    found = {}
    for entry in facts_of(line):
        if entry.version in number:
            found[number[entry.version], places[entry.version]] = entry
            places[entry.version] += 1
    return found
