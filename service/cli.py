"""The ``jeep`` command: run the service, and use one from a terminal."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from service import cli_tables as tables
from service.client import ApiError, Client
from service.jobs import JobStatus
from service.jobs import Progress as JobProgress
from service.settings import WORKER_ENVIRONMENT, Settings, SettingsError, load_settings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Url = Annotated[str | None, typer.Option(help="Address of the service (JEEP_HOST, JEEP_PORT).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]

EXIT_FAILED = 1
EXIT_USAGE = 2


def main() -> None:
    """Entry point."""
    app()


# ---------------------------------------------------------------- the service


def with_settings(command: Callable[[Settings], None]) -> Callable[..., None]:
    """Give a command one flag per setting; what is not given comes from the environment."""

    def run(**flags: str | None) -> None:
        try:
            settings = load_settings(**flags)
        except SettingsError as error:
            _complain(str(error))
            raise typer.Exit(EXIT_USAGE) from None
        command(settings)

    parameters = []
    for name, field in Settings.model_fields.items():
        flag = "--" + name.replace("_", "-")
        text = f"{field.description or ''} \\[JEEP_{name.upper()}={field.default}]".strip()
        annotation = Annotated[str | None, typer.Option(flag, help=text, show_default=False)]
        parameters.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
            )
        )
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def _complain(text: str) -> None:
    err.print(text, style="red", markup=False, soft_wrap=True)


def _say(text: str) -> None:
    print(f"jeep: {text}", flush=True)


def _run(part: str, settings: Settings) -> None:
    from service import serve  # the client's commands start faster without it

    try:
        code: int = getattr(serve, part)(settings, _say)
    except serve.ServeError as error:
        _complain(f"jeep: {error}")
        raise typer.Exit(error.code) from None
    raise typer.Exit(code)


@app.command("serve")
@with_settings
def serve_command(settings: Settings) -> None:
    """Run everything in the foreground: queue, worker, api."""
    _require_worker_parts()
    _run("serve", settings)


@app.command("api")
@with_settings
def api_command(settings: Settings) -> None:
    """Run the api alone."""
    _run("serve_api", settings)


@app.command("worker")
@with_settings
def worker_command(settings: Settings) -> None:
    """Run a worker alone."""
    _require_worker_parts()
    if settings.redis_url is None:
        _complain("JEEP_REDIS_URL is not set: the worker alone needs a queue")
        raise typer.Exit(EXIT_USAGE)
    os.environ.update(settings.environment())
    environment = {**WORKER_ENVIRONMENT, **os.environ}
    os.execve(sys.executable, [sys.executable, "-m", "service.worker"], environment)


PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command("moments", context_settings=PASSED_ON, add_help_option=False)
def moments_command(context: typer.Context) -> None:
    """Compute, merge or import second moments of the configured model."""
    _require_worker_parts()
    try:
        settings = load_settings()
    except SettingsError as error:
        _complain(str(error))
        raise typer.Exit(EXIT_USAGE) from None
    given = [*context.args]
    if given and given[0] in ("compute", "merge", "import"):
        given[1:1] = _moment_flags(given[0], settings)
    os.execv(sys.executable, [sys.executable, "-m", "jeep_core.moments_command", *given])


def _moment_flags(command: str, settings: Settings) -> list[str]:
    """The settings as flags; those given in the command line come later and win."""
    flags: dict[str, object] = {"--folder": settings.store / "base" / "moments"}
    if command != "merge":
        flags |= {"--model": settings.model, "--device": settings.device}
        flags |= {"--dtype": settings.dtype}
    if command == "compute":
        flags |= {"--corpus": settings.corpus, "--samples": settings.moment_samples}
    given = {flag: value for flag, value in flags.items() if value is not None}
    return [str(part) for pair in given.items() for part in pair]


@app.command("tune", context_settings=PASSED_ON, add_help_option=False)
def tune_command(context: typer.Context) -> None:
    """Search hyper-parameters on a validation suite and write a preset."""
    _require_worker_parts()
    try:
        settings = load_settings()
    except SettingsError as error:
        _complain(str(error))
        raise typer.Exit(EXIT_USAGE) from None
    flags = _moment_flags("compute", settings) if context.args else []
    if settings.presets:
        flags += ["--presets", str(settings.presets)]
    given = [*flags, *context.args]
    os.execv(sys.executable, [sys.executable, "-m", "jeep_core.tune_command", *given])


@app.command(
    "train-hypernetwork",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True,
                      "help_option_names": []},
    add_help_option=False,
)  # fmt: skip
def train_command(context: typer.Context) -> None:
    """Train a network for MEND or MALMEN into the store: EDITOR MODEL [--data FILE] …"""
    _require_worker_parts()
    settings = load_settings()
    module = [sys.executable, "-m", "jeep_core.train_hypernetwork"]
    os.execv(sys.executable, [*module, "--store", str(settings.store), *context.args])


@app.command("demo")
@with_settings
def demo_command(settings: Settings) -> None:
    """Edit the bundled model through a service of its own, show it, take it back."""
    _require_worker_parts()
    from service.demo import run

    raise typer.Exit(run(settings, out))


def _require_worker_parts() -> None:
    missing = [name for name in ("torch", "transformers") if not importlib.util.find_spec(name)]
    if missing:
        names = " and ".join(missing)
        _complain(f"jeep: {names} missing: pip install 'jeep-edit[worker]'")
        raise typer.Exit(EXIT_USAGE)


# ---------------------------------------------------------------- a client of it


@contextmanager
def connected(url: str | None) -> Iterator[Client]:
    """A client; refusals and a service that is not there end the command with a message."""
    try:
        settings = load_settings()
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
        with Client(url or f"http://{host}:{settings.port}") as client:
            yield client
    except SettingsError as error:
        _complain(str(error))
        raise typer.Exit(EXIT_USAGE) from None
    except ApiError as error:
        _complain(str(error))
        raise typer.Exit(EXIT_FAILED) from None
    except httpx.TransportError as error:
        _complain(f"the service cannot be reached: {error}")
        raise typer.Exit(EXIT_FAILED) from None


@app.command("edit")
def edit_command(
    file: Annotated[Path, typer.Argument(help="JSON or JSON lines; - reads standard input.")],
    editor: Annotated[str | None, typer.Option(help="Name of the editor; default: jeep.")] = None,
    preset: Annotated[str | None, typer.Option(help="Named hyper-parameters.")] = None,
    hparams: Annotated[str | None, typer.Option(help="JSON laid over the preset.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the new snapshot.")] = None,
    parent: Annotated[str | None, typer.Option(help="Refuse unless this is head.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Show tokens and positions only.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait for the end and show the outcome.")] = True,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Submit facts: an array, an object with "facts", or one fact per line."""
    body = _read_edit(file)
    given = {"editor": editor, "preset": preset, "snapshot_name": name, "parent": parent}
    given["hparams"] = _json(hparams, "--hparams") if hparams else None
    body |= {key: value for key, value in given.items() if value is not None}
    facts = body.pop("facts", [])
    with connected(url) as client:
        if dry_run:
            _show(client.plan(facts, **body), as_json, tables.plan)
            return
        job = client.edit(facts, **body)
        if not wait:
            _show(job, as_json, lambda job: f"{job.id} is {job.status.value}")
            return
        done = _follow(client, job.id, quiet=as_json)
        _show(client.edit_result(str(done.edit_id)), as_json, tables.edit)
        if done.status is not JobStatus.SUCCEEDED:
            raise typer.Exit(EXIT_FAILED)


