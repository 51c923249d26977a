"""Commands that run the service or a part of the library."""

from __future__ import annotations

import os
import shlex
import sys

import typer

from service.cli.common import (
    EXIT_USAGE,
    app,
    complain,
    out,
    require_worker_parts,
    settings_or_exit,
    with_settings,
)
from service.settings import WORKER_ENVIRONMENT, Settings


def _say(text: str) -> None:
    print(f"jeep: {text}", flush=True)


def _run(part: str, settings: Settings) -> None:
    from service import serve  # the client's commands start faster without them
    from service.ops import logs, tracing

    logs.configure(settings, "api")
    tracing.configure("api")
    say = logs.say if settings.log_format == "json" else _say
    try:
        code: int = getattr(serve, part)(settings, say)
    except serve.ServeError as error:
        complain(f"jeep: {error}")
        raise typer.Exit(error.exit_code) from None
    raise typer.Exit(code)


@app.command("serve")
@with_settings
def serve_command(settings: Settings) -> None:
    """Run everything in the foreground: queue, worker, api."""
    require_worker_parts()
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
    require_worker_parts()
    if settings.redis_url is None:
        complain("JEEP_REDIS_URL is not set: the worker alone needs a queue")
        raise typer.Exit(EXIT_USAGE)
    os.environ.update(settings.environment())
    environment = {**WORKER_ENVIRONMENT, **os.environ}
    os.execve(sys.executable, [sys.executable, "-m", "service.worker"], environment)


PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command("moments", context_settings=PASSED_ON, add_help_option=False)
def moments_command(context: typer.Context) -> None:
    """Compute, merge or import second moments of the configured model."""
    require_worker_parts()
    settings = settings_or_exit()
    given = [*context.args]
    if given and given[0] in ("compute", "merge", "import"):
        given[1:1] = _moment_flags(given[0], settings)
    os.execv(sys.executable, [sys.executable, "-m", "jeep_core.commands.moments", *given])


def _moment_flags(command: str, settings: Settings) -> list[str]:
    """The settings as flags; those given on the command line come later and take precedence."""
    flags: dict[str, object] = {"--folder": settings.store / "base" / "moments"}
    if command != "merge":
        flags |= {"--model": settings.model, "--device": settings.device}
        flags |= {"--dtype": settings.dtype, "--models-dir": settings.models}
    if command == "compute":
        flags |= {"--corpus": settings.corpus, "--samples": settings.moment_samples}
    given = {flag: value for flag, value in flags.items() if value is not None}
    return [str(part) for pair in given.items() for part in pair]


def _trial_flags(settings: Settings) -> list[str]:
    """As `_moment_flags`, for commands that edit: imported moments replace a text there."""
    named = ["--moments", settings.moments] if settings.moments else []
    return [*_moment_flags("compute", settings), *named]


@app.command("tune", context_settings=PASSED_ON, add_help_option=False)
def tune_command(context: typer.Context) -> None:
    """Search hyper-parameters on a validation suite and write a preset."""
    require_worker_parts()
    settings = settings_or_exit()
    flags = _trial_flags(settings) if context.args else []
    if settings.presets:
        flags += ["--presets", str(settings.presets)]
    if flags:
        flags += ["--probes", str(settings.store / "base" / "probes")]
    given = [*flags, *context.args]
    os.execv(sys.executable, [sys.executable, "-m", "jeep_core.commands.tune", *given])


@app.command("reproduce", context_settings=PASSED_ON, add_help_option=False)
def reproduce_command(context: typer.Context) -> None:
    """Make the paper's tables and figures on a model and suites: --out FOLDER …"""
    require_worker_parts()
    settings = settings_or_exit()
    flags = _trial_flags(settings) if context.args else []
    if settings.presets:
        flags += ["--presets", str(settings.presets)]
    flags += ["--hypernetworks", str(settings.store / "base" / "hypernetworks")]
    flags += ["--shown-as", shlex.join(["jeep", "reproduce", *context.args])]
    given = [*flags, *context.args]
    os.execv(sys.executable, [sys.executable, "-m", "jeep_core.commands.reproduce", *given])


@app.command(
    "train-hypernetwork",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True,
                      "help_option_names": []},
    add_help_option=False,
)  # fmt: skip
def train_command(context: typer.Context) -> None:
    """Train a network for MEND or MALMEN into the store: EDITOR MODEL [--data FILE] …"""
    require_worker_parts()
    settings = settings_or_exit()
    module = [sys.executable, "-m", "jeep_core.commands.train_network"]
    folders = ["--store", str(settings.store), "--models-dir", str(settings.models)]
    os.execv(sys.executable, [*module, *folders, *context.args])


@app.command("demo")
@with_settings
def demo_command(settings: Settings) -> None:
    """Edit the bundled model through a separate service, show the edit, roll it back."""
    require_worker_parts()
    from service.demo import run

    raise typer.Exit(run(settings, out))
