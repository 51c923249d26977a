"""Requests and answers of the HTTP api, and what api and worker say to each other."""

from service.schemas.base import Name, Problem, Request
from service.schemas.edits import (
    Answer,
    Duplicate,
    Edit,
    EditPayload,
    EditPlan,
    EditRequest,
    EditResult,
    FactIn,
    FactOutcome,
    FactPlan,
    FactRecord,
    LayerReport,
)
from service.schemas.facts import FactEntry
from service.schemas.generation import (
    CandidateScore,
    GeneratedToken,
    GenerateRequest,
    GenerateResult,
    Generation,
    TokenProbability,
)
from service.schemas.guards import GuardFigures, Guards
from service.schemas.jobs import JobOut
from service.schemas.reverts import Reapplied, RevertPayload, RevertRequest, RevertResult
from service.schemas.versions import (
    ActivateRequest,
    Activation,
    Manifest,
    NameSnapshot,
    RollbackRequest,
    RollbackResult,
    Snapshot,
    SnapshotDiff,
    TensorRef,
)
from service.schemas.worker import WorkerInfo, WorkerReply, WorkerRequest

__all__ = [
    "ActivateRequest",
    "Activation",
    "Answer",
    "CandidateScore",
    "Duplicate",
    "Edit",
    "EditPayload",
    "EditPlan",
    "EditRequest",
    "EditResult",
    "FactEntry",
    "FactIn",
    "FactOutcome",
    "FactPlan",
    "FactRecord",
    "GenerateRequest",
    "GenerateResult",
    "GeneratedToken",
    "Generation",
    "GuardFigures",
    "Guards",
    "JobOut",
    "LayerReport",
    "Manifest",
    "Name",
    "NameSnapshot",
    "Problem",
    "Reapplied",
    "Request",
    "RevertPayload",
    "RevertRequest",
    "RevertResult",
    "RollbackRequest",
    "RollbackResult",
    "Snapshot",
    "SnapshotDiff",
    "TensorRef",
    "TokenProbability",
    "WorkerInfo",
    "WorkerReply",
    "WorkerRequest",
]
