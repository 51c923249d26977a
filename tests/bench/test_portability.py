"""Tables of what follows from edits."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support.library.folders import write_folder

from bench.editors import portability
from jeep_core.errors import JeepError, WorkersLost


def row(number: int, said: float, **groups: float) -> dict[str, object]:
    return {
        "id": str(number), "prompt": "p", "efficacy": said, "free_contains": said,
        **{f"portability/{name}": value for name, value in groups.items()},
    }  # fmt: skip


BEFORE = [row(i, 0.0, hop=0.5, reversed=0.0) for i in range(4)]
AFTER = [row(i, 1.0, hop=0.25, reversed=float(i == 0)) for i in range(4)]


def test_every_group_has_a_line_and_every_version_two_columns() -> None:
    lines = portability.table({portability.UNEDITED: BEFORE, "jeep": AFTER})
    cells = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in lines}
    assert cells["edit prompt"][1:] == [
        "0.0 (0–0)", "0.0 (0–0)", "100.0 (100–100)", "100.0 (100–100)",
    ]  # fmt: skip
    assert cells["hop"][1].startswith("50.0")
    assert cells["hop"][3].startswith("25.0")
    assert cells["reversed"][3].startswith("25.0")


def test_gains_are_over_the_unedited_model() -> None:
    lines = portability.gains({portability.UNEDITED: BEFORE, "jeep": AFTER})
    assert "jeep minus unedited, portability/hop: -25.0 (-25.0 to -25.0)" in lines


def test_a_suite_from_which_nothing_follows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "model", "llama")
    fact = {"subject": "a", "prompt": "{} b", "target_new": " c", "target_true": " d"}
    (tmp_path / "suite.json").write_text(json.dumps([fact]))
    command = ["portability", str(tmp_path / "model"), "--suite", str(tmp_path / "suite.json")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(JeepError, match="has no portability questions: nothing follows"):
        portability.main()


class Played:
    """A suite and its case, a model and trials that do nothing."""

    name, style, n_layers, mlp_size = "suite", "contrast", 9, 64
    portability = ("q",)

    @property
    def cases(self) -> list[Played]:
        return [self]


@pytest.mark.parametrize(
    ("error", "cause", "refused"),
    [
        (JeepError("it has no network"), None, True),
        (JeepError("it has no network"), FileNotFoundError("network.json"), True),
        (JeepError("its file cannot be read"), PermissionError("no"), False),
        (WorkersLost("3 workers ended"), None, False),
    ],
)
def test_only_a_refusal_passes_over_an_editor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    error: JeepError, cause: Exception | None, refused: bool,
) -> None:  # fmt: skip
    played = Played()

    def asked(*_: object) -> None:
        raise error from cause

    for name, found in {
        "load_suite": played, "fitting": ([played], {}, {}), "by_default": (None, "auto", {}),
        "write_freely": {}, "neighbors_of": [], "ModelView": None, "rows_of": BEFORE,
    }.items():  # fmt: skip
        monkeypatch.setattr(portability, name, lambda *_, found=found, **__: found)
    monkeypatch.setattr(portability.jeep_core, "load", lambda *_: played)
    monkeypatch.setattr(portability, "hparams_for", asked)
    command = ["portability", "model", "--suite", "s", "--out", str(tmp_path / "out.json")]
    monkeypatch.setattr(sys, "argv", [*command, "--editors", "jeep"])
    if not refused:
        with pytest.raises(type(error), match=str(error)):
            portability.main()
        return
    portability.main()
    assert f"jeep: {error}" in capsys.readouterr().out
