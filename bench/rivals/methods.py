"""One batch of facts edited by the authors' own code of a method.

What is given to it beside the facts: the model's module names, the layers that this project's
``auto`` chooses, and second moments of this project's text, in the file where it keeps its own.
Learning rate, steps, clamps and decay are read from the hyper-parameters in its checkout.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import torch

from bench.rivals.checkout import OnCpu, imported
from bench.rivals.twin import module_names, tokenizer_for, twin
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import EditorHParams


@dataclass(frozen=True)
class Method:
    """Where a checkout has a method: ``package`` with ``hparams_class`` and ``apply``.

    ``settings`` is the file of hyper-parameters that is followed.  ``blanks``: how many values
    the code fills into the name under which it keeps what it has optimised.  ``sampling``:
    whether its own sampling of prefixes works with today's transformers.
    """

    package: str
    settings: str
    hparams_class: str
    apply: str
    blanks: int
    sampling: bool


METHODS = {
    "memit": Method(
        "memit",
        "hparams/MEMIT/EleutherAI_gpt-j-6B.json",
        "MEMITHyperParams",
        "apply_memit_to_model",
        blanks=3,
        sampling=False,
    ),
    "jeep": Method(
        "jeep",
        "hparams/JEEP/llama_7b_mcf.json",
        "JEEPHyperParams",
        "apply_jeep_to_model",
        blanks=12,
        sampling=True,
    ),
}
REGIONS = ("", "_low", "_high")


def settings(
    published: Mapping[str, Any], base: LoadedModel, ours: EditorHParams, own_weight: bool
) -> dict[str, Any]:
    """The hyper-parameters of a checkout, for this model: its modules, and the layers of ``ours``.

    ``own_weight``: also the weight λ of second moments is that of ``ours``.
    """
    found = dict(published)
    names = module_names(base)
    for key, name in names.items():
        for region in REGIONS:
            if key + region in found:
                found[key + region] = name
    found["v_loss_layer"] = base.n_layers - 1
    for region in REGIONS:
        if f"layers{region}" not in found:
            continue
        chosen = getattr(ours, region.removeprefix("_") or "low")
        found[f"layers{region}"] = list(chosen.layers)
        if own_weight:
            found[f"mom2_update_weight{region}"] = chosen.moment_weight
    return found


def write_moments(
    folder: Path, base: LoadedModel, moments: Moments, hparams: Mapping[str, Any]
) -> None:
    """Second moments of all layers, in the files from which the authors' code reads its own."""
    layers = sorted({one for region in REGIONS for one in hparams.get(f"layers{region}", [])})
    moments.ensure(layers)
    kind, samples = hparams["mom2_dtype"], hparams["mom2_n_samples"]
    target = folder / base.name.replace("/", "_") / f"{hparams['mom2_dataset']}_stats"
    target.mkdir(parents=True, exist_ok=True)
    for layer in layers:
        name = base.family.weight_name(layer).removesuffix(".weight")
        tokens = moments.tokens(layer)
        total = moments.factor(layer).moment.float().cpu() * tokens
        numpy.savez(
            target / f"{name}_{kind}_mom2_{samples}.npz",
            **{"mom2.mom2": total.numpy(), "mom2.count": tokens, "sample_size": samples},
        )


@dataclass
class Edited:
    """A version that the authors' code made, and its CPU seconds for each fact it optimised.

    ``seconds`` None: the values of all facts were kept from before.
    """

    view: ModelView
    seconds: float | None


class Run:
    """A method of a checkout on one batch of facts; ``work`` is a folder for what it writes.

    The authors' code keeps optimised values there: settings that differ in λ alone share them, and
    a run that was ended goes on with them.
    """

    def __init__(self, name: str, checkout: Path, base: LoadedModel, work: Path) -> None:
        self.method = METHODS[name]
        self.checkout = checkout
        self.base = base
        self.work = (work / name).resolve()
        self.work.mkdir(parents=True, exist_ok=True)

    def edit(
        self,
        facts: Sequence[Fact],
        moments: Moments,
        ours: EditorHParams,
        own_weight: bool = False,
        seed: int = 0,
    ) -> Edited:
        """Edit facts together, and take the matrices that were changed into a view.

        Raises:
            Whatever the authors' code raises.
        """
        method, base = self.method, self.base
        published = json.loads((self.checkout / method.settings).read_text(encoding="utf-8"))
        wanted = settings(published, base, ours, own_weight)
        write_moments(self.work / "stats", base, moments, wanted)
        tokenizer = tokenizer_for(base, self.work)
        model = twin(base)
        requests = [
            {
                "case_id": number,
                "prompt": fact.prompt,
                "subject": fact.subject,
                "target_new": {"str": fact.target_new},
            }
            for number, fact in enumerate(facts)
        ]
        values = self.work / "values"
        kept = str(values / "_".join(["{}"] * method.blanks)) + ".npz"
        known = len(list(values.glob("*.npz")))
        torch.manual_seed(seed)
        with (
            (self.work / "said.txt").open("a", encoding="utf-8") as log,
            redirect_stdout(log),
            imported(self.checkout, method.package) as package,
        ):
            main = sys.modules[f"{method.package}.{method.package}_main"]
            self._prepare(main)
            hparams = getattr(package, method.hparams_class)(**wanted)
            apply = getattr(package, method.apply)
            with OnCpu():
                began = time.process_time()
                edited = apply(model, tokenizer, requests, hparams, cache_template=kept)[0]
                seconds = time.process_time() - began
        view = ModelView(base)
        before = dict(base.model.named_parameters())
        for name, tensor in edited.named_parameters():
            if not torch.equal(tensor.data, before[name].data):
                view.replace(name, tensor.data)
        optimised = len(list(values.glob("*.npz"))) - known
        return Edited(view, seconds / optimised if optimised else None)

    def _prepare(self, main: ModuleType) -> None:
        """Where the code finds statistics, and a sampler that works with today's transformers."""
        vars(main)["STATS_DIR"] = self.work / "stats"
        if not self.method.sampling:
            vars(main)["generate_fast"] = sample


def sample(
    model: Any,
    tok: Any,
    prompts: Sequence[str],
    n_gen_per_prompt: int = 1,
    top_k: int = 5,
    max_out_len: int = 200,
) -> list[str]:
    """Texts that a model goes on with, at most ``max_out_len`` tokens each, by top-k sampling.

    The authors' own sampler gives a model that has a cache a mask of the new tokens alone, which
    today means that it sees nothing else.
    """
    found = []
    for prompt in prompts:
        asked = tok([prompt] * n_gen_per_prompt, return_tensors="pt")
        rows = model.generate(
            **asked,
            max_length=max_out_len,
            do_sample=True,
            top_k=top_k,
            pad_token_id=tok.pad_token_id,
        )
        found += tok.batch_decode(rows, skip_special_tokens=True)
    return [text.replace("\n\n", " ") for text in found]
