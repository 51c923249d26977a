"""Write ``service/client/synchronous`` from ``service/client/asynchronous``.

    python -m tools.sync_client

Every call is written once, with ``async`` and ``await``; the client for programs without an event
loop is the same text without them (unasync, then ruff).  Nothing is changed by hand there, which
``tests/tools/test_sync_client.py`` holds.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import unasync

CLIENT = Path(__file__).parents[1] / "service" / "client"
SOURCE, TARGET = CLIENT / "asynchronous", CLIENT / "synchronous"
BY_HAND = "aside.py"
"""Written for each client, see there."""
NOTE = "# Made of service/client/asynchronous by python -m tools.sync_client: change it there.\n"
NAMES = {
    "AsyncBaseTransport": "BaseTransport",
    "AsyncClient": "Client",
    "aclose": "close",
    "aclosing": "closing",
    "aiter_bytes": "iter_bytes",
    "aiter_sse": "iter_sse",
    "aread": "read",
    "asynccontextmanager": "contextmanager",
    "asynchronous": "synchronous",
}
"""Names of httpx, httpx_sse, contextlib and of ours, beside those that unasync knows."""
DOCSTRING = '''
"""The client for programs without an event loop, made of `service.client.asynchronous`.

What belongs here: nothing that is written by hand but
``service/client/synchronous/aside.py``.
"""
'''.strip()


def written(folder: Path) -> list[Path]:
    """The modules of the client, written into a folder; those that belong there, sorted."""
    with tempfile.TemporaryDirectory() as aside:
        kept = Path(aside) / SOURCE.name
        kept.mkdir()
        names = sorted(path.name for path in SOURCE.glob("*.py") if path.name != BY_HAND)
        for name in names:
            (kept / name).write_text((SOURCE / name).read_text("utf-8"), encoding="utf-8")
        rule = unasync.Rule(f"/{SOURCE.name}/", f"/{TARGET.name}/", NAMES)
        unasync.unasync_files([str(kept / name) for name in names], [rule])
        made = [folder / name for name in names]
        for path in made:
            text = (Path(aside) / TARGET.name / path.name).read_text("utf-8")
            path.write_text(NOTE + _introduced(path.name, text), encoding="utf-8")
    for command in (["check", "--quiet", "--fix", "--select", "I"], ["format", "--quiet"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, *map(str, made)], check=True)
    return made


def _introduced(name: str, text: str) -> str:
    """A module's text; the room's own docstring says what it is."""
    if name != "__init__.py":
        return text
    _, _, rest = text.removeprefix('"""').partition('"""')
    return DOCSTRING + rest


def main() -> None:
    """Write the modules, and remove those whose source has gone."""
    made = written(TARGET)
    for path in TARGET.glob("*.py"):
        if path.name != BY_HAND and path not in made:
            path.unlink()


if __name__ == "__main__":
    main()
