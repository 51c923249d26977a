"""The client for programs with an event loop, and the source of the other one.

What belongs here: a module for each group of calls, a class in each, all of which `AsyncClient`
joins.  ``python -m tools.sync_client`` writes `service.client.synchronous` from these modules: the
same text without ``async`` and ``await``.  Only ``aside.py``, what a loop and a thread do
differently, is written for each of the two.
"""

from __future__ import annotations

from service.client.asynchronous.edits import EditCalls
from service.client.asynchronous.effects import EffectCalls
from service.client.asynchronous.evaluations import EvaluationCalls
from service.client.asynchronous.exports import ExportCalls
from service.client.asynchronous.following import FollowingCalls
from service.client.asynchronous.generation import GenerationCalls
from service.client.asynchronous.hypernetworks import Hypernetworks
from service.client.asynchronous.jobs import JobCalls
from service.client.asynchronous.openai import OpenAICalls
from service.client.asynchronous.operations import OperationCalls
from service.client.asynchronous.probes import ProbeCalls
from service.client.asynchronous.targets import TargetCalls
from service.client.asynchronous.versions import VersionCalls

__all__ = ["AsyncClient"]


class AsyncClient(
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
