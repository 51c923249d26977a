#!/usr/bin/env bash
# tokenizers 0.23.3, pre-tokenizer Metaspace with prepend_scheme="first" (LLaMA and its heirs).
#
# "Lyon" begins with the token for a word's beginning.  The same text after "<s>", as a chat template
# writes it, begins with another token, because the blank goes in front of the first section of the
# text only, and the special token is that section.  With prepend_scheme="always" both begin alike.
# So ids of a rendered prompt are not BOS plus the ids of the prompt, and a fact that is edited at one
# token sequence is asked at another.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$work/lib" tokenizers==0.23.3 2>/dev/null
PYTHONPATH="$work/lib" python3 - <<'PY'
from tokenizers import Tokenizer, models, pre_tokenizers

vocabulary = {"<s>": 0, "▁": 1, "L": 2, "y": 3, "o": 4, "n": 5, "▁L": 6}


def tokens(scheme, text):
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("▁", "L")]))
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    return tokenizer.encode(text).tokens


seen = {(s, t): tokens(s, t) for s in ("first", "always") for t in ("Lyon", "<s>Lyon")}
for (scheme, text), found in seen.items():
    print(f"{scheme:7} {text:8} {found}")
assert seen["first", "Lyon"] == ["▁L", "y", "o", "n"]
assert seen["first", "<s>Lyon"] == ["<s>", "L", "y", "o", "n"]
assert seen["always", "<s>Lyon"] == ["<s>", "▁L", "y", "o", "n"]
PY
