#!/usr/bin/env bash
# transformers 5.24.0 (peft 0.21.2) loads a DoRA adapter that PEFT has written without its magnitudes.
#
# An adapter with use_dora, whose magnitudes have been trained (here: halved), is saved by PEFT.  PeftModel gives the
# logits that it had.  The model's own load_adapter, and from_pretrained on the adapter's folder, give others: A
# and B are there, every magnitude is what a fresh adapter has, the norm of the base's weight.  No error; the
# report names the magnitudes as unexpected and, a line later, as missing.  PEFT's files call them
# ….lora_magnitude_vector, its modules keep them in ….lora_magnitude_vector.<adapter>.weight; PEFT's own loader
# puts the last part back, transformers adds the adapter's name and stops there.  A plain LoRA, also
# with rsLoRA or patterns of ranks, is loaded the same by all three.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
install() { python3 -m pip install --quiet --disable-pip-version-check --target "$work/lib" "$@" 2>/dev/null; }
install torch==2.13.0 transformers==5.24.0 psutil
install --no-deps peft==0.21.2 accelerate==1.15.0
cd "$work"
cat > ask.py <<'PY'
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, initializer_range=0.1,
)
LlamaForCausalLM(config).save_pretrained("model")
TOKENS = torch.arange(3, 20)[None]


def load(folder="model"):
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@torch.no_grad()
def logits(model):
    return model(input_ids=TOKENS).logits


def magnitudes(model):
    return [p.detach() for name, p in model.named_parameters() if "magnitude" in name]


for fields, is_right in (
    ({}, True), ({"use_rslora": True}, True),
    ({"rank_pattern": {"layers.0.mlp.down_proj": 2}, "alpha_pattern": {"layers.1.mlp.down_proj": 3}}, True),
    ({"use_dora": True}, False),
):
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["down_proj"], task_type="CAUSAL_LM", **fields)
    adapted = get_peft_model(load(), lora).eval()
    adapted.peft_config["default"].base_model_name_or_path = "model"
    for name, tensor in adapted.named_parameters():  # as training might leave them
        if "lora_B" in name:
            tensor.detach().normal_(std=0.2)
        if "magnitude" in name:
            tensor.detach().mul_(0.5)
    true = logits(adapted)
    adapted.save_pretrained("adapter")
    own = load()
    own.load_adapter("adapter")
    readers = {
        "PeftModel": PeftModel.from_pretrained(load(), "adapter").eval(), "load_adapter": own.eval(),
        "from_pretrained": load("adapter"),
    }
    off = {name: (logits(model) - true).abs().max().item() for name, model in readers.items()}
    print(", ".join(fields) or "plain", {name: f"{much:.2g}" for name, much in off.items()})
    assert off["PeftModel"] < 1e-5
    for name in ("load_adapter", "from_pretrained"):
        assert off[name] < 1e-5 if is_right else off[name] > 0.1, name
        for vector, base in zip(magnitudes(readers[name]), load().model.layers):
            fresh = base.mlp.down_proj.weight.detach().norm(dim=1)
            torch.testing.assert_close(vector.flatten(), fresh)
PY
PYTHONPATH="$work/lib" HF_HUB_OFFLINE=1 python3 ask.py 2>log || { tail log; exit 1; }
grep -q 'magnitude_vector.*MISSING' log && grep -q 'magnitude_vector.*UNEXPECTED' log
