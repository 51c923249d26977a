"""An edit against the same edit with an earlier commit: ``python -m bench.library.former COMMIT``.

Both trees edit the same facts of a suite with the hyper-parameters that each chooses by itself, in
turn and in processes of one thread, and score the facts they edited.  Prints CPU seconds a fact,
passes, the ratio, and the difference of the Scores with its 95 % interval over cases.

    python -m bench.library.former 9a61398 --model FOLDER --suite FILE --facts 64
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.trees import HERE, tree_of
from bench.workload import median
from jeep_core.evaluation.statistics import compare, summarise_cases

ONCE = HERE / "bench" / "library" / "values_once.py"


def once(tree: Path, script: Path, *arguments: object) -> dict[str, Any]:
    """The object that a script prints last, run with the packages of ``tree`` and one thread.

    Raises:
        SystemExit: the script failed, with what it said.
    """
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", str(script), *map(str, arguments)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment, cwd=tree
    )
    if done.returncode:
        raise SystemExit(f"{done.stderr}\nwith the code of {tree}: exit code {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def place(text: str) -> str:
    """The whole path of a file or folder, as each tree is a working directory; else a name."""
    return str(Path(text).resolve()) if Path(text).exists() else text


def main() -> None:
    """Run both trees in turn and print what differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("commit")
    parser.add_argument("--model", type=place, required=True)
    parser.add_argument("--suite", type=place, required=True)
    parser.add_argument("--half", type=int, choices=(0, 1), default=1)
    parser.add_argument("--facts", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        former = tree_of(args.commit, root / "tree")
        trees = {"former": former, "now": HERE}
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in trees}
        for _ in range(args.repeats):
            for name, tree in trees.items():
                folder = root / name
                folder.mkdir(exist_ok=True)
                given = (args.model, args.suite, args.half, args.facts, folder)
                found[name].append(once(tree, ONCE, *given))
    seconds = {name: [run["seconds"] for run in runs] for name, runs in found.items()}
    for name, runs in found.items():
        score = summarise_cases(runs[0]["rows"])["score"]
        print(
            f"{name}: {median(seconds[name]):.2f} s of CPU a fact, "
            f"{runs[0]['passes']:.1f} passes, "
            f"Score {score.value:.1f} ({score.low:.1f} to {score.high:.1f})"
        )
    ratios = [a / b for a, b in zip(seconds["former"], seconds["now"], strict=True)]
    difference = compare(found["former"][0]["rows"], found["now"][0]["rows"])
    score = difference.differences["score"]
    print(
        f"ratio {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); Score "
        f"{score.value:+.1f} ({score.low:+.1f} to {score.high:+.1f})"
    )


if __name__ == "__main__":
    main()
