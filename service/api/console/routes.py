"""All routes of the console, and how they are added to the api."""

from __future__ import annotations

from fastapi import FastAPI

from service.api.console import assets, sign_in
from service.api.console.middleware import Console
from service.api.console.pages import ask, facts, jobs, start, state, status
from service.api.console.pages.editing import check, form, outcome, reading
from service.api.console.pages.history import acting, comparing, exporting, listing, version
from service.api.console.pages.measuring import evaluations, probes
from service.api.http.routing import routes_of

EDITING = (form, check, reading, outcome)
HISTORY = (listing, comparing, version, acting, exporting)
MEASURING = (evaluations, probes)
ROUTES = (
    sign_in, assets, status, start, ask, *EDITING, jobs, *HISTORY, facts, *MEASURING, state,
)  # fmt: skip


def add_console(app: FastAPI) -> None:
    """Add the console's routes and what surrounds them; before the request's id is given."""
    app.router.routes.extend(routes_of(*ROUTES, described=False))
    app.add_middleware(Console)
