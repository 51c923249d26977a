"""Which facts moved an answer: an update that has columns for every fact, taken apart.

An edited matrix is W + Σ_i l_i r_iᵀ, summed over facts i, so at an input x its output contains
l_i (r_i·x) of fact i: this is what the output loses, to rounding, if the fact is taken out of that
matrix and nothing else changes.  Figures are of the update as it was computed, before the sum was
rounded to the model's type.  What follows in later blocks is not linear; it is measured instead, by
running the version with matrices or facts left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import exp
from typing import Any

import torch

from jeep_core.decoding.generation import checked, score_rows
from jeep_core.models.delta import Update
from jeep_core.models.families import is_transposed
from jeep_core.models.views import ModelView, hooked
from jeep_core.monitor import NOTHING, Monitor


@dataclass(frozen=True)
class Batch:
    """The updates of one edit, by parameter name.

    ``facts``: how many facts it edited, if its updates have columns for each of them: those of
    one way of asking come after those of another.  None: it can only be shown as a whole.
    """

    updates: Mapping[str, Update]
    facts: int | None = None


@dataclass(frozen=True)
class Cause:
    """A fact of a batch, or with ``fact`` None the whole batch; both are numbers from 0."""

    batch: int
    fact: int | None = None


@dataclass(frozen=True)
class Part:
    """The part of one cause in what edits add to a matrix's output at one position.

    ``norm``: the length of its vector l (r·x).  ``share``: its component along the sum of all
    causes, as a part of it: shares of all causes add up to 1; one that pulls back is negative.
    """

    cause: Cause
    norm: float
    share: float


@dataclass(frozen=True)
class Place:
    """The part that edits add to a matrix's output at a position: ``norm``, and ``relative`` to the
    length of the unedited output there.  ``parts``: the causes with the largest shares first."""

    name: str
    position: int
    norm: float
    relative: float
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Share:
    """A cause's part in all that edits add, over all matrices and positions.

    Squares of lengths weigh places against each other; shares of all causes add up to 1.
    ``without``: the answer's probability once the cause is taken out of every matrix, None where
    it was not measured.
    """

    cause: Cause
    share: float
    without: float | None = None


@dataclass(frozen=True)
class Step:
    """The answer's probability once the matrices of blocks up to ``layer`` are edited."""

    layer: int
    probability: float


@dataclass(frozen=True)
class Explanation:
    """Why a version answers as it does; probabilities are geometric means over the answer's tokens.

    ``base``: the probability before all edits; ``steps`` lead from there to the version's own.
    """

    base: float
    probability: float
    steps: tuple[Step, ...]
    places: tuple[Place, ...]
    shares: tuple[Share, ...]


@dataclass
class _Columns:
    """Columns of one matrix: ``left`` (out, m), ``right`` (in, m), m over all factored batches.

    ``causes`` (m,): the number of the cause of every column; ``runs``: of every batch the first
    column, the first cause, and how many columns c and causes n there are, c · n columns in all.
    ``whole``: dense updates by cause.
    """

    left: torch.Tensor
    right: torch.Tensor
    causes: torch.Tensor
    runs: list[tuple[int, int, int, int]] = field(default_factory=list)
    whole: dict[int, torch.Tensor] = field(default_factory=dict)


def can_split(update: Update, facts: int) -> bool:
    """Whether an update has columns for every one of so many facts."""
    return update.left is not None and facts > 0 and update.left.shape[1] % facts == 0


