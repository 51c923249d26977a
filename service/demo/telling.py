"""How the story of ``jeep demo-real`` is told: tables for the terminal, and a page."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.demo.claims import CLAIMS, Question
from service.demo.story import MEASURES, Form, Story

COLUMNS = ("", "prompt", "before", "after", "names", "p(true)", "p(new)")
KINDS = {
    "edit": "edited prompts",
    "rephrased": "rephrasings",
    "question": "questions",
    "neighbour": "neighbours",
}
NEW_ANSWERS = "How often the new answer is ahead of the true one, before → after"


def show(story: Story, console: Console) -> None:
    """The answers side by side, what they come to, and what it cost.

    Of the figures a terminal has room for those by which the form is judged; the page has all.
    """
    for form in story.before:
        table = Table(title=f"{form.title}: before and after")
        judged = COLUMNS.index("names" if form.by_text else "p(new)")
        for name in (*COLUMNS[:4], COLUMNS[judged]):
            table.add_column(name)
        questions = form.questions
        for one, following in zip(questions, [*questions[1:], None], strict=True):
            cells = [escape(cell) for cell in _cells(story, form, one)]
            said = story.after[form][one.prompt]
            good = form.took(one, said) is (one.kind != "neighbour")
            answer = f"[{'green' if good else 'red'}]{cells[3]}[/]"
            last = following is None or following.kind == "edit"
            table.add_row(*cells[:3], answer, cells[judged], end_section=last)
        console.print(table)
    totals = Table(title=NEW_ANSWERS)
    for name in ("asked", "new answer", *KINDS.values()):
        totals.add_column(name)
    for row in _totals(story):
        totals.add_row(*row)
    console.print(totals)
    for line in summary(story):
        console.print(escape(line))


def summary(story: Story) -> list[str]:
    """Cost of the edit and what became of it, in sentences."""
    edit, guards = story.edit, story.edit.guards
    lines = []
    if guards is not None and guards.perplexity is not None:
        lines.append(f"perplexity {guards.perplexity_before:.2f} → {guards.perplexity:.2f}")
    lines.append(f"{story.seconds:.1f} s from the request to the committed version")
    lines.append(f"hyper-parameters: {edit.source}; second moments: {edit.moments}")
    undone = "all answers and the hash of all weights are as before"
    lines.append(f"after the rollback {undone if story.rolled_back else 'something differs'}")
    return lines + edit.warnings


def markdown(story: Story) -> str:
    """The page: what `show` prints."""
    lines = [f"# {len(CLAIMS)} facts edited in {story.model}", "", f"{NEW_ANSWERS}:", ""]
    lines += [_row("asked", "new answer", *KINDS.values()), _row(*["---"] * (2 + len(KINDS)))]
    lines += [_row(*row) for row in _totals(story)]
    lines += ["", *(f"- {line}" for line in summary(story))]
    for form in story.before:
        lines += ["", f"## {form.title}", "", _row(*COLUMNS), _row(*["---"] * len(COLUMNS))]
        lines += [_row(*_cells(story, form, one)) for one in form.questions]
    return "\n".join(lines) + "\n"


def _cells(story: Story, form: Form, one: Question) -> list[str]:
    """A question's row."""
    old, new = story.before[form][one.prompt], story.after[form][one.prompt]
    return [
        one.kind,
        one.prompt,
        old.text,
        new.text,
        f"{one.named_first(old.text)} → {one.named_first(new.text)}",
        f"{old.p_true:.3f} → {new.p_true:.3f}",
        f"{old.p_new:.3f} → {new.p_new:.3f}",
    ]


def _totals(story: Story) -> list[list[str]]:
    """A row for every form and measure."""
    rows = []
    for form in story.before:
        for measure in MEASURES:
            counts = story.counts(form, measure)
            figures = [
                f"{counts[kind].before} → {counts[kind].after} of {counts[kind].of}"
                if kind in counts
                else ""
                for kind in KINDS
            ]
            rows.append([form.name, measure, *figures])
    return rows


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
