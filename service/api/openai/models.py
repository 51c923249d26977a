"""``/v1/models``: every name of a version is a model, and which version a name means."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated

from fastapi import APIRouter
from fastapi import Path as InPath

from service.api.http.access import needs
from service.api.openai.responses import errors
from service.api.state import State
from service.contracts.schemas import Manifest
from service.contracts.schemas.access import Scope
from service.contracts.schemas.openai import Model, ModelList
from service.store import Store, UnknownVersion
from service.store.versions import BASE

router = APIRouter(tags=["openai"])

Id = Annotated[str, InPath(description="`head`, `base`, a version id or a snapshot name.")]


@router.get("/models", responses=errors(503))
@needs(Scope.GENERATE)
def list_models(state: State) -> ModelList:
    """All models: head, base, snapshot names, then version ids, the newest first."""
    store = state.store
    versions = {version.id: version for version in store.versions.sorted_out()[0]}
    named = {"head": store.head.read().version, "base": BASE, **store.names.all()}
    found, root = {**named, **{id: id for id in versions}}, _root(store)
    data = [_model(name, versions[id], root) for name, id in found.items() if id in versions]
    return ModelList(data=data)


@router.get("/models/{model:path}", responses=errors(503))
@needs(Scope.GENERATE)
def retrieve_model(model: Id, state: State) -> Model:
    """One model."""
    store = state.store
    return _model(model, store.versions.read(version_of(store, model)), _root(store))


def version_of(store: Store, model: str) -> str:
    """The id of the version that a model's name means.

    The served model's own name is head, and that name with ``@v7`` is version 7.

    Raises:
        UnknownVersion: there is no such model.
    """
    try:
        return store.names.resolve(model)
    except UnknownVersion:
        info = store.base.info()
        own = (info.model, PurePath(info.model).name) if info else ()
        if model in own:
            return store.names.resolve("head")
        name, _, ref = model.rpartition("@")
        if name and name in own:
            return store.names.resolve(ref)
        raise


def _root(store: Store) -> str | None:
    info = store.base.info()
    return PurePath(info.model).name if info else None


def _model(name: str, version: Manifest, root: str | None) -> Model:
    created = int(version.created_at.timestamp())
    return Model(id=name, created=created, root=root, version=version.id)
