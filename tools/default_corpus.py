"""Write the English text that second moments are taken over where no other is named.

    python -m tools.default_corpus FACTBOOK HOLMES ESSAYS

The arguments are git repositories, which ``jeep_core/moments/data/english.md`` names with their
commits and licences; a fourth source is this project's documentation.  One document a line, in an
order that mixes the sources, so that the beginning of the file is as varied as all of it.
"""

from __future__ import annotations

import argparse
import html
import json
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from jeep_core.moments.source import DEFAULT_CORPUS

FACTBOOK = (
    "Introduction / Background",
    "Geography / Geography - note",
    "Geography / Climate",
    "Geography / Natural hazards",
    "Geography / Population distribution",
    "Economy / Economic overview",
    "Economy / Industries",
    "Government / Country name / etymology",
    "Government / Capital / etymology",
    "Communications / Broadcast media",
    "Space / Space program overview",
)
"""The articles of each country that are prose."""
SIZES = {"factbook": 140_000, "holmes": 80_000, "essays": 50_000, "own": 30_000}
"""Characters taken of each source."""
LEAST, MOST = 240, 1200
"""Characters of a document."""


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("factbook", "holmes", "essays"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    sources = {
        "factbook": factbook(args.factbook),
        "holmes": joined(holmes(args.holmes)),
        "essays": joined(essays(args.essays)),
        "own": own(Path("docs")),
    }
    chosen: list[str] = []
    for name, documents in sources.items():
        kept = sorted({text for text in documents if LEAST <= len(text) <= MOST})
        random.Random(name).shuffle(kept)
        size = 0
        for text in kept:
            if size < SIZES[name]:
                chosen.append(text)
                size += len(text)
        print(f"{name}: {size} of {sum(map(len, kept))} characters")
    random.Random(0).shuffle(chosen)
    DEFAULT_CORPUS.write_text("\n".join(chosen) + "\n", encoding="utf-8")
    print(f"{DEFAULT_CORPUS}: {len(chosen)} documents")


def factbook(repository: Path) -> Iterator[str]:
    """Articles on the countries of the world."""
    for path in _git(repository, "ls-tree", "-r", "--name-only", "HEAD").split("\n"):
        if path.count("/") == 1 and path.endswith(".json") and not path.startswith("meta/"):
            country = json.loads(_git(repository, "show", f"HEAD:{path}"))
            for article in FACTBOOK:
                found = country
                for key in article.split(" / "):
                    found = found.get(key, {}) if isinstance(found, dict) else {}
                text = found.get("text") if isinstance(found, dict) else found
                for part in re.split(r"<br */?>|</p>", text or ""):
                    yield clean(part)


def holmes(repository: Path) -> Iterator[str]:
    """Paragraphs of stories."""
    for path in _git(repository, "ls-tree", "--name-only", "HEAD", "src/epub/text/").split("\n"):
        if re.search(r"/(a|the)-[^/]*\.xhtml$", path):
            page = _git(repository, "show", f"HEAD:{path}")
            yield from (clean(part) for part in re.findall(r"<p>(.*?)</p>", page, re.DOTALL))


def essays(repository: Path) -> Iterator[str]:
    """Paragraphs of lectures, without the notes of whoever transcribed them."""
    text = _git(repository, "show", "HEAD:16351-8.txt", encoding="latin-1").replace("\r", "")
    body = text.partition("\nI\n")[2].partition("*** END OF")[0]
    for part in body.split("\n\n"):
        if "[" not in part and "{" not in part and not part.startswith(" "):
            yield clean(part.replace("_", ""))


def own(folder: Path) -> Iterator[str]:
    """Paragraphs of this project's documentation."""
    for path in sorted(folder.glob("*.md")):
        text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        for part in text.split("\n\n"):
            if part[:1].isalpha() and "|" not in part:
                yield clean(re.sub(r"\[([^]]*)\]\([^)]*\)|[`*]", r"\1", part))


def joined(parts: Iterator[str]) -> Iterator[str]:
    """Short paragraphs put together until they are long enough for a document."""
    text = ""
    for part in parts:
        text = f"{text} {part}".strip()
        if len(text) >= LEAST:
            yield text
            text = ""


def clean(text: str) -> str:
    """A paragraph as one line of plain text."""
    text = html.unescape(html.unescape(re.sub(r"<[^>]*>", "", text)))
    text = text.replace("⁠", "").replace("—", " - ").replace("’", "'")
    text = re.sub(r"[“”]", '"', text).replace("‘", "'")
    return " ".join(text.split())


def _git(repository: Path, *arguments: str, encoding: str = "utf-8") -> str:
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(command, capture_output=True, check=True).stdout.decode(encoding)


if __name__ == "__main__":
    main()
