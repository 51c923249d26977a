"""Writing with values given, against an earlier commit: ``python -m bench.library.writing COMMIT``.

Both trees write the same facts with the same values into eight matrices, in turn and in processes
of one thread.  Prints CPU seconds, their ratio, and how many matrices have the same bytes.

    python -m bench.library.writing 2be4c0f^ --model FOLDER
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from bench.library.former import once, place
from bench.trees import HERE, tree_of
from bench.workload import median
from jeep_core.moments.source import DEFAULT_CORPUS

ONCE = HERE / "bench" / "library" / "writing_once.py"


def main() -> None:
    """Run both trees in turn and print what differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("commit")
    parser.add_argument("--model", type=place, required=True)
    parser.add_argument("--facts", type=int, default=8)
    parser.add_argument("--low", type=int, nargs="+", default=[5, 6, 7, 8, 9, 10])
    parser.add_argument("--high", type=int, nargs="+", default=[23, 24])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    given = (args.model, DEFAULT_CORPUS, args.facts, json.dumps(args.low), json.dumps(args.high))
    with tempfile.TemporaryDirectory() as temporary:
        trees = {"former": tree_of(args.commit, Path(temporary)), "now": HERE}
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in trees}
        for _ in range(args.repeats):
            for name, tree in trees.items():
                found[name].append(once(tree, ONCE, *given))
    seconds = {name: [run["seconds"] for run in runs] for name, runs in found.items()}
    ratios = [a / b for a, b in zip(seconds["former"], seconds["now"], strict=True)]
    former, now = (found[name][0]["hashes"] for name in trees)
    same = sum(now[name] == sha for name, sha in former.items())
    print(
        f"{args.facts} facts, {len(now)} matrices: former {median(seconds['former']):.2f} s, "
        f"now {median(seconds['now']):.2f} s of CPU; ratio {median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}); {same} of {len(former)} with the same bytes"
    )


if __name__ == "__main__":
    main()
