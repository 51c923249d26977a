"""Commands that work with the library in this process: how it is imported, and shared flags."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from service.cli.common import EXIT_FAILED, EXIT_USAGE, complain, settings_or_exit
from service.ops.garbage import postponed

if TYPE_CHECKING:
    from service.settings import Settings

MODEL_HELP = "Bundled name, local folder, GGUF file, hub id, or a name of jeep models"
Model = Annotated[str | None, typer.Option(help=f"{MODEL_HELP} (JEEP_MODEL).")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, … (JEEP_DEVICE).")]
Dtype = Annotated[str | None, typer.Option(help="auto, float32, bfloat16, float16 (JEEP_DTYPE).")]
Corpus = Annotated[
    Path | None, typer.Option(help="Text, one document a line (JEEP_CORPUS).", show_default=False)
]
Samples = Annotated[
    int | None,
    typer.Option(help="Tokens of it; default: by the text (JEEP_MOMENT_SAMPLES)."),
]
MomentsFolder = Annotated[
    Path | None, typer.Option(help="Where second moments are kept; default: in the store.")
]
Moments = Annotated[
    str | None, typer.Option(help="Imported second moments instead of a text (JEEP_MOMENTS).")
]
ExecutorName = Annotated[
    Literal["here", "processes", "ray"] | None,
    typer.Option(
        "--executor",
        help="Who does the work: here (this process), processes beside it, or actors of a ray"
        " cluster (JEEP_EXECUTOR).",
    ),
]
WORKERS_HELP = (
    "Processes or actors of --executor (JEEP_EXECUTOR_WORKERS); more than 1 without an executor are"
    " processes. Their number changes no result"
)
Workers = Annotated[int | None, typer.Option(min=1, help=f"{WORKERS_HELP}.", show_default=False)]
Address = Annotated[
    str | None,
    typer.Option(
        "--executor-address",
        help="host:port of the Ray cluster, or local: one is started here (JEEP_EXECUTOR_ADDRESS).",
    ),
]


def require_worker_parts() -> None:
    """End the command unless torch and transformers are installed."""
    missing = [name for name in ("torch", "transformers") if not importlib.util.find_spec(name)]
    if missing:
        names = " and ".join(missing)
        complain(f"jeep: {names} missing: pip install 'jeep-edit[worker]'")
        raise typer.Exit(EXIT_USAGE)


def worker_part(name: str) -> Any:
    """A module of the worker, ``process`` or ``versions.collect_command``, imported now.

    Before torch is: OpenMP reads its environment variables when it is loaded.
    """
    from service.settings import WORKER_ENVIRONMENT

    require_worker_parts()
    for variable, value in WORKER_ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    with postponed():
        return import_module(f"service.worker.{name}")


@contextmanager
def library(name: str) -> Iterator[Any]:
    """Yield a module of ``jeep_core.commands``; what it refuses ends the command in one sentence.

    An argument that makes no sense gives the exit code for wrong usage, everything else the one
    for failure.
    """
    require_worker_parts()
    from safetensors import SafetensorError

    from jeep_core.commands import WrongArgument
    from jeep_core.errors import JeepError, NoCluster, is_out_of_memory, reason_of

    try:
        with postponed():
            command = import_module(f"jeep_core.commands.{name}")
        yield command
    except WrongArgument as error:
        complain(f"jeep: {error}")
        raise typer.Exit(EXIT_USAGE) from None
    except NoCluster as error:
        complain(
            f"jeep: {error}: --executor-address (JEEP_EXECUTOR_ADDRESS) says where the cluster is, "
            "and --executor here does without one"
        )
        raise typer.Exit(EXIT_FAILED) from None
    except (JeepError, OSError, SafetensorError) as error:
        complain(f"jeep: {error}")
        raise typer.Exit(EXIT_FAILED) from None
    except (MemoryError, RuntimeError, SystemError) as error:
        if not is_out_of_memory(error):
            raise
        complain(
            f"jeep: memory is not enough ({reason_of(error)}): end what else uses it, or use a "
            "machine with more; with a model (`jeep plan` says how much one needs), also --dtype "
            "bfloat16 or another --device where the command has them"
        )
        raise typer.Exit(EXIT_FAILED) from None


def model_options(
    settings: Settings,
    model: str | None,
    device: str | None,
    dtype: str | None,
    models_dir: Path | None,
) -> dict[str, Any]:
    """The model to load: what the flags name, else the settings."""
    return {
        "model": model or settings.model,
        "device": device or settings.device,
        "dtype": dtype or settings.dtype,
        "models_dir": models_dir or settings.models,
    }


def text_options(
    settings: Settings, corpus: Path | None, samples: int | None, folder: Path | None
) -> dict[str, Any]:
    """The text of second moments and where they are kept: by flags, else by the settings."""
    return {
        "corpus": corpus or settings.corpus,
        "samples": (settings.moment_samples or 0) if samples is None else samples,
        "folder": folder or moments_folder(settings),
    }


def executor_options(
    executor: str | None, workers: int | None, address: str | None
) -> dict[str, Any] | None:
    """The fields of an executor's ``Choice``, by flags, else by the settings; None: none is chosen.

    Threads that are not set are left to the command's own rule.  A cluster without Ray ends the
    command before a model is loaded.
    """
    settings = settings_or_exit(
        executor=executor, executor_workers=workers, executor_address=address
    )
    found, several = settings.executor_fields, (workers or 1) > 1
    if executor is None and settings.executor == "here" and several:
        found["executor"] = "processes"
    if found["executor"] == "here" and several:
        raise typer.BadParameter("--executor here has no others", param_hint="--workers")
    if found["executor"] != "ray" and address is not None:
        raise typer.BadParameter("it goes with --executor ray", param_hint="--executor-address")
    if found["executor"] == "ray" and not importlib.util.find_spec("ray"):
        by = "JEEP_EXECUTOR=ray" if executor is None else "--executor ray"
        complain(
            f"jeep: {by} is set and Ray is not installed: pip install 'jeep-edit[ray]', or give "
            "--executor here or --executor processes"
        )
        raise typer.Exit(EXIT_USAGE)
    if "executor_threads" not in settings.model_fields_set:
        found["threads"] = None
    chosen = workers or "executor" in settings.model_fields_set or found["executor"] != "here"
    return found if chosen else None


def known_of_processes(settings: Settings) -> dict[str, int]:
    """The fields of a ``Choice`` that are set, for processes that a command takes unasked."""
    names = {
        "workers": "executor_workers",
        "threads": "executor_threads",
        "memory_bytes": "executor_memory_mb",
    }
    fields = settings.executor_fields
    return {name: fields[name] for name, one in names.items() if one in settings.model_fields_set}


def moments_folder(settings: Settings) -> Path:
    """Where the service looks for second moments."""
    from service.store.base.files import BaseFiles  # with every schema of the store's records

    return BaseFiles(settings.store).moments_folder
