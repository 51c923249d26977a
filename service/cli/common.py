"""Helpers shared by the commands: the two consoles, settings as flags, a client, output.

The client and the settings are imported by the functions that use them: a help text needs neither.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, ConsoleDimensions
from rich.rule import Rule
from rich.text import TextType

from service.cli.groups import KEY_FILE

if TYPE_CHECKING:
    from service.client import ApiError, Client
    from service.contracts.jobs import JobStatus
    from service.contracts.jobs import Progress as JobProgress
    from service.contracts.schemas import JobOut
    from service.settings import Settings

ONE_LINE = 100_000
"""Columns, more than any row has."""
HEADING = 80
"""Columns of a heading's line, at most."""


class Output(Console):
    """A console that breaks no line in a pipe or a file, for ``grep`` and ``cut``."""

    @property
    def size(self) -> ConsoleDimensions:
        """The terminal's; without one as wide as need be, unless ``COLUMNS`` is set."""
        found = super().size
        wide = not self.is_terminal and "COLUMNS" not in os.environ
        return ConsoleDimensions(ONE_LINE, found.height) if wide else found

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self.width, self.height = new_size

    def rule(self, title: TextType = "", **options: Any) -> None:
        """A heading with a line of 80 columns, fewer in a narrow terminal."""
        self.print(Rule(title, **options), width=min(self.width, HEADING))


out = Output(highlight=False)
err = Console(stderr=True, highlight=False)

