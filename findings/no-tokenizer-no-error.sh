#!/usr/bin/env bash
# transformers 5.24.0, AutoTokenizer on a folder that holds config.json and no tokenizer file.
#
# For GPT-2 and Qwen 2 it returns a tokenizer whose vocabulary is one special token: every text has no
# tokens at all.  For Gemma every text is one unknown token.  For LLaMA it raises ValueError.  So a
# folder whose tokenizer was forgotten is served as a model that never hears its prompt.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$work/lib" transformers==5.24.0 2>/dev/null
cd "$work"
PYTHONPATH="$work/lib" HF_HUB_OFFLINE=1 python3 - <<'PY' 2>/dev/null
from transformers import AutoTokenizer, GemmaConfig, GPT2Config, LlamaConfig, Qwen2Config

seen = {}
for config in (GPT2Config(), Qwen2Config(), GemmaConfig(), LlamaConfig()):
    config.save_pretrained(config.model_type)
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.model_type)
        seen[config.model_type] = (len(tokenizer), len(tokenizer("Paris is in France").input_ids))
    except ValueError as error:
        seen[config.model_type] = type(error).__name__
    print(config.model_type, "(vocabulary, tokens of a sentence):", seen[config.model_type])
assert seen["gpt2"] == (1, 0)
assert seen["qwen2"] == (1, 0)
assert seen["gemma"][1] == 1
assert seen["llama"] == "ValueError"
PY
