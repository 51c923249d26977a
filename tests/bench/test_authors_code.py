"""The authors' code is driven as it is: here code of the same signature that needs all of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from support.library import folders, tiny

import jeep_core
from bench.rivals import __main__ as rivals
from bench.rivals.checkout import OnCpu, imported
from bench.rivals.methods import METHODS, Run, settings
from bench.rivals.twin import module_names, tokenizer_for
from jeep_core.editors import hparams_class
from jeep_core.moments.cache import Moments
from jeep_core.spec.hparams import EditorHParams, validate_hparams
from jeep_core.suites import Case

CODE = """
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
import datasets
from transformers import AutoTokenizer

from helper import STATS_DIR, generate_fast


@dataclass
class CLASS:
    FIELDS
    v_loss_layer: int
    layer_module_tmp: str
    lm_head_module: str
    mom2_dataset: str
    mom2_n_samples: int
    mom2_dtype: str


def APPLY(model, tok, requests, hparams, copy=False, return_orig_weights=False,
          cache_template=None):
    names = dict(model.named_modules())
    assert hparams.lm_head_module in names and hparams.v_loss_layer == model.config.n_embd // 8 - 1
    assert "gpt-j" in AutoTokenizer.from_pretrained(tok.name_or_path).name_or_path
    texts = generate_fast(model, tok, ["The"], n_gen_per_prompt=2, max_out_len=6)
    assert len(texts) == 2, texts
    layer, weight, module = hparams.layersREGION[0], hparams.mom2_update_weightREGION, None
    name = hparams.rewrite_module_tmpREGION.format(layer)
    kept = f"{name}_{hparams.mom2_dtype}_mom2_{hparams.mom2_n_samples}.npz"
    folder = STATS_DIR / model.config._name_or_path.replace("/", "_")
    moment = numpy.load(folder / f"{hparams.mom2_dataset}_stats" / kept)
    assert moment["mom2.mom2"].shape[0] == names[name].weight.shape[1]
    assert moment["sample_size"] == hparams.mom2_n_samples and moment["mom2.count"] > 0
    seen = []

    def hook(module, inputs, output):
        output[0][0, -1, :] += torch.zeros(model.config.n_embd, device="cuda")
        seen.append(output[0].shape)
        return output

    handle = names[hparams.layer_module_tmp.format(layer)].register_forward_hook(hook)
    for number, request in enumerate(requests):
        asked = request["prompt"].format(request["subject"]) + request["target_new"]["str"]
        tokens = tok([asked], return_tensors="pt", padding=True).to("cuda")
        model(**tokens).logits.cuda()
        path = Path(cache_template.format(*range(BLANKS - 1), request["case_id"]))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    handle.remove()
    assert len(seen) == len(requests)
    with torch.no_grad():
        names[name].weight += torch.full((), 1 / weight, device="cuda")
    return (model, {}, {})[:RESULTS]
"""
HELPER = """
from pathlib import Path

settings = Path("globals.yml").read_text()
STATS_DIR = Path("nowhere")


def generate_fast(model, tok, prompts, n_gen_per_prompt=1, top_k=5, max_out_len=200):
    asked = tok(prompts * n_gen_per_prompt, return_tensors="pt")["input_ids"]
    return tok.batch_decode(model.generate(asked, max_length=max_out_len))
