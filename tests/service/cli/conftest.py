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
from support.service.disk import hasty_disk  # noqa: F401
