"""Files that networks are trained on; they must share no subject with a suite.

Nothing here needs torch, so that a request can be answered by a process without it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from jeep_core import atlas
from jeep_core.errors import FieldProblem, InvalidFields, JeepError
from jeep_core.spec.facts import Fact
from jeep_core.suites import Case, Style, Suite, load_suite

SHOWN = 3
POINTER = "/data"


def load_training_suite(path: Path, model: str) -> Suite:
    """The cases of a suite's file, of any format, to train a network of ``model`` on.

    A case is trained on if it has a paraphrase and a question that keeps its answer; the report
    counts the others as ``left_out`` for ``nothing_to_train_on``, beside the records that are
    dropped.

    Raises:
        InvalidFields: no such file, no suite, no case with both, or subjects that a bundled
            suite edits (for bundled models).
    """
    if not path.is_file():
        raise _problem("no_data", f"{path.name} cannot be read: there is no such file")
    try:
        suite = load_suite(path, style=Style.ACCURACY)
    except (JeepError, LookupError, TypeError, ValueError) as error:
        raise _problem("bad_data", f"{path.name} cannot be trained on: {error}") from None
    bare = sum(not _complete(case) for case in suite.cases)
    if bare == len(suite.cases):
        message = (
            f"{path.name} cannot be trained on: no record has both a rephrased prompt and a "
            "question about something else with its answer"
        )
        raise _problem("bad_data", message)
    suite.report.left_out["nothing_to_train_on"] += bare
    suite.report.left_out = +suite.report.left_out
    if model in atlas.MODELS:
        check_disjoint(suite.cases, bundled_subjects())
    return suite


def _complete(case: Case) -> bool:
    """Whether a case has an equivalent prompt and an unrelated one."""
    return bool(case.paraphrase_prompts and (case.neighborhood_prompts or case.unrelated))


def check_disjoint(cases: Sequence[Fact], suites: Iterable[tuple[str, Iterable[str]]]) -> None:
    """Refuse cases about the subjects of a suite; ``suites``: names with subjects.

    Raises:
        InvalidFields: a case is about one of these subjects.
    """
    trained = {case.subject.casefold() for case in cases}
    for name, subjects in suites:
        both = sorted({subject for subject in subjects if subject.casefold() in trained})
        if both:
            shown = ", ".join(map(repr, both[:SHOWN])) + (", …" if len(both) > SHOWN else "")
            message = (
                f"the suite {name!r} edits {len(both)} of the subjects ({shown}): what is "
                "measured there would have been trained on"
            )
            raise _problem("overlaps_suite", message)


def bundled_subjects() -> list[tuple[str, list[str]]]:
    """The bundled suites' names and the subjects that they edit."""
    found = []
    for name, path in atlas.SUITES.items():
        records = json.loads(path.read_text(encoding="utf-8"))
        subjects = [record.get("requested_rewrite", record)["subject"] for record in records]
        found.append((name, subjects))
    return found


def data_hash(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _problem(code: str, message: str) -> InvalidFields:
    return InvalidFields([FieldProblem(POINTER, code, message)])
