# Made of service/client/asynchronous by python -m tools.sync_client: change it there.
"""The client for programs without an event loop, made of `service.client.asynchronous`.

What belongs here: nothing that is written by hand but
``service/client/synchronous/aside.py``.
"""

from __future__ import annotations

from service.client.synchronous.edits import EditCalls
from service.client.synchronous.effects import EffectCalls
from service.client.synchronous.evaluations import EvaluationCalls
from service.client.synchronous.exports import ExportCalls
from service.client.synchronous.following import FollowingCalls
from service.client.synchronous.generation import GenerationCalls
from service.client.synchronous.hypernetworks import Hypernetworks
from service.client.synchronous.jobs import JobCalls
from service.client.synchronous.openai import OpenAICalls
from service.client.synchronous.operations import OperationCalls
from service.client.synchronous.probes import ProbeCalls
from service.client.synchronous.targets import TargetCalls
from service.client.synchronous.versions import VersionCalls

__all__ = ["Client"]


class Client(
    EditCalls,
    EffectCalls,
    EvaluationCalls,
    ExportCalls,
    FollowingCalls,
    GenerationCalls,
    Hypernetworks,
    JobCalls,
    OpenAICalls,
    OperationCalls,
    ProbeCalls,
    TargetCalls,
    VersionCalls,
):
    """Talks to one service.  Use it in a ``with`` or ``async with`` block, or call ``close``.

    Args:
        base_url: the service's address.
        timeout: bounds every read, in seconds.  Left out: 60; 150 for calls that a version
            answers and for its export, 300 for those of ``/v1``, as the service asks another
            worker where one is lost.
        api_key: a key as ``jeep keys create`` printed it.
        transport: how httpx reaches the service, for certificates and proxies of one's own.

    Raises:
        InvalidAddress: ``base_url`` is no address.
        InvalidArgument: ``api_key`` cannot be a key.
    """
