"""Pages and navigation of the site, gathered in one folder as they lie in the repository.

So every relative link between pages that GitHub follows is followed by the site, too.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.docs.http_reference import write_http_reference
from tools.docs.library_reference import ROOT, write_library_reference

TEMPLATE = Path(__file__).parent / "zensical.toml"
REFERENCE = "reference"
"""Folder of the pages that are generated."""

GUIDE: dict[str, dict[str, str]] = {
    "Use": {
        "Using the service": "docs/using.md",
        "The Python client": "docs/client.md",
        "The console": "docs/console.md",
        "Command line": "docs/cli.md",
        "Exports": "docs/exports.md",
        "GGUF files": "docs/exports-gguf.md",
        "Targets": "docs/targets.md",
        "OpenAI's interface": "docs/openai.md",
        "Prompts and answers": "docs/prompts.md",
        "Chats": "docs/chat.md",
        "Suites": "docs/suites.md",
        "What an edit did": "docs/effects.md",
        "Exact edits": "docs/exact.md",
        "The probe": "docs/probe.md",
        "Models": "docs/models.md",
        "The bundled models": "jeep_core/atlas/MODEL_CARD.md",
    },
    "Run": {
        "Deployment": "deploy/README.md",
        "Operations": "docs/operations.md",
        "Workers and clusters": "docs/cluster.md",
        "Kubernetes": "docs/kubernetes.md",
        "Security": "docs/security.md",
        "Sizing": "docs/sizing.md",
        "The store": "docs/store.md",
    },
    "Extend": {
        "Architecture": "docs/architecture.md",
        "Extending": "docs/extending.md",
        "An editor of your own": "docs/editors.md",
        "Development": "docs/development.md",
    },
    "Evidence": {
        "Results": "docs/results.md",
        "Real models": "docs/real-models.md",
        "Comparison": "docs/comparison.md",
        "Lasting edits": "docs/lasting.md",
        "Performance": "docs/performance.md",
        "Faults": "docs/faults.md",
        "Lab notes": "docs/lab-notes.md",
        "Findings": "findings/README.md",
        "Changelog": "CHANGELOG.md",
    },
}
"""Pages that people write, by part of the navigation and title."""


def gather(folder: Path) -> None:
    """Copy all pages, with figures and reports, and write the generated ones."""
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("work"))
    shutil.copytree(ROOT / "findings", folder / "findings")
    copied = [page for part in GUIDE.values() for page in part.values()]
    for page in ("README.md", "LICENSE", *copied):
        target = folder / page
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / page, target)
    reference = folder / REFERENCE
    reference.mkdir()
    http = list(write_http_reference(reference))
    library = list(write_library_reference(reference))
    settings = settings_for(http, library)
    (folder.parent / TEMPLATE.name).write_text(settings, encoding="utf-8")


def settings_for(http: Sequence[Path], library: Sequence[Path]) -> str:
    """The generator's settings, with the navigation over all pages."""
    generated = [_link("HTTP interface", http[0]), _link("Schemas", http[1])]
    generated.append({"Python packages": [_link("Overview", library[-1])]})
    generated[-1]["Python packages"] += [_link(path.stem, path) for path in library[:-1]]
    parts: list[Any] = [{"Home": "README.md"}]
    parts += [
        {part: [{title: page} for title, page in pages.items()]} for part, pages in GUIDE.items()
    ]
    parts.append({"Reference": generated})
    text = TEMPLATE.read_text(encoding="utf-8")
    text = text.replace("nav = NAV", f"nav = {_toml(parts)}")
    return text.replace("[ROOT]", f"[{json.dumps(str(ROOT))}]")


def _link(title: str, path: Path) -> dict[str, Any]:
    return {title: f"{REFERENCE}/{path.name}"}


def _toml(value: Any) -> str:
    """Lists, tables with one entry, and texts, on one line."""
    if isinstance(value, list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)
