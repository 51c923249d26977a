"""Targets: running servers of other projects that are kept at a version."""

from __future__ import annotations

import posixpath
import socket
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv6Address, ip_address
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from service.contracts.schemas.base import Name, Request
from service.contracts.schemas.exports import GgufKind


class TargetKind(StrEnum):
    """The programs that can be kept at a version."""

    VLLM = "vllm"
    SGLANG = "sglang"
    LLAMA_CPP = "llama.cpp"


Address = Annotated[
    str,
    Field(
        pattern=r"^https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?$",
        max_length=512,
        description="Where the server answers, such as http://127.0.0.1:8001: no user, password, "
        "query or /v1. All addresses of its host must be in JEEP_TARGETS_ALLOW.",
    ),
]
SecretName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="Name of a file in JEEP_TARGETS_SECRETS that holds the server's API key.",
    ),
]
Follow = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z][A-Za-z0-9._-]{0,63}$",
        description="head, base, the name of a version, or its id: the version it is kept at.",
    ),
]
TargetRef = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/@:-]{0,255}$",
        description="What the server calls the base model; default: the only one that it names.",
    ),
]
ArtefactFolder = Annotated[
    str,
    Field(
        pattern=r"^/[^\x00-\x1f]{0,1000}$",
        description="Where the server finds the folder targets/artefacts of this store, if its "
        "file system is another one than the worker's.",
    ),
]


class TargetSettings(Request):
    """The settings of a target, as it is registered."""

    name: Name
    kind: TargetKind
    address: Address
    follow: Follow = "head"
    model: TargetRef | None = None
    alias: Name | None = Field(
        default=None,
        description="vLLM: a name under which the followed version can always be asked for.",
    )
    type: GgufKind | None = Field(
        default=None,
        description="llama.cpp: how matrices are stored, as in an export of the format gguf.",
    )
    secret: SecretName | None = None
    folder: ArtefactFolder | None = None
    tolerance: Annotated[float, Field(gt=0, le=10, strict=True)] = Field(
        default=0.25,
        description="How far (nats) the server's log-probability of an answer's first token may "
        "lie from this service's own.",
    )

    @property
    def server(self) -> tuple[str, int | None, str]:
        """Host, port and path of the server, equal for different spellings of one address."""
        parts = urlsplit(self.address)
        host = _same_host((parts.hostname or "").rstrip("."))
        port = {"http": 80, "https": 443}[parts.scheme] if parts.port is None else parts.port
        return host, port, posixpath.normpath(parts.path or "/").strip("/")


def _same_host(host: str) -> str:
    """One spelling of all of a numeric address, and one name of this machine."""
    try:
        # what the C library takes for an address: parts left out, one number, other bases
        found = ip_address(socket.inet_ntoa(socket.inet_aton(host)))
    except OSError:
        try:
            found = ip_address(host)
        except ValueError:
            return host
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    found = mapped or found
    return "localhost" if found in (ip_address("127.0.0.1"), ip_address("::1")) else str(found)


_FIELDS_OF = {
    "model": ((TargetKind.VLLM, TargetKind.SGLANG), "only a server with a base model has its name"),
    "alias": ((TargetKind.VLLM,), "only vllm has names for adapters"),
    "type": ((TargetKind.LLAMA_CPP,), "only llama.cpp reads GGUF files"),
}
"""Settings that not every kind knows: the kinds that do, and why the others do not."""


class NewTarget(TargetSettings):
    """Body of ``POST /targets``."""

    @field_validator("address")
    @classmethod
    def _of_the_server_itself(cls, address: str) -> str:
        if address.rstrip("/").endswith("/v1"):
            raise ValueError("leave /v1 out: the address is that of the server, not of a route")
        return address

    @field_validator(*_FIELDS_OF)
    @classmethod
    def _known_to_the_kind(cls, value: str | None, info: ValidationInfo) -> str | None:
        # ``kind`` stands before these fields: it is missing here where it is wrong itself
        kind = info.data.get("kind")
        kinds, why = _FIELDS_OF[str(info.field_name)]
        if value is not None and kind is not None and kind not in kinds:
            raise ValueError(f"{why}, not {kind.value}: leave it out")
        return value


class ChangeTarget(Request):
    """Body of ``PATCH /targets/{id}``."""

    follow: Follow


class TargetRecord(TargetSettings):
    """A target as it is stored.  ``removed``: it was removed, the worker is to clear it up.

    ``followed_since``: when it was told what to follow.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    created_at: datetime
    followed_since: datetime
    removed: bool = False


class TargetError(BaseModel):
    """Why the last try failed, since when tries fail, how often, and when the next one is due."""

    code: str
    message: str
    since: datetime
    tries: int
    next_at: datetime


class Proof(BaseModel):
    """The comparison after a push: ``questions`` were asked, of which ``telling`` ones are answered
    otherwise by the version that was there before.

    ``farthest``: the largest difference (nats) between the server's log-probability of an answer's
    first token and this service's own.
    """

    questions: int
    telling: int
    farthest: float


class Held(BaseModel):
    """Something that a server may have loaded: its name there, the version, and the artefact."""

    name: str
    version: str
    artefact: str
    unwanted_since: datetime | None = None


class TargetState(BaseModel):
    """The worker's knowledge of a target.

    ``version`` is the one that the server was last seen to answer with, ``model`` the name to ask
    it by; ``moved_at`` when what it follows moved there.  ``pushed_at``: when that push ended;
    ``seconds``: how long it took, from its first step to the end of the comparison.
    ``looked_at``: when the last try ended, good or bad, or a recent one: a look that finds
    everything as it was is not written down every time.  ``lost_at``: when the server was seen
    without it, after a restart of its own.  ``held`` names what must stay on disk;
    ``held_unknown``: a record of it was damaged, and the server has not been seen since.
    """

    version: str | None = None
    model: str | None = None
    moved_at: datetime | None = None
    pushed_at: datetime | None = None
    seconds: float | None = None
    proof: Proof | None = None
    looked_at: datetime | None = None
    lost_at: datetime | None = None
    error: TargetError | None = None
    held: list[Held] = Field(default_factory=list)
    held_unknown: bool = False


class Lag(BaseModel):
    """How far a target is behind: moves that it has not followed, seconds since the first."""

    versions: int
    seconds: float


class PushTarget(BaseModel):
    """``GET /targets/{id}``.

    ``status``: ``new``, nothing was tried yet; ``synced``; ``behind``, a push is due or on its way;
    ``failed``, the last try failed: ``error`` says why.  ``wanted`` is what ``follow`` means now,
    null if it means nothing; ``version`` what the server answers with, ``model`` the name to ask
    it by.
    """

    id: str
    name: str
    kind: TargetKind
    address: str
    follow: str
    alias: str | None
    type: str | None
    secret: str | None = Field(description="The name of the secret, never what it holds.")
    folder: str | None
    tolerance: float
    created_at: datetime
    status: Literal["new", "synced", "behind", "failed"]
    wanted: str | None
    version: str | None
    model: str | None
    lag: Lag
    pushed_at: datetime | None
    seconds: float | None
    looked_at: datetime | None
    proof: Proof | None
    error: TargetError | None


class TargetList(BaseModel):
    """All targets, oldest first."""

    data: list[PushTarget]
