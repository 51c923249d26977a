"""Presets of the bundled models: ``python -m bench.tune atlas-gptj jeep [--out FILE]``.

``jeep tune`` on the bundled validation suite, whose subjects occur in no test.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from jeep_core import atlas
from jeep_core.commands.tune import main as tune


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=list(atlas.MODELS))
    parser.add_argument("editor")
    parser.add_argument("--cases", default="64")
    parser.add_argument("--rounds", default="2")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out = args.out or Path(f"{args.editor}-{args.model}.yaml")
    suite = "atlas-counterfact-validation"
    flags = {"--model": args.model, "--suite": suite, "--editor": args.editor, "--out": str(out)}
    flags |= {"--cases": args.cases, "--rounds": args.rounds}
    return tune([part for pair in flags.items() for part in pair])


if __name__ == "__main__":
    raise SystemExit(main())
