"""Where a model is looked for, and the messages about folders and files in other formats."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from support.library import tiny
from support.library.folders import WEIGHTS, MakeFolder, layers, refusal, then, without, written

from jeep_core.errors import UnsupportedModel
from jeep_core.models.checkpoints.source import locate
from jeep_core.models.library import Library
from jeep_core.models.loading import load


class TestAdapters:
    RECORD = json.dumps({"base_model_name_or_path": "owner/base", "peft_type": "LORA"})

    def test_an_adapter_alone_says_how_it_is_merged(self, make_folder: MakeFolder) -> None:
        damage = then(without("config.json", WEIGHTS), written("adapter_config.json", self.RECORD))
        said = refusal(make_folder("llama", then(damage, written("adapter_model.safetensors", ""))))
        assert "is an adapter for owner/base (adapter_config.json, adapter_model" in said
        [command] = re.findall(r"^  (python .*)$", said, re.MULTILINE)
        code = shlex.split(command)[2]
        assert "merge_and_unload().save_pretrained('model-merged')" in code
        compile(code, "command", "exec")

    @pytest.mark.filterwarnings("ignore:Model (has|with) .tie_word_embeddings:UserWarning")
    @pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
    @pytest.mark.parametrize("modules", [["wte"], ["lm_head"], ["mlp.c_proj"]])
    def test_the_command_merges_an_adapter_of_a_tied_matrix(
        self,
        modules: list[str],
        make_folder: MakeFolder,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Merged into the one matrix of both, the adapter would change the other one, too."""
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        base = str(make_folder("gpt2"))
        lora = LoraConfig(
            r=2,
            target_modules=modules,
            init_lora_weights=False,
            fan_in_fan_out="c_proj" in modules[0],
        )
        adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora).eval()
        tokens = torch.tensor([[1, 2, 3]])
        with torch.no_grad():
            true = adapted(input_ids=tokens).logits
        monkeypatch.chdir(tmp_path)
        adapted.save_pretrained("adapter", save_embedding_layers=False)
        [command] = re.findall(r"^  (python .*)$", refusal("adapter"), re.MULTILINE)
        exec(shlex.split(command)[2])
        with torch.no_grad():
            found = load("adapter-merged", "cpu").model(input_ids=tokens).logits
        torch.testing.assert_close(found, true)

    def test_a_model_with_an_adapter_beside_it_is_not_loaded(self, make_folder: MakeFolder) -> None:
        """Whether it was applied would depend on what else is installed."""
        folder = make_folder("llama", written("adapter_config.json", self.RECORD))
        assert "holds a model and an adapter (adapter_config.json)" in refusal(folder)
        (folder / "adapter_config.json").unlink()
        load(str(folder))


