"""Run docs/tour.ipynb from its beginning to its end, and keep its outputs in it.

    python -m tools.tour                 # renews the outputs
    python -m tools.tour --to FILE       # writes the notebook that was run elsewhere

The notebook starts a service of its own.  What a run leaves in it beside code and outputs (times,
the kernel's version) is taken out, and a hash of all code says which code the outputs are of.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tour.ipynb"
CELL_SECONDS = 180
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def code_hash(notebook: Any) -> str:
    """The SHA-256 of the code of all cells."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()


def ran(path: Path) -> Any:
    """A notebook as it is after all cells have run.

    Raises:
        CellExecutionError: one has failed.
    """
    import nbformat
    from nbclient import NotebookClient
    from traitlets.config import Config

    notebook: Any = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory() as folder:
        # neither the settings nor the history of whoever runs this
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
            os.environ[name] = str(Path(folder) / name)
        os.environ["JUPYTER_PLATFORM_DIRS"] = "1"
        NotebookClient(
            notebook,
            timeout=CELL_SECONDS,
            resources={"metadata": {"path": folder}},
            # a socket in the folder: ports could be spoken to by every user of the machine
            config=Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}}),
        ).execute()
    for cell in notebook.cells:
        cell.metadata = {}
    notebook.metadata = {
        "kernelspec": KERNEL,
        "language_info": {"name": "python"},
        "jeep": {"outputs_of": code_hash(notebook)},
    }
    return notebook


def main() -> None:
    """Run the notebook, and write it."""
    import nbformat

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--to", type=Path, default=NOTEBOOK, help="default: where it is")
    to = parser.parse_args().to
    nbformat.write(ran(NOTEBOOK), to)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
