"""Uncentered second moments E[k kᵀ] of keys over the tokens of a text corpus.

Keys are the inputs of the MLP output projections, or of the attention's.  One pass over the text
for all that are requested; results are kept in a folder under a key that
names everything they depend on.  A pass that was killed continues from the sums that it saved last.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import torch
from safetensors import SafetensorError

from jeep_core.errors import JeepError, is_no_damage
from jeep_core.executors.here import HERE
from jeep_core.executors.threads import every_thread
from jeep_core.executors.work import Executor
from jeep_core.models.fused.rounding import has_fast_bfloat16
from jeep_core.models.loading import LoadedModel, texts_sha256
from jeep_core.moments.factors import FactorCache, FactorMemory, MomentFactor
from jeep_core.moments.kept_moment import KeptMoment
from jeep_core.moments.published import Imported, not_imported
from jeep_core.moments.reading import Documents
from jeep_core.moments.shipped import file_sha256, read_shipped, shipped_file
from jeep_core.moments.source import (
    BATCH_TOKENS,
    DEFAULT_CORPUS,
    GRADIENT_TOKENS,
    TOKENS_PER_DIMENSION,
    import_command,
    text_of,
)
from jeep_core.moments.sums import MomentSums, accumulate, pack, way_of_summing
from jeep_core.moments.unfinished import Unfinished
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.spec.matrices import GradientOf, Measured, in_order
from jeep_core.storage.files import load_whole, save_whole
from jeep_core.storage.looking import present
from jeep_core.text.counting import counted
from jeep_core.text.encoding import encode

GRADIENT_LOGITS = 2**26
"""Logits that a batch may have whose gradients are taken, 256 MiB."""


@dataclass(frozen=True)
class MomentTerms:
    """The text of moments and where they are kept: all of `Moments` but the model."""

    texts: Sequence[str]
    samples: int
    folder: Path | None
    imported: str | None
    factor_bytes: int | None
    shipped: bool
    bfloat16: bool

    def of(self, base: LoadedModel) -> Moments:
        """The same moments of the same model in another process, where they are kept."""
        return Moments(base, **vars(self), kept_only=self.folder is not None)


@dataclass
class Moments:
    """Second moments of one base model over one corpus, in memory and in ``folder``.

    ``samples`` is the number of tokens taken from the beginning of the corpus; default: 20 per
    dimension of the keys.  ``imported`` names published statistics that were imported into
    ``folder`` and replace the corpus.  ``factor_bytes`` limits the memory that moments
    and their factors take, ``memory`` is one that others use, too; without a folder the moments
    themselves stay in memory.  ``shipped``: take those that ship with a bundled model, where they
    are of this text and number of tokens.  ``bfloat16``: compute them with the model's products in
    bfloat16, which takes a fraction of the time where the device is quick at them.
    ``kept_only``: take none, as the caller has seen to it that they are in ``folder``.
    """

    base: LoadedModel
    texts: Sequence[str]
    samples: int = 0
    folder: Path | None = None
    imported: str | None = None
    factor_bytes: int | None = None
    memory: FactorMemory | None = None
    shipped: bool = True
    bfloat16: bool = False
    kept_only: bool = False
    _factors: FactorCache = field(init=False, repr=False)
    _corpus_sha256: str = ""
    # by whether they are of gradients
    _tokens: dict[bool, int] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.samples:
            self.samples = TOKENS_PER_DIMENSION * self.base.mlp_size
        self._factors = FactorCache(self.base.mlp_size, self.factor_bytes, self.memory)

    def another(self) -> Moments:
        """The same moments for another user: they share all that is loaded and factored.

        Safe to use in another thread while this one is used.
        """
        return replace(self, memory=self._factors.memory)

    @property
    def terms(self) -> MomentTerms:
        """All that another process needs to find the same moments."""
        found = {part.name: getattr(self, part.name) for part in fields(MomentTerms)}
        # others need not work in the same folder
        return MomentTerms(**{**found, "folder": self.folder and self.folder.resolve()})

    def factor(self, layer: Measured) -> MomentFactor:
        """The factor of one layer; ``ensure`` must have been called for it."""
        return self._factors.get(layer)

    def ensure(
        self,
        layers: Sequence[Measured],
        monitor: Monitor = NOTHING,
        executor: Executor = HERE,
    ) -> None:
        """Find the moments of these layers, computing the missing ones in one pass.

        ``executor`` sums blocks of tokens; the moments have the same bits whoever does.

        Raises:
            Whatever ``monitor.check`` raises.
            JeepError: the corpus is empty, or a layer was not imported.
        """
        self._factors.expect(layers)
        for layer in layers:
            path = self.path(layer)
            if layer not in self._factors and path and present(path):
                self._factors.add(layer, self._kept(layer, path))
            elif layer not in self._factors:
                self._take_shipped(layer)
        missing = [layer for layer in layers if layer not in self._factors]
        if missing and self.imported:
            raise not_imported(self.imported, missing[0])
        if missing and self.kept_only:
            raise JeepError(
                f"second moments of layer {missing[0]} are not in {self.folder} on "
                f"{platform.node()}: workers on other machines need that folder on a file system "
                "that all of them share, at the same path"
            )
        gradients = [place for place in missing if isinstance(place, GradientOf)]
        keys = [place for place in missing if not isinstance(place, GradientOf)]
        for places in (keys, gradients):
            if places:
                self.adopt(self.sums(places, monitor=monitor, executor=executor))

    def sums(
        self,
        layers: Sequence[Measured],
        shard: int = 0,
        of: int = 1,
        monitor: Monitor = NOTHING,
        executor: Executor = HERE,
    ) -> MomentSums:
        """Σ k kᵀ over every ``of``-th batch from the ``shard``-th (0-based), in one pass.

        ``layers`` are places of keys, or all of them of gradients.

        With a folder, sums so far are saved there now and then, and a pass of the same kind
        that was killed continues from them, with bitwise the same result.  ``executor`` sums
        blocks on CPUs alone: a GPU has summed a block before it could be sent (docs/cluster.md).

        Raises:
            Whatever ``monitor.check`` raises.
            JeepError: the corpus is empty, or has fewer batches than there are shards.
        """
        gradients = isinstance(layers[0], GradientOf)
        batches = self.gradient_batches() if gradients else self.batches()
        if not batches:
            raise JeepError("the corpus for second moments is empty")
        if not 0 <= shard < of <= len(batches):
            made = counted(len(batches), "batch", "batches")
            raise JeepError(f"no shard {shard + 1}/{of}: this text makes {made}")
        # every ``of``-th: batches are in order of length, so shards take about the same time
        chosen = batches[shard::of]
        keys = {layer: self.key(layer) for layer in sorted(set(layers), key=in_order)}
        fresh = MomentSums(keys, {}, 0, frozenset({shard}), of)
        unfinished = Unfinished(self.folder, _name_of(fresh))
        start = unfinished.start(fresh)
        # the last document may go beyond ``samples``; progress is cut off there
        total = self.count(layers[0])
        if of > 1:
            total = sum(len(row) for rows in chosen for row in rows)

        def report(phase: str, count: int, _: int) -> None:
            monitor.report(phase, min(count, total), total)

        report("moments", start.count, total)
        found = accumulate(
            self.base,
            chosen,
            start,
            unfinished.offer,
            monitor.reporting(report),
            bfloat16=self.bfloat16,
            executor=executor if all(one.type == "cpu" for one in self.base.devices) else HERE,
        )
        unfinished.done()
        return found

    def adopt(self, sums: MomentSums) -> None:
        """Take complete sums over this corpus as the moments of their layers, and keep them.

        Raises:
            JeepError: they were taken over something else, or shards are missing.
        """
        if any(key != self.key(layer) for layer, key in sums.keys.items()):
            raise JeepError("these sums are of another model, text, sample count or dtype")
        if self.folder:
            for layer, path in zip(sums.keys, keep(sums, self.folder), strict=True):
                self._factors.add(layer, self._kept(layer, path))
            return
        for layer, moment in sums.moments().items():
            factor = MomentFactor(moment.to(self.base.device_of(layer)), f"layer {layer}")
            self._factors.add(layer, factor)

    def path(self, layer: Measured) -> Path | None:
        """Where the moment of a layer is kept."""
        if self.folder and self.imported:
            return Imported(self.folder, self.imported).path(self.base, layer)
        return self.folder and _moment_path(self.folder, self.key(layer))

    def key(self, layer: Measured) -> str:
        """Hash of everything the moment of a layer depends on."""
        if self.folder and self.imported:
            return Imported(self.folder, self.imported).key(self.base, layer)
        base = self.base
        parts: tuple[object, ...] = (
            base.model_hash,
            layer,
            self._corpus(),
            self.count(layer),
            str(base.dtype),
        )
        if self.bfloat16 and not isinstance(layer, GradientOf):
            parts = (*parts, "bfloat16 products")
        file = self._shipped(layer)
        if file is not None:
            parts = (*parts, file_sha256(file))
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def _corpus(self) -> str:
        if not self._corpus_sha256:
            self._corpus_sha256 = texts_sha256(self.texts)
        return self._corpus_sha256

    def _shipped(self, layer: Measured) -> Path | None:
        """The file that ships for a layer, if it is to be used."""
        if not self.shipped or self.imported or isinstance(layer, GradientOf):
            return None
        return shipped_file(self.base, layer, self._corpus(), self.samples)

    def _take_shipped(self, layer: Measured) -> None:
        """Use a layer's shipped moment, if there is one; with a folder it is kept there."""
        file, path = self._shipped(layer), self.path(layer)
        if file is None:
            return
        moment = read_shipped(file)
        if path is not None:
            save_whole(path, {"moment": moment})
            self._factors.add(layer, self._kept(layer, path))
        else:
            there = moment.to(self.base.device_of(layer))
            self._factors.add(layer, MomentFactor(there, f"layer {layer}"))

    def batches(self) -> list[Documents]:
        """The beginning of the corpus, tokenized and packed."""
        return pack(self._documents(self.samples, self.base.max_positions), BATCH_TOKENS)

    def gradient_batches(self) -> list[Documents]:
        """The same for gradients: fewer tokens, as they are shorter; as many as logits allow."""
        limit = min(self.base.max_positions, GRADIENT_TOKENS)
        tokens = min(BATCH_TOKENS, max(limit, GRADIENT_LOGITS // self.base.vocabulary))
        found = self._documents(self.count(GradientOf(0)), limit)
        # one token predicts nothing
        return pack([ids for ids in found if len(ids) > 1], tokens)

    def tokens(self, place: Measured) -> int:
        """Tokens whose keys or gradients are in the moment of a place.

        A short text has fewer than are asked for (`count`); of imported moments nothing else is
        known.
        """
        if self.folder and self.imported:
            return self.count(place)
        gradients = isinstance(place, GradientOf)
        if gradients not in self._tokens:
            batches = self.gradient_batches() if gradients else self.batches()
            # the last token of a document has no gradient
            lengths = (len(row) - gradients for rows in batches for row in rows)
            self._tokens[gradients] = sum(lengths)
        return self._tokens[gradients]

    def count(self, place: Measured) -> int:
        """Tokens of the text that the moment of a place is asked to be taken over."""
        if not isinstance(place, GradientOf):
            return self.samples
        return -(-self.samples * self.base.hidden_size // self.base.mlp_size)

    def _documents(self, samples: int, limit: int) -> list[Sequence[int]]:
        """Documents from the beginning of the corpus, tokenized, of ``limit`` tokens at most."""
        chosen: list[Sequence[int]] = []
        total = 0
        for text in self.texts:
            if total >= samples:
                break
            # longer documents are cut, not split: their beginnings are the sample
            ids = encode(self.base.tokenizer, text).ids[:limit]
            chosen.append(ids)
            total += len(ids)
        return chosen

    def _kept(self, layer: Measured, path: Path) -> MomentFactor:
        """The factor of a moment in a file; read when it is needed."""
        device = self.base.device_of(layer)

        def read() -> torch.Tensor:
            try:
                return load_whole(path)["moment"].to(device)
            except (JeepError, SafetensorError, KeyError, OSError) as error:
                if is_no_damage(error):
                    raise
                again = import_command(self.imported) + " writes it" if self.imported else ""
                hint = f"remove {path}, then {again or 'it is taken'} again"
                raise JeepError(f"second moments of layer {layer}: {error}; {hint}") from None

        precision = torch.float32 if device.type == "cuda" else torch.float64
        key, name = self.key(layer), f"layer {layer}"
        # a factor in a file is the CPU's; one of more threads has other bits
        on_cpu = device.type == "cpu"
        file = f"factor-{key[:32]}-{every_thread()}.safetensors"
        factor_path = path.with_name(file) if on_cpu else None
        memory = self._factors.memory
        # one factor for all lanes; solved columns belong to each
        kept = memory.shared(key, lambda: KeptMoment(read, name, factor_path))
        return MomentFactor(kept, name, precision)


def _name_of(sums: MomentSums) -> str:
    """The name of a pass that is not done; another way to sum has another."""
    way = (BATCH_TOKENS, *way_of_summing())
    keys = sorted((str(place), key) for place, key in sums.keys.items())
    parts = (keys, sorted(sums.parts), sums.of, way)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def keep(sums: MomentSums, folder: Path) -> list[Path]:
    """Write the moments of complete sums into a folder, where ``Moments`` finds them.

    Raises:
        JeepError: shards are missing.
    """
    paths = []
    for layer, moment in sums.moments().items():
        path = _moment_path(folder, sums.keys[layer])
        save_whole(path, {"moment": moment})
        paths.append(path)
    return paths


def _moment_path(folder: Path, key: str) -> Path:
    return folder / f"moment-{key[:32]}.safetensors"


def quick_products(base: LoadedModel, corpus: Path | None) -> bool:
    """Whether second moments over this text are computed with products in bfloat16.

    So it is for the text that ships for models of others, as a first edit waits for them, if the
    model is float32 and its device is quicker at them.
    """
    quick = text_of(base.name, corpus) == DEFAULT_CORPUS
    return quick and base.dtype == torch.float32 and all(map(has_fast_bfloat16, base.devices))
