"""The probe against its plain procedure, and the quick probe against the thorough one."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
import torch

import jeep_core
from bench.library.plain_probe import exchange_plain, read_plain, restoration_plain
from jeep_core.errors import Cancelled, JeepError
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor
from jeep_core.probe import patched_runs, quick
from jeep_core.probe.patching import Pair, Patched, exchange, pairs, restoration
from jeep_core.probe.prompts import Prompt, prepare
from jeep_core.probe.proposal import propose
from jeep_core.probe.readings import read
from jeep_core.probe.run import Probe, probe
from jeep_core.spec.facts import Fact
from jeep_core.suites import load_suite

CLOSE = {"rtol": 1e-3, "atol": 1e-5}
THOROUGH = {"atlas-gptj": 96, "atlas-llama": 256}
"""Prompts that settle the thorough probe's choice."""


@pytest.fixture(scope="module", params=["atlas-gptj", "atlas-llama"])
def model(request: pytest.FixtureRequest) -> LoadedModel:
    return jeep_core.load(request.param, "cpu")


@pytest.fixture(scope="module")
def facts() -> list[Fact]:
    return list(load_suite("atlas-counterfact-validation").cases)


@pytest.fixture(scope="module")
def prompts(model: LoadedModel, facts: list[Fact]) -> tuple[Prompt, ...]:
    return prepare(ModelView(model), facts[:12]).prompts


@dataclass(frozen=True)
class Probed:
    """A quick probe of all facts, and the steps that it reported."""

    found: Probe
    told: list[tuple[str, int, int]]


@pytest.fixture(scope="module")
def probed(model: LoadedModel, facts: list[Fact]) -> Probed:
    told: list[tuple[str, int, int]] = []
    monitor = Monitor(lambda *step: told.append(step))
    return Probed(probe(ModelView(model), facts, quick=True, monitor=monitor), told)


@pytest.fixture(scope="module")
def plain(model: LoadedModel, prompts: tuple[Prompt, ...]) -> tuple[list[Pair], Patched, Patched]:
    """Pairs of prompts, and what the plain procedure makes of them: an exchange, a restoration."""
    view = ModelView(model)
    drawn = pairs(view, prompts)
    return drawn, exchange_plain(view, drawn), restoration_plain(view, prompts, seed=5)


def same(found: Patched, expected: Patched) -> None:
    torch.testing.assert_close(found.own, expected.own, **CLOSE)
    torch.testing.assert_close(found.own_before, expected.own_before, **CLOSE)
    if expected.other is not None and expected.other_before is not None:
        torch.testing.assert_close(found.other, expected.other, **CLOSE)
        torch.testing.assert_close(found.other_before, expected.other_before, **CLOSE)


class TestAgainstThePlainProcedure:
    def test_readings_are_those_of_the_plain_procedure(
        self, model: LoadedModel, prompts: tuple[Prompt, ...]
    ) -> None:
        view = ModelView(model)
        found, expected = read(view, prompts), read_plain(view, prompts)
        torch.testing.assert_close(found.probability, expected.probability, **CLOSE)
        # ranks may differ where two logits are equal but for rounding
        assert float((found.rank - expected.rank).abs().max()) <= 2
        assert float((found.rank != expected.rank).float().mean()) < 0.01

    def test_readings_of_promotion_are_a_part_of_all(
        self, model: LoadedModel, prompts: tuple[Prompt, ...]
    ) -> None:
        view = ModelView(model)
        few, whole = read(view, prompts, only_promotion=True), read_plain(view, prompts)
        for answer in ("original", "target"):
            for branch in ("mlp", "attention"):
                place = ("probability", answer, "prediction", branch)
                torch.testing.assert_close(few.added(*place), whole.added(*place), **CLOSE)
        assert few.of("rank", "final_norm", "original", "subject_last", "output").isnan().all()
        assert list(few.record()) == ["final_norm"]

    @pytest.mark.parametrize("together", [1, 10**6])
    def test_patched_runs_are_those_of_the_plain_procedure(
        self,
        model: LoadedModel,
        prompts: tuple[Prompt, ...],
        plain: tuple[list[Pair], Patched, Patched],
        together: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(patched_runs, "PATCHED_TOKENS", together)
        view = ModelView(model)
        drawn, exchanged, restored = plain
        same(exchange(view, drawn), exchanged)
        same(restoration(view, prompts, seed=5), restored)


class TestQuick:
    def test_it_proposes_what_the_thorough_one_does(
        self, model: LoadedModel, facts: list[Fact], probed: Probed
    ) -> None:
        thorough, found = probe(ModelView(model), facts, limit=THOROUGH[model.name]), probed.found
        assert thorough.proposal is not None
        assert found.proposal is not None
        assert (found.proposal.low, found.proposal.high) == (
            thorough.proposal.low,
            thorough.proposal.high,
        )
        # either side of the share from which the low region is enough
        assert found.proposal.subject_share == pytest.approx(
            thorough.proposal.subject_share, abs=0.1
        )
        assert len(found.prompts.prompts) <= quick.MOST_PROMPTS
        record = found.record()
        assert record["quick"]
        assert set(record["proposal"]["evidence"]) == {
            "subject_share", "carrying_layers", "effect", "contrast", "promotion_original",
            "promotion_target",
        }  # fmt: skip

    def test_its_figures_are_those_of_the_same_prompts(
        self, model: LoadedModel, facts: list[Fact], probed: Probed
    ) -> None:
        found = probed.found
        some, view = found.prompts.prompts, ModelView(model)
        drawn = list(facts)
        random.Random(0).shuffle(drawn)
        whole = prepare(view, drawn[: quick.MOST_PROMPTS]).prompts
        assert some == whole[: len(some)]
        used = [pair for pair in pairs(view, whole) if pair.prompt in some]
        expected = propose(
            read_plain(view, some),
            exchange_plain(view, used),
            model.family.is_parallel(model.model),
        )
        assert found.proposal is not None
        for name in ("effect", "contrast"):
            mine, plain = (getattr(p, name) for p in (found.proposal, expected))
            assert mine.mean == pytest.approx(plain.mean, abs=1e-4)
            assert mine.low == pytest.approx(plain.low, abs=1e-4)

    def test_it_stops_once_halves_agree(
        self, model: LoadedModel, facts: list[Fact], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(quick, "settled", lambda *_: True)
        assert len(probe(ModelView(model), facts, quick=True).prompts.prompts) == 32

    def test_a_small_limit_holds_and_too_few_are_an_error(
        self, model: LoadedModel, facts: list[Fact]
    ) -> None:
        few, again = (probe(ModelView(model), facts, limit=9, quick=True) for _ in range(2))
        assert len(few.prompts.prompts) <= 9
        assert again.record() == few.record()
        with pytest.raises(JeepError, match="at least 8"):
            probe(ModelView(model), facts[:3], quick=True)

    def test_it_can_be_cancelled_and_reports_all_its_prompts(
        self, model: LoadedModel, facts: list[Fact], probed: Probed
    ) -> None:
        assert {phase for phase, _, _ in probed.told} == {"read", "exchange"}
        assert max(done for _, done, _ in probed.told) == len(probed.found.prompts.prompts)

        def stop() -> None:
            raise Cancelled("cancelled on request")

        with pytest.raises(Cancelled):
            probe(ModelView(model), facts, quick=True, monitor=Monitor(check=stop))
