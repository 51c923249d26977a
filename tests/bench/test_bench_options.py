"""Options and sizes of the benchmarks: what is given is measured, and all of it is shown."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from bench import plots
from bench.library import former, solve, writing
from bench.service import first_edit, followers, growth
from jeep_core.moments.factors import MomentFactor


def _row(what: str, better: str) -> dict[str, Any]:
    return {"what": what, "ratio": 2.0, "low": 1.5, "high": 2.5, "better": better}


@pytest.mark.parametrize("kinds", [("more", "less", "near one"), ("near one",), ("less",)])
def test_ratios_of_every_kind_are_drawn(
    kinds: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    bars = plots._bars

    def seen(axes: Any, rows: list[dict[str, Any]]) -> None:
        drawn.extend(row["what"] for row in rows)
        bars(axes, rows)

    monkeypatch.setattr(plots, "_bars", seen)
    plots.ratios([_row(f"a row, {kind}", kind) for kind in kinds], tmp_path / "ratios.png")
    assert drawn == [f"a row, {kind}" for kind in kinds]
    assert (tmp_path / "ratios.png").exists()


def test_a_deep_page_of_a_small_store_is_its_first() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(200, json={"next": "more"})

    with httpx.Client(base_url="http://store", transport=httpx.MockTransport(answer)) as http:
        assert growth.deep_page(http, "/facts", growth.PAGE // 2) > 0
        assert growth.deep_page(http, "/facts", 3 * growth.PAGE) > 0
    assert len(asked) == 1 + 3


def test_earlier_keys_of_a_small_matrix_are_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    summed: list[int] = []
    after = MomentFactor.after

    def seen(self: MomentFactor, *given: Any) -> Any:
        found = after(self, *given)
        summed.append(found[1])
        return found

    monkeypatch.setattr(MomentFactor, "after", seen)
    row = solve.after_edits(256, 1)
    assert summed == [0, 0]
    assert row.what == "solve, one fact after 255, d_ff 256"


def test_options_of_the_service_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def run(*some: object) -> dict[str, Any]:
        given.append(some)
        return {}

    monkeypatch.setattr(first_edit, "run", run)
    command = ["first_edit", "MODEL", "--facts", "2", "--options", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", command)
    first_edit.main()
    assert given == [("MODEL", 2, ["--threads", "1"])]


@pytest.mark.parametrize(("clients", "requests"), [(4, 8), (3, 9), (0, 8)])
def test_too_few_requests_to_count_any_are_refused(
    clients: int, requests: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(followers, "compare", lambda *_: pytest.fail("a service was started"))
    command = ["followers", "--clients", str(clients), "--requests", str(requests)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        followers.main()
    assert "three --requests for each" in capsys.readouterr().err


def test_three_requests_for_each_client_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last request is sent after the answers from which on tokens are counted."""

    class Answers:
        def __init__(self, url: str) -> None:
            pass

        def ask(self, request: dict[str, Any]) -> dict[str, Any]:
            return {"results": [{"tokens": [request["seed"]]}]}

    monkeypatch.setattr(followers, "Asker", Answers)
    requests = [{"seed": i} for i in range(6)]
    assert followers.full_rate("", 2, cast("list[dict[str, Any]]", requests)) > 0


def test_trees_are_given_whole_paths_and_names_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "facts.json").touch()
    monkeypatch.chdir(tmp_path)
    given: list[tuple[object, ...]] = []

    def once(tree: Path, script: Path, *arguments: object) -> dict[str, Any]:
        given.append(arguments)
        raise KeyboardInterrupt

    for bench in (former, writing):
        monkeypatch.setattr(bench, "tree_of", lambda commit, folder: folder)
        monkeypatch.setattr(bench, "once", once)
    for bench, command in (
        (former, "former HEAD --model model --suite facts.json"),
        (former, "former HEAD --model atlas-gptj --suite atlas-counterfact-validation"),
        (writing, "writing HEAD --model model"),
    ):
        monkeypatch.setattr(sys, "argv", command.split())
        with pytest.raises(KeyboardInterrupt):
            bench.main()
    assert [one[0] for one in given] == [str(tmp_path / "model"), "atlas-gptj", given[0][0]]
    assert [str(one[1]) for one in given[:2]] == [
        str(tmp_path / "facts.json"), "atlas-counterfact-validation",
    ]  # fmt: skip


def test_what_a_tree_says_is_told_when_it_fails(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("raise ValueError('no such suite')")
    with pytest.raises(SystemExit, match="no such suite"):
        former.once(tmp_path, script)
