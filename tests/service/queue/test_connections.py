"""Connections to the queue's server."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import pytest

from service.queue.connection import connect, connect_async


@pytest.mark.parametrize("made", [connect, connect_async])
def test_through_tls_the_server_s_certificate_and_name_are_verified(
    made: Callable[[str], Any],
) -> None:
    pool = made("rediss://queue.example:6380?ssl_ca_certs=/etc/jeep/ca.pem").connection_pool
    connection = pool.make_connection()
    context = getattr(connection, "ssl_context", connection)
    assert (context.cert_reqs, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.ca_certs == "/etc/jeep/ca.pem"
