"""``jeep demo-real``: real facts edited in a real model, by a running service over HTTP.

Nothing is configured but the model's name.  Facts about the real world are edited in one batch;
before and after are asked the edited prompts, rephrasings, questions and neighbours, as plain
prompts and as messages of a chat, and perplexity is measured on a text.  Everything is rolled
back.  What was seen is printed and written as a page.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from jeep_core.moments.source import DEFAULT_CORPUS
from service.client import ApiError, Client
from service.contracts.jobs import JobStatus
from service.contracts.schemas import Edit
from service.demo.bundled import follow, running_service
from service.demo.claims import CLAIMS
from service.demo.story import CHAT, PLAIN, Answers, Form, Said, Story
from service.demo.telling import markdown, show

START_SECONDS = 600.0
TEXT_LINES = 60
"""Lines from the end of the shipped text; second moments are taken from its beginning."""
NO_LIMIT = 1000.0
"""The guard only has perplexity measured."""


def ask(client: Client, version: str, form: Form) -> Answers:
    """A version's answers to all questions of a form."""
    found: Answers = {}
    for one in form.questions:
        message = {"role": "user", "content": one.prompt}
        result = client.generate(
            None if form.chat else one.prompt,
            version,
            max_new_tokens=form.tokens,
            candidates=[one.true, one.new],
            **({"stop": list(form.stop)} if form.stop else {}),
            **({"messages": [message]} if form.chat else {}),
        ).results[0]
        true, new = (candidate.probability for candidate in result.candidates)
        found[one.prompt] = Said(" ".join(result.text.split()), true, new)
    return found


def ask_all(client: Client, version: str = "head") -> dict[Form, Answers]:
    """Answers in every form that the model has; one without a chat template has no chat."""
    found = {PLAIN: ask(client, version, PLAIN)}
    try:
        found[CHAT] = ask(client, version, CHAT)
    except ApiError as error:
        if all(one.get("code") != "no_chat_template" for one in error.problem.errors):
            raise
    return found


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
    hash_before = client.snapshot("head").weights_sha256
    before = ask_all(client)
    console.rule(f"Editing {len(CLAIMS)} facts of {escape(model)}")
    began = time.monotonic()
    done = _edited(client, console)
    seconds = time.monotonic() - began
    if done.result is None:
        console.print(f"[red]the edit {done.status.value}: {escape(str(done.error))}[/]")
        return None
    after = ask_all(client)
    moved = client.rollback("base", why="end of the demo")
    back = ask_all(client) == before and moved.weights_sha256 == hash_before
    return Story(model, before, after, done.result, seconds, back)


def _edited(client: Client, console: Console) -> Edit:
    """All facts in one batch; nothing but them is given.

    A model with a chat template is then edited for plain prompts and for the chat.
    """
    facts = [claim.fact for claim in CLAIMS]
    job = client.edit(facts, guards={"max_perplexity_ratio": NO_LIMIT})
    done = follow(client, console, job.id)
    assert done.status in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)
    return client.edit_result(done.resource_id)
