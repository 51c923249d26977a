# Made of service/client/asynchronous by python -m tools.sync_client: change it there.
"""Calls for suites and evaluations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from service.client.files import StrPath
from service.client.requests import FILE, given, segment
from service.client.synchronous.aside import aside
from service.client.synchronous.transport import Transport
from service.contracts.schemas import JobOut
from service.contracts.schemas.evaluation import (
    Evaluation,
    EvaluationComparison,
    HarnessInfo,
    SuiteInfo,
    SuiteList,
)
from service.contracts.schemas.jobs import EvaluationSummary

UPLOAD_CHUNK = 1 << 20
UPLOAD_TIMEOUT_S = 600.0


class EvaluationCalls(Transport):
    """``/suites`` and ``/evaluations``."""

    def suites(self) -> list[SuiteInfo]:
        """All suites, the bundled ones first."""
        return (self._model(SuiteList, "GET", "/suites")).data

    def suite(self, name: str) -> SuiteInfo:
        """One suite by its name."""
        return self._model(SuiteInfo, "GET", f"/suites/{segment(name)}")

    def lm_eval(self) -> HarnessInfo:
        """The tasks of lm-eval, as ``evaluate("lm-eval:NAME")`` takes them, and its version."""
        return (self._model(SuiteList, "GET", "/suites")).lm_eval

    def add_suite(
        self,
        name: str,
        path: StrPath,
        format: str | None = None,
        drop_bad: bool = False,
        style: str | None = None,
    ) -> SuiteInfo:
        """Upload a suite's file under a name; ``style``: ``contrast``, ``accuracy`` or ``auto``.

        Raises:
            ApiError: with the lines of the errors; then nothing is stored.
        """
        asked = {"name": name, "format": format, "drop_bad": drop_bad or None, "style": style}
        with Path(path).open("rb") as file:
            return self._model(
                SuiteInfo,
                "POST",
                "/suites",
                params=given(asked),
                content=_chunks(file),
                headers={"Content-Type": FILE},
                timeout=UPLOAD_TIMEOUT_S,
            )

    def evaluate(
        self,
        suite: str,
        versions: str | Sequence[str] | None = None,
        *,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> JobOut:
        """Measure versions, or try an editor: options as in ``POST /evaluations``.

        Safe to repeat, as ``edit``.
        """
        labels = [versions] if isinstance(versions, str) else versions and list(versions)
        body = {"suite": suite, **given({"versions": labels, **options})}
        return self._queued("/evaluations", body, idempotency_key)

    def evaluations(self) -> Iterator[EvaluationSummary]:
        """Evaluations, newest first, without their results."""
        return self._pages(EvaluationSummary, "/evaluations")

    def evaluation(self, evaluation_id: str) -> Evaluation:
        """The status of an evaluation and, once there is one, its result."""
        return self._model(Evaluation, "GET", f"/evaluations/{segment(evaluation_id)}")

    def evaluation_cases(self, evaluation_id: str, path: StrPath, target: str | None = None) -> int:
        """Write the case records (JSON lines) to ``path``; return its size in bytes.

        The file appears under its name only when it is complete.
        """
        url = f"/evaluations/{segment(evaluation_id)}/cases"
        return self._download(url, Path(path), given({"target": target}))

    def compare(self, evaluation_id: str, a: str, b: str) -> EvaluationComparison:
        """Target ``b`` against ``a``, case by case."""
        url = f"/evaluations/{segment(evaluation_id)}/compare"
        return self._model(EvaluationComparison, "GET", url, params={"a": a, "b": b})


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    """The bytes of a file, a part at a time."""
    while chunk := aside(file.read, UPLOAD_CHUNK):
        yield chunk
