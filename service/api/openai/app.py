"""The sub-application of ``/v1``."""

from __future__ import annotations

from fastapi import FastAPI

from service.api.http import problems
from service.api.http.middleware import Unexpected
from service.api.openai import chat, completions, models
from service.api.state import ApiState

PATH = "/v1"


def openai_app(state: ApiState) -> FastAPI:
    """The app to mount at `PATH`; requests have passed the gate of the one around it."""
    app = FastAPI(
        redirect_slashes=False,
        openapi_url=None,  # described with the rest
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.api = state
    for module in (models, completions, chat):
        app.include_router(module.router)
    problems.install(app)
    app.add_middleware(Unexpected)
    return app
