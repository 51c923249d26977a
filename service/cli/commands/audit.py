"""``jeep audit``: who did what to which version."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

import typer

from service.cli import tables
from service.cli.common import AsJson, Url, connected, show_list
from service.cli.groups import group as new_group

group = new_group("Who did what to which version.", lists=True)


@group.command("list")
def list_calls(
    limit: Annotated[int, typer.Option(min=1, help="How many calls.")] = 50,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """List the calls that changed something or were refused, newest first."""
    with connected(url) as client:
        show_list(list(islice(client.audit(), limit)), as_json, tables.audit)
