"""The routes of resources, put together once per process, however many apps serve them."""

from __future__ import annotations

from functools import cache
from types import ModuleType

from fastapi import APIRouter
from starlette.routing import BaseRoute


@cache
def routes_of(*resources: ModuleType, described: bool = True) -> tuple[BaseRoute, ...]:
    """The routes of modules that have a ``router``, in order; a function's name is its
    operation's id.  ``described``: whether OpenAPI has them.

    FastAPI works out what a route takes and gives when an included router is first asked, a
    tenth of a second for all of ours.  Apps that are given these routes share that work.
    """
    together = APIRouter(generate_unique_id_function=lambda route: route.name)
    for resource in resources:
        together.include_router(resource.router, include_in_schema=described)
    return tuple(together.routes)
