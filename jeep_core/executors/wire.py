"""Messages between this process and its workers as bytes.

Whoever can write what is read here runs code with the reader's rights.  So bytes are read from two
kinds of senders only: a process that this one has started (or that has started it), through a pipe
that no other process has, and actors of a Ray cluster, which is one such boundary as a whole
(docs/security.md).  Nothing that comes over HTTP, from the queue or from the store is read so.
"""

from __future__ import annotations

import pickle
from typing import Any


def pack(message: Any) -> bytes:
    """A message of plain data, tensors, and exceptions of this library."""
    return pickle.dumps(message)


def unpack(data: bytes) -> Any:
    """The message that `pack` was given, from a process that is trusted."""
    return pickle.loads(data)
