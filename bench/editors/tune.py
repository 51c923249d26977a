"""Presets of the bundled models: ``python -m bench.editors.tune atlas-gptj jeep [--out FILE]``.

``jeep tune`` on the bundled validation suite, whose subjects occur in no test.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from jeep_core import atlas
from jeep_core.commands.tune import Options, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=list(atlas.MODELS))
    parser.add_argument("editor")
    parser.add_argument("--cases", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out = args.out or Path(f"{args.editor}-{args.model}.yaml")
    suite = "atlas-counterfact-validation"
    run(
        Options(
            model=args.model,
            suite=suite,
            editor=args.editor,
            out=out,
            cases=args.cases,
            rounds=args.rounds,
        )
    )


if __name__ == "__main__":
    main()
