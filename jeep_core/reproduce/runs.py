"""Runs: one editor on one draw of cases, measured; each computed once and kept in a folder."""

from __future__ import annotations

import hashlib
import json
import platform
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jeep_core.editors.base import objective_for
from jeep_core.errors import JeepError
from jeep_core.evaluation.metrics import fitting, measure
from jeep_core.evaluation.trials import Trials
from jeep_core.models.giving_way import giving_way
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments, MomentTerms
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.spec.finite import json_text
from jeep_core.spec.hparams import EditorHParams, OptimisedEditorHParams
from jeep_core.storage.writing import write_atomically
from jeep_core.suites import Case, Suite
from jeep_core.values.cache import ValueCache, set_key

KEPT = ("id", "efficacy", "generalization", "locality", "greedy", "greedy_generalization",
        "greedy_locality", "margin", "margin_generalization", "margin_locality")  # fmt: skip
"""The fields of a case's record that are kept."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Setting:
    """An editor with its hyper-parameters; ``editor`` empty: the unedited model."""

    editor: str
    hparams: EditorHParams | None = None
    preset: str | None = None


UNEDITED = Setting("")


@dataclass(frozen=True)
class Run:
    """An edit of some of the cases that ``seed`` draws from a suite, and the same cases measured.

    ``draw``: numbers of cases below ``Lab.most``.
    """

    suite: str
    seed: int
    setting: Setting
    draw: range


@dataclass(frozen=True)
class LabTerms:
    """All of `Lab` that another process needs."""

    suites: Mapping[str, Suite]
    most: int
    moments: MomentTerms
    prefixes: Sequence[str]
    folder: Path
    hypernetworks: Path | None

    def of(self, base: LoadedModel, monitor: Monitor) -> Lab:
        """A lab for the same runs of the same model in another process.

        Raises:
            JeepError: its folder is not there, as on a machine that does not share it.
        """
        if not self.folder.is_dir():
            raise JeepError(
                f"{self.folder} is not there on {platform.node()}: workers on other machines need "
                "the report's folder on a file system that all of them share, at the same path"
            )
        moments = self.moments.of(base)
        return Lab(base, self.suites, self.most, moments, self.prefixes, self.folder,
                   self.hypernetworks, monitor)  # fmt: skip


@dataclass
class Lab:
    """One model, its suites, and the measurements on them.

    ``most``: cases that a seed draws from each suite.  ``folder`` keeps optimised values and
    finished runs: an interrupted report continues there.  ``kept``: runs that were found in it.
    """

    base: LoadedModel
    suites: Mapping[str, Suite]
    most: int
    moments: Moments
    prefixes: Sequence[str]
    folder: Path
    hypernetworks: Path | None = None
    monitor: Monitor = NOTHING
    left_out: dict[str, int] = field(default_factory=dict)
    kept: int = 0
    _usable: dict[str, list[Case]] = field(default_factory=dict)
    _drawn: dict[tuple[str, int], list[Case]] = field(default_factory=dict)
    _cache: ValueCache = field(init=False)

    def __post_init__(self) -> None:
        self._cache = ValueCache(self.folder / "values")
        for name, suite in self.suites.items():
            cases, skipped, _ = fitting(self.base, suite.cases, suite.style)
            self._usable[name], self.left_out[name] = cases, sum(skipped.values())

    def cases(self, suite: str, seed: int) -> list[Case]:
        """The cases that a seed draws, at most ``most``."""
        if (suite, seed) not in self._drawn:
            cases = list(self._usable[suite])
            random.Random(seed).shuffle(cases)
            self._drawn[suite, seed] = cases[: self.most]
        return self._drawn[suite, seed]

    @property
    def terms(self) -> LabTerms:
        """All that another process needs for the same runs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        networks = self.hypernetworks and self.hypernetworks.resolve()
        return LabTerms(self.suites, self.most, self.moments.terms, self.prefixes,
                        self.folder.resolve(), networks)  # fmt: skip

    def rows(self, run: Run) -> list[Row]:
        """Scores of the run's cases, as kept or computed now."""
        kept = self.kept_rows(run)
        if kept is not None:
            self.kept += 1
            return kept
        cases = self.cases(run.suite, run.seed)
        chosen = [cases[i] for i in run.draw]
        view, style = self.view(run), self.suites[run.suite].style
        with giving_way(view, self.monitor):
            records = measure(view, chosen, style, self.monitor)
        flat = [record.as_json() for record in records]
        rows: list[Row] = [{name: row[name] for name in KEPT} for row in flat]
        self.keep(run, rows)
        return rows

    def kept_rows(self, run: Run) -> list[Row] | None:
        """The rows of a run that was finished before, in this process or another."""
        path = self._path(run)
        if not path.exists():
            return None
        found: list[Row] = json.loads(path.read_bytes())
        return found

    def keep(self, run: Run, rows: Sequence[Row]) -> None:
        """Write the rows of a run, if they are not there: workers may have another disk."""
        path = self._path(run)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json_text(rows, str(path)))

    def _path(self, run: Run) -> Path:
        return self.folder / "runs" / f"{self._key(run)}.json"

    def shares(self, run: Run) -> str:
        """A name shared by runs that use the same optimised values of the same cases."""
        objective = objective_for(run.setting.editor, run.setting.hparams)
        parts = run.setting if objective is None else set_key(self.base, objective)
        return repr([run.suite, run.seed, parts])

    def view(self, run: Run) -> ModelView:
        """The edited model."""
        setting = run.setting
        if setting.hparams is None:
            return ModelView(self.base)
        trials = Trials(
            self.base,
            self.cases(run.suite, run.seed),
            self.moments,
            self.prefixes[: setting.hparams.prefix_count],
            monitor=self.monitor,
            hypernetworks=self.hypernetworks,
            cache=self._cache,
        )
        return trials.edit(setting.editor, setting.hparams, list(run.draw))[0]

    def _key(self, run: Run) -> str:
        hparams, cases = run.setting.hparams, self.cases(run.suite, run.seed)
        layers = hparams.moment_layers if hparams else ()
        parts = {
            "model": self.base.model_hash,
            "dtype": str(self.base.dtype),
            "device": self.base.device.type,
            "style": self.suites[run.suite].style,
            "cases": [repr(cases[i]) for i in run.draw],
            "editor": run.setting.editor,
            "hparams": hparams.model_dump(mode="json") if hparams else None,
            "prefixes": list(self.prefixes[: hparams.prefix_count]) if hparams else None,
            "moments": [self.moments.key(layer) for layer in layers],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def edits_in_turn(setting: Setting) -> bool:
    """Whether every fact waits for the one before it, which no cache of values can help."""
    optimises = isinstance(setting.hparams, OptimisedEditorHParams)
    return optimises and objective_for(setting.editor, setting.hparams) is None