Url = Annotated[str | None, typer.Option(help="Address of the service (JEEP_HOST, JEEP_PORT).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
StoreFolder = Annotated[Path | None, typer.Option("--store", help="The store (JEEP_STORE).")]
ModelsDir = Annotated[
    Path | None, typer.Option("--models-dir", help="The model directory (JEEP_MODELS).")
]

Preset = Annotated[
    str | None, typer.Option(help="Named hyper-parameters; auto: chosen for the model.")
]
HParams = Annotated[str | None, typer.Option(help="JSON laid over the preset, or auto.")]
SnapshotName = Annotated[str | None, typer.Option("--name", help="Name of the new snapshot.")]
Parent = Annotated[str | None, typer.Option(help="Refuse unless this is head.")]
Wait = Annotated[bool, typer.Option(help="Wait for the end and show the outcome.")]
DropBad = Annotated[bool, typer.Option(help="Leave out and count bad records.")]

FLAGS = {"models": "--models-dir"}
"""Flags of settings that are not called like the setting."""

EXIT_FAILED = 1
EXIT_USAGE = 2


_WITH_PASSWORD = re.compile("//[^@]*:[^@]*@|[?&]password=")
"""Address of a server with a password in it, also one that is not quoted as it should be."""


def with_settings(command: Callable[[Settings], None]) -> Callable[..., None]:
    """Give a command one flag per setting; missing flags are read from the environment.

    Secrets have no flags: everybody on the machine sees those of a process.
    """
    from jeep_core.errors import is_passing
    from service.settings import Settings, SettingsError, is_secret, load_settings

    def run(**flags: str | None) -> None:
        if _WITH_PASSWORD.search(flags.get("redis_url") or ""):
            complain(
                "--redis-url: leave the password out, as all on this machine see it, and set "
                "JEEP_REDIS_PASSWORD, or JEEP_REDIS_URL as a whole"
            )
            raise typer.Exit(EXIT_USAGE)
        try:
            settings = load_settings(**flags)
        except SettingsError as error:
            complain(_by_flag(str(error), said_only(flags)))
            raise typer.Exit(EXIT_FAILED if is_passing(error) else EXIT_USAGE) from None
        command(settings)

    parameters = []
    for name, field in Settings.model_fields.items():
        if is_secret(field):
            continue
        flag = FLAGS.get(name, "--" + name.replace("_", "-"))
        none = field.default is None or field.default_factory  # what is made depends on the user
        default = "" if none else f"={field.default}"
        text = f"{field.description or ''} \\[JEEP_{name.upper()}{default}]".strip()
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


def _by_flag(text: str, given: Iterable[str]) -> str:
    """A message about settings with the flags of those that were given as flags."""
    for name in given:
        variable, flag = f"JEEP_{name.upper()}", FLAGS.get(name, "--" + name.replace("_", "-"))
        text = re.sub(f"^{variable}(?=:)", flag, text, flags=re.MULTILINE)
    return text


def complain(text: str) -> None:
    """Print an error."""
    err.print(text, style="red", markup=False, soft_wrap=True)


@contextmanager
def connected(url: str | None) -> Iterator[Client]:
    """Yield a client; a refusal or an unreachable service ends the command with a message."""
    from service.client import ApiError, BadAnswer, ClientError, InvalidAddress, Unreachable
    from service.settings import SettingsError, load_settings

    try:
        settings = load_settings()
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
        with _client(url or f"http://{host}:{settings.port}") as client:
            yield client
    except SettingsError as error:
        complain(str(error))
        raise typer.Exit(EXIT_USAGE) from None
    except InvalidAddress as error:
        complain(f"--url: {error}")
        raise typer.Exit(EXIT_USAGE) from None
    except Unreachable as error:
        how = "is it running? --url, or JEEP_HOST and JEEP_PORT, name another address"
        complain(f"the service cannot be reached: {error}; {how}")
        raise typer.Exit(EXIT_FAILED) from None
    except BadAnswer:
        complain("what answers at this address is no jeep service, or one of another release")
        raise typer.Exit(EXIT_FAILED) from None
    except ApiError as error:
        complain(f"{error}{_about_keys(error)}")
        raise typer.Exit(EXIT_FAILED) from None
    except ClientError as error:
        complain(str(error))
        raise typer.Exit(EXIT_FAILED) from None
    except UnicodeEncodeError as error:  # an argument that was not UTF-8, half a surrogate pair
        at, what = error.start, error.object[error.start : error.end]
        complain(f"what is to be sent must be text in UTF-8: character {at} of it is {what!r}")
        raise typer.Exit(EXIT_USAGE) from None
    except BrokenPipeError:  # whoever reads the output has enough
        raise
    except OSError as error:  # a file to which the answer should be written
        complain(f"jeep: {error}")
        raise typer.Exit(EXIT_FAILED) from None


def _about_keys(error: ApiError) -> str:
    """How a key is given, and how the one that is lacking is made, if a request failed for it."""
    if error.code in ("no_key", "invalid_key"):
        make = "jeep keys create NAME --store STORE, with the service's store, makes one"
        return f"\n  give a key with JEEP_API_KEY or --key-file; {make}"
    if error.code == "insufficient_scope":
        found = re.search("lacks the scope '([a-z]+)'", error.detail)
        scope = found[1] if found else "SCOPE"
        make = f"jeep keys create NAME --scope {scope} --store STORE, with the service's store,"
        return f"\n  {make} makes one that has it; give it with JEEP_API_KEY or --key-file"
    return ""


def _client(url: str) -> Client:
    """A client with the key from the given file, else from the environment."""
    from service.client import Client, InvalidAddress
    from service.settings import ClientSettings, SettingsError

    given = KEY_FILE.get()
    settings = ClientSettings() if given is None else ClientSettings(api_key=None, key_file=given)
    try:
        return Client(url, api_key=settings.key())
    except (InvalidAddress, SettingsError):
        raise
    except ValueError as error:
        name = "JEEP_API_KEY" if settings.api_key else "JEEP_KEY_FILE"
        raise SettingsError(f"{name}: {error}") from None


def parse_json(text: str, where: str) -> Any:
    """Read JSON; typer.BadParameter names ``where`` it came from."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint=where) from None


def parse_object(text: str, where: str) -> dict[str, Any]:
    """Read a JSON object; typer.BadParameter names ``where`` it came from."""
    found = parse_json(text, where)
    if not isinstance(found, dict):
        raise typer.BadParameter('must be a JSON object: {"name": value, …}', param_hint=where)
    return found


def said_only(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given on the command line."""
    return {name: value for name, value in options.items() if value is not None}


def hparams_given(text: str | None) -> Any:
    """Hyper-parameters of a command line: a JSON object, or the word auto."""
    return parse_json(text, "--hparams") if text and text != "auto" else text


def read_facts(file: Path, where: str) -> Any:
    """The JSON value of a file, or a list of one value per line; ``-`` is standard input."""
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{file} cannot be read: {error}", param_hint=where) from None
    return parse_values(text, file, where)


def parse_values(text: str, file: Path, where: str) -> Any:
    """A JSON value, or a list of one value per line; typer.BadParameter names the file."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        lines = [line for line in text.split("\n") if line.strip()]
        if not lines:
            raise typer.BadParameter(f"{file} is empty", param_hint=where) from None
        return [parse_json(line, f"{file}, fact {i}") for i, line in enumerate(lines, start=1)]


def check_facts(facts: Any, file: Path, where: str, what: str = "facts") -> list[dict[str, Any]]:
    """A list of objects; typer.BadParameter, which calls them ``what``, for anything else."""
    if not isinstance(facts, list) or not all(isinstance(fact, dict) for fact in facts):
        message = f"{file}: {what} must be JSON objects, in an array or one a line"
        raise typer.BadParameter(message, param_hint=where)
    return facts


def settings_or_exit(**flags: Any) -> Settings:
    """The settings of the environment under flags; a wrong one ends the command with a message."""
    from service.settings import SettingsError, load_settings

    try:
        return load_settings(**flags)
    except SettingsError as error:
        complain(_by_flag(str(error), said_only(flags)))
        raise typer.Exit(EXIT_USAGE) from None


def follow(client: Client, job_id: str, quiet: bool) -> Any:
    """Wait for a job and show a progress bar meanwhile; the job as it has ended.

    Ctrl-C ends the waiting alone, and says so.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from service.contracts.jobs import JobStatus

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeRemainingColumn(),
    )
    # where there is no terminal, the bar would be an empty line
    quiet = quiet or not err.is_terminal
    with _goes_on(job_id), Progress(*columns, console=err, transient=True, disable=quiet) as bar:
        task = bar.add_task("queued", total=1)

        def hear(status: JobStatus, progress: JobProgress) -> None:
            text = progress.phase if status is JobStatus.RUNNING else status.value
            bar.update(task, description=text, completed=progress.done, total=progress.total or 1)

        return client.wait(job_id, hear)


@contextmanager
def _goes_on(job_id: str) -> Iterator[None]:
    """Whoever breaks off is told that the job goes on, and what can be done about it."""
    try:
        yield
    except KeyboardInterrupt:
        err.print(
            f"{job_id} goes on: jeep jobs follow {job_id} waits for it, "
            f"jeep jobs cancel {job_id} ends it",
            markup=False,
            soft_wrap=True,
        )
        raise


def finish(
    client: Client,
    job_id: str,
    as_json: bool,
    table: Callable[[Any], Any],
    answer: Callable[[JobOut], Any] = lambda done: done,
) -> Any:
    """Wait for the end of a job and show its outcome; exit code 1 unless it has succeeded.

    ``answer`` gives the outcome for the job that has ended, and is returned.
    """
    from service.contracts.jobs import JobStatus

    done = follow(client, job_id, quiet=as_json)
    found = answer(done)
    show(found, as_json, table)
    if done.status is not JobStatus.SUCCEEDED:
        raise typer.Exit(EXIT_FAILED)
    return found


def count_or_all(text: str | None, flag: str) -> int | str | None:
    """How many facts are asked: a number, or ``all``."""
    if text is None or text == "all":
        return text
    if not re.fullmatch("[0-9]{1,9}", text):
        message = f"must be a number or all, not {text[:40]!r}"
        raise typer.BadParameter(message, param_hint=flag)
    return int(text)


def show_status(job: JobOut, as_json: bool) -> None:
    """Show a job that is not waited for."""
    show(job, as_json, lambda job: f"{job.id} is {job.status.value}")


def show(answer: Any, as_json: bool, table: Callable[[Any], Any]) -> None:
    """Print an answer as JSON or by its table."""
    if as_json:
        print(answer.model_dump_json(indent=2), flush=True)
    else:
        out.print(table(answer))


def show_list(answers: list[Any], as_json: bool, table: Callable[[Any], Any]) -> None:
    """Print answers as JSON or by their table."""
    if as_json:
        print(
            json.dumps([answer.model_dump(mode="json") for answer in answers], indent=2), flush=True
        )
    else:
        out.print(table(answers))
