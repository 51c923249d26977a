"""Whether a model hub can be asked at all."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


def can_be_asked() -> bool:
    """Whether the hub's address has a name that resolves, or a proxy resolves it.

    The hub's client tries a request again for half a minute before it looks into its cache, also
    where there is no network that a second try could find.
    """
    from huggingface_hub import constants  # suites do without the package

    address = urlsplit(constants.ENDPOINT)
    host = address.hostname or ""
    # proxies of other schemes, and hosts that go past a proxy (``no_proxy``), resolve nothing here
    if getproxies().keys() & {address.scheme, "all"} and not proxy_bypass(host):
        return True
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):  # the latter: a host that no name can be
        return False
    return True
