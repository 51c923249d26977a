"""A long sequence of edits that the service mends: ``python -m bench.editors.repaired``.

``jeep serve`` starts on an empty store and is sent a suite in batches, each with ``"check_earlier":
"all", "repair": true``: earlier facts that the new version does not say are edited again with the
batch, in the same version.  Afterwards the versions are read from the store and measured as
`bench.editors.sequences` measures its own.  The time a fact is the service's from the first batch
on: second moments, and what an edit measures before and after, are in it.  ``--body`` changes
fields of ``POST /edits``; ``{"repair": false}`` is what mending is compared with.

    python -m bench.editors.repaired FOLDER --suite FILE --facts 1000 --batch 100 --texts FILE
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jeep_core
from bench.editors.sequences import (
    HEAD,
    abilities,
    batches_of,
    figures,
    options,
    row,
    shares,
    tasks_of,
    tenths,
    texts_of,
    unedited,
    written,
)
from bench.serving import cpu_seconds, service
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.spec.facts import Fact
from service.client import Client
from service.contracts.jobs import JobStatus
from service.contracts.schemas import EditResult, FactRecord
from service.store import Store
from service.worker.versions.views import VersionViews

TIMEOUT_S = 3600.0
MENDING = {"check_earlier": "all", "repair": True}


@dataclass
class Sent:
    """Batches that became versions, what was edited again with them, and processor seconds."""

    versions: list[str]
    repaired: int
    missing: int
    seconds: float


def send(client: Client, batches: Sequence[Sequence[Fact]], body: Mapping[str, Any]) -> Sent:
    """Edit batch after batch over HTTP.

    ``missing``: facts of earlier batches that the last one does not edit again and does not say.
    """
    sent, began = Sent([], 0, 0, 0.0), cpu_seconds()
    for number, batch in enumerate(batches):
        facts = [FactRecord.of(one).model_dump(exclude_defaults=True) for one in batch]
        job = client.wait(client.edit(facts, **body).id, timeout=TIMEOUT_S)
        if job.status is not JobStatus.SUCCEEDED:
            raise RuntimeError(f"batch {number + 1} {job.status}: {job.error}")
        result = client.edit_result(str(job.edit_id)).result
        assert result is not None
        count(sent, result)
        sent.seconds = cpu_seconds() - began
        print(f"  batch {number + 1} of {len(batches)}: {sent.seconds:.0f} s of CPU", flush=True)
    return sent


def count(sent: Sent, result: EditResult) -> None:
    """Add what an edit says of itself."""
    sent.versions.append(result.version)
    if result.earlier is not None:
        sent.repaired += result.earlier.repaired
        sent.missing = sum(map(len, result.earlier.missing.values()))


def measure(
    base: LoadedModel,
    store: Store,
    sent: Sent,
    batches: Sequence[Sequence[Fact]],
    texts: Sequence[str],
) -> tuple[dict[str, Any], ModelView]:
    """Figures of the versions in a store, as those of a line of `bench.editors.sequences`."""
    views = VersionViews(base, store)
    heard = {
        name: [
            one for i in places for one in written(views.get(sent.versions[i]), batches[i])
        ]
        for name, places in tenths(len(batches)).items()
    }  # fmt: skip
    last = views.get(sent.versions[-1])
    found = figures(last, batches, texts, ModelView(base))
    found["written"] = {name: shares(some) for name, some in heard.items()}
    found["mended"], found["missing"] = sent.repaired, sent.missing
    found["seconds_a_fact"] = sent.seconds / sum(map(len, batches))
    return found, last


def main() -> None:
    """Send all batches, measure the versions, print the row, and write all figures."""
    parser = options((__doc__ or "").split("\n\n")[0])
    parser.add_argument("--body", type=json.loads, default={}, help="JSON, fields of POST /edits")
    parser.add_argument("--store", help="An empty folder for store and log; default: a temporary.")
    args = parser.parse_args()
    batches = batches_of(args.suite, args.facts, args.batch)
    texts = texts_of(args.texts)
    with TemporaryDirectory(prefix="jeep-bench-") as made:
        folder = args.store or made
        with service(args.model, folder=folder) as (client, _):
            sent = send(client, batches, MENDING | args.body)
        base = jeep_core.load(args.model)
        with tasks_of(args.tasks, args.documents) as tasks:
            report = unedited(base, batches, args.batch, tasks)
            store = Store.open(Path(folder) / "store")
            found, view = measure(base, store, sent, batches, texts)
            found["abilities"] = abilities(view, tasks)
    print(HEAD)
    print(row("repair", found), found["abilities"] or "", f"{sent.repaired} edited again")
    report["repair"] = {"body": MENDING | args.body, **found}
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
