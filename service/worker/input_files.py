"""The files that settings name, checked before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path

from jeep_core.errors import InvalidHParams, UnreadableText, reason_of
from jeep_core.models.loading import LoadedModel, check_text
from jeep_core.spec.hparams import load_preset, preset_names
from jeep_core.storage.looking import listed
from service.settings import Settings, SettingsError
from service.store import Store


def check_inputs(settings: Settings) -> None:
    """Read the inputs of edits and guards, so that an error stops the start and not a job.

    Raises:
        SettingsError: a file is missing, unreadable or malformed; names the setting.
    """
    own_relations(settings.relations)
    for name, path in (("CORPUS", settings.corpus), ("PERPLEXITY_TEXT", settings.perplexity_text)):
        if path is not None:
            try:
                check_text(path)
            except UnreadableText as error:
                raise SettingsError(f"JEEP_{name}: {error}") from error
    if settings.presets is not None:
        try:
            for preset in preset_names(settings.presets):
                load_preset(preset, settings.presets)
        except InvalidHParams as error:
            raise SettingsError(f"JEEP_PRESETS: {error.problems[0].message}") from None


def own_relations(path: Path | None) -> dict[str, str]:
    """The relations of ``JEEP_RELATIONS``, name → template; none without a file.

    Raises:
        SettingsError: the file is not a JSON object of texts with one ``{}`` at most.
    """
    if path is None:
        return {}
    try:
        table = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"JEEP_RELATIONS: {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"JEEP_RELATIONS: {path} is not JSON ({reason_of(error)})") from None
    if not isinstance(table, dict):
        raise SettingsError(f'JEEP_RELATIONS: {path} is not an object like {{"capital": "…"}}')
    for name, template in table.items():
        if not isinstance(template, str) or not template.strip() or template.count("{}") > 1:
            raise SettingsError(
                f"JEEP_RELATIONS: {path}: the template of {name!r} must be a text with one {{}}, "
                "where the subject goes (without it, the subject goes first)"
            )
    return table


def check_moments(settings: Settings, store: Store, base: LoadedModel) -> None:
    """Whether the moments that ``JEEP_MOMENTS`` names were imported for this model.

    Raises:
        SettingsError: none were.
    """
    name = settings.moments
    if name is None:
        return
    folder = store.base.moments_folder / f"imported-{name}"
    if not any(listed(folder, f"moment-{base.model_hash[:32]}-*.safetensors")):
        raise SettingsError(
            f"JEEP_MOMENTS: {store.root} has no second moments named {name!r} for this model: "
            f"jeep moments import --name {name} FILE.npz"
        )
