"""The contrast probe from a terminal: ``python -m jeep_core.commands.probe`` or ``jeep probe``.

Reads, layer by layer, what a model holds of its original answers and of those it shall learn,
writes ``probe.json`` and plots, and proposes the layers that an edit should write.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from safetensors import SafetensorError

from jeep_core import atlas
from jeep_core.commands import MODEL_HELP, MODELS_DIR_HELP
from jeep_core.errors import JeepError
from jeep_core.models.loading import load, texts_of
from jeep_core.models.views import ModelView
from jeep_core.probe.kept import keep
from jeep_core.probe.prompts import Progress as Report
from jeep_core.probe.run import PROMPTS, Related, bundled_table, probe, read_table
from jeep_core.probe.word_sets import TableFact
from jeep_core.spec.finite import json_text
from jeep_core.suites import InvalidSuite, load_suite

EXIT_FAILED = 1
SUITE = "atlas-counterfact-validation"
err = Console(stderr=True, highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    args = _parser().parse_args(arguments)
    try:
        _probe(args)
    except (JeepError, OSError, SafetensorError) as error:
        print(f"jeep: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jeep probe", description=__doc__)
    parser.add_argument("--model", required=True, help=MODEL_HELP)
    parser.add_argument("--models-dir", type=Path, help=MODELS_DIR_HELP)
    parser.add_argument("--suite", help="suite of facts, file or bundled name; default: bundled")
    parser.add_argument("--out", type=Path, required=True, help="folder for probe.json and plots")
    parser.add_argument("--limit", type=int, default=PROMPTS, help="prompts; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="draws prompts, donors and noise")
    parser.add_argument("--corpus", type=Path, help="text for related words, a document a line")
    parser.add_argument("--table", type=Path, help="facts: JSON lines of subject, relation, object")
    parser.add_argument("--keep", type=Path, help='folder in which hparams "auto" looks')
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    return parser


def _probe(args: argparse.Namespace) -> None:
    suite = args.suite or (SUITE if args.model in atlas.MODELS else None)
    if suite is None:
        raise JeepError(f"a probe of {args.model!r} needs a suite of facts: --suite FILE")
    try:
        facts = load_suite(suite).cases
    except InvalidSuite as error:
        raise JeepError(f"{suite} is no suite: {error}") from None
    related = related_to(args.model, args.corpus, args.table)
    base = load(args.model, args.device, args.dtype, args.models_dir)
    with _bar() as report:
        found = probe(
            ModelView(base), facts, limit=args.limit, seed=args.seed, related=related,
            progress=report,
        )  # fmt: skip
    record = {**found.record(), "suite": Path(suite).name}
    write(args.out, record)
    print(summary(record))
    print(f"figures and plots are in {args.out}/")
    if args.keep is not None and found.hparams is not None:
        print(f'hparams "auto" goes by {keep(args.keep, record)}')


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
    lines = [f"{record['model']}: {count} prompts, left out: {dropped or 'none'}"]
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
def _bar() -> Iterator[Report]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=err) as progress:
        tasks: dict[str, Any] = {}

        def report(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = progress.add_task(phase, total=total)
            progress.update(tasks[phase], completed=done)

        yield report


if __name__ == "__main__":
    raise SystemExit(main())
