"""All editors on all suites: cells that are kept, and the table of a page."""

from __future__ import annotations

import json
import subprocess
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import ROOT
from support.library import folders

from bench.editors import comparison
from bench.editors.comparison import BEGIN, END, Cell, InBatches, drawn
from jeep_core.editors import EDITORS as ALL
from jeep_core.errors import (
    FieldProblem,
    InvalidHParams,
    JeepError,
    UnsupportedModel,
    WorkersLost,
)
from jeep_core.suites import Case, load_suite

EDITORS = ["memit", "ft-wd", "mend"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and a suite of twelve facts."""
    root = tmp_path_factory.mktemp("comparison")
    folders.write_folder(root / "model", "gptj")
    rows = [
        {
            "case_id": i, "subject": f"Lyon {i}", "prompt": f"The river of Lyon {i} is the",
            "target_new": "Rhine", "ground_truth": "Seine",
            "rephrase_prompt": f"Through Lyon {i} flows the", "locality_prompt": f"Paris {i} is on",
            "locality_ground_truth": "Seine",
        }
        for i in range(12)
    ]  # fmt: skip
    (root / "suite.json").write_text(json.dumps(rows))
    (root / "page.md").write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    return root


def run(root: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    """The command, on the model and the suite."""
    argv = [f"tiny={root / 'model'}", "--suites", f"rivers={root / 'suite.json'}"]
    argv += ["--editors", *EDITORS, "--sizes", "2", "--folder", str(root / "kept"), *more]
    monkeypatch.setattr("sys.argv", ["bench.editors.comparison", *argv])
    comparison.main()


@pytest.fixture(scope="module")
def processes(root: Path) -> list[str]:
    """The editors of the processes of a whole run, each of which is played in this one."""
    asked: list[str] = []

    def played(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        record = json.loads(command[command.index("--cell") + 1])
        asked.append(record["editor"])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", command[2:])
            comparison.main()
        return subprocess.CompletedProcess(command, 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("subprocess.run", played)
        run(root, patch, "--page", str(root / "page.md"))
    return asked


def test_every_editor_has_a_cell_of_its_own_after_the_unedited_model(
    root: Path, processes: list[str]
) -> None:
    assert processes == ["unedited", *EDITORS]
    files = {path.stem for path in (root / "kept" / "cells").iterdir()}
    assert files == {f"tiny_rivers_2_0_{editor}" for editor in ("unedited", *EDITORS)}
    found = json.loads((root / "kept" / "cells" / "tiny_rivers_2_0_memit.json").read_text())
    assert [row["id"] for row in found["rows"]] == ["0-0", "0-1"]
    assert found["peak_bytes"] > 0
    assert found["seconds"] > 0
    assert found["hparams"]["contexts"] == "plain"


def test_the_table_is_between_the_marks(root: Path, processes: list[str]) -> None:
    page = (root / "page.md").read_text()
    assert page.startswith(f"before\n{BEGIN}\n| model |")
    assert page.endswith(f"\n{END}\nafter\n")
    assert "old" not in page
    shown = [line.split(" | ")[3] for line in page.splitlines() if line.startswith("| tiny")]
    assert shown == ["unedited", "memit", "ft-wd"]
    assert "- mend on tiny: /hparams: mend has no automatic hyper-parameters" in page


def test_cells_that_are_there_are_not_measured_again(
    root: Path, processes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("a cell was measured again")

    monkeypatch.setattr("subprocess.run", refused)
    run(root, monkeypatch)
    with pytest.raises(AssertionError, match="measured again"):
        run(root, monkeypatch, "--half", "0")


def raised(error: Exception, cause: Exception | None = None) -> Callable[..., None]:
    """A function that raises an error, in the midst of another one if one is given."""

    def work(*_: Any, **__: Any) -> None:
        try:
            if cause is not None:
                raise cause
        except type(cause or error):
            raise error from None
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "cause", "kind"),
    [
        (InvalidHParams([FieldProblem("", "x", "it cannot")]), None, "refused"),
        (JeepError("it has no network"), FileNotFoundError("network.json"), "refused"),
        (UnsupportedModel("it cannot be loaded"), ImportError("half a module"), "failed"),
        (JeepError("its file cannot be read"), PermissionError("no"), "failed"),
        (WorkersLost("3 workers ended"), None, "failed"),
        (ImportError("half a module"), None, "failed"),
        (RuntimeError("a bug"), None, "failed"),
    ],
)
def test_only_what_the_library_refuses_is_done(
    root: Path, processes: list[str], monkeypatch: pytest.MonkeyPatch, error: Exception,
    cause: Exception | None, kind: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(comparison, "measure", raised(error, cause))
    found = comparison.measured(cell(root), root / "kept")
    assert set(found) == {"cell", kind}
    assert str(error) in found[kind]


def test_what_fails_before_an_editor_is_asked_is_no_refusal(
    root: Path, processes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = vars(cell(root))
    for wrong in ({"file": "no-suite"}, {"source": str(root)}, {"seed": 7}):
        assert "failed" in comparison.measured(Cell(**{**one, **wrong}), root / "kept"), wrong
    assert "refused" in comparison.measured(Cell(**{**one, "size": 7}), root / "kept")


def test_what_failed_is_shown_and_tried_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cell writes down why, unless its process was killed."""
    asked: list[str] = []

    def played(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        record = json.loads(command[command.index("--cell") + 1])
        asked.append(record["editor"])
        if record["editor"] == "mend":
            return subprocess.CompletedProcess(command, -9)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", command[2:])
            patch.setattr(comparison, "_figures", raised(ImportError("half a module")))
            with pytest.raises(SystemExit, match=str(comparison.FAILED)):
                comparison.main()
        return subprocess.CompletedProcess(command, comparison.FAILED)

    monkeypatch.setattr("subprocess.run", played)
    for _ in range(2):
        run(root, monkeypatch, "--folder", str(tmp_path))
    assert asked == 2 * ["unedited", *EDITORS]
    said = capsys.readouterr().out
    assert "tiny_rivers_2_0_memit: failed (3)" in said
    shown = said.rpartition("Failed, and tried again by the next run:")[2]
    assert "- tiny_rivers_2_0_memit: ImportError: half a module" in shown
    assert "- tiny_rivers_2_0_mend: its process ended with -9" in shown


def test_what_does_not_end_in_time_is_left_for_the_next_run(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(root, monkeypatch, "--seeds", "2", "--minutes", "0")
    assert "the time is up: the same command goes on" in capsys.readouterr().out

    def slow(command: list[str], timeout: float, **_: Any) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr("subprocess.run", slow)
    run(root, monkeypatch, "--seeds", "2", "--minutes", "1")
    assert "tiny_rivers_2_1_unedited: not done in time" in capsys.readouterr().out


def test_a_process_measures_one_cell(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["--folder", str(root / "alone"), "--cell"]
    argv.append(json.dumps({**vars(cell(root)), "editor": "unedited", "size": 1}))
    monkeypatch.setattr("sys.argv", ["bench.editors.comparison", *argv])
    comparison.main()
    [path] = (root / "alone" / "cells").iterdir()
    assert len(json.loads(path.read_text())["rows"]) == 6, "of one fact there are as many as fit"


def cell(root: Path) -> Cell:
    model, suite = str(root / "model"), str(root / "suite.json")
    return Cell("tiny", model, "rivers", suite, 2, 0, "memit", 1)


def test_an_editor_has_all_the_prefixes_that_it_asks_for(
    root: Path, processes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ROME asks each fact after 21, the others after six at most."""
    taken: list[tuple[int, int]] = []

    def measure(trials: Any, editor: str, hparams: Any, *_: Any) -> dict[str, Any]:
        taken.append((len(trials.trials.prefixes), hparams.prefix_count))
        return {"rows": []}

    monkeypatch.setattr(comparison, "measure", measure)
    one = Cell(**{**vars(cell(root)), "editor": "rome"})
    comparison.measured(one, root / "kept")
    assert taken == [(21, 21)]


def test_a_seed_draws_the_same_facts_for_all_and_others_than_another(root: Path) -> None:
    first = drawn(cell(root))
    assert first == drawn(Cell(**{**vars(cell(root)), "editor": "rome"}))
    assert first != drawn(Cell(**{**vars(cell(root)), "seed": 1}))
    seven = {**vars(cell(root)), "size": 7}
    with pytest.raises(JeepError, match=r"rivers has 6 facts in this half \(--half all .*, not 7"):
        drawn(Cell(**seven))
    both = {one.key for half in (0, 1) for one in load_suite(cell(root).file).cases[half::2]}
    everything = drawn(Cell(**{**seven, "half": None, "size": len(both)}))
    assert {one.key for one in everything} == both
    with pytest.raises(JeepError, match=f"rivers has {len(both)} facts, not 1000"):
        drawn(Cell(**{**seven, "half": None, "size": 1000}))


def test_many_facts_are_edited_batch_after_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    class Played:
        """Trials, and the line of versions on them."""

        base = moments = None
        prefixes = ()
        view = "a view"

        def __init__(self) -> None:
            self.cases = [Case(f"Lyon {i}", "{} is in", "Japan") for i in range(5)]
            self.batches: list[list[str]] = []

        def edit(self, *args: Any) -> Any:
            if len(args) == 1:
                self.batches.append([fact.subject for fact in args[0]])
            return "at once"

    played = Played()
    monkeypatch.setattr(comparison, "BATCH", 2)
    monkeypatch.setattr(comparison, "Line", lambda *_: played)
    trials: Any = played
    hparams: Any = None
    assert InBatches(trials).edit("memit", hparams, range(2)) == "at once"
    assert InBatches(trials).edit("memit", hparams, range(5)) == ("a view", None)
    assert played.batches == [["Lyon 0", "Lyon 1"], ["Lyon 2", "Lyon 3"], ["Lyon 4"]]


def test_what_this_folder_has_no_figures_of_stays_on_the_page(
    root: Path, processes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = [
        "| other | rivers | 10 | jeep | 90.0 (1–2) |" + " |" * 8,
        "| tiny | lakes | 10 | memit | 91.0 (1–2) |" + " |" * 8,
        "| tiny | rivers | 100 | memit | 92.0 (1–2) |" + " |" * 8,
    ]
    old = "| tiny | rivers | 2 | memit | 0.1 (0–1) |" + " |" * 8
    page = root / "grown.md"
    refusals = ["- rome on other: too small: 2", "- mend on tiny: old", "- memit on tiny: old"]
    why = [comparison.REFUSED, "", *refusals]
    rule = "|---" * 13 + "|"
    page.write_text("\n".join([BEGIN, comparison.HEAD, rule, *kept, old, "", *why, END]))
    monkeypatch.setattr("subprocess.run", None)  # every cell of this folder is there
    run(root, monkeypatch, "--page", str(page))
    lines = page.read_text().splitlines()
    shown = [line for line in lines if line.startswith("| ") and line != comparison.HEAD]
    assert [line.split(" | ")[:4] for line in shown] == [
        ["| other", "rivers", "10", "jeep"],
        ["| tiny", "lakes", "10", "memit"],
        ["| tiny", "rivers", "2", "unedited"],
        ["| tiny", "rivers", "2", "memit"],
        ["| tiny", "rivers", "2", "ft-wd"],
        ["| tiny", "rivers", "100", "memit"],
    ]
    assert set(kept) < set(shown)
    assert old not in shown
    assert "- rome on other: too small: 2" in lines
    [mend] = [line for line in lines if line.startswith("- mend on tiny: ")]
    assert not any(line.startswith("- memit on tiny: ") for line in lines)  # it has figures now
    assert mend.startswith("- mend on tiny: /hparams: ")
    again = page.read_text()
    run(root, monkeypatch, "--page", str(page))
    assert page.read_text() == again


def test_what_is_refused_for_some_numbers_of_facts_says_for_which(
    root: Path, processes: list[str], tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "\n".join([BEGIN, comparison.HEAD, "", comparison.REFUSED, "", "- x on y: z", END])
    )
    asked = {
        "models": ["tiny=m"],
        "suites": ["rivers=s"],
        "editors": ["memit"],
        "seeds": 1,
        "half": "1",
    }
    args = Namespace(**asked, sizes=[1, 2], folder=tmp_path, page=page)
    measured = json.loads((root / "kept" / "cells" / "tiny_rivers_2_0_memit.json").read_text())
    for cell in comparison.cells(args):
        record = measured if cell.size == 2 else {"refused": "one is too few"}
        comparison.keep(cell, tmp_path, {**record, "cell": vars(cell)})
    for _ in range(2):
        lines = comparison.table(args)
        comparison.write_page(page, lines)
        assert lines[-3:] == [
            "- x on y: z",
            "- unedited on tiny, 1 at once: one is too few",
            "- memit on tiny, 1 at once: one is too few",
        ]


@pytest.mark.parametrize(
    ("listed", "again"),
    [
        ("rome on tiny", True),
        ("rome on other", False),
        ("rome on tiny, 1 at once", True),
        ("rome on tiny, 10 at once", False),
        ("rome on tiny, 10 and 100 at once", True),
        ("rome on other, 1 at once", False),
    ],
)
def test_a_refusal_stays_on_a_page_until_it_is_tried_again(listed: str, again: bool) -> None:
    assert comparison._is_tried(listed, {"rome on tiny": {1, 100}}) is again


def test_a_page_without_the_marks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("no mark")
    with pytest.raises(JeepError, match="where the table belongs"):
        comparison.write_page(tmp_path / "page.md", [])


def test_the_page_has_every_editor_or_says_why_not() -> None:
    section = (ROOT / "docs/comparison.md").read_text(encoding="utf-8").split("\n## All editors")[1]
    _, table, text = section.replace(END, BEGIN).split(BEGIN)
    rows = {line.split(" | ")[3] for line in table.splitlines() if line.startswith("| smollm2")}
    missing = text.split("**Not in the table**")[1].split("\n\n")[0].casefold()
    assert {name for name in ALL if name in missing} == set(ALL) - rows == {"mend", "malmen"}


def test_a_page_is_looked_at_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text("no mark")
    monkeypatch.setattr("subprocess.run", None)
    with pytest.raises(JeepError, match="where the table belongs"):
        run(tmp_path, monkeypatch, "--page", str(page))
