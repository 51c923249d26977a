"""The store: a directory that holds versions, head, jobs and what the worker publishes.

It is authoritative; Redis only holds work in progress.  Every file is written under a temporary
name, fsynced and renamed, so a process may be killed at any instant.
"""

from service.contracts.schemas.versions import Head, Move
from service.store.api_keys import without_keys
from service.store.errors import (
    BadName,
    ClaimLost,
    CorruptFile,
    CorruptTensor,
    DiskFull,
    HeadMoved,
    JobExists,
    KeyNameTaken,
    KeyReused,
    MissingTensor,
    NameTaken,
    NotAStore,
    NotFetched,
    StaleFence,
    StoreBusy,
    StoreError,
    StoreFull,
    StoreReplaced,
    UnknownJob,
    UnknownKey,
    UnknownVersion,
    VersionExists,
    WrongFormat,
    WrongModel,
    WrongRelease,
    denial,
    is_denied,
    is_disk_full,
)
from service.store.journal import Claim
from service.store.store import Store
from service.store.tensors import safetensors_header

__all__ = [
    "BadName",
    "Claim",
    "ClaimLost",
    "CorruptFile",
    "CorruptTensor",
    "DiskFull",
    "Head",
    "HeadMoved",
    "JobExists",
    "KeyNameTaken",
    "KeyReused",
    "MissingTensor",
    "Move",
    "NameTaken",
    "NotAStore",
    "NotFetched",
    "StaleFence",
    "Store",
    "StoreBusy",
    "StoreError",
    "StoreFull",
    "StoreReplaced",
    "UnknownJob",
    "UnknownKey",
    "UnknownVersion",
    "VersionExists",
    "WrongFormat",
    "WrongModel",
    "WrongRelease",
    "denial",
    "is_denied",
    "is_disk_full",
    "safetensors_header",
    "without_keys",
]
