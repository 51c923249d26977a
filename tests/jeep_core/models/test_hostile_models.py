"""Model folders that would run code if they were read carelessly."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from support.library import tiny

from jeep_core.errors import UnsupportedModel
from jeep_core.models.loading import load

BOOM = "raise SystemError('the code of a model folder was run')\n"


@pytest.mark.parametrize("known", [True, False])
def test_code_beside_a_model_is_not_run(tmp_path: Path, known: bool) -> None:
    base = tiny.random_model("gpt2")
    base.model.save_pretrained(tmp_path)
    tiny.tokenizer("byte-level").save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "evil.py").write_text(BOOM)
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "evil.Config",
        "AutoModelForCausalLM": "evil.Model",
        "AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"],
    }
    if not known:
        config["model_type"] = "evil"
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"auto_map": config["auto_map"], "tokenizer_class": "TokenizersBackend"})
    )
    if known:  # our own class is used instead
        assert load(str(tmp_path)).weights_sha256 == base.weights_sha256
    else:
        with pytest.raises(UnsupportedModel):
            load(str(tmp_path))


def test_a_pickled_checkpoint_is_refused_with_the_command_that_converts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny.random_model("gpt2")
    folder = tmp_path / "it's a model"
    folder.mkdir()
    base.model.config.save_pretrained(folder)
    tiny.tokenizer("byte-level").save(str(folder / "tokenizer.json"))
    torch.save(base.model.state_dict(), folder / "pytorch_model.bin")
    monkeypatch.chdir(tmp_path)
    for given in (folder, folder / "pytorch_model.bin"):
        with pytest.raises(UnsupportedModel, match="only safetensors") as refused:
            load(str(given))
    [command] = re.findall(r"^  (python .*)$", str(refused.value), re.MULTILINE)
    python, flag, code = shlex.split(command)
    assert (python, flag) == ("python", "-c")
    exec(code)
    assert load(str(tmp_path / "it's a model-safetensors")).weights_sha256 == base.weights_sha256