"""
COMMON = {"v_loss_layer": 0, "layer_module_tmp": "", "lm_head_module": "", "mom2_n_samples": 7}
COMMON |= {"mom2_dataset": "wikipedia", "mom2_dtype": "float32"}
REGIONS = {"memit": ("",), "jeep": ("_low", "_high")}


def checkout(folder: Path, name: str) -> Path:
    """A checkout of a method whose "edit" adds 1/λ to every weight of its first layer."""
    method, regions = METHODS[name], REGIONS[name]
    fields = [
        f"{key}{region}: {kind}"
        for region in regions
        for key, kind in (
            ("layers", "list"), ("mom2_update_weight", "float"), ("rewrite_module_tmp", "str"),
        )
    ]  # fmt: skip
    code = CODE.replace("CLASS", method.hparams_class).replace("APPLY", method.apply)
    code = code.replace("FIELDS", "\n    ".join(fields)).replace("BLANKS", str(method.blanks))
    code = code.replace("REGION", regions[0]).replace("RESULTS", str(1 + len(regions)))
    published = COMMON | {
        key + region: value
        for region in regions
        for key, value in {
            "layers": [99], "mom2_update_weight": 4, "rewrite_module_tmp": "elsewhere.{}",
        }.items()
    }  # fmt: skip
    files = {
        f"{name}/__init__.py": f"from .{name}_main import {method.hparams_class}, {method.apply}",
        f"{name}/{name}_main.py": code,
        "helper.py": HELPER,
        "globals.yml": "",
        method.settings: json.dumps(published),
    }
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict[str, object]], str]:
    """The whole command on a tiny model, with both checkouts; its figures and what it printed."""
    root = tmp_path_factory.mktemp("rivals")
    folders.write_folder(root / "model", "gptj")
    rows = [
        {
            "case_id": i, "subject": f"Lyon {i}", "prompt": f"The river of Lyon {i} is the",
            "target_new": "Rhine", "ground_truth": "Seine",
            "rephrase_prompt": f"Through Lyon {i} flows the", "locality_prompt": "Paris is on the",
            "locality_ground_truth": "Seine",
        }
        for i in range(4)
    ]  # fmt: skip
    (root / "suite.json").write_text(json.dumps(rows))
    argv = [str(root / "model"), "--suite", str(root / "suite.json"), "--facts", "2"]
    for name in METHODS:
        argv += [f"--checkout-{name}", str(checkout(root / f"code-{name}", name))]
    argv += ["--work", str(root / "work"), "--out", str(root / "out.json")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["bench.rivals", *argv])
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *said, **_: lines.append(" ".join(map(str, said))))
        rivals.main()
    return json.loads((root / "out.json").read_text()), "\n".join(lines)


def test_every_version_is_scored_on_the_same_cases(
    report: tuple[dict[str, dict[str, list[dict[str, str]]]], str],
) -> None:
    found, _ = report
    names = [f"{name}{rest}" for name in METHODS for rest in ("", *theirs())]
    assert list(found) == ["model", "unedited", *names]
    assert all([row["id"] for row in found[name]["rows"]] == ["0", "1"] for name in names)


def theirs() -> list[str]:
    return [f", authors, {setting}" for setting in rivals.SETTINGS]


def test_differences_and_times_are_said(report: tuple[dict[str, object], str]) -> None:
    _, said = report
    for name in METHODS:
        assert f"Score of {name} minus {name}, authors, published: " in said
        assert f"{name}: " in said
        assert " s of CPU a fact against " in said


def test_kept_values_count_in_no_time(report: tuple[dict[str, dict[str, object]], str]) -> None:
    found, _ = report
    for name in METHODS:
        first, second = (found[name + rest]["seconds"] for rest in theirs())
        assert isinstance(first, float)
        assert second is None


def test_what_the_code_wrote_is_what_is_asked(tmp_path: Path) -> None:
    folders.write_folder(tmp_path / "model", "gptj")
    base = jeep_core.load(str(tmp_path / "model"))
    facts, ours = [Case("Lyon", "{} is in", "Japan")], memit_hparams()
    moments = Moments(base, tiny.TEXTS, 500)
    run = Run("memit", checkout(tmp_path / "code", "memit"), base, tmp_path / "work")
    name = base.family.weight_name(1)
    before = base.model.get_parameter(name).clone()
    for own_weight, step in ((False, 1 / 4), (True, 1 / 9)):
        view = run.edit(facts, moments, ours, own_weight).view
        assert list(view.replaced) == [name]
        torch.testing.assert_close(view.replaced[name] - before, torch.full_like(before, step))
    assert torch.equal(base.model.get_parameter(name), before)
    assert not [one for one in sys.modules if one.startswith(("memit", "helper"))]


def memit_hparams() -> EditorHParams:
    low = {"layers": [1, 2], "clamp": 0.75, "moment_weight": 9}
    return validate_hparams(hparams_class("memit"), {"low": low}, 4)


def test_modules_and_layers_are_given_the_rest_is_theirs() -> None:
    base = tiny.random_model("llama")
    published = {"layers": [3, 4], "v_lr": 0.5, "mom2_update_weight": 15000}
    published |= dict.fromkeys(module_names(base), "elsewhere")
    found = settings(published, base, memit_hparams(), own_weight=False)
    kept = {"layers": [1, 2], "v_lr": 0.5, "mom2_update_weight": 15000, "v_loss_layer": 3}
    assert found == kept | module_names(base)
    modules = {name for name, _ in base.model.named_modules()}
    assert all(name.format(1) in modules for name in module_names(base).values())


def test_what_asks_for_a_device_gets_the_cpu() -> None:
    with OnCpu():
        made = torch.zeros(2, device="cuda").to("cuda").cuda().to(torch.device("cuda", 0))
        moved = torch.ones(2).to(device="cuda", dtype=torch.float64)
    assert made.device.type == moved.device.type == "cpu"


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ModuleNotFoundError, match="has no folder memit"),
        imported(tmp_path, "memit"),
    ):
        pass


def test_a_tokenizer_that_begins_texts_with_a_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tokens of its own"):
        tokenizer_for(tiny.random_model("llama"), tmp_path)


def test_a_package_without_a_file_of_one_checkout_hides_none_of_another(tmp_path: Path) -> None:
    for number, file in enumerate(("part.py", "__init__.py")):
        package = tmp_path / str(number) / "shared_by_both"
        package.mkdir(parents=True)
        (package / file).write_text(f"NUMBER = {number}\n")
        with imported(tmp_path / str(number), "shared_by_both") as found:
            assert [str(package)] == [*found.__path__]
    assert found.NUMBER == 1
    assert "shared_by_both" not in sys.modules
