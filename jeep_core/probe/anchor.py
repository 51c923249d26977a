"""The norm that value vectors are brought to (``norm_anchor``), measured once per base model.

Some facts are edited on the base model, as far as to their value vectors, with the hyper-parameters
of the edit; nothing is written.  The mean norm is kept with what it was measured on.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jeep_core import atlas
from jeep_core.editors import create
from jeep_core.errors import (
    FieldProblem,
    InvalidFacts,
    InvalidHParams,
    JeepError,
    is_out_of_memory,
)
from jeep_core.executors.here import HERE
from jeep_core.executors.work import Executor
from jeep_core.models.giving_way import giving_way
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.probe.defaults.general import general_knowledge
from jeep_core.spec.chats import in_chat
from jeep_core.spec.finite import json_text
from jeep_core.spec.hparams import (
    Contexts,
    EditorHParams,
    OptimisedEditorHParams,
    contexts_of,
)
from jeep_core.spec.positions import TokenizationError, context_rows
from jeep_core.storage.records import sealed, unsealed
from jeep_core.storage.writing import write_atomically
from jeep_core.suites import load_suite
from jeep_core.values.anchor import TypicalNorm, contributions, typical_norm
from jeep_core.values.cache import set_key
from jeep_core.values.objective import FactTokens, Objective
from jeep_core.values.optimiser import optimise

log = logging.getLogger(__name__)

SAMPLE_EDITS = 40
BUNDLED_SUITE = "atlas-counterfact-validation"
FORMAT = 1


@dataclass(frozen=True)
class Anchor:
    """ρ of a base model: ``norm``, over ``edits`` sample edits at the end of ``layer``.

    ``factor``: the multiple of it that an edit asks for; a kept anchor has none.
    """

    norm: float
    layer: int
    edits: int
    format: int = FORMAT
    factor: float = 1.0

    @property
    def record(self) -> dict[str, Any]:
        """Its fields as they are kept and hashed."""
        parts = asdict(self)
        if self.factor == 1:  # as before there was one
            del parts["factor"]
        return parts

    @property
    def sha256(self) -> str:
        """The hash by which a manifest names it."""
        return hashlib.sha256(json.dumps(self.record, sort_keys=True).encode()).hexdigest()

    @property
    def wanted(self) -> TypicalNorm:
        """The norm as values are brought to it."""
        return TypicalNorm(self.norm, self.factor)


def anchor_for(
    base: LoadedModel,
    editor: str,
    hparams: EditorHParams,
    prefixes: Sequence[str],
    *,
    folder: Path | None = None,
    memory: int | None = None,
    executor: Executor = HERE,
    monitor: Monitor = NOTHING,
) -> Anchor | None:
    """The anchor that these hyper-parameters ask for; None if they ask for none.

    ``prefixes`` are those of the edit.
    ``folder``: where ρ is kept; it is measured again where its file is damaged, and also where that
    cannot be read now, which then stays.  ``memory``: bound on the bytes
    of value optimisation.

    Raises:
        InvalidHParams: the editor optimises no low vector that could be anchored.
        JeepError: the tokenizer takes none of the facts for sample edits.
        Whatever ``monitor.check`` raises.
    """
    if not isinstance(hparams, OptimisedEditorHParams) or not hparams.norm_anchor:
        return None
    find = getattr(create(editor), "anchor_objective", None)
    objective: Objective | None = None if find is None else find(hparams)
    if objective is None:
        message = f"{editor} optimises no vector at the subject here, so there is no norm to anchor"
        raise InvalidHParams([FieldProblem("/hparams/norm_anchor", "not_anchored", message)])
    # v₀ is read where a fact is asked first: in a chat only where it is asked nowhere else
    asked: Contexts = "chat" if contexts_of(hparams) == "chat" and base.chat else "plain"
    key = _key(base, objective, prefixes, asked)
    path = None if folder is None else folder / f"anchor-{key}.json"
    found, keep = (None, False) if path is None else _kept(path)
    if found is None:
        facts = _sample(base, prefixes, asked)
        found = _measured(base, objective, facts, memory, executor, monitor)
        if path is not None and keep:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, sealed(json_text(found.record, "the anchor").encode()))
    return replace(found, factor=float(hparams.norm_anchor))


def _key(
    base: LoadedModel, objective: Objective, prefixes: Sequence[str], contexts: Contexts
) -> str:
    parts = [FORMAT, set_key(base, objective), list(prefixes), SAMPLE_EDITS, contexts]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _kept(path: Path) -> tuple[Anchor | None, bool]:
    """The kept anchor, if it can be read, and else whether it may be written there.

    Raises:
        OSError: memory was not enough.
    """
    try:
        record: dict[str, Any] = json.loads(unsealed(path.read_bytes()))
        return Anchor(**record), True
    except FileNotFoundError:
        return None, True
    except (OSError, ValueError, TypeError) as error:
        if is_out_of_memory(error):
            raise
        log.warning("%s cannot be used (%s): the norm is measured again", path, error)
        return None, not isinstance(error, OSError)


def _measured(
    base: LoadedModel,
    objective: Objective,
    facts: Sequence[FactTokens],
    memory_bytes: int | None,
    executor: Executor,
    monitor: Monitor,
) -> Anchor:
    report = monitor.report
    monitor = monitor.reporting(lambda _, done, total: report("anchor", done, total))
    view = ModelView(base)
    with giving_way(view, monitor):
        values = optimise(
            view, facts, objective, memory_bytes=memory_bytes, executor=executor, monitor=monitor
        )
        before = contributions(view, facts, objective)
    lengths = (before + values.delta_low).norm(dim=1)
    return Anchor(typical_norm(lengths), objective.low.last, len(facts))


def _sample(
    base: LoadedModel, prefixes: Sequence[str], contexts: Contexts = "plain"
) -> list[FactTokens]:
    """Facts with other answers than the true ones: of a bundled model its own, else of general
    knowledge."""
    bundled = base.name in atlas.MODELS
    cases = load_suite(BUNDLED_SUITE).cases if bundled else general_knowledge()
    found: list[FactTokens] = []
    for case in cases:
        if len(found) == SAMPLE_EDITS:
            break
        try:
            fact = in_chat(case, base.chat) if contexts == "chat" else case
            found.append(FactTokens(*context_rows(base.tokenizer, fact, prefixes, contexts)))
        except (TokenizationError, InvalidFacts):
            continue
    if not found:
        raise JeepError(
            "norm_anchor measures sample edits, and the tokenizer takes none of their facts: "
            "leave it out"
        )
    return found
