"""An accelerator measured: ``make bench-gpu``, at most eight minutes.

For random models of each shape: value optimisation, writing, second moments, generation, one fact
over HTTP, and the most memory that each took.  A part that would begin after the time is up is
left out, and said so.

    python -m bench.device --device cuda --shapes 1b 7b --seconds 480
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench.serving import service
from bench.shapes import SHAPES, random_model, save
from bench.workload import seconds
from jeep_core.decoding.generation import Sampling, generate
from jeep_core.evaluation.trials import Trials
from jeep_core.models.loading import LoadedModel, texts_of
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.moments.source import DEFAULT_CORPUS
from jeep_core.probe.defaults.from_record import by_depths
from jeep_core.suites import load_counterfact
from jeep_core.values.prefixes import sample_prefixes
from service.client import Client

SEED = 2025
START_S = 300
EDITS = 4


@dataclass(frozen=True)
class Figure:
    """One row; ``memory_mb``: the most that was allocated on the device, None on a CPU."""

    shape: str
    what: str
    value: float | None
    unit: str
    note: str = ""
    memory_mb: float | None = None


class Clock:
    """Parts of a run that may take so many seconds, and what they gave."""

    def __init__(self, device: str, seconds: float) -> None:
        self.device, self.ends = device, time.monotonic() + seconds
        self.figures: list[Figure] = []

    def part(self, shape: str, what: str, run: Callable[[], tuple[float, str, str]]) -> None:
        """Run one part and keep its figure; one that fails or comes too late is a row, too."""
        if time.monotonic() > self.ends:
            self._keep(Figure(shape, what, None, "", "left out: the time is up"))
            return
        cuda = self.device.startswith("cuda")
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            value, unit, note = run()
        except (RuntimeError, OSError) as error:
            first = (str(error).strip().splitlines() or [""])[0]
            self._keep(Figure(shape, what, None, "", f"{type(error).__name__}: {first}"))
            return
        memory = torch.cuda.max_memory_allocated() / 2**20 if cuda else None
        self._keep(Figure(shape, what, value, unit, note, memory))

    def _keep(self, figure: Figure) -> None:
        self.figures.append(figure)
        print(json.dumps(asdict(figure)), flush=True)


def main() -> None:
    """Measure all shapes in turn and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", nargs="+", choices=[*SHAPES], default=["1b", "7b"])
    parser.add_argument("--seconds", type=float, default=480.0)
    parser.add_argument("--facts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=16_384, help="of text for second moments")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("no CUDA device is there; --device cpu --shapes tiny tries the script")
    clock = Clock(args.device, args.seconds)
    for shape in args.shapes:
        measure(clock, shape, args.facts, args.tokens)
    print(f"\n{where(args.device)}\n\n{markdown(clock.figures)}")
    if args.out is not None:
        args.out.write_text(json.dumps([asdict(one) for one in clock.figures], indent=1) + "\n")


def measure(clock: Clock, shape: str, facts: int, tokens: int) -> None:
    """All parts of one shape; its model is gone when they are done."""
    dtype = torch.float32 if clock.device == "cpu" else torch.bfloat16
    base = random_model(shape, clock.device, dtype)
    hparams: Any = by_depths("jeep", base.n_layers, base.mlp_size, {"contexts": "plain"})
    moments = Moments(base, texts_of(DEFAULT_CORPUS), tokens)
    cases = list(load_counterfact("atlas-counterfact").cases)
    random.Random(SEED).shuffle(cases)
    prefixes = sample_prefixes(base, hparams.n_prefixes)

    def second_moments() -> tuple[float, str, str]:
        spent = seconds(lambda: moments.ensure(hparams.moment_layers))
        what = f"{tokens} tokens, {len(hparams.moment_layers)} layers of d_ff {base.mlp_size}"
        return tokens / spent, "tokens/s", what

    def edit(count: int) -> tuple[float, str, str]:
        trials = Trials(base, cases[:count], moments, prefixes)
        kept: list[Any] = []
        spent = seconds(lambda: kept.append(trials.edit("jeep", hparams, range(count))[1]))
        passes = float(kept[0].values.steps.float().mean())
        return spent / count, "s/fact", f"{count} facts, {passes:.1f} passes, values and writing"

    def generation(rows: int) -> tuple[float, str, str]:
        sampling = Sampling(32, temperature=5.0, seed=1)
        prompts = [case.prompt.format(case.subject) for case in cases[:rows]]
        view = ModelView(base)
        generate(view, prompts[:1], sampling)
        spent = seconds(lambda: generate(view, prompts, sampling))
        return 32 * rows / spent, "tokens/s", f"{rows} rows of 32 tokens"

    clock.part(shape, "second moments", second_moments)
    clock.part(shape, "edit, one fact", lambda: edit(1))
    clock.part(shape, "edit, a batch", lambda: edit(facts))
    clock.part(shape, "generation, one row", lambda: generation(1))
    clock.part(shape, "generation, a batch", lambda: generation(32))
    clock.part(shape, "one fact over HTTP", lambda: over_http(base, clock.device, hparams))


def over_http(base: LoadedModel, device: str, hparams: Any) -> tuple[float, str, str]:
    """Median seconds from the request to the committed version, answers included, warm."""
    with tempfile.TemporaryDirectory(prefix="jeep-device-") as temporary:
        folder = save(base, Path(temporary) / "model")
        with service(str(folder), "--device", device) as (client, _):
            given = hparams.model_dump(mode="json")
            took = [one_edit(client, number, given) for number in range(EDITS + 1)]
    return statistics.median(took[1:]), "s", f"{EDITS} facts, the first {took[0]:.1f} s"


def one_edit(client: Client, number: int, hparams: dict[str, Any]) -> float:
    """Seconds of one committed edit.

    Raises:
        RuntimeError: it failed.
    """
    fact = {"subject": f"City {number}", "prompt": "{} lies in", "target_new": "Japan"}
    began = time.perf_counter()
    done = client.wait(client.edit([fact], hparams=hparams).id, timeout=START_S)
    if done.error is not None:
        raise RuntimeError(f"{done.error.code}: {done.error.message}")
    return time.perf_counter() - began


def where(device: str) -> str:
    """The machine in words."""
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}, bfloat16"
    return f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}, float32"


def markdown(figures: list[Figure]) -> str:
    """One row per figure."""
    lines = ["| shape | what | | unit | most memory | |", "|---|---|---|---|---|---|"]
    for one in figures:
        value = "–" if one.value is None else f"{one.value:,.4g}"
        memory = "" if one.memory_mb is None else f"{one.memory_mb:,.0f} MiB"
        lines.append(f"| {one.shape} | {one.what} | {value} | {one.unit} | {memory} | {one.note} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
