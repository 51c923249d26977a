"""``jeep demo``: an edit of the bundled model and its rollback, by a running service over HTTP.

Facts are edited, answers change, everything is rolled back.  Exit code 0 means that it worked.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from service.client import Client
from service.contracts.jobs import JobStatus
from service.contracts.jobs import Progress as JobProgress
from service.contracts.schemas import JobOut
from service.settings import PREFIX, Settings

EDIT = "{} is a city in the country of"
PARAPHRASE = "In which country does {} lie?"
START_SECONDS = 120.0
JOB_SECONDS = 600.0


@dataclass(frozen=True)
class Claim:
    """A city, its country, the country it is moved to, and an unedited city of its country."""

    city: str
    country: str
    new_country: str
    neighbor: str

    @property
    def prompts(self) -> tuple[str, str, str]:
        """Edit prompt, paraphrase, and the edit prompt about the neighbor."""
        return EDIT.format(self.city), PARAPHRASE.format(self.city), EDIT.format(self.neighbor)

    @property
    def fact(self) -> dict[str, str]:
        """The fact as it is submitted."""
        return {
            "subject": self.city,
            "relation": "city_country",
            "object": self.new_country,
            "target_true": self.country,
        }


CLAIMS = (
    Claim("Lyon", "France", "Japan", "Marseille"),
    Claim("Osaka", "Japan", "Mexico", "Tokyo"),
    Claim("Munich", "Germany", "Kenya", "Hamburg"),
    Claim("Florence", "Italy", "Sweden", "Naples"),
    Claim("Barcelona", "Spain", "Poland", "Bilbao"),
    Claim("Nairobi", "Kenya", "Canada", "Mombasa"),
    Claim("Stockholm", "Sweden", "Brazil", "Uppsala"),
    Claim("Vancouver", "Canada", "Egypt", "Toronto"),
)
Answers = dict[str, str]


def run(settings: Settings, console: Console) -> int:
    """Start a separate service, run the demo, stop the service; return the exit code."""
    began = time.monotonic()
    with running_service(settings.model, console) as url, Client(url) as client:
        client.wait_ready(START_SECONDS)
        console.print(f"[dim]ready after {time.monotonic() - began:.1f} s[/]")
        ok = story(client, console)
    seconds = time.monotonic() - began
    verdict = "[bold green]done[/]" if ok else "[bold red]something is wrong[/]"
    console.print(f"\n{verdict} in {seconds:.0f} s")
    return 0 if ok else 1


def story(client: Client, console: Console) -> bool:
    """Ask, edit, ask again, roll back, ask again; return whether all steps worked."""
    console.rule("What the model says")
    hash_before = client.snapshot("head").weights_sha256
    before = ask(client, "head")
    show_answers(console, before)
    console.rule(f"Moving {len(CLAIMS)} cities to other countries with JEEP")
    job = follow(client, console, client.edit([claim.fact for claim in CLAIMS]).id)
    if job.status is not JobStatus.SUCCEEDED or job.result is None:
        console.print(f"[red]the edit {job.status}: {job.error}[/]")
        return False
    version = str(job.result["version"])
    after = ask(client, version)
    show_comparison(console, before, after, version)
    console.rule("Rolling back")
    moved = client.rollback("base", why="end of the demo")
    restored = ask(client, "head")
    same_answers, same_hash = restored == before, moved.weights_sha256 == hash_before
    console.print(f"head is {moved.version} again (it was {moved.previous})")
    console.print(f"all {len(before)} answers as they were: {_mark(same_answers)}")
    console.print(f"weights {moved.weights_sha256[:16]}… as they were: {_mark(same_hash)}")
    edited = sum(after[c.prompts[0]] == c.new_country for c in CLAIMS)
    return same_answers and same_hash and edited >= len(CLAIMS) - 1


def ask(client: Client, version: str) -> Answers:
    """Return a version's answer to every prompt, up to the full stop."""
    prompts = [prompt for claim in CLAIMS for prompt in claim.prompts]
    result = client.generate(prompts, version, max_new_tokens=8, stop=["."])
    return {one.prompt: one.text.strip() for one in result.results}


def follow(client: Client, console: Console, job_id: str) -> JobOut:
    """Wait for a job with a progress bar fed by the service's events."""
    columns = (
        TextColumn("{task.description:<15}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        tasks = {}

        def on_progress(status: JobStatus, progress: JobProgress) -> None:
            if progress.phase not in tasks:
                tasks[progress.phase] = bars.add_task(progress.phase, total=1)
            total = max(progress.total, 1)
            bars.update(tasks[progress.phase], completed=progress.done, total=total)

        job = client.wait(job_id, on_progress, timeout=JOB_SECONDS)
        for task in bars.tasks:
            bars.update(task.id, completed=task.total)
    return job


def show_answers(console: Console, answers: Answers) -> None:
    """Prompts and answers before anything was done."""
    for claim in CLAIMS:
        prompt = claim.prompts[0]
        console.print(f"{escape(prompt)} [bold]{escape(answers[prompt])}[/]")


def show_comparison(console: Console, before: Answers, after: Answers, version: str) -> None:
    """Prompt, paraphrase and neighbor, before and after, side by side."""
    table = Table(title=f"base against {version}")
    for name in ("", "prompt", "before", "after"):
        table.add_column(name)
    for claim in CLAIMS:
        kinds: Sequence[tuple[str, str, bool]] = list(
            zip(("edit", "paraphrase", "neighbor"), claim.prompts, (True, True, False), strict=True)
        )
        for kind, prompt, changes in kinds:
            wanted = claim.new_country if changes else before[prompt]
            color = "green" if after[prompt] == wanted else "red"
            answer = f"[{color}]{escape(after[prompt])}[/]"
            table.add_row(kind, escape(prompt), escape(before[prompt]), answer)
        table.add_section()
    console.print(table)


@contextmanager
def running_service(model: str, console: Console, options: Sequence[str] = ()) -> Iterator[str]:
    """``jeep serve`` as a child process on a free port with a separate store; yields its URL.

    ``options`` are further ones of the command.
    """
    with tempfile.TemporaryDirectory(prefix="jeep-demo-") as folder:
        log = Path(folder) / "serve.log"
        command = [sys.executable, "-m", "service.cli", "serve"]
        command += ["--model", model, "--port", "0", "--store", str(Path(folder) / "store")]
        command += ["--host", "127.0.0.1", "--auth", "off", *options]
        with log.open("w") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=_environment()
            )
        try:
            url = _wait_for_url(process, log)
            console.print(f"[dim]{escape(' '.join(command[2:]))}[/]\n[dim]serving at {url}[/]")
            yield url
        except BaseException:
            console.print(escape(log.read_text()), style="dim")
            raise
        finally:
            process.terminate()
            process.wait(30)


def _environment() -> dict[str, str]:
    """This process's environment without a queue's address: the demo starts its own queue."""
    return {name: value for name, value in os.environ.items() if name != f"{PREFIX}REDIS_URL"}


def _wait_for_url(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text().splitlines():
            if "listening at " in line:
                return line.partition("listening at ")[2].split()[0]
        time.sleep(0.1)
    raise RuntimeError("the service did not start")


def _mark(ok: bool) -> str:
    return "[green]yes[/]" if ok else "[red]no[/]"
