"""Addresses of other servers: which ones may be spoken to, and how, so that a name cannot lead
elsewhere.

A host name is resolved once, every address that it has is compared with the networks that are
allowed, and the request goes to one of these very addresses: a name that resolves to something else
a moment later changes nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from jeep_core.errors import Coded

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Sequence[str]]


class AddressRefused(Coded, ValueError):
    """The address is none of those that are allowed, or its host has none."""

    code = "address_refused"


@dataclass(frozen=True)
class Place:
    """A server: ``url`` names it by an address that was checked, ``host`` is what it is called.

    ``host`` has the port where the address had one.  ``query``: what every request has after its
    path, as ``api-version=…`` of Azure.
    """

    url: str
    host: str
    query: str = ""

    def at(self, path: str) -> str:
        """The URL of a path below the address."""
        return f"{self.url}{path}" + (f"?{self.query}" if self.query else "")

    @property
    def name(self) -> str:
        """The name for its certificate, without the port."""
        return urlsplit(f"//{self.host}").hostname or ""


def resolve(host: str, port: int) -> list[str]:
    """All addresses of a host; OSError where it has none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]).partition("%")[0] for one in found))


def canonical(address: str) -> str:
    """An address in the form in which two are the same server and path.

    Letter case of scheme and host, the scheme's own port and slashes at the end of the path do not
    count; all else does.
    """
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return address  # no address, and the same as none but itself
    if "@" in parts.netloc:
        return address
    shown = f"[{host}]" if ":" in host else host
    if port is not None and port != _PORTS.get(parts.scheme):
        shown = f"{shown}:{port}"
    return urlunsplit((parts.scheme, shown, parts.path.rstrip("/"), parts.query, parts.fragment))


class Allowed:
    """The networks of ``JEEP_TARGETS_ALLOW``."""

    def __init__(self, text: str, resolve: Resolve = resolve) -> None:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        self._networks: list[Network] = [ipaddress.ip_network(p, strict=False) for p in parts]
        self._resolve, self._text = resolve, text

    def place(self, address: str) -> Place:
        """The place of an ``http://`` or ``https://`` address.

        Raises:
            AddressRefused: an address of its host is not allowed, or it cannot be resolved.
        """
        try:
            parts = urlsplit(address)
            host, usual = parts.hostname or "", _PORTS[parts.scheme]
            port = usual if parts.port is None else parts.port
        except (KeyError, ValueError) as error:
            raise AddressRefused(f"{address!r} is no address of a server: {error}") from None
        if port == 0:
            raise AddressRefused("no server answers at port 0: name the port that it listens at")
        if "@" in parts.netloc:
            raise AddressRefused("an address has no user and no password: name a secret instead")
        try:
            found = self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise AddressRefused(f"{host} has no address: {reason}") from None
        for one in found:
            self._check(host, one)
        if not found:
            raise AddressRefused(f"{host} has no address")
        shown = f"[{found[0]}]" if ":" in found[0] else found[0]
        url = f"{parts.scheme}://{shown}:{port}{parts.path.rstrip('/')}"
        return Place(url, parts.netloc, parts.query)

    def _check(self, host: str, one: str) -> None:
        address = ipaddress.ip_address(one)
        mapped = getattr(address, "ipv4_mapped", None) or address
        if any(mapped in network for network in self._networks):
            return
        what = one if one == host else f"{host} ({one})"
        raise AddressRefused(
            f"{what} is not among the addresses of JEEP_TARGETS_ALLOW ({self._text}): allow it "
            "there, or choose another server"
        )


_PORTS = {"http": 80, "https": 443}
