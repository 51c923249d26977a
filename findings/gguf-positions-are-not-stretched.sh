#!/usr/bin/env bash
# transformers 5.24.0 (gguf 0.19.0) drops what a GGUF file of a LLaMA says about stretched positions.
#
# A small LLaMA is written to a file three times: with plain positions, stretched linearly
# (llama.rope.scaling.type and .factor), and stretched as LLaMA 3.1 and its heirs are (the tensor
# rope_freqs.weight).  Read back with from_pretrained(gguf_file=...), all weights are equal to the last
# bit, and rope_type is "default" each time, without a warning.  llama.cpp (xllamacpp 2026.10.11549)
# computes from the same files what the model computed before it was written; transformers does so for
# the plain one only.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
install() { python3 -m pip install --quiet --disable-pip-version-check --target "$work/lib" "$@" 2>/dev/null; }
install torch==2.13.0 transformers==5.24.0 gguf==0.19.0 accelerate==1.15.0
install --no-deps xllamacpp==2026.10.11549
cd "$work"
cat > ask.py <<'PY'
import json
import urllib.request

import torch
import xllamacpp
from gguf import GGUFWriter, RopeScalingType
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

TOKENS = ["<s>", "</s>", *map(chr, range(ord("!"), ord("~") + 1)), "th", "he"]
WIDTH, HEADS, THETA = 128, 2, 500_000.0
PROMPT = torch.randint(2, len(TOKENS), (300,), generator=torch.Generator().manual_seed(0))
NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
    "blk.0.attn_norm": "model.layers.0.input_layernorm",
    "blk.0.attn_q": "model.layers.0.self_attn.q_proj",
    "blk.0.attn_k": "model.layers.0.self_attn.k_proj",
    "blk.0.attn_v": "model.layers.0.self_attn.v_proj",
    "blk.0.attn_output": "model.layers.0.self_attn.o_proj",
    "blk.0.ffn_norm": "model.layers.0.post_attention_layernorm",
    "blk.0.ffn_gate": "model.layers.0.mlp.gate_proj",
    "blk.0.ffn_up": "model.layers.0.mlp.up_proj",
    "blk.0.ffn_down": "model.layers.0.mlp.down_proj",
}


def write(model, rope):
    file = GGUFWriter("tiny.gguf", "llama")
    file.add_name("tiny")
    file.add_vocab_size(len(TOKENS))
    file.add_context_length(131_072)
    file.add_embedding_length(WIDTH)
    file.add_feed_forward_length(WIDTH)
    file.add_block_count(1)
    file.add_head_count(HEADS)
    file.add_head_count_kv(HEADS)
    file.add_layer_norm_rms_eps(1e-6)
    file.add_rope_dimension_count(WIDTH // HEADS)
    file.add_rope_freq_base(THETA)
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre("gpt-2")
    file.add_token_list(TOKENS)
    file.add_token_types([3, 3] + [1] * (len(TOKENS) - 2))
    file.add_token_merges(["t h", "h e"])
    file.add_bos_token_id(0)
    file.add_eos_token_id(1)
    if rope["rope_type"] == "linear":
        file.add_rope_scaling_type(RopeScalingType.LINEAR)
        file.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "llama3":
        plain = THETA ** -(torch.arange(0, WIDTH // HEADS, 2) * HEADS / WIDTH)
        file.add_tensor("rope_freqs.weight", (plain / model.model.rotary_emb.inv_freq).numpy())
    for short, long in NAMES.items():
        rows = model.state_dict()[f"{long}.weight"]
        if short.endswith(("attn_q", "attn_k")):  # files have the two halves of a head interleaved
            rows = rows.reshape(HEADS, 2, -1, WIDTH).transpose(1, 2).reshape(rows.shape)
        file.add_tensor(f"{short}.weight", rows.contiguous().numpy())
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


@torch.no_grad()
def next_token(model):
    return model(PROMPT[None]).logits[0, -1].log_softmax(-1)


def next_token_by_llama_cpp():
    params = xllamacpp.CommonParams()
    params.model.path = "tiny.gguf"
    params.n_ctx, params.n_parallel, params.warmup = 512, 1, False
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)
    body = {"prompt": PROMPT.tolist(), "n_predict": 1, "n_probs": len(TOKENS)}
    asked = urllib.request.Request(
        f"{server.listening_address}/completion",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    answer = json.load(urllib.request.urlopen(asked))["completion_probabilities"][0]
    found = {top["id"]: top["logprob"] for top in answer["top_logprobs"]}
    return torch.tensor([found[token] for token in range(len(TOKENS))])


def seen(rope):
    """rope_type as read, and how far log probabilities are from the model's: transformers, llama.cpp."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(TOKENS), hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=1,
            num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=131_072,
            rope_parameters={**rope, "rope_theta": THETA}, initializer_range=0.2,
        )
    ).eval()
    write(model, rope)
    read = AutoModelForCausalLM.from_pretrained(".", gguf_file="tiny.gguf").eval()
    weights = read.state_dict()
    assert all(torch.equal(w, weights.pop(name)) for name, w in model.state_dict().items())
    assert not weights
    true = next_token(model)
    far = [(found - true).abs().max().item() for found in (next_token(read), next_token_by_llama_cpp())]
    return read.config.rope_parameters["rope_type"], *far


for rope in (
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 4.0},
    {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
):
    kind, transformers, llama_cpp = seen(rope)
    print(f"{rope['rope_type']:8} read as {kind}; off by {transformers:.4f}, llama.cpp {llama_cpp:.4f}")
    assert kind == "default"
    assert llama_cpp < 0.01
    assert transformers < 0.01 if rope["rope_type"] == "default" else transformers > 0.5
PY
export PYTHONPATH="$work/lib" HF_HUB_OFFLINE=1 no_proxy=127.0.0.1
python3 ask.py 2>log || { tail log; exit 1; }
if grep '\[transformers\]' log; then exit 1; fi
