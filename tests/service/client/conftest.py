"""The fixtures of a running api."""

from support.service.api_fixtures import (  # noqa: F401
    client,
    http,
    model,
    settings,
    store,
    url,
    valkey,
    worker,
)
