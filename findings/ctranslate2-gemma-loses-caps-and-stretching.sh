#!/usr/bin/env bash
# ctranslate2 4.8.5 converts Gemma 2 without its two soft caps, and Gemma 3 without its stretched positions.
#
# Small models are saved with transformers 5.24.0, converted with TransformersConverter and asked for the
# log-probabilities of the same tokens.  Without caps Gemma 2 agrees to 1e-5, and so does Gemma 3 with plain
# positions.  With a cap on the logits or on the attention scores, with an attention scale that is not that of
# the width of a head (27B models), with blocks that see only a window, or with the full-attention blocks of
# Gemma 3 stretched by 8 (from 4B on), the answers are those of the model without it, and nothing is said.  The
# loaders do not read these fields: the cap on the logits and the scale are set for other families only, the
# format has no place for the cap on scores, and of positions Gemma 3's loader asks for config.rope_theta alone,
# which transformers 5 has moved, and goes on with the published value.
# Greedy answers hide the missing cap on logits, as tanh keeps their order; probabilities do not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$work/lib" \
    torch==2.13.0 transformers==5.24.0 ctranslate2==4.8.5 2>/dev/null
cd "$work"
cat > ask.py <<'PY'
import numpy as np
import torch
from ctranslate2 import Generator
from ctranslate2.converters import TransformersConverter
from tokenizers import Tokenizer, models
from transformers import (
    Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast,
)

SIZE = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, query_pre_attn_scalar=16, initializer_range=0.2, sliding_window=512,
    bos_token_id=1, eos_token_id=2, pad_token_id=0,
)
PLAIN_2 = dict(attn_logit_softcapping=None, final_logit_softcapping=None)
KINDS_3 = dict(layer_types=["sliding_attention", "full_attention"])
STRETCHED = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
TOKENS = torch.randint(3, 64, (1, 40), generator=torch.Generator().manual_seed(0))


def far(version, **fields):
    """The largest difference of a log-probability, and places where another token is the most probable."""
    torch.manual_seed(0)
    if version == 2:
        model = Gemma2ForCausalLM(Gemma2Config(**(SIZE | PLAIN_2 | fields))).eval()
    else:
        model = Gemma3ForCausalLM(Gemma3TextConfig(**(SIZE | KINDS_3 | fields))).eval()
    model.save_pretrained("model")
    vocabulary = Tokenizer(models.WordLevel({f"t{i}": i for i in range(64)}, unk_token="t0"))
    PreTrainedTokenizerFast(
        tokenizer_object=vocabulary, pad_token="t0", bos_token="t1", eos_token="t2", unk_token="t0"
    ).save_pretrained("model")
    TransformersConverter("model").convert("converted", force=True)
    texts = [[f"t{token}" for token in TOKENS[0].tolist()]]
    found = Generator("converted", compute_type="float32").forward_batch(texts, return_log_probs=True)
    with torch.no_grad():
        true = model(TOKENS).logits[0].log_softmax(-1).numpy()
    found = np.array(found)[0]
    return abs(found - true).max(), int((found.argmax(-1) != true.argmax(-1)).sum())


SEEN = {
    "Gemma 2 without caps": far(2),
    "Gemma 2, logits capped at 3": far(2, final_logit_softcapping=3.0),
    "Gemma 2, scores capped at 1": far(2, attn_logit_softcapping=1.0),
    "Gemma 2, another attention scale": far(2, query_pre_attn_scalar=64),
    "Gemma 2, window of 8": far(2, sliding_window=8),
    "Gemma 3, plain": far(3),
    "Gemma 3, stretched": far(3, rope_parameters=STRETCHED),
    "Gemma 3, another attention scale": far(3, query_pre_attn_scalar=64),
}
for name, (most, others) in SEEN.items():
    print(f"{name}: off by {most:.2g}, another token first at {others} of {TOKENS.shape[1]}")
PLAIN = ("Gemma 2 without caps", "Gemma 3, plain")
for name, (most, others) in SEEN.items():
    assert (most < 1e-4) if name in PLAIN else (most > 0.5), name
    assert (others == 0) == (name in PLAIN or "logits" in name), name
PY
PYTHONPATH="$work/lib" HF_HUB_OFFLINE=1 python3 ask.py 2>log || { tail log; exit 1; }
if grep -i 'warn\|not supported' log; then exit 1; fi
