"""Addresses of other servers: what is allowed, and that a name cannot lead elsewhere."""

from __future__ import annotations

import pytest

from service.ops.addresses import AddressRefused, Allowed, Place, canonical

LOOPBACK = "127.0.0.0/8, ::1"


def named(*addresses: str) -> Allowed:
    """Networks of this machine, where every host has these addresses."""
    return Allowed(LOOPBACK, resolve=lambda host, port: addresses)


@pytest.mark.parametrize(
    ("address", "url", "host"),
    [
        ("http://127.0.0.1:8001", "http://127.0.0.1:8001", "127.0.0.1:8001"),
        ("http://127.9.9.9", "http://127.9.9.9:80", "127.9.9.9"),
        ("https://[::1]:8001/a/", "https://[::1]:8001/a", "[::1]:8001"),
    ],
)
def test_a_place_is_named_by_its_checked_address(address: str, url: str, host: str) -> None:
    assert Allowed(LOOPBACK).place(address) == Place(url, host)


def test_a_query_stays_after_every_path() -> None:
    place = Allowed(LOOPBACK).place("http://127.0.0.1:8001/v1/?api-version=1")
    assert place.at("/models") == "http://127.0.0.1:8001/v1/models?api-version=1"
    assert Allowed(LOOPBACK).place("http://127.0.0.1/v1").at("/x") == "http://127.0.0.1:80/v1/x"


@pytest.mark.parametrize(
    ("address", "same"),
    [
        ("HTTPS://Judge.Example:443/v1//", "https://judge.example/v1"),
        ("http://judge.example:80", "http://judge.example"),
        ("http://judge.example:443/v1", "http://judge.example:443/v1"),
        ("http://[::A]:8001/V1/?q=A", "http://[::a]:8001/V1?q=A"),
        ("http://me@judge.example/", "http://me@judge.example/"),
        ("http://judge.example:port", "http://judge.example:port"),
        ("http://[", "http://["),
    ],
)
def test_two_spellings_of_an_address_are_the_same(address: str, same: str) -> None:
    assert canonical(address) == same
    assert canonical(same) == same


def test_a_name_keeps_its_host_and_its_certificate() -> None:
    place = named("127.0.0.1").place("https://vllm.example:8443/x")
    assert place == Place("https://127.0.0.1:8443/x", "vllm.example:8443")
    assert place.name == "vllm.example"


@pytest.mark.parametrize(
    "addresses", [["10.0.0.1"], ["127.0.0.1", "10.0.0.1"], ["::ffff:10.0.0.1"], ["fe80::1"], []]
)
def test_every_address_of_a_name_must_be_allowed(addresses: list[str]) -> None:
    with pytest.raises(AddressRefused, match="vllm"):
        named(*addresses).place("http://vllm:8001")


def test_a_mapped_address_is_what_it_maps() -> None:
    assert named("::ffff:127.0.0.1").place("http://vllm").url == "http://[::ffff:127.0.0.1]:80"


def test_a_name_that_does_not_resolve_is_refused() -> None:
    def none(host: str, port: int) -> list[str]:
        raise OSError(-2, "Name or service not known")

    with pytest.raises(AddressRefused, match="vllm has no address: Name or service"):
        Allowed(LOOPBACK, resolve=none).place("http://vllm:8001")


@pytest.mark.parametrize(
    "address",
    [
        "ftp://127.0.0.1",
        "127.0.0.1:80",
        "http://a:b@127.0.0.1",
        "http://127.0.0.1:x",
        "http://127.0.0.1:0",
    ],
)
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(AddressRefused):
        Allowed(LOOPBACK).place(address)


def test_other_networks_can_be_allowed() -> None:
    assert Allowed("10.1.0.0/16").place("http://10.1.2.3:80").host == "10.1.2.3:80"
    with pytest.raises(AddressRefused, match=r"10\.2\.0\.1 is not among.*10\.1\.0\.0/16"):
        Allowed("10.1.0.0/16").place("http://10.2.0.1:80")
