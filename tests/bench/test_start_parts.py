"""The parts of a start, read from what a service prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.service.start import CPU, PARTS, start, table

SERVICE = """
import os, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

class Answer(BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self):
        Answer.asked += 1
        self.send_response(200 if Answer.asked > 2 else 503)
        self.end_headers()

    def log_message(self, *_):
        pass

assert sys.argv[1:4] == ["serve", "--model", "tiny"]
print(f"jeep: worker started (process {os.getpid()}), loading the model", flush=True)
server = HTTPServer(("127.0.0.1", 0), Answer)
print(f"jeep: listening at http://127.0.0.1:{server.server_port} (documentation at …)", flush=True)
print("2026 [info     ] loading tiny [service.worker.members.common] part=worker", flush=True)
print("2026 [info     ] tiny on cpu in torch.float32, 79 [service.worker] part=worker", flush=True)
server.serve_forever()
"""


def tree(folder: Path, program: str) -> Path:
    (folder / "service").mkdir()
    (folder / "service" / "__init__.py").touch()
    (folder / "service" / "cli.py").write_text(program, encoding="utf-8")
    return folder


def test_the_parts_of_a_start_follow_one_another(tmp_path: Path) -> None:
    found = start(tree(tmp_path, SERVICE), "tiny")
    assert set(found) == {*PARTS, *CPU}
    in_order = [found[part] for part in PARTS]
    assert in_order == sorted(in_order)


def test_a_service_that_ends_is_no_start(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ended with 4"):
        start(tree(tmp_path, "raise SystemExit(4)"), "tiny")


def test_the_ratio_is_of_runs_beside_one_another() -> None:
    former = [dict.fromkeys((*PARTS, *CPU), seconds) for seconds in (10.0, 20.0, 40.0)]
    now = [dict.fromkeys((*PARTS, *CPU), seconds) for seconds in (8.0, 10.0, 20.0)]
    last = table({"former": former, "now": now})[-1].strip("| ").split(" | ")
    assert last[1:] == [
        "20.00 s (10.00 to 40.00)", "10.00 s (8.00 to 20.00)", "0.50 (0.50 to 0.80)",
    ]  # fmt: skip
    assert len(table({"now": now})[-1].strip("| ").split(" | ")) == 2
