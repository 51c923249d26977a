"""The gain of 8 to 512 workers, simulated: ``python -m bench.library.simulated FILE [PICTURE]``.

A simulation with the times of units that were recorded on one machine (``--record`` writes the
file), not a measurement: that is ``python -m bench.library.executors``.  It prints what it assumes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from bench.library.simulated import estimate
from bench.library.simulated.events import Job, Network, parts, seconds
from bench.library.simulated.recorded import Recorded, read, record, write
from jeep_core import atlas

THINGS = 10_000
WORKERS = (8, 16, 32, 64, 128, 256, 512)
GPUS = (1, 8, 64)
ORDINARY = Network(bandwidth=1.25e9, latency_s=0.001)
"""10 Gbit/s, and a millisecond until the other side has seen a message."""


def network_of(one: Recorded) -> Network:
    """The assumed network, with the recorded handling."""
    return Network(ORDINARY.bandwidth, ORDINARY.latency_s, one.handling_s)


def curve(one: Recorded) -> Iterator[dict[str, float | str]]:
    """Seconds, throughput and where the seconds go, by number of workers."""
    jobs, network = one.jobs(THINGS), network_of(one)
    alone = sum(seconds(job, 1) for job in jobs)
    for workers in WORKERS:
        found = parts(jobs, workers, network)
        yield {
            "workers": workers,
            "seconds": found.total,
            "throughput": THINGS / found.total,
            "gain": alone / found.total,
            "limit": found.limit,
            **vars(found),
        }


def table(one: Recorded, points: Sequence[dict[str, float | str]]) -> str:
    """Markdown of a curve."""
    units = sum(len(job.units) for job in one.jobs(THINGS))
    lines = [
        f"{one.what} of {THINGS:,} {one.thing}, {one.model}: {units} units",
        "",
        f"| workers | seconds | {one.thing} a second | gain | work | waiting | network | handling "
        "| serial | limit |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for point in points:
        spent = " | ".join(
            f"{point[name]:.3g}" for name in ("work", "waiting", "network", "handling", "serial")
        )
        lines.append(
            f"| {point['workers']} | {point['seconds']:.3g} | {point['throughput']:.3g} "
            f"| {point['gain']:.1f} | {spent} | {point['limit']} |"
        )
    return "\n".join(lines)


def estimated() -> Iterator[tuple[str, int, float, float, str]]:
    """Job, GPUs, seconds at best and at worst, and the limit at best."""
    for gpus in GPUS:
        best, worst = (estimate.edit(one) for one in (estimate.BEST, estimate.WORST))
        yield "edit", gpus, *_both(best, worst, gpus, estimate.FAST)
    for gpus in GPUS:
        best, network = estimate.moments(estimate.BEST)
        worst, _ = estimate.moments(estimate.WORST)
        yield "second moments, if they were divided", gpus, *_both(best, worst, gpus, network)


def _both(best: Job, worst: Job, gpus: int, network: Network) -> tuple[float, float, str]:
    # a single one is the worker itself, to which nothing is sent
    through = network if gpus > 1 else Network()
    found = [parts([job], gpus, through) for job in (best, worst)]
    return found[0].total, found[1].total, found[0].limit


def assumptions(file: Path, works: Sequence[Recorded]) -> str:
    """The assumptions, as a list."""
    fast, best, worst = estimate.FAST, estimate.BEST, estimate.WORST
    handled = ", ".join(f"{1000 * one.handling_s:.2g}" for one in works)
    return "\n".join(
        [
            f"- Times and sizes of units: {file.name}, one thread each, drawn at random for "
            f"{THINGS:,} facts or cases; every worker is as quick as the machine that recorded.",
            f"- Network of the one who hands out: {8 * ORDINARY.bandwidth / 1e9:g} Gbit/s each "
            f"way, {1000 * ORDINARY.latency_s:g} ms on the way; handling {handled} ms a unit.",
            "- Workers have started and have the model; each is sent the version once; none dies.",
            "- Reading keys, solving and writing are serial, and so is measuring in an edit.",
            f"- {estimate.MODEL} on {estimate.GPU}: operations as `jeep plan` counts them, "
            f"{best.share:.0%} of the peak and {best.passes} passes at best, {worst.share:.0%} and "
            f"{worst.passes} at worst; {8 * fast.bandwidth / 1e9:g} Gbit/s; "
            f"{estimate.READ_PER_S / 1e9:g} GB of results are read in a second.",
        ]
    )


def report(file: Path, picture: Path | None) -> None:
    """Print everything, and draw the curves."""
    works = read(file)
    curves = [list(curve(one)) for one in works]
    print(assumptions(file, works))
    for one, points in zip(works, curves, strict=True):
        print(f"\n{table(one, points)}")
    print(f"\n{estimate.FACTS:,} facts, {estimate.MODEL}, an estimate:\n")
    print("| | GPUs | at best | at worst | limit |\n|---|---|---|---|---|")
    for what, gpus, best, worst, limit in estimated():
        print(f"| {what} | {gpus} | {best:,.0f} s | {worst:,.0f} s | {limit} |")
    if picture is not None:
        from bench.plots import workers

        names = [f"{one.what}, {one.model}" for one in works]
        assumed = (
            f"simulated: {THINGS:,} facts or cases, times of units recorded with one thread, "
            f"{8 * ORDINARY.bandwidth / 1e9:g} Gbit/s, {1000 * ORDINARY.latency_s:g} ms"
        )
        workers(dict(zip(names, curves, strict=True)), assumed, picture)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="JSON of recorded units")
    parser.add_argument("picture", type=Path, nargs="?", help="PNG of the curves")
    parser.add_argument("--record", action="store_true", help="write the file instead")
    parser.add_argument(
        "--models", nargs="+", default=list(atlas.MODELS), help="bundled names, or folders"
    )
    parser.add_argument("--facts", type=int, nargs="+", default=[64], help="one, or one a model")
    parser.add_argument("--cases", type=int, nargs="+", default=[256], help="likewise; 0: none")
    parser.add_argument("--machine", default="one thread", help="what the file says of it")
    args = parser.parse_args()
    if not args.record:
        report(args.file, args.picture)
        return
    torch.set_num_threads(1)
    count = len(args.models)
    facts, cases = (one * count if len(one) == 1 else one for one in (args.facts, args.cases))
    works = []
    for each in zip(args.models, facts, cases, strict=True):
        for one in record(*each):
            works.append(one)
            print(one, flush=True)
            write(args.file, args.machine, works)


if __name__ == "__main__":
    main()
