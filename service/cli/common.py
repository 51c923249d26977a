"""What commands share: the two consoles, settings as flags, a connected client, output."""

from __future__ import annotations

import importlib.util
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from service.client import ApiError, Client
from service.jobs import JobStatus
from service.jobs import Progress as JobProgress
from service.settings import Settings, SettingsError, load_settings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Url = Annotated[str | None, typer.Option(help="Address of the service (JEEP_HOST, JEEP_PORT).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]

EXIT_FAILED = 1
EXIT_USAGE = 2


def with_settings(command: Callable[[Settings], None]) -> Callable[..., None]:
    """Give a command one flag per setting; what is not given comes from the environment."""

    def run(**flags: str | None) -> None:
        try:
            settings = load_settings(**flags)
        except SettingsError as error:
            complain(str(error))
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


def complain(text: str) -> None:
    """Print an error."""
    err.print(text, style="red", markup=False, soft_wrap=True)


def require_worker_parts() -> None:
    """End the command unless torch and transformers are installed."""
    missing = [name for name in ("torch", "transformers") if not importlib.util.find_spec(name)]
    if missing:
        names = " and ".join(missing)
        complain(f"jeep: {names} missing: pip install 'jeep-edit[worker]'")
        raise typer.Exit(EXIT_USAGE)


@contextmanager
def connected(url: str | None) -> Iterator[Client]:
    """A client; refusals and a service that is not there end the command with a message."""
    try:
        settings = load_settings()
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
        with Client(url or f"http://{host}:{settings.port}") as client:
            yield client
    except SettingsError as error:
        complain(str(error))
        raise typer.Exit(EXIT_USAGE) from None
    except ApiError as error:
        complain(str(error))
        raise typer.Exit(EXIT_FAILED) from None
    except httpx.TransportError as error:
        complain(f"the service cannot be reached: {error}")
        raise typer.Exit(EXIT_FAILED) from None


def parse_json(text: str, where: str) -> Any:
    """Read JSON; typer.BadParameter names ``where`` it came from."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint=where) from None


def follow(client: Client, job_id: str, quiet: bool) -> Any:
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


def show(answer: Any, as_json: bool, table: Callable[[Any], Any]) -> None:
    """Print an answer as JSON or by its table."""
    if as_json:
        print(answer.model_dump_json(indent=2))
    else:
        out.print(table(answer))


def show_list(answers: list[Any], as_json: bool, table: Callable[[Any], Any]) -> None:
    """Print answers as JSON or by their table."""
    if as_json:
        print(json.dumps([answer.model_dump(mode="json") for answer in answers], indent=2))
    else:
        out.print(table(answers))