@app.command("generate")
def generate_command(
    prompts: Annotated[list[str], typer.Argument(help="One or several prompts.")],
    version: Annotated[list[str] | None, typer.Option(help="Repeat to compare.")] = None,
    max_new_tokens: Annotated[int, typer.Option()] = 16,
    temperature: Annotated[float, typer.Option(help="0: greedy")] = 0.0,
    seed: Annotated[int | None, typer.Option()] = None,
    candidate: Annotated[list[str] | None, typer.Option(help="Score it; repeatable.")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Ask one or several versions."""
    with connected(url) as client:
        result = client.generate(
            prompts,
            version or "head",
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            candidates=candidate,
        )
        _show(result, as_json, tables.generations)


@app.command("snapshots")
def snapshots_command(as_json: AsJson = False, url: Url = None) -> None:
    """List the versions, newest first."""
    with connected(url) as client:
        _show_list(list(client.snapshots()), as_json, tables.snapshots)


@app.command("name")
def name_command(name: str, version: str = "head", url: Url = None) -> None:
    """Name a version."""
    with connected(url) as client:
        out.print(f"{name} is {client.name_snapshot(name, version).id}", markup=False)


@app.command("export")
def export_command(version: str, file: Path, url: Url = None) -> None:
    """Write the tensors in which a version differs from base to a safetensors file."""
    with connected(url) as client:
        out.print(f"{file}: {client.export(version, file):,} bytes", markup=False)


@app.command("rollback")
def rollback_command(
    version: Annotated[str, typer.Argument(help="Version id, snapshot name or base.")],
    why: Annotated[str, typer.Option(help="Kept in the reflog.")] = "",
    cancel_queued: Annotated[bool, typer.Option(help="Cancel jobs not yet begun.")] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Move head to a version."""
    with connected(url) as client:
        _show(client.rollback(version, why, cancel_queued), as_json, tables.rollback)


@app.command("jobs")
def jobs_command(
    status: Annotated[JobStatus | None, typer.Option(help="Only these.")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """List the jobs, newest first."""
    with connected(url) as client:
        _show_list(list(client.jobs(status)), as_json, tables.jobs)


@app.command("cancel")
def cancel_command(job_id: str, url: Url = None) -> None:
    """Ask a job to end."""
    with connected(url) as client:
        out.print(f"{job_id} is {client.cancel(job_id).status.value}", markup=False)


# ---------------------------------------------------------------- reading and showing


def _read_edit(file: Path) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(str(error), param_hint="FILE") from None
    try:
        data = json.loads(text)
    except ValueError:
        lines = [line for line in text.splitlines() if line.strip()]
        data = [_json(line, f"{file}, fact {i}") for i, line in enumerate(lines, start=1)]
    if isinstance(data, dict):
        return data if "facts" in data else {"facts": [data]}
    return {"facts": data}


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint=where) from None


def _follow(client: Client, job_id: str, quiet: bool) -> Any:
    """Wait for a job behind a progress bar."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=quiet) as bar:
        task = bar.add_task("queued", total=1)

        def hear(status: JobStatus, progress: JobProgress) -> None:
            text = progress.phase if status is JobStatus.RUNNING else status.value
            bar.update(task, description=text, completed=progress.done, total=progress.total or 1)

        return client.wait(job_id, hear)


def _show(answer: Any, as_json: bool, table: Callable[[Any], Any]) -> None:
    if as_json:
        print(answer.model_dump_json(indent=2))
    else:
        out.print(table(answer))


def _show_list(answers: list[Any], as_json: bool, table: Callable[[Any], Any]) -> None:
    if as_json:
        print(json.dumps([answer.model_dump(mode="json") for answer in answers], indent=2))
    else:
        out.print(table(answers))


if __name__ == "__main__":
    main()
