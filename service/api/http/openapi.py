"""The OpenAPI description: FastAPI's own, plus the schemas that routes parse themselves."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute, Mount

from jeep_core.editors import AUTO_EDITOR, EditorRecord, available
from service.api.http.access import guarded_routes
from service.api.http.bodies import DESCRIBED
from service.api.http.problems import documented
from service.contracts.schemas import EditRequest, GeneratedToken, Problem
from service.contracts.schemas.access import Scope

log = logging.getLogger(__name__)
COMPONENT = "#/components/schemas/"

ALWAYS: tuple[type[BaseModel], ...] = (EditRequest, GeneratedToken, Problem)
"""Models that are described whatever routes there are: of edits, whose hyper-parameters are filled
in here, and of events and errors, which no route names."""

DESCRIPTION = """\
Facts in, versions out, every edit reversible.

Errors are RFC 9457 problems (`application/problem+json`) with a stable `code` and, per wrong
field, a JSON `pointer` into the body or the name of a `parameter`.  Unknown fields and query
parameters are refused (422; below `/v1`, of health and metrics unknown parameters are ignored).
Every answer has an
`X-Request-Id`, and `X-Model-Version` where a version of the model gave it.  Lists are
`{data, has_more, next}`; give `next` as `after`.

**Access**: `Authorization: Bearer …` with an API key, which `jeep keys create` makes.  A key has
scopes: `read`, `generate`, `edit`, `follow` (for followers on other hosts), `admin` (which includes
the others); every operation names the one it needs.  A browser may read with the key as the
password of its login.
"""


SCHEME = "ApiKey"
REFUSALS = documented(401, 403, 429)
"""The gate's answers, given before a route runs."""
UNKNOWN_PARAMETER = documented(422)
"""The gate's, too: for a query parameter that a route does not take."""
WRITE_REFUSALS = documented(413, 507)
"""Possible for every call with a body: it is too large, or the disk is full."""


class Api(FastAPI):
    """FastAPI with this service's complete description."""

    def openapi(self) -> dict[str, Any]:
        """The description, made once."""
        if self.openapi_schema is None:
            schema = self._described(self.routes)
            components = schema.setdefault("components", {}).setdefault("schemas", {})
            self._describe_mounted(schema, components)
            editors = _documentable()
            names, definitions = _definitions(editors)
            for name, definition in definitions.items():
                components.setdefault(name, definition)
            _describe_editors(components, editors, names)
            _drop_default_errors(schema)
            self._describe_access(schema)
            self.openapi_schema = schema
        return self.openapi_schema

    def _described(self, routes: Sequence[BaseRoute]) -> dict[str, Any]:
        return get_openapi(
            title=self.title, version=self.version, description=self.description, routes=routes
        )

    def _describe_mounted(self, schema: dict[str, Any], components: dict[str, Any]) -> None:
        """Add the routes of mounted apps under their paths."""
        for mount in self.routes:
            if isinstance(mount, Mount) and isinstance(mount.app, FastAPI):
                inner = self._described(mount.app.routes)
                schema["paths"].update({mount.path + p: one for p, one in inner["paths"].items()})
                for name, model in inner.get("components", {}).get("schemas", {}).items():
                    components.setdefault(name, model)

    def _describe_access(self, schema: dict[str, Any]) -> None:
        """Document the scope that every operation needs and its refusals."""
        scheme = {"type": "http", "scheme": "bearer", "description": "An API key: `jeep_…`."}
        schema["components"]["securitySchemes"] = {SCHEME: scheme}
        for route in guarded_routes(self.routes):
            for method in route.methods:
                operation = schema["paths"].get(route.described_as, {}).get(method.lower())
                if operation is None:
                    continue
                operation["security"] = []
                refusals = WRITE_REFUSALS if method == "POST" else {}
                if route.parameters is not None:
                    refusals = {**refusals, **UNKNOWN_PARAMETER}
                if isinstance(route.need, Scope):
                    operation["security"] = [{SCHEME: [route.need.value]}]
                    refusals = {**refusals, **REFUSALS}
                for status, answer in refusals.items():
                    operation["responses"].setdefault(str(status), answer)


def _documentable() -> dict[str, EditorRecord]:
    """The editors whose hyper-parameters can be described; the others are logged."""
    editors, problems = available()
    described = {}
    for name, record in editors.items():
        try:
            record.hparams.model_json_schema()
            described[name] = record
        except Exception as error:  # a class of another distribution
            problems.append(f"the hyper-parameters of the editor {name!r}: {error}")
    for problem in problems:
        log.error("%s", problem)
    return described


def _definitions(
    editors: Mapping[str, EditorRecord],
) -> tuple[dict[str, str], dict[str, Any]]:
    """The schema's name for every editor, and the schemas: two classes may have one name."""
    classes = {name: record.hparams for name, record in editors.items()}
    refs, found = models_json_schema(
        [(model, "validation") for model in (*DESCRIBED.values(), *ALWAYS, *classes.values())],
        ref_template=COMPONENT + "{model}",
    )
    names = {
        name: refs[cls, "validation"]["$ref"].removeprefix(COMPONENT)
        for name, cls in classes.items()
    }
    return names, found["$defs"]


def _drop_default_errors(schema: dict[str, Any]) -> None:
    """FastAPI documents its own 422, which this api never sends: every error is a Problem."""
    for path in schema["paths"].values():
        for operation in path.values():
            unprocessable = operation["responses"].get("422", {})
            if "application/json" in unprocessable.get("content", {}):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)


def _describe_editors(
    components: dict[str, Any], editors: Mapping[str, EditorRecord], names: Mapping[str, str]
) -> None:
    """Document the editors: their schemas, and what their records say that an edit needs."""
    schemas = ", ".join(f"`{editor}`: `{schema}`" for editor, schema in names.items())
    properties = components["EditRequest"]["properties"]
    properties["editor"]["enum"] = [*names, AUTO_EDITOR]
    automatic = _listed(name for name, found in editors.items() if found.automatic is not None)
    properties["hparams"]["description"] = (
        "Laid over the preset, field by field; together they follow the editor's schema: "
        f"{schemas}.  Or `auto`, for {automatic}: from a probe of the base model; with changes to "
        f"that, `{AUTO_EDITOR}` is the preset."
    )
    network = [name for name, found in editors.items() if found.network is not None]
    without = _listed(name for name, found in editors.items() if not found.needs_moments)
    properties["editor"]["description"] = (
        f"{_listed(network)} need a network trained for the model; all but {without} need second "
        f"moments.  `{AUTO_EDITOR}`: one is chosen, and `editor_reason` says why."
    )
    components["HypernetworkRequest"]["properties"]["editor"]["enum"] = network


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
