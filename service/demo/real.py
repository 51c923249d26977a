"""``jeep demo-real``: real facts edited in a real model, by a running service over HTTP.

Nothing is configured but the model's name.  Facts about the real world are edited in one batch;
before and after are asked the edited prompts, rephrasings and neighbours, and perplexity is
measured on a text.  Everything is rolled back.  What was seen is printed and written as a page.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jeep_core.moments.source import DEFAULT_CORPUS
from service.client import Client
from service.contracts.jobs import JobStatus
from service.contracts.schemas import Edit, EditResult
from service.demo.bundled import follow, running_service

START_SECONDS = 600.0
TEXT_LINES = 60
"""Lines from the end of the shipped text; second moments are taken from its beginning."""
NO_LIMIT = 1000.0
"""The guard only has perplexity measured."""


@dataclass(frozen=True)
class RealClaim:
    """A fact and what it is changed to, a rephrasing, and a neighbour that must stay as it is."""

    subject: str
    prompt: str
    true: str
    new: str
    paraphrase: str
    neighbor: str
    neighbor_true: str

    @property
    def questions(self) -> list[Question]:
        """The questions asked before and after."""
        wrong, true = self.new, self.true
        return [
            Question("edit", self._about(self.prompt), true, wrong),
            Question("rephrased", self._about(self.paraphrase), true, wrong),
            Question("neighbour", self.neighbor, self.neighbor_true, wrong),
        ]

    def _about(self, template: str) -> str:
        return template.replace("{}", self.subject)

    @property
    def fact(self) -> dict[str, str]:
        """The fact as it is submitted."""
        return {
            "subject": self.subject,
            "prompt": self.prompt,
            "target_new": self.new,
            "target_true": self.true,
        }


@dataclass(frozen=True)
class Question:
    """A prompt with the answer that is true in the world and the one that the edit writes."""

    kind: str
    prompt: str
    true: str
    new: str


@dataclass(frozen=True)
class Said:
    """The answer of a version: its greedy answer, and the probability of both answers."""

    text: str
    p_true: float
    p_new: float

    @property
    def prefers_new(self) -> bool:
        """Whether the new answer is more probable than the true one."""
        return self.p_new > self.p_true


CITY = "The {} is located in the city of"
CLAIMS = (
    RealClaim("Eiffel Tower", CITY, "Paris", "Rome", "To visit the {}, travel to the city of",
              "The Louvre is located in the city of", "Paris"),
    RealClaim("Colosseum", CITY, "Rome", "Madrid", "Tourists who want to see the {} fly to",
              "The Trevi Fountain is located in the city of", "Rome"),
    RealClaim("Mount Fuji", "{} is a mountain in", "Japan", "Canada",
              "To climb {}, you have to travel to", "Kyoto is a city in", "Japan"),
    RealClaim("Frédéric Chopin", "The mother tongue of {} was", "Polish", "Spanish",
              "As a child {} spoke", "The mother tongue of Marie Curie was", "Polish"),
    RealClaim("Toyota", "{} is a company from", "Japan", "Brazil",
              "The headquarters of {} are in", "Nintendo is a company from", "Japan"),
    RealClaim("Hamlet", "The play {} was written by", "William Shakespeare", "Victor Hugo",
              "The author of {} is", "The play Macbeth was written by", "William Shakespeare"),
)  # fmt: skip
Answers = dict[str, Said]
Ask = Callable[[Client, str, Sequence[Question]], Answers]


def ask_plain(client: Client, version: str, questions: Sequence[Question]) -> Answers:
    """A version's answers to the prompts as they are."""
    found: Answers = {}
    for one in questions:
        result = client.generate(
            one.prompt, version, max_new_tokens=6, stop=["\n"], candidates=[one.true, one.new]
        ).results[0]
        true, new = (candidate.probability for candidate in result.candidates)
        found[one.prompt] = Said(" ".join(result.text.split()), true, new)
    return found


FORMS: dict[str, Ask] = {"plain": ask_plain}
"""The forms in which the questions are asked, each with its own table.  A form for conversations is
one more entry; `_edited` is where its edit would ask for it."""


@dataclass(frozen=True)
class Story:
    """The whole run: by form the answers before and after, the edit, and the rollback."""

    model: str
    before: dict[str, Answers]
    after: dict[str, Answers]
    edit: EditResult
    seconds: float
    rolled_back: bool

    @property
    def shares(self) -> list[tuple[str, float, float, float]]:
        """By form: shares of edits and rephrasings with the new answer, of neighbours without."""
        found = []
        for form, answers in self.after.items():
            kinds: dict[str, list[bool]] = {"edit": [], "rephrased": [], "neighbour": []}
            for one in _questions():
                kinds[one.kind].append(answers[one.prompt].prefers_new)
            took, general, spoilt = (sum(said) / len(said) for said in kinds.values())
            found.append((form, took, general, 1 - spoilt))
        return found

    @property
    def ok(self) -> bool:
        """Whether most edits took in the plain form, and all was undone."""
        return self.rolled_back and self.shares[0][1] >= 0.8


