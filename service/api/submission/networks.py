"""Trained networks: whether an edit has the one that its editor needs."""

from __future__ import annotations

import json
from typing import Any

from jeep_core import atlas
from jeep_core.editors import record_of
from jeep_core.editors.networks.hparams import HypernetworkHParams
from jeep_core.editors.networks.records import NetworkRecord, missing_network
from jeep_core.errors import FieldProblem, JeepError
from service.api.http.problems import ApiProblem, from_fields
from service.api.submission.validation import CheckedHParams
from service.contracts.schemas import AUTO, WorkerInfo
from service.store import CorruptFile
from service.store.base.files import BaseFiles
from service.store.base.networks import networks_of


def readable_networks(base: BaseFiles, info: WorkerInfo) -> list[NetworkRecord]:
    """The networks of the served model, in the order in which they are looked at.

    Raises:
        CorruptFile: a record cannot be read.
    """
    try:
        return list(networks_of(base, info.model, info.model_hash))
    except JeepError as error:
        raise CorruptFile(str(error)) from None


def check_network(base: BaseFiles, info: WorkerInfo, editor: str, hparams: CheckedHParams) -> None:
    """Refuse an edit whose editor needs a network that has not been trained.

    Raises:
        ApiProblem: 409 that says how to make one.
        CorruptFile: the record of a network cannot be read.
    """
    if record_of(editor).network is None or hparams == AUTO:
        return  # with "auto" the layers, and so the network, are not known before the job runs
    assert isinstance(hparams, HypernetworkHParams)
    records = readable_networks(base, info)
    if any(record.editor == editor and record.fits(hparams) for record in records):
        return
    problem = missing_network(info.model, editor, hparams, records)
    body: dict[str, Any] = {
        "editor": editor,
        "hparams": hparams.model_dump(mode="json", exclude={"step_scale", "contexts"}),
    }
    if info.model not in atlas.MODELS:
        body["data"] = "CASES.json"
    detail = f"{problem.message}, or with POST /hypernetworks {json.dumps(body)}"
    errors = from_fields([FieldProblem(problem.pointer, problem.code, detail)])
    raise ApiProblem(problem.code, detail, errors)
