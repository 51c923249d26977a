"""Means, intervals and comparisons of cases that can be counted on paper."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.library import tiny

from jeep_core.evaluation.fluency import n_gram_entropy, written
from jeep_core.evaluation.metrics import harmonic_mean
from jeep_core.evaluation.statistics import compare, summarise_cases
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView


def row(
    number: int, efficacy: float, generalization: float | None = None,
    locality: float | None = None, **more: Any
) -> dict[str, Any]:  # fmt: skip
    found = {"id": str(number), "prompt": f"p{number}", "efficacy": efficacy}
    return {**found, "generalization": generalization, "locality": locality, **more}


ROWS = [row(0, 1.0, 0.5, None, margin=0.4), row(1, 0.0, None, 0.4), row(2, 1.0, 1.0, 0.8)]


def test_means_are_over_the_cases_that_have_a_value() -> None:
    """ES 200/3 of three cases, GS 75 and LS 60 of two; the margin has one case and no percent."""
    found = summarise_cases(ROWS)
    assert found["efficacy"].value == pytest.approx(200 / 3)
    assert found["generalization"].value == pytest.approx(75)
    assert found["locality"].value == pytest.approx(60)
    assert found["score"].value == pytest.approx(3 / (3 / 200 + 1 / 75 + 1 / 60))
    assert found["margin"].value == pytest.approx(0.4)
    assert [found[name].cases for name in ("efficacy", "locality", "margin")] == [3, 2, 1]
    assert "fluency" not in found


def test_without_locality_there_is_no_score() -> None:
    found = summarise_cases([row(0, 1.0, 1.0), row(1, 0.0, 1.0)])
    assert found.keys() == {"efficacy", "generalization"}


def test_the_score_is_zero_if_a_part_is() -> None:
    assert summarise_cases([row(0, 1.0, 0.0, 1.0)])["score"].value == 0


def test_the_interval_of_a_share_is_that_of_the_binomial() -> None:
    """100 cases, 80 % right: ±1.96 √(0.8 · 0.2 / 100) = ±7.84 points, to a point."""
    found = summarise_cases([row(i, float(i % 5 > 0)) for i in range(100)], samples=4000)
    interval = found["efficacy"]
    assert interval.value == pytest.approx(80)
    assert interval.low == pytest.approx(80 - 7.84, abs=1)
    assert interval.high == pytest.approx(80 + 7.84, abs=1)


def test_the_interval_of_equal_cases_has_no_width() -> None:
    interval = summarise_cases([row(i, 1.0) for i in range(9)])["efficacy"]
    assert (interval.low, interval.value, interval.high) == (100, 100, 100)


def test_a_seed_draws_the_same_cases() -> None:
    rows = [row(i, i % 17 / 17) for i in range(41)]
    assert summarise_cases(rows, seed=1) == summarise_cases(rows, seed=1)
    assert summarise_cases(rows, seed=1) != summarise_cases(rows, seed=2)


SHARE = st.integers(0, 8).map(lambda n: n / 8)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(SHARE, st.none() | SHARE, st.none() | SHARE), min_size=1, max_size=12))
def test_means_and_score_equal_plain_sums(cases: list[tuple[float, Any, Any]]) -> None:
    found = summarise_cases([row(i, *case) for i, case in enumerate(cases)], samples=20)
    means = []
    for k, name in enumerate(("efficacy", "generalization", "locality")):
        values = [case[k] for case in cases if case[k] is not None]
        assert (name in found) is bool(values)
        if values:
            means.append(100 * sum(values) / len(values))
            assert found[name].value == pytest.approx(means[-1])
            assert found[name].low <= found[name].high
    assert ("score" in found) is (len(means) == 3)
    if len(means) == 3:
        assert found["score"].value == pytest.approx(harmonic_mean(means))


def test_a_comparison_lists_what_got_better_and_what_broke() -> None:
    before = [row(0, 0.0, 0.5, 1.0), row(1, 1.0, 0.5, 1.0), row(2, 1.0, 1.0, 1.0), row(9, 1.0)]
    after = [row(2, 1.0, 1.0, 1.0), row(1, 0.0, 0.5, 0.5), row(0, 1.0, 1.0, 0.5), row(8, 0.0)]
    found = compare(before, after)
    assert found.cases == 3
    assert [(c.id, c.metrics) for c in found.better] == [
        ("0", {"efficacy": (0.0, 1.0), "generalization": (0.5, 1.0)}),
    ]  # fmt: skip
    assert [(c.id, c.metrics) for c in found.broken] == [
        ("0", {"locality": (1.0, 0.5)}),
        ("1", {"efficacy": (1.0, 0.0), "locality": (1.0, 0.5)}),
    ]  # fmt: skip
    assert found.differences["efficacy"].value == pytest.approx(0)
    assert found.differences["generalization"].value == pytest.approx(100 * 0.5 / 3)
    assert found.differences["locality"].value == pytest.approx(-100 / 3)


def test_differences_are_taken_case_by_case() -> None:
    """Every case gains 10 points: however the cases are drawn, the difference is 10."""
    before = [row(i, (i % 7) / 10) for i in range(30)]
    after = [row(i, (i % 7) / 10 + 0.1) for i in range(30)]
    difference = compare(before, after).differences["efficacy"]
    assert (difference.low, difference.high) == pytest.approx((10, 10))


@pytest.mark.parametrize(("groups", "given"), [(1, 0), (2, 2), (100, 100), (101, 0)])
def test_a_suite_of_very_many_groups_has_no_figures_by_group(groups: int, given: int) -> None:
    """Each of them would be resampled: the time grows with their square."""
    rows = [row(i, 1.0, portability=0.5, **{f"portability/{i}": 0.5}) for i in range(groups)]
    found = summarise_cases(rows, samples=50)
    assert sum(name.startswith("portability/") for name in found) == given
    assert found["portability"].value == 50


def test_versions_without_a_common_case_have_no_differences() -> None:
    found = compare([row(0, 1.0)], [row(1, 1.0)])
    assert (found.cases, found.differences, found.better, found.broken) == (0, {}, [], [])


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("", 0.0),
        ("word", 0.0),
        ("a a a a a", 0.0),
        ("a b c d e", (2 / 3 * 2 + 4 / 3 * 1.584962500721156) / 2),  # log2(4) and log2(3)
        ("a b a b", (2 / 3 * 0.9182958340544896 + 4 / 3 * 1.0) / 2),  # ab twice of 3; aba, bab
        ("a, b. c", (2 / 3 * 2 + 4 / 3 * 1.584962500721156) / 2),
        ("東 京 都 庁 前", (2 / 3 * 2 + 4 / 3 * 1.584962500721156) / 2),
    ],
)
def test_n_gram_entropy_equals_its_formula(text: str, bits: float) -> None:
    assert n_gram_entropy(text) == pytest.approx(bits)


def test_a_model_that_repeats_itself_has_no_entropy() -> None:
    loop = tiny.bigram_view({"so": {"so": 0.999999}})
    [text] = written(loop, ["so"], tokens=20)
    assert text.split() == ["so"] * 21
    assert n_gram_entropy(text) == 0


def test_what_is_written_depends_on_the_seed_only(gptj: LoadedModel) -> None:
    view, prompts = ModelView(gptj), ["Lyon is", "The capital", "A"]
    first = written(view, prompts, seed=3, tokens=8)
    assert first == written(view, prompts, seed=3, tokens=8) != written(view, prompts, 4, 8)
    assert all(text.startswith(prompt) for text, prompt in zip(first, prompts, strict=True))


def test_a_text_ends_where_the_models_positions_do(gptj: LoadedModel) -> None:
    short, long = (written(ModelView(gptj), ["Lyon is"], tokens=n)[0] for n in (60, 500))
    assert long.startswith(short)
    assert written(ModelView(gptj), ["Lyon is"], tokens=70) == [long]
