"""All editors on all suites, as one table: ``python -m bench.editors.comparison``.

Every model, suite, size, seed and editor is a cell with a process of its own, so that its peak of
memory is that of its editor, and a JSON file of its own in ``--folder``: cells that are there are
not measured again, and a run that was ended goes on.  So are those that an editor refuses; what
failed otherwise is tried again in the next run.  Small sizes come first, as far as
``--minutes`` allow.  A seed draws the facts, the same ones for all editors, from every second
record of a suite, with ``--half all`` from all.  Up to 100 facts are edited at once, more of them
in batches of 100, each on the version before.  Hyper-parameters are those of the preset, else what
``"auto"`` chooses; facts are asked plainly.  ``--page`` writes the table between two marks of a
page, in which the rows of models, suites, sizes and editors that the folder has nothing about stay
as they are.

    python -m bench.editors.comparison smollm2-135m=FOLDER --suites counterfact=FILE \\
        --sizes 1 10 100 1000 --minutes 240 --folder cells --page docs/comparison.md
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jeep_core
from bench.editors.real import DRAWS, Rows, by_default, measure, rows_of, take_prefixes
from bench.editors.refusals import Refusal, refusals
from bench.editors.sequences import Line
from jeep_core.editors import EDITORS, preset_hparams
from jeep_core.errors import JeepError, reason_of
from jeep_core.evaluation.free_answers import FreeText, neighbors_of, write_freely
from jeep_core.evaluation.statistics import Interval, summarise_cases
from jeep_core.evaluation.trials import Trials
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.probe.defaults.from_record import from_record
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import EditorHParams, presets_for
from jeep_core.storage.writing import write_atomically
from jeep_core.suites import Case, load_suite

UNEDITED = "unedited"
HALVES = {"0": 0, "1": 1, "all": None}
BATCH = 100
SIZES = (1, 10, 100, 1000)
FAILED = 3
"""Exit code of a process whose cell failed and says so in its file."""
BEGIN, END = "<!-- comparison: begin -->", "<!-- comparison: end -->"
SHOWN = (
    "efficacy", "generalization", "locality", "score", "free_contains", "free_exact",
    "free_contains_generalization",
)  # fmt: skip
REFUSED = "Without figures:"
HEAD = (
    "| model | suite | facts | editor | ES | GS | LS | Score | contains | exact "
    "| rephrasing contains | CPU s a fact | peak, MB |"
)


@dataclass(frozen=True)
class Cell:
    """One measurement; ``source`` and ``file`` are what the names of model and suite stand for."""

    model: str
    source: str
    suite: str
    file: str
    size: int
    seed: int
    editor: str
    half: int | None

    def path(self, folder: Path) -> Path:
        """Its file."""
        parts = (self.model, self.suite, self.size, self.seed, self.editor)
        return folder / "cells" / ("_".join(map(str, parts)) + ".json")


@dataclass
class InBatches:
    """Trials whose edits of more than ``BATCH`` facts are made batch after batch."""

    trials: Trials

    @property
    def cases(self) -> Sequence[Fact]:
        """Those of the trials."""
        return self.trials.cases

    def edit(
        self, editor: str, hparams: EditorHParams, index: Sequence[int]
    ) -> tuple[ModelView, Any]:
        """A version in which the cases of these numbers are edited."""
        if len(index) <= BATCH:
            return self.trials.edit(editor, hparams, index)
        one = self.trials
        line = Line(one.base, editor, hparams, one.moments, one.prefixes)
        for start in range(0, len(index), BATCH):
            line.edit([one.cases[i] for i in index[start : start + BATCH]])
        return line.view, None


def cells(args: argparse.Namespace) -> Iterator[Cell]:
    """All cells, in the order in which they are measured; the unedited model before its editors."""
    half = HALVES[args.half]
    for size in sorted(args.sizes):
        for seed in range(args.seeds):
            for model, source in map(_named, args.models):
                for suite, file in map(_named, args.suites):
                    for editor in (UNEDITED, *args.editors):
                        yield Cell(model, source, suite, file, size, seed, editor, half)


def _named(text: str) -> tuple[str, str]:
    """``NAME=PLACE``, or a place that is called by its own name."""
    name, given, place = text.partition("=")
    return (name, place) if given else (Path(text).stem, text)


def drawn(cell: Cell) -> list[Case]:
    """The facts of a cell: of its half of the records or of all, by its seed, no question twice.

    Raises:
        Refusal: the suite has too few.
        JeepError: it cannot be read.
    """
    cases = load_suite(cell.file).cases
    found = cases if cell.half is None else cases[cell.half :: 2]
    unlike = list({one.key: one for one in found if isinstance(one, Case)}.values())
    wanted = cell.size * DRAWS.get(cell.size, 1)
    if cell.size > len(unlike):
        where = "" if cell.half is None else " in this half (--half all takes every record)"
        raise Refusal(f"{cell.suite} has {len(unlike)} facts{where}, not {cell.size}")
    return random.Random(cell.seed).sample(unlike, min(wanted, len(unlike)))


def measured(cell: Cell, folder: Path) -> dict[str, Any]:
    """The figures of a cell, measured in this process, or why there are none.

    The reason is under ``refused`` where the library says that the editor cannot do it, and under
    ``failed`` where anything else has gone wrong.
    """
    record: dict[str, Any] = {"cell": asdict(cell)}
    try:
        return record | _figures(cell, folder)
    except Refusal as error:
        return record | {"refused": str(error)}
    except Exception as error:
        traceback.print_exc()
        return record | {"failed": f"{type(error).__name__}: {reason_of(error)}"}


def _figures(cell: Cell, folder: Path) -> dict[str, Any]:
    cases = drawn(cell)
    base = jeep_core.load(cell.source)
    if cell.editor == UNEDITED:
        view = ModelView(base)
        written = write_freely(view, neighbors_of(cases))
        kept = {prompt: asdict(one) for prompt, one in written.items()}
        return {"rows": _seeded(rows_of(view, cases, written), cell), "written": kept}
    unedited = finished(_of_unedited(cell), folder) or {}
    if "written" not in unedited:
        raise RuntimeError("the unedited model has no figures yet")
    written = {prompt: FreeText(**one) for prompt, one in unedited["written"].items()}
    # values are not kept from cell to cell: every editor's time is its own
    trials, _, record = by_default(base, cases, folder)
    trials.cache = type(trials.cache)()
    with refusals():
        hparams, source = _hparams(base, cell, record)
        take_prefixes(trials, hparams)
        trials.moments.ensure(hparams.moment_layers)
        found = measure(InBatches(trials), cell.editor, hparams, cell.size, [], written)
    found["rows"] = _seeded(found["rows"], cell)
    return found | {"hparams": hparams.model_dump(mode="json"), "source": source}


def _of_unedited(cell: Cell) -> Cell:
    return Cell(**{**asdict(cell), "editor": UNEDITED})


def _hparams(base: LoadedModel, cell: Cell, record: Mapping[str, Any]) -> tuple[EditorHParams, str]:
    """Hyper-parameters of a cell's editor, and whether they are a preset's."""
    changes = {"contexts": "plain"}
    presets = presets_for(cell.model, shape=base.shape)
    known = {one.name: one.hparams for one in presets if one.editor == cell.editor}
    if known:
        return preset_hparams(cell.editor, known, None, changes, base.n_layers)[1], "preset"
    chosen = from_record(record, cell.editor, base.n_layers, base.mlp_size, changes, "kept probe")
    return chosen.hparams, chosen.source


def _seeded(rows: Rows, cell: Cell) -> Rows:
    """Rows whose cases are told from those of other seeds."""
    return [{**row, "id": f"{cell.seed}-{row['id']}"} for row in rows]


def run(args: argparse.Namespace) -> None:
    """Measure the cells that are not there yet, until the time is up."""
    end = time.monotonic() + 60 * args.minutes
    for cell in cells(args):
        path = cell.path(args.folder)
        if finished(cell, args.folder) is not None:
            continue
        left = end - time.monotonic()
        if left <= 0:
            print("the time is up: the same command goes on", flush=True)
            return
        command = [sys.executable, "-m", "bench.editors.comparison", "--cell"]
        command += [json.dumps(asdict(cell)), "--folder", str(args.folder)]
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        try:
            code = subprocess.run(command, env=one_thread, timeout=left, check=False).returncode
        except subprocess.TimeoutExpired:
            print(f"{path.stem}: not done in time", flush=True)
            return
        if code not in (0, FAILED):  # it could write nothing down
            keep(cell, args.folder, {"failed": f"its process ended with {code}"})
        print(f"{path.stem}: {'done' if code == 0 else f'failed ({code})'}", flush=True)


def keep(cell: Cell, folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record of a cell."""
    path = cell.path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"cell": asdict(cell), **record}, indent=1) + "\n")


