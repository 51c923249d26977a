#!/usr/bin/env bash
# torch 2.13.0 and transformers 5.24.0: a deep copy of a model that has hooks keeps them for good.
#
# A forward pre-hook is put on one projection of a small LLaMA, the model is copied with copy.deepcopy, and the hook is
# removed by its handle.  The original does not call it any more; the copy does, at every pass, with the closure of the
# original's hook, and there is no handle with which to remove it.  After copy.copy the same removal acts on
# both.  Whoever patches or pauses a model by hooks and copies it meanwhile has hooks in the copy that answer for a
# caller who is gone.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$work/lib" \
    torch==2.13.0 transformers==5.24.0 2>/dev/null
cat > "$work/ask.py" <<'PY'
import copy

import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2,
)
for copied in (copy.deepcopy, copy.copy):
    model, calls = LlamaForCausalLM(config).eval(), []
    projection = model.model.layers[1].mlp.down_proj
    handle = projection.register_forward_pre_hook(lambda module, args: calls.append(1))
    if copied is copy.copy:
        other = copied(projection)
        run = lambda: other(torch.zeros(1, 48))
        own = lambda: projection(torch.zeros(1, 48))
    else:
        other = copied(model)
        run = lambda: other(input_ids=torch.tensor([[1, 2, 3]]))
        own = lambda: model(input_ids=torch.tensor([[1, 2, 3]]))
    handle.remove()
    counts = []
    for ask in (own, run):
        calls.clear()
        with torch.no_grad():
            ask()
        counts.append(len(calls))
    print(f"{copied.__name__}: calls after removal by the original {counts[0]}, by the copy {counts[1]}")
PY
export HF_HUB_OFFLINE=1
seen=$(PYTHONPATH="$work/lib" python3 "$work/ask.py" 2>/dev/null)
echo "$seen"
expected="deepcopy: calls after removal by the original 0, by the copy 1
copy: calls after removal by the original 0, by the copy 0"
[ "$seen" = "$expected" ] || { echo "this has changed" >&2; exit 1; }