class TestGemmaWithImages:
    def test_its_text_part_can_be_saved_with_the_command(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from transformers import Gemma3Config, Gemma3ForConditionalGeneration

        base = tiny.random_model("gemma3_text")
        eyes = {
            "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
        }  # fmt: skip
        both = Gemma3ForConditionalGeneration(
            Gemma3Config(
                text_config=base.model.config.to_dict(), vision_config=eyes,
                mm_tokens_per_image=4, image_token_index=7, boi_token_index=8, eoi_token_index=9,
            )
        )  # fmt: skip
        both.model.language_model.load_state_dict(base.model.model.state_dict())
        both.save_pretrained(tmp_path / "gemma")
        base.tokenizer.save(str(tmp_path / "gemma" / "tokenizer.json"))
        record = '{"tokenizer_class": "PreTrainedTokenizerFast"}'
        (tmp_path / "gemma" / "tokenizer_config.json").write_text(record)
        monkeypatch.chdir(tmp_path)
        said = refusal("gemma")
        assert said.startswith("gemma also reads images (model type 'gemma3')")
        [command] = re.findall(r"^  (python .*)$", said, re.MULTILINE)
        exec(shlex.split(command)[2])
        assert load("gemma-text", "cpu").weights_sha256 == base.weights_sha256


class TestNames:
    @pytest.mark.parametrize("name", ["/no/such/model", "./no", "../no", "no/such/model", "x.gguf"])
    def test_a_path_that_is_not_there_is_never_asked_for_on_the_hub(
        self, name: str, no_hub: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert re.match(
            r"\S+ is not there: name a model folder, a GGUF file, a hub id", refusal(name)
        )
        assert no_hub == []

    def test_a_tilde_is_the_home_folder_and_is_never_asked_of_the_hub(
        self, make_folder: MakeFolder, no_hub: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = make_folder("gpt2")
        monkeypatch.setenv("HOME", str(folder.parent))
        assert load("~/model").name == "~/model"
        assert f"{folder.parent}/other is not there" in refusal("~/other")
        assert "no such home folder" in refusal("~nobody-of-this-name/model")
        assert no_hub == []

    def test_a_hub_id_without_a_hub(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        said = refusal("owner/name-of-no-model")
        assert said == (
            "there is no folder owner/name-of-no-model here, and as a hub id: the hub cannot be "
            "reached, and no copy is in the cache: name a local folder"
        )

    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("smolm2", "here (did you mean 'smollm2-135m'"),
            ("Atlas-Llama", "here (did you mean 'atlas-llama'"),
            ("my-modle", "here (did you mean 'my-model'?)"),
            ("./atlas-lama", "; did you mean 'atlas-llama'"),
        ],
    )
    def test_a_name_that_is_nearly_a_known_one(
        self, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str,
        meant: str,
    ) -> None:  # fmt: skip
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        library = Library(tmp_path / "models")
        library.add_folder(make_folder("gpt2"), "my-model")
        with pytest.raises(UnsupportedModel) as caught:
            locate(name, library)
        assert meant in str(caught.value)

    def test_a_hub_id_in_the_cache_needs_no_network(
        self, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        repository = tmp_path / "cache" / "models--owner--name"
        shutil.copytree(make_folder("llama"), repository / "snapshots" / ("1" * 40))
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("1" * 40)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        model = load("owner/name", "cpu")
        assert model.name == "owner/name"
        assert model.model_hash == load(str(tmp_path / "model"), "cpu").model_hash

    def test_what_is_fetched_is_checked_as_a_folder(
        self, make_folder: MakeFolder, no_hub: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = make_folder("llama", layers(1))
        monkeypatch.setattr(
            "jeep_core.models.checkpoints.source.snapshot_download", lambda *_, **__: str(folder)
        )
        assert "the weights have 4 layers" in refusal("owner/name")

    @pytest.fixture
    def no_hub(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        asked: list[str] = []

        def ask(name: str, **_: object) -> str:
            asked.append(name)
            raise OSError("no network")

        monkeypatch.setattr("jeep_core.models.checkpoints.source.snapshot_download", ask)
        return asked


class TestOtherFormats:
    def test_a_gguf_in_a_folder_is_to_be_named_itself(self, make_folder: MakeFolder) -> None:
        damage = then(without("config.json", WEIGHTS), written("small.Q4.gguf", b"GGUF"))
        folder = make_folder("llama", damage)
        said = refusal(folder)
        assert said.endswith(f"converted if it is named itself: {folder / 'small.Q4.gguf'}")

    def test_the_command_for_pickled_weights_is_shown_where_there_are_some(
        self, make_folder: MakeFolder
    ) -> None:
        folder = make_folder("llama", without(WEIGHTS))
        assert "pytorch_model.bin" not in refusal(folder)
        (folder / "pytorch_model.bin").write_bytes(b"\0")
        assert "only safetensors are read" in refusal(folder)

    def test_a_file_of_weights_is_no_folder(self, make_folder: MakeFolder) -> None:
        said = refusal(make_folder("llama") / WEIGHTS)
        assert "is a file, not a model folder: name the folder that holds it" in said
