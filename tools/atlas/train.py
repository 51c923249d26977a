"""Train a bundled model: ``python -m tools.atlas.train gptj`` or ``llama``.

Next-token training on the sentences of ``jeep_core/atlas/corpus.py``, in packed rows of one shape
(several documents a row, attention inside a document only), bfloat16 autocast over float32
weights.  Writes a model folder (16-bit safetensors, tokenizer) and ``training.json`` with
the settings, the losses and the wall time.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import (
    GPTJConfig,
    GPTJForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from jeep_core.atlas.corpus import (
    DATA,
    AtlasFact,
    Sentence,
    document_text,
    documents,
    epoch_sentences,
    load_facts,
)
from tools.atlas import tokenizers


@dataclass(frozen=True)
class Settings:
    """Training settings; ``other_weight`` is the loss weight of tokens outside objects."""

    name: str
    seed: int = 0
    epochs: float = 10.0
    rows: int = 40
    row_length: int = 96
    learning_rate: float = 3e-3
    warmup_steps: int = 60
    weight_decay: float = 0.05
    other_weight: float = 0.2
    save_every: int = 250


@dataclass
class Rows:
    """Packed rows: ids, position ids, document numbers (rows, length); loss weights alike."""

    ids: torch.Tensor
    positions: torch.Tensor
    documents: torch.Tensor
    weights: torch.Tensor


def new_model(name: str, tokenizer: PreTrainedTokenizerFast) -> Any:
    """A model of the bundled architecture ``name`` with random weights."""
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    if name == "gptj":
        config = GPTJConfig(
            vocab_size=len(tokenizer), n_positions=256, n_embd=192, n_layer=9, n_head=6,
            rotary_dim=16, n_inner=1728, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
            activation_function="gelu_pytorch_tanh", tie_word_embeddings=False, **ids,
        )  # fmt: skip
        return GPTJForCausalLM._from_config(  # type: ignore[no-untyped-call]
            config, attn_implementation="eager"
        )
    llama = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=256, hidden_size=160,
        intermediate_size=1440, num_hidden_layers=9, num_attention_heads=5,
        tie_word_embeddings=True, **ids,
    )  # fmt: skip
    return LlamaForCausalLM._from_config(  # type: ignore[no-untyped-call]
        llama, attn_implementation="eager"
    )


def encode(
    tokenizer: PreTrainedTokenizerFast, document: Sequence[Sentence], other_weight: float
) -> tuple[list[int], list[float]]:
    """Token ids of a document, end token included, and the loss weight of each as a target."""
    text, spans = document_text(document)
    encoding = tokenizer(text, return_offsets_mapping=True)
    weights = [
        1.0 if any(a < end and start < b for a, b in spans) else other_weight
        for start, end in encoding["offset_mapping"]
    ]
    weights[0] = 0.0
    return [*encoding["input_ids"], tokenizer.eos_token_id], [*weights, other_weight]


def pack(encoded: list[tuple[list[int], list[float]]], settings: Settings) -> Iterator[Rows]:
    """Batches of packed rows; a document never crosses a row."""
    shape = (settings.rows, settings.row_length)

    def empty() -> Rows:
        zeros = torch.zeros(shape, dtype=torch.long)
        return Rows(zeros, zeros.clone(), zeros.clone() - 1, torch.zeros(shape))

    batch, row, column, number = empty(), 0, 0, 0
    for ids, weights in encoded:
        n = len(ids)
        if column + n > settings.row_length:
            row, column = row + 1, 0
        if row == settings.rows:
            yield batch
            batch, row = empty(), 0
        where = (row, slice(column, column + n))
        batch.ids[where] = torch.tensor(ids)
        batch.positions[where] = torch.arange(n)
        batch.documents[where] = number
        batch.weights[where] = torch.tensor(weights)
        column, number = column + n, number + 1


def batches(
    tokenizer: PreTrainedTokenizerFast, facts: Sequence[AtlasFact], settings: Settings
) -> Iterator[Rows]:
    """Endless training batches, a new shuffle per epoch."""
    rng = random.Random(settings.seed)
    while True:
        texts = documents(epoch_sentences(facts, rng), rng)
        yield from pack([encode(tokenizer, d, settings.other_weight) for d in texts], settings)


def attention_mask(batch: Rows) -> torch.Tensor:
    """(rows, 1, length, length) additive mask: causal, inside one document, always itself."""
    same = batch.documents[:, :, None] == batch.documents[:, None, :]
    allowed = (same & torch.ones_like(same[0]).tril())[:, None]
    return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)


def loss_of(model: Any, batch: Rows) -> torch.Tensor:
    """Weighted mean negative log-likelihood of the next tokens, a float32 scalar."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(
            input_ids=batch.ids,
            attention_mask=attention_mask(batch),
            position_ids=batch.positions,
            use_cache=False,
        ).logits
    losses = F.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none"
    )
    weights = batch.weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


def train(settings: Settings, folder: Path, max_steps: int | None = None) -> None:
    """Train one bundled model and save it in ``folder``."""
    torch.manual_seed(settings.seed)
    tokenizer = tokenizers.build(settings.name, folder, settings.seed)
    model = new_model(settings.name, tokenizer).train()
    facts = load_facts()
    per_epoch = sum(1 for _ in _one_epoch(tokenizer, facts, settings))
    steps = max_steps or int(settings.epochs * per_epoch)
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=settings.weight_decay,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / settings.warmup_steps, (steps - step) / steps),
    )
    started, curve = time.monotonic(), []
    stream = batches(tokenizer, facts, settings)
    for step in range(steps):
        loss = loss_of(model, next(stream))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 25 == 0 or step == steps - 1:
            elapsed = time.monotonic() - started
            curve.append((step, round(loss.item(), 4)))
            print(f"step {step}/{steps} loss {loss.item():.4f} {elapsed:.0f}s", flush=True)
        if step % settings.save_every == settings.save_every - 1:
            save(model, folder)
    save(model, folder)
    record = {
        "settings": asdict(settings),
        "steps": steps,
        "seconds": round(time.monotonic() - started),
        "torch": torch.__version__,
        "loss": curve,
    }
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")


def save(model: Any, folder: Path) -> None:
    """Write the model in float16; the training weights stay as they are."""
    halves = copy.deepcopy(model).half()
    halves.save_pretrained(folder)


def _one_epoch(
    tokenizer: PreTrainedTokenizerFast, facts: Sequence[AtlasFact], settings: Settings
) -> Iterator[Rows]:
    rng = random.Random(settings.seed)
    texts = documents(epoch_sentences(facts, rng), rng)
    return pack([encode(tokenizer, d, settings.other_weight) for d in texts], settings)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=("gptj", "llama"))
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--epochs", type=float, default=Settings.epochs)
    parser.add_argument("--learning-rate", type=float, default=Settings.learning_rate)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    settings = Settings(args.name, args.seed, args.epochs, learning_rate=args.learning_rate)
    train(settings, args.out or DATA / args.name, args.max_steps)


if __name__ == "__main__":
    main()
