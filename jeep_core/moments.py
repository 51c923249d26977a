"""Uncentered second moments E[k kᵀ] of the MLP keys over the tokens of a text corpus.

One pass over the text for all layers asked for; results are kept in a folder under a key that
names everything they depend on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from jeep_core.errors import Cancelled, JeepError
from jeep_core.loading import LoadedModel, texts_sha256
from jeep_core.pauses import Pause, pausing
from jeep_core.solve import MomentFactor
from jeep_core.views import ModelView, hooked, lower_part

Progress = Callable[[str, int, int], None]
BATCH_TOKENS = 4096
TOKENS_PER_DIMENSION = 20


@dataclass
class Moments:
    """Second moments of one base model over one corpus, in memory and in ``folder``.

    ``samples`` is the number of tokens taken from the front of the corpus; default: 20 per
    dimension of the keys.
    """

    base: LoadedModel
    texts: Sequence[str]
    samples: int = 0
    folder: Path | None = None
    _factors: dict[int, MomentFactor] = field(default_factory=dict)
    _corpus_sha256: str = ""

    def __post_init__(self) -> None:
        if not self.samples:
            self.samples = TOKENS_PER_DIMENSION * self.base.mlp_size

    def factor(self, layer: int) -> MomentFactor:
        """The factor of one layer; ``ensure`` must have been called for it."""
        return self._factors[layer]

    def ensure(
        self,
        layers: Sequence[int],
        progress: Progress | None = None,
        should_stop: Callable[[], bool] | None = None,
        pause: Pause | None = None,
    ) -> None:
        """Load the moments of these layers, computing the missing ones in one pass.

        Raises:
            Cancelled: ``should_stop`` answered True.
            JeepError: the corpus is empty.
        """
        missing = [layer for layer in layers if layer not in self._factors]
        for layer in list(missing):
            path = self.path(layer)
            if path and path.exists():
                self._add(layer, load_file(path)["moment"])
                missing.remove(layer)
        if not missing:
            return
        for layer, moment in self._compute(missing, progress, should_stop, pause).items():
            path = self.path(layer)
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = path.with_suffix(".partial")
                save_file({"moment": moment.cpu()}, partial)
                partial.replace(path)
            self._add(layer, moment)

    def path(self, layer: int) -> Path | None:
        """Where the moment of a layer is kept."""
        return self.folder and self.folder / f"moment-{self.key(layer)[:32]}.safetensors"

    def key(self, layer: int) -> str:
        """Hash of everything the moment of a layer depends on."""
        if not self._corpus_sha256:
            self._corpus_sha256 = texts_sha256(self.texts)
        base = self.base
        parts = (base.model_hash, layer, self._corpus_sha256, self.samples, str(base.dtype))
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def _add(self, layer: int, moment: torch.Tensor) -> None:
        self._factors[layer] = MomentFactor(moment.to(self.base.device), f"layer {layer}")

    def _compute(
        self,
        layers: Sequence[int],
        progress: Progress | None,
        should_stop: Callable[[], bool] | None,
        pause: Pause | None,
    ) -> dict[int, torch.Tensor]:
        base = self.base
        view = ModelView(base)
        backbone = lower_part(view, max(layers))
        taken: dict[int, torch.Tensor] = {}

        def taker(layer: int):  # type: ignore[no-untyped-def]
            def hook(module: object, args: tuple[torch.Tensor, ...], output: object) -> None:
                taken[layer] = args[0]

            return base.family.mlp_out_of(view.model, layer).register_forward_hook(hook)

        sums: dict[int, torch.Tensor] = {}
        count = 0
        with torch.no_grad(), hooked(*map(taker, layers)), pausing(view, pause):
            for ids, lengths in self._batches():
                if should_stop and should_stop():
                    raise Cancelled("cancelled while computing second moments")
                backbone(input_ids=ids, use_cache=False)
                real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
                for layer in layers:
                    keys = taken[layer].view(*ids.shape, -1)[real].float()
                    block = (keys.T @ keys).double()
                    sums[layer] = sums[layer] + block if layer in sums else block
                count += int(lengths.sum())
                if progress:
                    progress("moments", min(count, self.samples), self.samples)
        if not count:
            raise JeepError("the corpus for second moments is empty")
        return {layer: (total / count).float() for layer, total in sums.items()}

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Right-padded ids (r, t) and lengths (r,), texts of similar length together."""
        limit, chosen, total = self.base.max_positions, [], 0
        for text in self.texts:
            if total >= self.samples:
                break
            ids = self.base.tokenizer.encode(text).ids[:limit]
            chosen.append(ids)
            total += len(ids)
        chosen.sort(key=len)
        start = 0
        while start < len(chosen):
            rows: list[list[int]] = []
            while start < len(chosen) and len(chosen[start]) * (len(rows) + 1) <= max(
                BATCH_TOKENS, len(chosen[start])
            ):
                rows.append(chosen[start])
                start += 1
            width = len(rows[-1])
            padded = torch.tensor([row + [0] * (width - len(row)) for row in rows])
            lengths = torch.tensor([len(row) for row in rows])
            yield padded.to(self.base.device), lengths.to(self.base.device)
