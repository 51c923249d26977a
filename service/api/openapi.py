"""The OpenAPI description: what FastAPI derives, and the schemas that routes read themselves."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from jeep_core.editors import EDITORS
from service.api.access import guarded_routes
from service.api.problems import documented
from service.schemas import (
    EditRequest,
    FactIn,
    GeneratedToken,
    GenerateRequest,
    NameSnapshot,
    Problem,
    RollbackRequest,
)
from service.schemas.access import Scope

READ_HERE: tuple[type[BaseModel], ...] = (
    EditRequest,
    FactIn,
    GenerateRequest,
    GeneratedToken,
    NameSnapshot,
    Problem,
    RollbackRequest,
)

DESCRIPTION = """\
Facts in, versions out, every edit reversible.

Errors are RFC 9457 problems (`application/problem+json`) with a stable `code` and, per wrong
field, a JSON `pointer` into the body or the name of a `parameter`.  Every answer has an
`X-Request-Id`, and `X-Model-Version` where a version of the model gave it.  Lists are
`{data, has_more, next}`; give `next` as `after`.

**Access**: `Authorization: Bearer …` with an API key, which `jeep keys create` makes.  A key has
scopes: `read`, `generate`, `edit`, `admin` (which includes the others); every operation names
the one it needs.  A browser may read with the key as the password of its login.
"""


SCHEME = "ApiKey"
REFUSALS = documented(401, 403, 429)
"""What the gate answers in front of a route."""
WRITE_REFUSALS = documented(413, 507)
"""What may become of any call with a body: it is too large, or the disk is full."""


class Api(FastAPI):
    """FastAPI with this service's complete description."""

    def openapi(self) -> dict[str, Any]:
        """The description, made once."""
        if self.openapi_schema is None:
            schema = get_openapi(
                title=self.title,
                version=self.version,
                description=self.description,
                routes=self.routes,
            )
            components = schema.setdefault("components", {}).setdefault("schemas", {})
            for name, definition in _definitions().items():
                components.setdefault(name, definition)
            _describe_hparams(components)
            _drop_default_errors(schema)
            self._describe_access(schema)
            self.openapi_schema = schema
        return self.openapi_schema

    def _describe_access(self, schema: dict[str, Any]) -> None:
        """Say what every operation needs and how it is refused."""
        scheme = {"type": "http", "scheme": "bearer", "description": "An API key: `jeep_…`."}
        schema["components"]["securitySchemes"] = {SCHEME: scheme}
        for route in guarded_routes(self.routes):
            for method in route.methods:
                operation = schema["paths"].get(route.path, {}).get(method.lower())
                if operation is None:
                    continue
                operation["security"] = []
                refusals = WRITE_REFUSALS if method == "POST" else {}
                if isinstance(route.need, Scope):
                    operation["security"] = [{SCHEME: [route.need.value]}]
                    refusals = {**refusals, **REFUSALS}
                for status, answer in refusals.items():
                    operation["responses"].setdefault(str(status), answer)


def _definitions() -> dict[str, Any]:
    editors = [cls for _, cls in EDITORS.values()]
    _, found = models_json_schema(
        [(model, "validation") for model in (*READ_HERE, *editors)],
        ref_template="#/components/schemas/{model}",
    )
    definitions: dict[str, Any] = found["$defs"]
    return definitions


def _drop_default_errors(schema: dict[str, Any]) -> None:
    """FastAPI documents its own 422, which this api never sends: every error is a Problem."""
    for path in schema["paths"].values():
        for operation in path.values():
            unprocessable = operation["responses"].get("422", {})
            if "application/json" in unprocessable.get("content", {}):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)


def _describe_hparams(components: dict[str, Any]) -> None:
    """Say which schema the hyper-parameters of which editor follow."""
    editors = ", ".join(f"`{name}`: `{cls.__name__}`" for name, (_, cls) in EDITORS.items())
    properties = components["EditRequest"]["properties"]
    properties["editor"]["enum"] = list(EDITORS)
    properties["hparams"]["description"] = (
        "Laid over the preset, field by field; together they follow the editor's schema: "
        f"{editors}."
    )