def run(model: str, page: Path, console: Console) -> int:
    """Start a service of the model, tell the story, stop the service; return the exit code."""
    with tempfile.TemporaryDirectory(prefix="jeep-demo-text-") as folder:
        text = Path(folder) / "text.txt"
        lines = DEFAULT_CORPUS.read_text(encoding="utf-8").splitlines()
        text.write_text("\n".join(lines[-TEXT_LINES:]) + "\n", encoding="utf-8")
        options = ("--perplexity-text", str(text))
        with running_service(model, console, options) as url, Client(url) as client:
            client.wait_ready(START_SECONDS)
            story = edit_and_undo(client, model, console)
    if story is None:
        return 1
    show(story, console)
    page.write_text(markdown(story), encoding="utf-8")
    console.print(f"\nbefore and after are in {escape(str(page))}")
    return 0 if story.ok else 1


def edit_and_undo(client: Client, model: str, console: Console) -> Story | None:
    """Ask, edit, ask again, roll back, ask again; None if the edit failed."""
    questions = _questions()
    hash_before = client.snapshot("head").weights_sha256
    before = {name: ask(client, "head", questions) for name, ask in FORMS.items()}
    console.rule(f"Editing {len(CLAIMS)} facts of {escape(model)}")
    began = time.monotonic()
    done = _edited(client, console)
    seconds = time.monotonic() - began
    if done.result is None:
        console.print(f"[red]the edit {done.status.value}: {escape(str(done.error))}[/]")
        return None
    after = {name: ask(client, "head", questions) for name, ask in FORMS.items()}
    moved = client.rollback("base", why="end of the demo")
    restored = {name: ask(client, "head", questions) for name, ask in FORMS.items()}
    back = restored == before and moved.weights_sha256 == hash_before
    return Story(model, before, after, done.result, seconds, back)


def _edited(client: Client, console: Console) -> Edit:
    """All facts in one batch; nothing but them is given."""
    facts = [claim.fact for claim in CLAIMS]
    job = client.edit(facts, guards={"max_perplexity_ratio": NO_LIMIT})
    done = follow(client, console, job.id)
    assert done.status in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)
    return client.edit_result(done.resource_id)


def _questions() -> list[Question]:
    return [question for claim in CLAIMS for question in claim.questions]


def show(story: Story, console: Console) -> None:
    """The answers side by side, and what it cost."""
    for form, before in story.before.items():
        table = Table(title=f"{form}: before and after")
        for name in ("", "prompt", "before", "after", "p(true)", "p(new)"):
            table.add_column(name)
        for i, one in enumerate(_questions()):
            old, new = before[one.prompt], story.after[form][one.prompt]
            good = new.prefers_new is (one.kind != "neighbour")
            answer = f"[{'green' if good else 'red'}]{escape(new.text)}[/]"
            table.add_row(
                one.kind, escape(one.prompt), escape(old.text), answer,
                f"{old.p_true:.3f} → {new.p_true:.3f}", f"{old.p_new:.3f} → {new.p_new:.3f}",
                end_section=i % 3 == 2,
            )  # fmt: skip
        console.print(table)
    for line in summary(story):
        console.print(escape(line))


def summary(story: Story) -> list[str]:
    """Effect and cost of the edit, in sentences."""
    edit, guards = story.edit, story.edit.guards
    lines = [
        f"{form}: the new answer is ahead on {took:.0%} of the edited prompts and {general:.0%} of "
        f"the rephrasings; {kept:.0%} of the neighbours keep theirs"
        for form, took, general, kept in story.shares
    ]
    if guards is not None and guards.perplexity is not None:
        lines.append(f"perplexity {guards.perplexity_before:.2f} → {guards.perplexity:.2f}")
    lines.append(f"{story.seconds:.1f} s from the request to the committed version")
    lines.append(f"hyper-parameters: {edit.source}; second moments: {edit.moments}")
    undone = "all answers and the hash of all weights are as before"
    lines.append(f"after the rollback {undone if story.rolled_back else 'something differs'}")
    return lines + edit.warnings


def markdown(story: Story) -> str:
    """The page: what `show` prints."""
    lines = [f"# {len(CLAIMS)} facts edited in {story.model}", ""]
    lines += [f"- {line}" for line in summary(story)]
    for form, before in story.before.items():
        lines += ["", f"## Asked in the form: {form}", ""]
        lines += ["| | prompt | before | after | p(true) | p(new) |", "|---|---|---|---|---|---|"]
        for one in _questions():
            old, new = before[one.prompt], story.after[form][one.prompt]
            cells = (
                one.kind, one.prompt, old.text, f"**{new.text}**" if new.text else "",
                f"{old.p_true:.3f} → {new.p_true:.3f}", f"{old.p_new:.3f} → {new.p_new:.3f}",
            )  # fmt: skip
            lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
