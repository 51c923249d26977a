"""``jeep models``: models by name, and the presets for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli import tables
from service.cli.common import EXIT_FAILED, AsJson, complain, out, settings_or_exit
from service.cli.groups import group as new_group

group = new_group("Models and their presets.", lists=True)


@group.command("list")
def list_models(
    presets: Annotated[Path | None, typer.Option(help="Folder of own presets.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the bundled models, and those that there are presets for.

    Any other model of a supported family can be served and edited, too: docs/models.md.
    """
    from jeep_core.errors import JeepError

    folder = presets or settings_or_exit().presets
    try:
        rows = _models(folder)
    except JeepError as error:
        complain(f"jeep: {error}")
        raise typer.Exit(EXIT_FAILED) from None
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        out.print(tables.models(rows))


def _models(folder: Path | None) -> list[dict[str, Any]]:
    """Name, whether it is bundled, and editor and name of each preset, the default first."""
    from jeep_core.atlas import MODELS
    from jeep_core.spec.hparams import load_preset, preset_names, presets_for

    others = {load_preset(name, folder).model for name in preset_names(folder)} - MODELS.keys()
    return [
        {
            "model": model,
            "bundled": model in MODELS,
            "presets": [
                {"editor": one.editor, "preset": one.name} for one in presets_for(model, folder)
            ],
        }
        for model in (*MODELS, *sorted(others))
    ]
