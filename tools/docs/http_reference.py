"""The reference of the HTTP interface, as Markdown, from the OpenAPI description of the api."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from service.api.app import create_app
from service.settings import Settings

Schema = Mapping[str, Any]
SCHEMAS_PAGE = "schemas.md"
INTRODUCTION = """\
# HTTP interface

Every call of the service, from its OpenAPI description. A running service shows the same at
`/docs`, and as JSON at `/openapi.json`. Bodies and answers are under
[schemas](schemas.md).

"""


def description() -> dict[str, Any]:
    """The OpenAPI description of the api; neither a model nor a queue is needed for it."""
    with tempfile.TemporaryDirectory() as folder:
        # create_app wants an address, and connects to it only when it is started
        settings = Settings(store=Path(folder) / "store", redis_url="unix:///no-queue.sock")
        return create_app(settings).openapi()


def http_page(api: Mapping[str, Any]) -> str:
    """The page of all operations, in the groups of the description."""
    groups: dict[str, list[str]] = {}
    for path, operations in api["paths"].items():
        for method, operation in operations.items():
            group = operation.get("tags", ["other"])[0]
            groups.setdefault(group, []).append(_operation(method.upper(), path, operation))
    overview = _prose(api["info"]["description"])
    parts = [f"## {group.capitalize()}\n\n{''.join(found)}" for group, found in groups.items()]
    return f"{INTRODUCTION}{overview}\n\n{''.join(parts)}"


def schemas_page(api: Mapping[str, Any]) -> str:
    """The page of all bodies and answers, by name."""
    schemas = api["components"]["schemas"]
    parts = [_schema(name, schemas[name]) for name in sorted(schemas)]
    return f"# Schemas\n\nBodies and answers of the [HTTP interface](http.md).\n\n{''.join(parts)}"


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    lines = [f"### {method} {path}", "", _prose(operation.get("description", "")), ""]
    keys = [scopes for needed in operation.get("security", []) for scopes in needed.values()]
    scopes = [scope for named in keys for scope in named]
    lines += [f"Scope: `{scopes[0]}`." if scopes else "No key is needed.", ""]
    if operation.get("parameters"):
        lines += ["| parameter | in | type | meaning |", "|---|---|---|---|"]
        lines += [_parameter(one) for one in operation["parameters"]]
        lines.append("")
    content = operation.get("requestBody", {}).get("content", {})
    for media, body in content.items():
        kind = _type(body.get("schema", {}))
        lines += [f"Body, `{media}`: {kind}." if kind != "any" else f"Body, `{media}`.", ""]
    lines += ["| answer | | body |", "|---|---|---|"]
    for status, answer in sorted(operation["responses"].items()):
        kinds = [_type(one.get("schema", {})) for one in answer.get("content", {}).values()]
        body = ", ".join(dict.fromkeys(kind for kind in kinds if kind != "any"))
        lines.append(f"| {status} | {_cell(answer.get('description', ''))} | {body} |")
    return "\n".join([*lines, "", ""])


def _parameter(one: Mapping[str, Any]) -> str:
    meaning = one.get("description") or one.get("schema", {}).get("description", "")
    needed = " (needed)" if one.get("required") else ""
    schema = {name: value for name, value in one["schema"].items() if name != "description"}
    return f"| `{one['name']}` | {one['in']}{needed} | {_type(schema)} | {_cell(meaning)} |"


def _schema(name: str, schema: Schema) -> str:
    lines = [f"### {name}", "", _prose(schema.get("description", "")), ""]
    if "enum" in schema:
        lines += [", ".join(f"`{value}`" for value in schema["enum"]), ""]
    if schema.get("properties"):
        lines += ["| field | type | default | meaning |", "|---|---|---|---|"]
        required = schema.get("required", ())
        for field, value in schema["properties"].items():
            default = "needed" if field in required else _default(value)
            meaning = _cell(value.get("description", ""))
            lines.append(f"| `{field}` | {_type(value)} | {default} | {meaning} |")
        lines.append("")
    return "\n".join([*lines, ""])


def _default(schema: Schema) -> str:
    if "default" not in schema or schema["default"] is None:
        return ""
    return f"`{_cell(json.dumps(schema['default'], ensure_ascii=False))}`"


def _type(schema: Schema) -> str:
    """A type in a few words, with links to other schemas; null is left out, as it says nothing."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}]({SCHEMAS_PAGE}#{name.lower()})"
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            kinds = [_type(one) for one in schema[several] if one.get("type") != "null"]
            return " or ".join(dict.fromkeys(kinds))
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}{_bounds(schema, 'Items')}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"object of {_type(schema['additionalProperties'])}"
    return f"{kind}{_bounds(schema, 'Length')}{_range(schema)}"


def _bounds(schema: Schema, what: str) -> str:
    least, most = schema.get(f"min{what}"), schema.get(f"max{what}")
    unit = "" if what == "Items" else " characters"
    parts = [f"at least {least}"] if least else []
    parts += [f"at most {most}"] if most is not None else []
    return f" ({', '.join(parts)}{unit})" if parts else ""


def _range(schema: Schema) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    parts = [f"{sign} {schema[name]:g}" for name, sign in signs.items() if name in schema]
    return f", {', '.join(parts)}" if parts else ""


def _prose(text: str) -> str:
    """Text of a docstring as Markdown."""
    return text.replace("``", "`").strip()


def _cell(text: str) -> str:
    """Text in a cell of a table."""
    return " ".join(_prose(text).split()).replace("|", "\\|")


def write_http_reference(folder: Path) -> Iterator[Path]:
    """Write the pages into a folder; yields their paths."""
    api = description()
    for name, text in (("http.md", http_page(api)), (SCHEMAS_PAGE, schemas_page(api))):
        path = folder / name
        path.write_text(text, encoding="utf-8")
        yield path
