#!/usr/bin/env bash
# transformers 5.24.0 with and without peft 0.21.2 installed, on one and the same folder.
#
# The folder holds a whole model and, beside it, a LoRA adapter (adapter_config.json,
# adapter_model.safetensors), as a training run leaves it.  AutoModelForCausalLM.from_pretrained loads
# the model alone where peft is not installed, and the model with the adapter in it where it is.  Nothing
# in the call, the configuration or the answer says which: installing a package changes what is served.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
install() { python3 -m pip install --quiet --disable-pip-version-check "$@" 2>/dev/null; }
install --target "$work/lib" torch==2.13.0 transformers==5.24.0 psutil
install --target "$work/extra" --no-deps peft==0.21.2 accelerate==1.15.0
cd "$work"
cat > make.py <<'PY'
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2,
)
model = LlamaForCausalLM(config)
model.save_pretrained("model")
adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["down_proj"], init_lora_weights=False))
adapted.save_pretrained("model")
PY
cat > ask.py <<'PY'
import torch
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("model")
lora = any("lora" in name for name, _ in model.named_parameters())
logits = model(input_ids=torch.tensor([[1, 2, 3]])).logits[0, -1]
print(f"adapter in the model: {lora}, first logit {logits[0].item():.4f}")
PY
export HF_HUB_OFFLINE=1
PYTHONPATH="$work/lib:$work/extra" python3 make.py 2>/dev/null
without=$(PYTHONPATH="$work/lib" python3 ask.py 2>/dev/null)
with=$(PYTHONPATH="$work/lib:$work/extra" python3 ask.py 2>/dev/null)
printf 'without peft: %s\nwith peft:    %s\n' "$without" "$with"
[[ $without == *False* && $with == *True* ]]
[[ ${without#*logit } != "${with#*logit }" ]]
