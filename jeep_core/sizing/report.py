"""A plan as lines for a terminal, and the tables of the documentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jeep_core.editors import DEFAULT_EDITOR
from jeep_core.sizing.demand import Settings, Workload, editing_of
from jeep_core.sizing.devices import GPUS
from jeep_core.sizing.plan import SETUP, SPREAD, Plan, make
from jeep_core.sizing.shapes import SIZES
from jeep_core.sizing.source import known_model
from jeep_core.text.counting import counted

TABLE_GPUS = ("rtx-4090", "h100", "h200")
TABLE_FACTS = 16


def lines(plan: Plan) -> Iterator[str]:
    """All that a plan says: the model, the verdict, memory, time."""
    arch, found = plan.known.architecture, plan.fit
    yield (
        f"{plan.known.name}: {arch.family.name}, {arch.layers} blocks, d {arch.d}, "
        f"d_ff {arch.d_ff}, {arch.vocabulary:,} tokens, {arch.parameters:,} parameters "
        f"({plan.known.origin})"
    )
    stored = plan.known.stored_parameters
    if stored is not None and stored != arch.parameters:
        yield f"its files hold {stored:,} numbers: some are there twice, or not used"
    regions = ", ".join(f"{r.name} {_span(r.layers)}" for r in plan.editing.regions)
    yield (
        f"{plan.editing.editor}: layers {regions}; {counted(plan.asked.facts, 'fact')} at a time, "
        f"{plan.editing.rows} rows each"
    )
    if plan.reason is not None:
        yield f"why {plan.editing.editor}: {plan.reason}"
    yield from (f"warning: {text}" for text in plan.warnings)
    yield ""
    yield from _verdict(plan)
    yield ""
    yield f"memory in GB ({found.settings.dtype}{', on one GPU' if plan.spread else ''}):"
    parts = {
        "weights": found.need.weights,
        "versions in memory": found.need.versions,
        f"decoding, {found.load.clients} clients": found.need.decoding,
    }
    if found.need.copies:
        parts["copies in bfloat16, kept"] = found.need.copies
    yield from (f"  {name:<30}{gigabytes(size):>9}" for name, size in parts.items())
    for name, size in found.need.peaks.items():
        yield f"  {'at most, in ' + PARTS[name]:<30}{gigabytes(size):>9}"
    yield ""
    yield from _times(plan)


PARTS = {
    "moments": "second moments",
    "values": "value optimisation",
    "gradients": "gradients",
    "writing": "writing",
}


def _verdict(plan: Plan) -> Iterator[str]:
    found, gpu = plan.fit, plan.gpu
    needed = f"{gigabytes(found.need.total)} of {gigabytes(gpu.usable)} GB that can be used"
    if found.outcome == "fits":
        yield f"1 GPU ({gpu.name}): fits, {needed}"
    elif found.outcome == "fits with settings":
        yield f"1 GPU ({gpu.name}): fits with these settings, {needed}:"
        yield from (f"  {text}" for text in found.changes)
    else:
        yield f"1 GPU ({gpu.name}): does not fit: {needed}, and that with the smallest settings:"
        yield from (f"  {text}" for text in found.changes)
    for n, one in plan.spread.items():
        told = one.changes if one.outcome == "fits with settings" else ()
        full = f"{gigabytes(one.need.total)} GB on the fullest"
        yield f"{n} GPUs: {one.outcome}, {full}" + (":" if told else "")
        yield from (f"  {text}" for text in told)
    if plan.spread:
        yield SPREAD
        for number, (part, size) in enumerate(plan.shares):
            yield f"  GPU {number}: {part!s:<36}{gigabytes(size):>9} GB"


def _times(plan: Plan) -> Iterator[str]:
    if plan.rates is None:
        yield "operations (a time needs --flops, or a GPU of " + ", ".join(GPUS) + "):"
    else:
        yield f"time at {plan.rates.matrix / 1e12:.3g} TFLOP/s in {plan.used.settings.dtype}:"
    for name, work in plan.parts.items():
        more = ", once" if name in SETUP else ""
        took = plan.seconds(name)
        shown = "" if took is None else f"{duration(took):>12}"
        if name == "second moments" and plan.used.settings.on_cpu:
            shown = "  on the CPU"
        yield f"  {name + more:<30}{work.operations / 1e12:>12,.2f} TFLOP{shown}"
    if plan.setup_s is not None and plan.edit_s is not None and plan.fact_s is not None:
        yield f"  first edit {duration(plan.setup_s + plan.edit_s)}, later ones " + (
            f"{duration(plan.edit_s)}, {duration(plan.fact_s)} a fact "
            f"(at most {plan.passes:g} {'pass' if plan.passes == 1 else 'passes'})"
        )


def table() -> list[str]:
    """The tables of docs/sizing.md, in Markdown."""
    return [*_memory_table(), "", *_fits_table(), "", *_time_table()]


def _plans(gpu: str) -> Iterator[tuple[str, Plan]]:
    """The plans of all example sizes on a GPU."""
    for size, name in SIZES.items():
        known = known_model(name)
        load = Workload(facts=TABLE_FACTS)
        editing = editing_of(known.architecture, name, DEFAULT_EDITOR, facts=TABLE_FACTS)
        settings = Settings(dtype=known.architecture.dtype)
        device = GPUS[gpu]
        rates = device.rates(settings.dtype)
        yield size, make(known, device, editing, load, settings, rates=rates)


def _memory_table() -> Iterator[str]:
    """The bytes of every part with default settings."""
    yield (
        "| | model | parameters | layers written | weights | 4 versions | 8 clients "
        "| sums of second moments | a factor | values, a fact |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    from jeep_core.sizing.memory import factors_kept, moments, need, of_fact

    for size, plan in _plans("h200"):
        arch, editing = plan.known.architecture, plan.editing
        asked = Settings(dtype=arch.dtype)
        first = need(arch, editing, plan.asked, asked)
        without = Settings(dtype=arch.dtype, factor_bytes=0)
        one = factors_kept(arch, editing, plan.asked, without)
        regions = ", ".join(_span(region.layers) for region in editing.regions)
        cells = (
            first.weights, first.versions, first.decoding, moments(arch, editing, asked), one,
            of_fact(arch, editing, plan.asked, 2),
        )  # fmt: skip
        shown = " | ".join(gigabytes(cell) for cell in cells)
        yield f"| {size} | {plan.known.name} | {arch.parameters:,} | {regions} | {shown} |"


def _fits_table() -> Iterator[str]:
    """The verdict on one GPU, and the least number that would bear the blocks."""
    names = [f"{GPUS[name].gigabytes:g} GB ({name})" for name in TABLE_GPUS]
    yield "| | " + " | ".join(names) + " |"
    yield "|---|" + "---|" * len(names)
    found = [dict(_plans(name)) for name in TABLE_GPUS]
    for size in SIZES:
        yield f"| {size} | " + " | ".join(_cell(plans[size]) for plans in found) + " |"


def _cell(plan: Plan) -> str:
    """One GPU's outcome, and the least number that the blocks have to be spread over."""
    need = f"{gigabytes(plan.fit.need.total)} GB"
    if plan.fit.outcome == "fits":
        return f"fits: {need}"
    if plan.fit.outcome == "fits with settings":
        changes = "; ".join(text.split(" (")[0].split(": ")[0] for text in plan.fit.changes)
        return f"fits with settings: {need}. {changes}"
    if plan.enough is None:
        return f"does not fit: {need}, also not on 8"
    one = plan.spread[plan.enough]
    size = f"{gigabytes(one.need.total)} GB on the fullest"
    return f"does not fit: {need}. {plan.enough} GPUs: {one.outcome}, {size}"


