"""How work is done in a cluster, and what is written in the environment before it is joined."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from jeep_core.executors.ray.beside import NOWHERE, Where

LOCAL = "local"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True)
class ClusterTerms:
    """``address``: ``local`` or host:port.  The other fields are of each actor.

    ``cpus``, ``gpus``: what Ray sets aside for it; ``threads`` of its matrix products;
    ``memory_bytes`` it may have in all, None: no limit.  ``folder``: where a cluster on this
    machine keeps its files.  ``given``: Ray's own variables of the caller's environment, such as
    the token of its cluster.  ``where`` the caller computes: actors there make way for others.
    """

    address: str
    actors: int
    cpus: float
    gpus: float
    threads: int
    memory_bytes: int | None
    folder: str
    given: Mapping[str, str]
    where: Where = NOWHERE


def set_environment(terms: ClusterTerms) -> None:
    """Write what Ray reads before it is imported."""
    os.environ.update(terms.given)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # a head that is away for longer ends this process, and the caller decides
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "15")
    # whoever reaches its ports without the token is refused
    os.environ["RAY_AUTH_MODE"] = "token"
    if terms.address == LOCAL or terms.address.rpartition(":")[0] in LOOPBACK:
        # else Ray replaces loopback by the machine's address in the network, and a node listens on
        # every interface
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if terms.address == LOCAL:
        # two clusters may run on this machine, one for each lane of a worker
        os.environ.setdefault("AUTOSCALER_METRIC_PORT", "0")
        # of this cluster alone, and in no file
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def variables_of_ray() -> dict[str, str]:
    """Ray's own variables in the environment of this process, as it is now."""
    return {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
