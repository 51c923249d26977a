"""The contrast probe from a terminal: ``jeep probe``.

Reads, layer by layer, what a model holds of its original answers and of those it shall learn,
writes ``probe.json`` and plots, and proposes the layers that an edit should write.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from jeep_core import atlas
from jeep_core.errors import JeepError
from jeep_core.models.loading import load, texts_of
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor
from jeep_core.probe.defaults.choose import BUNDLED_SUITE
from jeep_core.probe.defaults.kept import keep as keep_record
from jeep_core.probe.defaults.knowledge import NAME, known_facts
from jeep_core.probe.run import PROMPTS, Related, bundled_table, probe, read_table
from jeep_core.probe.word_sets import TableFact
from jeep_core.spec.facts import Fact
from jeep_core.spec.finite import json_text
from jeep_core.suites import InvalidSuite, load_suite
from jeep_core.text.counting import counted

err = Console(stderr=True, highlight=False)


def run(
    *,
    model: str,
    out: Path,
    suite: str | None = None,
    limit: int = PROMPTS,
    seed: int = 0,
    corpus: Path | None = None,
    table: Path | None = None,
    keep: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    models_dir: Path | None = None,
    quick: bool = False,
) -> None:
    """Probe a model: write figures and plots, print a summary.

    Args:
        model: bundled name, local folder, GGUF file, hub id, or a name of ``models_dir``.
        out: folder for ``probe.json`` and the plots.
        suite: facts, a file or a bundled name; None: the bundled ones of a bundled model, for
            others general knowledge that ships.
        limit: prompts at most.
        seed: draws prompts, donors and noise.
        corpus: text for related words, one document a line.
        table: facts for related words: JSON lines of subject, relation, object.
        keep: folder in which hyper-parameters ``"auto"`` look for the proposal.
        device: ``auto``, ``cpu``, ``cuda``, …
        dtype: ``auto`` or the model's.
        models_dir: the model directory; None: there is none.
        quick: only what a proposal rests on, of at most 64 prompts; no word sets.

    Raises:
        JeepError: files that are none, a model that cannot be loaded.
        OSError: a file or folder cannot be read or written.
    """
    chosen = suite or (BUNDLED_SUITE if model in atlas.MODELS else None)
    facts: Sequence[Fact] = ()
    try:
        facts = () if chosen is None else load_suite(chosen).cases
    except InvalidSuite as error:
        raise JeepError(f"{chosen} is no suite: {error}") from None
    related = None if quick else related_to(model, corpus, table)
    base = load(model, device, dtype, models_dir)
    with _bar() as monitor:
        view = ModelView(base)
        if chosen is None:
            facts = known_facts(view, limit, monitor)
        found = probe(
            view, facts, limit=limit, seed=seed, related=related, monitor=monitor, quick=quick
        )
    record = {**found.record(), "suite": NAME if chosen is None else Path(chosen).name}
    write(out, record)
    print(summary(record))
    print(f"figures and plots are in {out}/")
    if keep is not None and found.hparams is not None:
        print(f"edits without hyper-parameters go by {keep_record(keep, record)}")


def related_to(model: str, corpus: Path | None, table: Path | None) -> Related | None:
    """Where related words come from: the given files, for bundled models the bundled ones.

    None without a corpus: then no word sets are followed.
    """
    bundled = model in atlas.MODELS
    source = corpus or (atlas.CORPUS if bundled else None)
    if source is None:
        return None
    documents = texts_of(source)
    if not documents:
        raise JeepError(f"{source} has no documents")
    rows: list[TableFact] = read_table(table) if table else bundled_table() if bundled else []
    return Related(documents, rows)


def write(folder: Path, record: dict[str, Any]) -> None:
    """``probe.json`` and the plots.

    Raises:
        JeepError: the folder cannot be written, or the ``report`` extra is missing.
    """
    try:
        from jeep_core.probe.plots import draw
    except ImportError as error:
        raise JeepError(f"plots need the report extra: {error}") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "probe.json").write_text(
            json_text(record, "the probe", indent=1) + "\n", encoding="utf-8"
        )
        draw(record, folder)
    except OSError as error:
        raise JeepError(f"{folder} cannot be written: {error}") from None


def summary(record: dict[str, Any]) -> str:
    """A summary for the terminal."""
    count, dropped = record["prompts"]["count"], record["prompts"]["dropped"]
    lines = [f"{record['model']}: {counted(count, 'prompt')}, left out: {dropped or 'none'}"]
    if record["proposal"] is None:
        return "\n".join([*lines, record["why_no_proposal"]])
    proposal, hparams = record["proposal"], record["hparams"]
    effect = " ".join(f"{100 * v:.0f}" for v in proposal["evidence"]["effect"]["mean"])
    promoted = " ".join(f"{100 * v:.1f}" for v in proposal["evidence"]["contrast"]["mean"])
    return "\n".join(
        [
            *lines,
            f"low  {proposal['low']}: the state at the subject's last token decides, per layer, "
            f"{effect} points of P(original)",
            f"high {proposal['high']}: MLPs add, per layer, {promoted} points of "
            "P(original) - P(target) at the prediction position",
            f"hparams: {json.dumps(hparams)}",
        ]
    )


@contextmanager
def _bar() -> Iterator[Monitor]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=err) as progress:
        tasks: dict[str, Any] = {}

        def report(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = progress.add_task(phase, total=total)
            progress.update(tasks[phase], completed=done)

        yield Monitor(report)