def _time_table() -> Iterator[str]:
    """Times on a named GPU."""
    yield (
        "| | on | second moments | other set-up | values, a fact | writing, a fact "
        "| an edit of 16 facts |"
    )
    yield "|---|---|---|---|---|---|---|"
    for gpu in TABLE_GPUS:
        for size, plan in _plans(gpu):
            if plan.fit.outcome == "does not fit":
                continue
            took = {name: plan.seconds(name) or 0.0 for name in plan.parts}
            cells: Sequence[float] = (
                took["factors"] + took["prefixes"],
                took["value optimisation"] / TABLE_FACTS,
                took["writing"] / TABLE_FACTS,
                plan.edit_s or 0.0,
            )
            moments = "on the CPU" if plan.fit.settings.on_cpu else duration(took["second moments"])
            shown = " | ".join([moments, *map(duration, cells)])
            yield f"| {size} | {gpu} | {shown} |"


def gigabytes(size: float) -> str:
    """Bytes in GB, 10⁹."""
    return f"{size / 1e9:,.2f}" if size < 1e10 else f"{size / 1e9:,.1f}"


def duration(seconds: float) -> str:
    """Milliseconds, seconds, minutes or hours."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _span(layers: Sequence[int]) -> str:
    return f"{layers[0]}–{layers[-1]}" if len(layers) > 1 else str(layers[0])
