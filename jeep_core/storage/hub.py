"""Whether a model hub can be asked at all."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit
from urllib.request import getproxies


def can_be_asked() -> bool:
    """Whether the hub's address has a name that resolves, or a proxy resolves it.

    The hub's client tries a request again for half a minute before it looks into its cache, also
    where there is no network that a second try could find.
    """
    from huggingface_hub import constants  # suites do without the package

    if getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        return False
    return True
