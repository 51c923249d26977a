#!/usr/bin/env bash
# transformers 5.24.0 (gguf 0.19.0) scales the attention of every Gemma 2 from a GGUF file by 1/sqrt(256).
#
# No key of such a file says the scale: it follows from the shape, and the shape is read (head_dim).
# query_pre_attn_scalar is not set from it and stays what Gemma2Config has for want of another: 256, the
# width of a head in the smaller published models.  The 27B ones, Gemma 3's too, have heads of 128.
# Small models are written to files and read back with from_pretrained(gguf_file=...).  llama.cpp
# (xllamacpp 2026.10.11549) computes from each file what the model computed before; transformers does so
# with heads of 256, and with others gives other probabilities from the same weights, without a warning.
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
from gguf import GGUFWriter
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

TOKENS = ["<s>", "</s>", *map(chr, range(ord("!"), ord("~") + 1)), "th", "he"]
WIDTH, HEADS, LAYERS = 128, 2, 2
PROMPT = torch.randint(2, len(TOKENS), (100,), generator=torch.Generator().manual_seed(0))
NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def write(model):
    config = model.config
    file = GGUFWriter("tiny.gguf", "gemma2")
    file.add_context_length(config.max_position_embeddings)
    file.add_embedding_length(WIDTH)
    file.add_feed_forward_length(WIDTH)
    file.add_block_count(LAYERS)
    file.add_head_count(HEADS)
    file.add_head_count_kv(HEADS)
    file.add_key_length(config.head_dim)
    file.add_value_length(config.head_dim)
    file.add_layer_norm_rms_eps(config.rms_norm_eps)
    file.add_sliding_window(config.sliding_window)
    file.add_attn_logit_softcapping(config.attn_logit_softcapping)
    file.add_final_logit_softcapping(config.final_logit_softcapping)
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre("gpt-2")
    file.add_token_list(TOKENS)
    file.add_token_types([3, 3] + [1] * (len(TOKENS) - 2))
    file.add_token_merges(["t h", "h e"])
    file.add_bos_token_id(0)
    file.add_eos_token_id(1)
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
    for layer in range(LAYERS):
        names |= {f"blk.{layer}.{s}": f"model.layers.{layer}.{long}" for s, long in NAMES.items()}
    for short, long in names.items():
        rows = model.state_dict()[f"{long}.weight"].numpy()
        # files have what a norm multiplies by, the model has what is added to 1
        file.add_tensor(f"{short}.weight", rows + 1 if "norm" in short else rows)
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


for head in (256, 128, 64):
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=len(TOKENS), hidden_size=WIDTH, intermediate_size=WIDTH,
            num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=HEADS,
            head_dim=head, query_pre_attn_scalar=head, bos_token_id=0, initializer_range=0.2,
        )
    ).eval()
    write(model)
    read = AutoModelForCausalLM.from_pretrained(".", gguf_file="tiny.gguf").eval()
    weights = read.state_dict()
    for name, w in model.state_dict().items():
        torch.testing.assert_close(w, weights.pop(name), atol=1e-6, rtol=0)
    assert not weights
    true = next_token(model)
    transformers = (next_token(read) - true).abs().max().item()
    llama_cpp = (next_token_by_llama_cpp() - true).abs().max().item()
    scalar = read.config.query_pre_attn_scalar
    print(
        f"head_dim {read.config.head_dim}, query_pre_attn_scalar {scalar}; "
        f"off by {transformers:.4f}, llama.cpp {llama_cpp:.4f}"
    )
    assert read.config.head_dim == head
    assert scalar == 256
    assert llama_cpp < 0.02
    assert transformers < 0.01 if head == 256 else transformers > 0.2
PY
export PYTHONPATH="$work/lib" HF_HUB_OFFLINE=1 no_proxy=127.0.0.1
python3 ask.py 2>log || { tail log; exit 1; }
if grep '\[transformers\]' log; then exit 1; fi
