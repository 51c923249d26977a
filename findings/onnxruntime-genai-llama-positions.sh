#!/usr/bin/env bash
# onnxruntime-genai 0.18.0 builds a LLaMA whose positions are stretched as if they were not, without a word.
#
# The same small weights, saved with transformers 5.24.0 as a LLaMA and as a Mistral without a window, which
# compute alike, are built with onnxruntime_genai.models.builder and asked for the next token's probabilities.
# Plain positions agree to 1e-4 in both, and so does "llama3" in the LLaMA and "linear" in the Mistral.  "linear" and
# "yarn" in the LLaMA give the plain model's answers.  The builder's class for LLaMA has a method
# make_rope_init of its own that knows "llama3" only; it replaces the general one, which knows the other two
# and refuses what it does not know, and neither calls it nor refuses anything.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
install() { python3 -m pip install --quiet --disable-pip-version-check --target "$work/lib" "$@" 2>/dev/null; }
install torch==2.13.0 transformers==5.24.0 onnx==1.23.2 onnx-ir==1.1.0
install --no-deps onnxruntime==1.32.0 onnxruntime-genai==0.18.0
install flatbuffers protobuf
cd "$work"
cat > ask.py <<'PY'
import numpy as np
import onnxruntime_genai as genai
import torch
from onnxruntime_genai.models.builder import create_model, parse_extra_options
from tokenizers import Tokenizer, models
from transformers import (
    LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast,
)

VOCABULARY = 96
SIZE = dict(
    vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, initializer_range=0.2, max_position_embeddings=128,
    bos_token_id=1, eos_token_id=2, pad_token_id=0, rms_norm_eps=1e-6,
)
PLAIN = {"rope_type": "default", "rope_theta": 1e4}
LINEAR = PLAIN | {"rope_type": "linear", "factor": 4.0}
YARN = PLAIN | {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = YARN | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
TOKENS = torch.randint(3, VOCABULARY, (1, 60), generator=torch.Generator().manual_seed(0))


def make(family, positions):
    torch.manual_seed(0)
    if family == "LLaMA":
        return LlamaForCausalLM(LlamaConfig(**SIZE, rope_parameters=dict(positions))).eval()
    return MistralForCausalLM(MistralConfig(**SIZE, sliding_window=None, rope_parameters=dict(positions))).eval()


@torch.no_grad()
def true(model):
    return model(TOKENS).logits[0, -1].log_softmax(-1)


def built(model, folder):
    model.save_pretrained(folder)
    vocabulary = Tokenizer(models.BPE({f"t{i}": i for i in range(VOCABULARY)}, []))
    PreTrainedTokenizerFast(
        tokenizer_object=vocabulary, pad_token="t0", bos_token="t1", eos_token="t2", unk_token="t0"
    ).save_pretrained(folder)
    told = ("", folder, f"{folder}-onnx", "fp32", "cpu", "cache")
    create_model(*told, **parse_extra_options(*told, []))
    runtime = genai.Model(f"{folder}-onnx")
    params = genai.GeneratorParams(runtime)
    params.set_search_options(max_length=128)
    generator = genai.Generator(runtime, params)
    generator.append_tokens(TOKENS.numpy().astype(np.int32))
    return torch.tensor(generator.get_logits())[0, -1].log_softmax(-1)


print("off by, from the model itself and from the model with plain positions:")
for family, positions, is_right in (
    ("LLaMA", PLAIN, True), ("LLaMA", LLAMA3, True), ("LLaMA", LINEAR, False), ("LLaMA", YARN, False),
    ("Mistral", PLAIN, True), ("Mistral", LINEAR, True),
):
    model = make(family, positions)
    answer = built(model, f"{family}-{positions['rope_type']}")
    off, off_plain = ((answer - true(m)).abs().max().item() for m in (model, make(family, PLAIN)))
    print(f"{family}, {positions['rope_type']}: {off:.2g}, {off_plain:.2g}")
    assert (off < 1e-3) == is_right
    assert off_plain < 1e-3 if positions is PLAIN or not is_right else off_plain > 0.1
    assert is_right or off > 0.5
PY
PYTHONPATH="$work/lib" HF_HUB_OFFLINE=1 python3 ask.py >out 2>log || { tail log; exit 1; }
sed -n '/^off by/p; /^LLaMA, /p; /^Mistral, /p' out
if grep -i 'rope\|scaling\|not supported' out log; then exit 1; fi
