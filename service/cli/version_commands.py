"""Commands about versions that are not head yet."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli import tables
from service.cli.common import AsJson, Url, app, connected, show


@app.command("activate")
def activate_command(
    version: Annotated[str, typer.Argument(help="A staged version: its id or its name.")],
    why: Annotated[str, typer.Option(help="Kept in the reflog.")] = "",
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Make a staged version head (jeep edit --stage writes one)."""
    with connected(url) as client:
        show(client.activate(version, why), as_json, tables.activation)
