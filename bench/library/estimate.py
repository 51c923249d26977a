"""The expected cost of 10,000 edits on one H100, from operation counts.

An estimate, not a measurement: ``python -m bench.library.estimate``.  Counted is what ``jeep
plan`` counts (``jeep_core.sizing``); assumed are the passes per fact, the size of the text, and
the share of the peak that matrix products of this size reach.
"""

from __future__ import annotations

from jeep_core.sizing.demand import Settings, Workload, editing_of
from jeep_core.sizing.devices import GPUS
from jeep_core.sizing.plan import Plan, make
from jeep_core.sizing.source import known_model

LOAD = Workload(facts=10_000, samples=100_000 * 500)
PAPER_HOURS = {"gpt-j-6b": 3.3, "llama-7b": 3.6}
"""The paper's figure for 10,000 edits, by shape."""
SHARES = (0.5, 0.25)
PASSES = (15, 30)


def main() -> None:
    print(
        "| model | values | writing | measuring | 10,000 edits | the paper, A100 "
        "| second moments, once |\n|---|---|---|---|---|---|---|"
    )
    for name, hours in PAPER_HOURS.items():
        known, device = known_model(name), GPUS["h100"]
        editing = editing_of(known.architecture, name, "jeep")
        settings = Settings(dtype="float16")
        best, worst = (
            make(known, device, editing, LOAD, settings, passes=passes,
                 rates=device.rates("float16", share))
            for passes, share in zip(PASSES, SHARES, strict=True)
        )  # fmt: skip
        total = [(plan.edit_s or 0.0) / 3600 for plan in (best, worst)]
        values, writing, measuring = (
            _both(part, 60, best, worst) for part in ("value optimisation", "writing", "measuring")
        )
        print(
            f"| {name} | {values} min | {writing} min | {measuring} min "
            f"| **{total[0]:.2f}–{total[1]:.2f} h** | {hours} h "
            f"| {_both('second moments', 3600, best, worst)} h |"
        )


def _both(part: str, unit: float, *plans: Plan) -> str:
    """A part's times in a unit of seconds, from the best plan to the worst."""
    return "–".join(f"{(plan.seconds(part) or 0.0) / unit:.1f}" for plan in plans)


if __name__ == "__main__":
    main()
