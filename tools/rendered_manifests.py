"""The overlays of ``deploy/kubernetes`` as whole files: ``make kubernetes``.

``rendered/<overlay>.yaml`` is what ``kubectl apply -k overlays/<overlay>`` would send, so that it
can be read, checked and applied without kustomize.  Its first line has a hash of all sources, by
which the tests see that one was changed afterwards.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

KUBERNETES = Path(__file__).resolve().parents[1] / "deploy/kubernetes"
RENDERED = KUBERNETES / "rendered"
SOURCES = ("base", "components", "overlays")


def overlays() -> list[str]:
    """Their names."""
    return sorted(path.name for path in (KUBERNETES / "overlays").iterdir())


def first_line(folder: Path = KUBERNETES) -> str:
    """The comment that names all sources by one SHA-256: paths and contents, in order of paths."""
    digest = hashlib.sha256()
    for path in sorted(p for name in SOURCES for p in (folder / name).rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    return f"# made by `make kubernetes`, not by hand; sources: {digest.hexdigest()}\n"


def main() -> int:
    """Render all overlays; 1 where there is no program that can, or one fails."""
    if kubectl := shutil.which("kubectl"):
        command = [kubectl, "kustomize"]
    elif kustomize := shutil.which("kustomize"):
        command = [kustomize, "build"]
    else:
        print("install kubectl or kustomize first: neither is in PATH", file=sys.stderr)
        return 1
    RENDERED.mkdir(exist_ok=True)
    for name in overlays():
        folder = str(KUBERNETES / "overlays" / name)
        done = subprocess.run([*command, folder], capture_output=True, text=True)
        if done.returncode != 0:
            print(done.stderr, file=sys.stderr)
            return 1
        (RENDERED / f"{name}.yaml").write_text(first_line() + done.stdout, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
