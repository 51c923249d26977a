"""The things that a follower must have in common with the writer of its store."""

from __future__ import annotations

from pathlib import Path

from jeep_core.evaluation.harness.installed import installed_version
from jeep_core.models.loading import LoadedModel
from jeep_core.storage.looking import files_below, is_plain_file
from service.contracts.schemas import WorkerInfo
from service.ops.addresses import canonical
from service.ops.release import program_version
from service.settings import Settings
from service.store import Store, WrongModel, WrongRelease
from service.store.files import sha256_of
from service.store.versions import BASE


def measuring(settings: Settings) -> dict[str, str]:
    """By setting, what figures of read jobs depend on beside the model, or whether there are any.

    Files are named by their hashes.
    """
    judge = canonical(settings.judge_address) if settings.judge_address else ""
    key = settings.judge_key.get_secret_value().strip() if judge and settings.judge_key else ""
    allowed = {part.strip() for part in settings.targets_allow.split(",")} - {""}
    return {
        "JEEP_CORPUS": _hash(settings.corpus),
        "JEEP_PERPLEXITY_TEXT": _hash(settings.perplexity_text),
        "JEEP_PERPLEXITY_TOKENS": str(settings.perplexity_tokens),
        "JEEP_JUDGE_ADDRESS": judge,
        "JEEP_JUDGE_MODEL": settings.judge_model or "" if judge else "",
        "JEEP_JUDGE_KEY": "set" if key else "",  # never the key itself: this is published
        "JEEP_TARGETS_ALLOW": ",".join(sorted(allowed)),
        "JEEP_LM_EVAL_TASKS": _hashes(settings.lm_eval_tasks),
        "the version of lm-eval": installed_version() or "none",
    }


def differences(info: WorkerInfo, settings: Settings) -> list[str]:
    """The settings by which figures of this process would not be those of the writer."""
    own = measuring(settings)
    return sorted(name for name in own if info.measuring.get(name, "") != own[name])


def check_release(info: WorkerInfo) -> None:
    """Check that the writer is the same version of this package.

    Raises:
        WrongRelease: it is another one.
    """
    if info.release != program_version():
        raise WrongRelease(
            f"the store's worker is jeep-edit {info.release or 'of an earlier release'}, this "
            f"follower {program_version()}: install the same version on both"
        )


def check_base(store: Store, base: LoadedModel) -> None:
    """Check that this is the store's model.

    Raises:
        WrongModel: it is another one, or has other weights.
    """
    store.bind_model(base.model_hash)
    known = store.versions.parsed(BASE).weights_sha256
    if known != base.weights_sha256:
        raise WrongModel(
            f"the store's base has weights {known[:12]}…, the model has "
            f"{base.weights_sha256[:12]}…: a follower needs the writer's JEEP_MODEL and JEEP_DTYPE"
        )


def _hash(path: Path | None) -> str:
    return "" if path is None else sha256_of(path)


def _hashes(folder: Path | None) -> str:
    """The hashes of a folder's files, by their places in it."""
    if folder is None:
        return ""
    files = sorted(Path(entry.path) for entry in files_below(folder))
    files = [path for path in files if is_plain_file(path)]
    return " ".join(f"{path.relative_to(folder)}:{sha256_of(path)}" for path in files)
