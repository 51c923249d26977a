"""Plans: what a dry run of an edit answers."""

from __future__ import annotations

from jeep_core.editors import hparams_class
from jeep_core.moments.source import may_need_moments
from jeep_core.probe.defaults.from_record import Chosen, from_record
from jeep_core.probe.defaults.kept import kept
from jeep_core.probe.defaults.rule import RULE, suffices
from jeep_core.spec.chats import as_asked_in_chat
from jeep_core.spec.exact import asks_for
from jeep_core.spec.hparams import EditorHParams
from jeep_core.text.chat import has_template
from jeep_core.text.joining import join_of
from service.api.model import PublishedModel
from service.api.submission.validation import ValidEdit, contexts_for
from service.contracts.schemas import AUTO, EditPlan, FactPlan
from service.store.base.files import BaseFiles


def plan_of(edit: ValidEdit, model: PublishedModel, base: BaseFiles) -> EditPlan:
    """Return the plan for a dry run: tokens, optimised positions, repeated facts, what is chosen.

    Raises:
        JeepError: the kept probe cannot be read.
        InvalidHParams: changes to hyper-parameters do not go with the kept probe.
    """
    facts = []
    contexts = contexts_for(edit.editor, edit.hparams, edit.changes, model)
    for index, fact, row in zip(edit.indices, edit.facts, edit.rows, strict=True):
        tokens = [model.tokenizer.id_to_token(i) or "" for i in row.ids]
        chat = None if fact.chat is None else as_asked_in_chat(fact, model.chat)
        asked = chat if chat is not None and contexts == "chat" else fact
        facts.append(
            FactPlan(
                index=index,
                subject=fact.subject,
                prompt=fact.prompt,
                target_new=fact.target_new,
                text=asked.answered,
                join=join_of(asked.text, asked.target_new, asked.join),
                tokens=tokens,
                subject_last=row.subject_last,
                prediction=row.prediction,
                target_tokens=tokens[row.prediction + 1 :],
                chat_text=None if chat is None or contexts == "chat" else chat.answered,
            )
        )
    chosen = _chosen(edit, model, base)
    found = None if chosen is None else chosen.hparams
    # before a probe the layers are not known, but whether the editor takes moments at all
    needed = may_need_moments(hparams_class(edit.editor)) if found is None else found.moment_layers
    return EditPlan(
        editor=edit.editor,
        preset=edit.preset,
        hparams=AUTO if found is None else found.model_dump(mode="json"),
        exact=asks_for(edit.changes if found is None else found),
        source="probe now" if chosen is None else chosen.source,
        rule=RULE if chosen is None else chosen.rule,
        moments=model.info.moments_from if needed else None,
        warnings=[*edit.warnings, *(() if chosen is None else chosen.warnings)],
        facts=facts,
        duplicates=edit.repeated,
    )


def _chosen(edit: ValidEdit, model: PublishedModel, base: BaseFiles) -> Chosen | None:
    """The hyper-parameters that the edit would have; None if the model would be probed first."""
    if isinstance(edit.hparams, EditorHParams):
        return Chosen(edit.hparams, "given" if edit.preset is None else "preset")
    info = model.info
    record = kept(base.probes_folder, info.model_hash)
    if record is None or not suffices(record, info.mlp_size):
        return None
    return from_record(
        record,
        edit.editor,
        info.n_layers,
        info.mlp_size,
        edit.changes,
        "kept probe",
        chat=has_template(model),
    )