class Attribution:
    """The causes of a version, and their columns in each of its matrices.

    Args:
        view: the version, for this object alone: hooks are put on it.
        batches: the edits that made it, oldest first.
    """

    def __init__(self, view: ModelView, batches: Sequence[Batch]) -> None:
        self.view = view
        self.causes = [
            cause
            for number, batch in enumerate(batches)
            for cause in (
                [Cause(number)]
                if batch.facts is None
                else [Cause(number, fact) for fact in range(batch.facts)]
            )
        ]
        self._number = {cause: i for i, cause in enumerate(self.causes)}
        names = dict.fromkeys(name for batch in batches for name in batch.updates)
        self.layer_of = _layers(view, names)
        self.names = sorted(names, key=lambda name: (self.layer_of[name], name))
        self._columns = {name: self._columns_of(name, batches) for name in self.names}

    @torch.no_grad()
    def explain(
        self, ids: Sequence[int], start: int, top: int = 5, monitor: Monitor = NOTHING
    ) -> Explanation:
        """Why the tokens from ``start`` on follow those before them.

        Args:
            ids: tokens of prompt and answer.
            start: where the answer begins, at least 1.
            top: so many causes are listed at each place, and taken out of the version.
            monitor: its ``check`` is called before every run of the model.

        Raises:
            NumericalError: a probability is not finite.
            Whatever ``monitor.check`` raises.
        """
        row = (list(ids), start)
        monitor.check()
        base = _probability(ModelView(self.view.base), row)
        inputs, outputs = self.inputs(ids[:-1])
        places, shares = self.apart(inputs, outputs, top)
        steps, tensors = [], dict[str, torch.Tensor]()
        for i, name in enumerate(self.names):
            tensors[name] = self.view.parameter(name)
            layer, last = self.layer_of[name], i + 1 == len(self.names)
            if last or self.layer_of[self.names[i + 1]] != layer:
                monitor.check()
                partial = self.view if last else ModelView(self.view.base, tensors)
                steps.append(Step(layer, _probability(partial, row)))
        measured = []
        for share in shares[:top]:
            monitor.check()
            with self.without(share.cause):
                measured.append(Share(share.cause, share.share, _probability(self.view, row)))
        probability = steps[-1].probability if steps else base
        return Explanation(
            base, probability, tuple(steps), tuple(places), (*measured, *shares[top:])
        )

    @torch.no_grad()
    def inputs(self, ids: Sequence[int]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Inputs (t, in) and outputs (t, out) of every edited matrix at t tokens, float64."""
        inputs, outputs = dict[str, torch.Tensor](), dict[str, torch.Tensor]()

        def keep(name: str) -> Any:
            def hook(module: Any, args: Any, output: torch.Tensor) -> None:
                # (1, t, in) and (1, t, out)
                inputs[name], outputs[name] = args[0][0].double(), output[0].double()

            return hook

        family, base = self.view.base.family, self.view.base
        hooks = [_owner(self.view, name).register_forward_hook(keep(name)) for name in self.names]
        with hooked(*hooks):
            tokens = torch.tensor([list(ids)], device=base.device)
            family.backbone_of(self.view.model)(input_ids=tokens, use_cache=False)
        return inputs, outputs

    @torch.no_grad()
    def vectors(self, name: str, cause: Cause, inputs: torch.Tensor) -> torch.Tensor:
        """The part of a cause in a matrix's output at ``inputs`` (t, in): (t, out), float64."""
        columns, number = self._columns[name], self._number[cause]
        own = columns.causes == number
        # (t, m') · (m', out)
        found = (inputs.double() @ columns.right[:, own].double()) @ columns.left[:, own].double().T
        if number in columns.whole:
            found = found + inputs.double() @ columns.whole[number].double().T
        return found

    @torch.no_grad()
    def apart(
        self, inputs: Mapping[str, torch.Tensor], outputs: Mapping[str, torch.Tensor], top: int
    ) -> tuple[list[Place], list[Share]]:
        """Every place with its causes, and the shares of all causes that are not 0.

        ``inputs`` (t, in) and ``outputs`` (t, out) by name, as `inputs` gives them.
        """
        places: list[Place] = []
        # (n,): by cause, ⟨its vector, the sum⟩ over all places
        along, squares = torch.zeros(len(self.causes), dtype=torch.float64), 0.0
        for name in self.names:
            # (n, t): length of the causes' vectors, and their products with the sum (t, out)
            lengths, products, total = self._measured(name, inputs[name])
            norms = total.norm(dim=1)
            unedited = (outputs[name] - total).norm(dim=1)
            along += products.sum(dim=1).cpu()
            squares += float(norms.square().sum())
            places += self._places(name, lengths, products, norms, unedited, top)
        if squares == 0:
            return places, []
        shares = [
            Share(cause, float(value) / squares)
            for cause, value in zip(self.causes, along, strict=True)
            if float(value) != 0
        ]
        return places, sorted(shares, key=lambda share: -abs(share.share))

    @contextmanager
    def without(self, *causes: Cause) -> Iterator[None]:
        """The version without some causes, for the block: their parts are taken out of outputs."""

        def take_out(name: str) -> Any:
            def hook(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
                x = args[0].reshape(-1, args[0].shape[-1])
                gone = sum(self.vectors(name, cause, x) for cause in causes)
                return (output.double() - torch.as_tensor(gone).view_as(output)).to(output.dtype)

            return hook

        with hooked(*(_owner(self.view, n).register_forward_hook(take_out(n)) for n in self.names)):
            yield

    def _measured(
        self, name: str, x: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of n causes at t inputs ``x`` (t, in): lengths (n, t), products with the sum (n, t), and
        the sum (t, out)."""
        columns, n, t = self._columns[name], len(self.causes), x.shape[0]
        left, right = columns.left.double(), columns.right.double()
        weights = x @ right  # (t, m)
        total = weights @ left.T  # (t, out)
        wholes = {i: x @ matrix.double().T for i, matrix in columns.whole.items()}
        for part in wholes.values():
            total = total + part
        products = torch.zeros(n, t, dtype=torch.float64, device=x.device)
        # ⟨l_j (r_j·x), sum⟩ = (r_j·x) ⟨l_j, sum⟩: (m, t)
        products.index_add_(0, columns.causes, ((total @ left) * weights).T.contiguous())
        lengths = products.new_zeros(n, t)
        for start, first, c, many in columns.runs:
            # (out, c, n'), (t, c, n'): the length of a sum of c vectors by their products
            own = slice(start, start + c * many)
            vectors = left[:, own].reshape(-1, c, many)
            factors = weights[:, own].reshape(-1, c, many)
            gram = torch.einsum("oan,obn->abn", vectors, vectors)
            squared = torch.einsum("tan,tbn,abn->nt", factors, factors, gram)
            lengths[first : first + many] = squared.clamp_min(0).sqrt()
        for i, part in wholes.items():
            products[i] += (part * total).sum(dim=1)
            lengths[i] = part.norm(dim=1)
        return lengths, products, total

    def _places(
        self,
        name: str,
        lengths: torch.Tensor,
        products: torch.Tensor,
        norms: torch.Tensor,
        unedited: torch.Tensor,
        top: int,
    ) -> list[Place]:
        """The places of one matrix, from figures (n, t) of n causes and (t,) of their sum."""
        shares = products / norms.square().clamp_min(torch.finfo(torch.float64).tiny)
        # (min(top, n), t)
        best = shares.abs().topk(min(top, len(self.causes)), dim=0).indices
        found = []
        for position in range(norms.shape[0]):
            parts = tuple(
                Part(self.causes[i], float(lengths[i, position]), float(shares[i, position]))
                for i in best[:, position].tolist()
                if float(lengths[i, position]) > 0
            )
            norm, before = float(norms[position]), float(unedited[position])
            found.append(Place(name, position, norm, norm / before if before else 0.0, parts))
        return found

    def _columns_of(self, name: str, batches: Sequence[Batch]) -> _Columns:
        device, (out_size, in_size) = self.view.parameter(name).device, _sizes(self.view, name)
        # put together once: a line may have thousands of batches
        left = [torch.zeros(out_size, 0, device=device)]
        right = [torch.zeros(in_size, 0, device=device)]
        causes = [torch.zeros(0, dtype=torch.long, device=device)]
        runs, whole, start = list[tuple[int, int, int, int]](), dict[int, torch.Tensor](), 0
        for number, batch in enumerate(batches):
            update = batch.updates.get(name)
            if update is None:
                continue
            first = self._number[Cause(number, None if batch.facts is None else 0)]
            if update.left is None or update.right is None:
                whole[first] = update.matrix().to(device)
                continue
            m, many = update.left.shape[1], batch.facts or 1
            left.append(update.left.to(device))
            right.append(update.right.to(device))
            causes.append(first + torch.arange(m, device=device) % many)
            runs.append((start, first, m // many, many))
            start += m
        return _Columns(
            torch.cat(left, dim=1), torch.cat(right, dim=1), torch.cat(causes), runs, whole
        )


def _layers(view: ModelView, names: Iterable[str]) -> dict[str, int]:
    """The block of every matrix."""
    blocks = view.base.family.layers_of(view.model)
    of_module = {id(module): i for i, block in enumerate(blocks) for module in block.modules()}
    return {name: of_module[id(_owner(view, name))] for name in names}


def _sizes(view: ModelView, name: str) -> tuple[int, int]:
    """Outputs and inputs of a matrix; a ``Conv1D`` stores it the other way round."""
    rows, columns = view.parameter(name).shape
    return (columns, rows) if is_transposed(_owner(view, name)) else (rows, columns)


def _owner(view: ModelView, name: str) -> Any:
    return view.model.get_submodule(name.rpartition(".")[0])


def _probability(view: ModelView, row: tuple[list[int], int]) -> float:
    return exp(checked(score_rows(view, [row]))[0].mean)
