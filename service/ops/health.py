"""``python -m service.ops.health api|worker``: the health checks of the containers.

The exit code is 0 while that part works, else 1 with a line that gives the reason.
"""

from __future__ import annotations

import socket
import sys
import urllib.request
from collections.abc import Sequence

from jeep_core.errors import Coded
from service.queue import Keys, Members, QueueFailure, WorkerBeat, connect, is_worker_alive
from service.settings import Settings, SettingsError, load_settings
from service.store import Store, StoreError
from service.store.fetched.cache import followed_id

PATIENCE_S = 3.0


class Unhealthy(Coded, Exception):
    """A part does not work; the message gives the reason."""

    code = "unhealthy"


def check_api(settings: Settings) -> None:
    """Check that the api on this host answers ``/livez``; raises OSError or :class:`Unhealthy`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{settings.port}/livez"
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        if answer.status != 200:
            raise Unhealthy(f"{url} answers {answer.status}")


def check_worker(settings: Settings) -> None:
    """Check that the store's worker has sent the queue a recent heartbeat.

    With ``JEEP_ROLE=follower`` that is a follower on this host.

    Raises QueueFailure, StoreError or :class:`Unhealthy`.
    """
    if settings.redis_url is None:
        raise Unhealthy("JEEP_REDIS_URL is not set")
    client = connect(settings.redis_url, retries=0)
    try:
        if settings.role == "follower":
            check_follower(Members(client, Keys(_followed(settings))).followers())
        elif not is_worker_alive(client, Keys(Store.open(settings.store).id)):
            raise Unhealthy("no worker has been heard of for some seconds")
    finally:
        client.close()


def _followed(settings: Settings) -> str:
    """The id of the store that a follower follows."""
    if settings.store_url is not None:
        return followed_id(settings.store)
    return Store.open(settings.store, following=True).id


def check_follower(followers: Sequence[WorkerBeat]) -> None:
    """Check that one of the followers is on this host, and that its decoding goes on.

    Raises :class:`Unhealthy`.
    """
    here = [one for one in followers if one.host == socket.gethostname()]
    if not here:
        raise Unhealthy("no follower on this host has been heard of for some seconds")
    if all(one.state == "stuck" for one in here):
        raise Unhealthy("what the follower decodes goes no further")


CHECKS = {"api": check_api, "worker": check_worker}


def main(arguments: list[str]) -> int:
    """Check one part."""
    if len(arguments) != 1 or arguments[0] not in CHECKS:
        print("usage: python -m service.ops.health api|worker", file=sys.stderr)
        return 2
    try:
        CHECKS[arguments[0]](load_settings())
    except (Unhealthy, SettingsError, StoreError, QueueFailure, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
