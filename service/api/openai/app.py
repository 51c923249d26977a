"""The sub-application of ``/v1``."""

from __future__ import annotations

from fastapi import FastAPI

from service.api.http import problems
from service.api.http.middleware import Unexpected
from service.api.http.routing import routes_of
from service.api.openai import chat, completions, models
from service.api.state import ApiState

PATH = "/v1"
ROUTES = (models, completions, chat)


def openai_app(state: ApiState) -> FastAPI:
    """The app to mount at `PATH`; requests have passed the gate of the one around it."""
    app = FastAPI(
        redirect_slashes=False,
        openapi_url=None,  # described with the rest
    )
    app.state.api = state
    app.router.routes.extend(routes_of(*ROUTES))
    problems.install(app)
    app.add_middleware(Unexpected)
    return app
