"""The data that a worker publishes for the bundled GPT-J.  Imports no torch."""

from functools import cache

from jeep_core.atlas import MODELS
from jeep_core.spec.hparams import presets_for
from jeep_core.text.chat import ChatTemplate
from service.contracts.jobs import now
from service.contracts.schemas import WorkerInfo
from service.store import Store
from service.store.base.files import CHAT_TEMPLATE

BASE_WEIGHTS = "0" * 64


@cache
def info() -> WorkerInfo:
    """The description that its worker publishes; not to be changed."""
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


CHAT = (
    "{% for message in messages %}{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('no role ' + message['role']) }}{% endif %}"
    "{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)


def publish(store: Store, chat: bool = False) -> None:
    """As a worker does; with ``chat`` the model has a chat template."""
    files = {"tokenizer.json": (MODELS["atlas-gptj"] / "tokenizer.json").read_bytes()}
    if chat:
        files[CHAT_TEMPLATE] = ChatTemplate(CHAT).to_json().encode()
    store.bind_model("1" * 64)
    store.create_base(BASE_WEIGHTS)
    store.base.publish(info(), files)