def kept(cell: Cell, folder: Path) -> dict[str, Any] | None:
    """The record of a cell with the same settings, also of one that failed."""
    try:
        record: dict[str, Any] = json.loads(cell.path(folder).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return record if record["cell"] == asdict(cell) else None


def finished(cell: Cell, folder: Path) -> dict[str, Any] | None:
    """The record of a cell with the same settings that was measured or refused."""
    record = kept(cell, folder)
    return None if record is None or "failed" in record else record


def table(args: argparse.Namespace) -> list[str]:
    """The table of all cells that are done, and why others have no figures, in Markdown."""
    groups: dict[tuple[str, str, int, str], list[dict[str, Any]]] = {}
    failed: list[str] = []
    for cell in cells(args):
        found = kept(cell, args.folder)
        if found is not None and "failed" in found:
            failed.append(f"- {cell.path(args.folder).stem}: {found['failed']}")
        elif found is not None:
            key = (cell.model, cell.suite, cell.size, cell.editor)
            groups.setdefault(key, []).append(found)
    rows = dict(rows_of_page(args.page))
    refused, with_figures = dict[str, tuple[str, set[int]]](), set[str]()
    tried: dict[str, set[int]] = {}
    for key, records in groups.items():
        name = f"{key[3]} on {key[0]}"
        tried.setdefault(name, set()).add(key[2])
        done = [one for one in records if "rows" in one]
        if done:
            with_figures.add(name)
            rows[key] = f"| {' | '.join([*map(str, key), *_row(done)])} |"
        else:
            rows.pop(key, None)
            refused.setdefault(name, (records[0]["refused"], set()))[1].add(key[2])
    reasons = {name: why for name, why in refusals_of_page(args.page) if not _is_tried(name, tried)}
    for name, (why, sizes) in refused.items():
        # with another number of facts it has some
        few = f", {' and '.join(map(str, sorted(sizes)))} at once" if name in with_figures else ""
        reasons[name + few] = why
    lines = [HEAD, "|---" * (HEAD.count("|") - 1) + "|"]
    lines += [rows[key] for key in sorted(rows, key=lambda key: (key[:3], _order(key[3])))]
    if reasons:
        lines += ["", REFUSED, ""]
        lines += [f"- {name}: {why}" for name, why in reasons.items()]
    if failed:
        lines += ["", "Failed, and tried again by the next run:", "", *failed]
    return lines


def _is_tried(listed: str, tried: Mapping[str, set[int]]) -> bool:
    """Whether what is listed on a page was tried again: all of it, or one of its numbers."""
    name, _, few = listed.partition(", ")
    numbers = {int(word) for word in few.split() if word.isdecimal()}
    sizes = tried.get(name, set())
    return bool(sizes & numbers if few else sizes)


def _order(editor: str) -> int:
    return -1 if editor == UNEDITED else list(EDITORS).index(editor)


def _row(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The figures of one editor over all seeds that are done."""
    rows = [row for one in records for row in one["rows"]]
    shown: Mapping[str, Interval] = summarise_cases(rows)
    found = [
        f"{shown[n].value:.1f} ({shown[n].low:.0f}–{shown[n].high:.0f})" if n in shown else ""
        for n in SHOWN
    ]
    seconds = [one["seconds"] for one in records if "seconds" in one]
    peaks = [one["peak_bytes"] / 1e6 for one in records if "peak_bytes" in one]
    found.append(f"{sum(seconds) / len(seconds):.2f}" if seconds else "")
    return [*found, f"{max(peaks):,.0f}" if peaks else ""]


def rows_of_page(page: Path | None) -> Iterator[tuple[tuple[str, str, int, str], str]]:
    """Model, suite, number of facts and editor of the rows that a page has, with each row."""
    if page is None:
        return
    lines = _parts(page)[1].strip().splitlines()
    if lines[:1] != [HEAD]:  # other columns: all of it is measured again
        return
    for line in lines[2:]:
        cells = [one.strip() for one in line.strip("|").split("|")]
        if len(cells) == HEAD.count("|") - 1 and cells[3] in (UNEDITED, *EDITORS):
            yield (cells[0], cells[1], int(cells[2]), cells[3]), line


def refusals_of_page(page: Path | None) -> Iterator[tuple[str, str]]:
    """``EDITOR on MODEL`` and the reason of everything that a page lists as without figures."""
    if page is None:
        return
    listed = _parts(page)[1].partition(f"\n{REFUSED}\n\n")[2].partition("\n\n")[0]
    for line in listed.strip().splitlines():
        name, _, why = line.removeprefix("- ").partition(": ")
        yield name, why


def write_page(page: Path, lines: Sequence[str]) -> None:
    """Put the table between the two marks of a page.

    Raises:
        JeepError: the page lacks them.
    """
    before, _, after = _parts(page)
    table_text = "\n".join(lines)
    write_atomically(page, f"{before}{BEGIN}\n{table_text}\n{END}{after}")


def _parts(page: Path) -> tuple[str, str, str]:
    """Text of a page before, between and after its two marks."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    between, end, after = rest.partition(END)
    if not begin or not end:
        raise JeepError(f"{page}: write {BEGIN} and {END} where the table belongs")
    return before, between, after


def main() -> None:
    """Measure what is missing, then print the table, or one cell in this process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("models", nargs="*", help="NAME=FOLDER, or a bundled model's name.")
    parser.add_argument("--suites", nargs="+", default=[], help="NAME=FILE, or a bundled suite.")
    parser.add_argument("--editors", nargs="+", choices=list(EDITORS), default=list(EDITORS))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--seeds", type=int, default=1, help="How many draws of each size.")
    parser.add_argument(
        "--half", choices=HALVES, default="1", help="Which records: every second one from here on."
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--folder", type=Path, required=True, help="Where cells are kept.")
    parser.add_argument("--page", type=Path, help="A page with the two marks.")
    parser.add_argument("--cell", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell is not None:
        cell = Cell(**args.cell)
        record = measured(cell, args.folder)
        keep(cell, args.folder, record)
        if "failed" in record:
            sys.exit(FAILED)
        return
    if args.page is not None:
        _parts(args.page)  # hours of measuring come first
    run(args)
    lines = table(args)
    print("\n".join(lines))
    if args.page is not None:
        write_page(args.page, lines)


if __name__ == "__main__":
    main()
