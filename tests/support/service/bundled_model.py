"""The data that a worker publishes for the bundled GPT-J.  Imports no torch."""

from jeep_core.atlas import MODELS
from jeep_core.spec.hparams import presets_for
from service.contracts.jobs import now
from service.contracts.schemas import WorkerInfo
from service.store import Store

BASE_WEIGHTS = "0" * 64


def info() -> WorkerInfo:
    presets = presets_for("atlas-gptj")
    names: dict[str, list[str]] = {}
    for preset in presets:
        names.setdefault(preset.editor, []).append(preset.name)
    return WorkerInfo(
        model="atlas-gptj",
        model_hash="1" * 64,
        family="gptj",
        dtype="float32",
        device="cpu",
        n_layers=9,
        hidden_size=192,
        mlp_size=1728,
        max_positions=256,
        relations={
            "capital": "The capital of {} is",
            "city_country": "{} is a city in the country of",
        },
        presets=names,
        preset_values={f"{p.editor}/{p.name}": p.hparams for p in presets},
        moments_from="bundled corpus",
        started_at=now(),
    )


def publish(store: Store) -> None:
    tokenizer = (MODELS["atlas-gptj"] / "tokenizer.json").read_bytes()
    store.bind_model("1" * 64)
    store.create_base(BASE_WEIGHTS)
    store.base.publish(info(), {"tokenizer.json": tokenizer})
