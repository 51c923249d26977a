"""The table of error codes and their HTTP status, the same wherever a client meets them.

Exceptions carry their ``code`` (`jeep_core.errors.Coded`).  Routes, answers of the worker, event
streams and jobs take the code from there, and the status from here.
"""

from __future__ import annotations

from collections.abc import Mapping

from service.contracts.kinds import JOBS, JobKind

STATUS: Mapping[str, int] = {
    "bad_request": 400,
    "incomplete_body": 400,
    "malformed_json": 400,
    "invalid_key": 401,
    "no_key": 401,
    "foreign_request": 403,
    "insufficient_scope": 403,
    "undeclared_scope": 403,
    "not_found": 404,
    "unknown_file": 404,
    "unknown_job": 404,
    "unknown_key": 404,
    "unknown_suite": 404,
    "unknown_target": 404,
    "unknown_version": 404,
    "method_not_allowed": 405,
    "export_gone": 409,
    "export_in_use": 409,
    "job_finished": 409,
    "name_taken": 409,
    "no_chat_template": 409,
    "no_hypernetwork": 409,
    "no_lm_eval": 409,
    "no_moments": 409,
    "no_result": 409,
    "not_applied": 409,
    "not_explainable": 409,
    "not_staged": 409,
    "server_taken": 409,
    "stale_fence": 409,
    "version_conflict": 409,
    "head_moved": 412,
    "precondition_failed": 412,
    "version_behind": 412,
    "body_too_large": 413,
    "over_limit": 413,
    "too_many_facts": 413,
    "unsupported_media_type": 415,
    "range_not_satisfiable": 416,
    "address_refused": 422,
    "bad_name": 422,
    "idempotency_key_reused": 422,
    "invalid_facts": 422,
    "invalid_hparams": 422,
    "invalid_request": 422,
    "invalid_suite": 422,
    "invalid_task": 422,
    "messages_refused": 422,
    "no_secret": 422,
    "same_target": 422,
    "empty": 422,
    "too_long": 422,
    "queue_full": 429,
    "too_many_requests": 429,
    "too_many_streams": 429,
    "client_gone": 499,
    "corrupt_file": 500,
    "corrupt_version": 500,
    "failed": 500,
    "internal_error": 500,
    "numerical_error": 500,
    "permission_denied": 500,
    "store_error": 500,
    "answer_broken_off": 503,
    "no_head": 503,
    "no_model": 503,
    "no_queue": 503,
    "no_worker": 503,
    "out_of_memory": 503,
    "request_lost": 503,
    "stopping": 503,
    "store_replaced": 503,
    "temporarily_unavailable": 503,
    "version_not_fetched": 503,
    "worker_timeout": 504,
    "disk_full": 507,
    "store_full": 507,
    **{f"unknown_{kind.value}": 404 for kind in JobKind if kind.spec.path != JOBS},
}
"""499 is seen in logs only: the client has gone.  A kind with a path of its own has its 404."""

PUSHES = frozenset(
    {
        "away",
        "bad_answer",
        "busy",
        "folder_not_found",
        "key_refused",
        "name_in_use",
        "no_router",
        "no_runtime_adapters",
        "no_such_model",
        "not_listed",
        "other_base",
        "rank_too_large",
        "redirected",
        "refused",
        "slow",
        "too_few_models",
        "wrong_answer",
    }
)
"""Codes of the errors that a target shows, beside those of versions, addresses and room."""

JOB_ONLY = frozenset(
    {
        "client_closed",
        "client_error",
        "invalid_argument",
        "nothing_lost",
        "invalid_address",
        "not_ready",
        "unreachable",
        "cannot_start",
        "invalid_settings",
        "unhealthy",
        "job_exists",
        "job_gone",
        "job_timeout",
        "judge_failed",
        "lease_held",
        "not_a_store",
        "store_busy",
        "version_exists",
        "wrong_format",
        "wrong_model",
        "wrong_release",
        "cancelled",
        "claim_lost",
        "guard_failed",
        "missing_program",
        "model_not_fetched",
        "no_ability",
        "no_cases",
        "no_cluster",
        "no_index",
        "no_proposal",
        "push_failed",
        "not_exportable",
        "rank_too_high",
        "suite_changed",
        "too_few_cases",
        "too_many_tries",
        "unknown_format",
        "unknown_kind",
        "unreadable_text",
        "unsupported_model",
        "workers_lost",
        *PUSHES,
    }
)
"""Codes of what only ends a job, a push, a process or a client's call: no request is answered
with them."""

RETRY_AFTER = {503: 2, 507: 60}
"""Seconds after which another try is worth it, where an answer says nothing else.

Retention and the end of other jobs may make room on a full disk; a minute is soon enough.
"""


def status_of(code: str) -> int:
    """The HTTP status of an error code; 500 for one that no request should be answered with."""
    return STATUS.get(code, 500)
