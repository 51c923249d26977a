"""``/openapi.json`` and pages that show it; all their files are served from here."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import FileResponse, JSONResponse

from service.api.http.access import needs
from service.api.http.problems import ApiProblem
from service.contracts.schemas.access import Scope

router = APIRouter(include_in_schema=False)

ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "redoc.standalone.js": "text/javascript",
    "favicon.png": "image/png",
}
"""The files of Swagger UI and ReDoc that the package fastapi-offline carries."""
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; worker-src blob:; frame-ancestors 'none'"
)
"""Browsers load nothing that a page asks of another host."""


@router.get("/openapi.json")
@needs(Scope.READ)
def openapi_json(request: Request) -> Response:
    """The description."""
    return JSONResponse(request.app.openapi())


@router.get("/docs")
@needs(Scope.READ)
def docs(request: Request) -> Response:
    """Swagger UI."""
    return _here_only(
        get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=request.app.title,
            swagger_js_url="/docs/assets/swagger-ui-bundle.js",
            swagger_css_url="/docs/assets/swagger-ui.css",
            swagger_favicon_url="/docs/assets/favicon.png",
        )
    )


@router.get("/redoc")
@needs(Scope.READ)
def redoc(request: Request) -> Response:
    """ReDoc."""
    return _here_only(
        get_redoc_html(
            openapi_url="/openapi.json",
            title=request.app.title,
            redoc_js_url="/docs/assets/redoc.standalone.js",
            redoc_favicon_url="/docs/assets/favicon.png",
            with_google_fonts=False,
        )
    )


@router.get("/docs/assets/{name}")
@needs(Scope.READ)
def asset(name: str) -> Response:
    """A file of the pages."""
    if name not in ASSETS:
        raise ApiProblem("not_found", f"there is no asset {name!r}")
    path = Path(str(files("fastapi_offline") / "static" / name))
    return FileResponse(path, media_type=ASSETS[name])


def _here_only(page: Response) -> Response:
    page.headers["Content-Security-Policy"] = POLICY
    return page
