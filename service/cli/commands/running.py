"""``jeep serve``, ``api``, ``worker`` and ``demo``: run the service or one of its parts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.common import EXIT_USAGE, complain, out, with_settings
from service.cli.library import require_worker_parts, worker_part
from service.ops.early_worker import early_worker
from service.ops.garbage import postponed
from service.settings import EXIT_CONFIG, Settings


def say_plainly(text: str) -> None:
    """Print a line about the service's start or end."""
    print(f"jeep: {text}", flush=True)


def _run(part: str, settings: Settings, *more: object) -> None:
    with postponed(kept=True):
        from service import serve as serving  # the help is there faster without them
        from service.ops import logs, tracing

    logs.configure(settings, "api")
    tracing.configure("api")
    say = logs.say if settings.log_format == "json" else say_plainly
    try:
        code: int = getattr(serving, part)(settings, say, *more)
    except serving.ServeError as error:
        complain(f"jeep: {error}")
        raise typer.Exit(error.exit_code) from None
    raise typer.Exit(code)


def _check_model(name: str, models: Path) -> None:
    """Refuse a model that is not there before the service starts; the worker checks the rest."""
    from jeep_core import atlas

    if name in atlas.MODELS:
        return
    from jeep_core.errors import UnsupportedModel
    from jeep_core.models.checkpoints.files import check_records
    from jeep_core.models.checkpoints.source import here  # slow to import
    from jeep_core.models.library import Library

    try:
        place = here(name, Library(models))
        if place is not None and place.is_dir():
            check_records(place)
    except UnsupportedModel as error:
        complain(f"jeep: {error}")
        raise typer.Exit(EXIT_CONFIG) from None
    except OSError:  # the worker tells what passes from what does not
        return


@with_settings
def serve(settings: Settings) -> None:
    """Run everything in the foreground.

    That is the queue, a worker that holds the model, and the api.  Ctrl-C stops them; another one
    ends them without what they still answer.
    """
    require_worker_parts()
    with early_worker() as worker:
        _check_model(settings.model, settings.models)
        _run("serve", settings, worker)


@with_settings
def api(settings: Settings) -> None:
    """Run the api alone."""
    _run("serve_api", settings)


@with_settings
def worker(settings: Settings) -> None:
    """Run a worker alone."""
    require_worker_parts()
    if settings.redis_url is None:
        complain("JEEP_REDIS_URL is not set: the worker alone needs a queue")
        raise typer.Exit(EXIT_USAGE)
    with postponed(kept=True):
        process = worker_part("process")
    raise typer.Exit(process.main(settings))


@with_settings
def demo(settings: Settings) -> None:
    """Show an edit of the bundled model.

    A service of its own is started, facts are edited, answers before and after are shown, and
    everything is rolled back.
    """
    require_worker_parts()
    from service.demo.bundled import run

    raise typer.Exit(run(settings, out))


def demo_real(
    model: Annotated[
        str, typer.Option(help="Name, folder or GGUF file; the name of jeep models get.")
    ] = "smollm2-135m",
    page: Annotated[Path, typer.Option(help="Markdown file for before and after.")] = Path(
        "demo-real.md"
    ),
) -> None:
    """The same with a real model.

    A service of its own is started without any configuration, facts are edited, answers,
    rephrasings, neighbours and perplexity before and after are shown, and everything is rolled
    back.
    """
    require_worker_parts()
    from service.demo.real import run

    raise typer.Exit(run(model, page, out))
