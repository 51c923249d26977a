"""``jeep plan``: memory and time of a model on GPUs, said before anything is loaded."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from jeep_core.editors import DEFAULT_EDITOR
from jeep_core.spec.hparams import AUTO
from service.cli.common import (
    EXIT_FAILED,
    EXIT_USAGE,
    AsJson,
    HParams,
    ModelsDir,
    Preset,
    complain,
    err,
    out,
    parse_object,
    settings_or_exit,
)

if TYPE_CHECKING:  # a help text needs none of it
    from jeep_core.sizing.plan import Plan
    from service.settings import Settings

MODEL_HELP = (
    "A folder, config.json, GGUF file, hub id, name of jeep models, or a shape such as "
    "llama-3.1-8b (JEEP_MODEL)."
)
Layers = Annotated[str | None, typer.Option(help="Layers of this region: 4-9.")]


def plan(
    model: Annotated[str | None, typer.Option(help=MODEL_HELP)] = None,
    gpu: Annotated[str, typer.Option(help="Memory such as 24GB, or a known GPU.")] = "80GB",
    gpus: Annotated[int, typer.Option(min=1, max=64, help="How many there are.")] = 1,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"] | None,
        typer.Option(help="Of the weights; auto: as they are stored (JEEP_DTYPE)."),
    ] = None,
    editor: Annotated[str, typer.Option(help="A name, or auto: chosen.")] = DEFAULT_EDITOR,
    preset: Preset = None,
    hparams: HParams = None,
    low: Layers = None,
    high: Layers = None,
    facts: Annotated[int, typer.Option(min=1, help="Facts edited together.")] = 1,
    earlier: Annotated[int, typer.Option(min=0, help="Facts edited before.")] = 0,
    clients: Annotated[int, typer.Option(min=0, help="Clients answered at once.")] = 8,
    context: Annotated[int, typer.Option(min=1, help="Tokens of prompt and answer each.")] = 1024,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Tokens for second moments (JEEP_MOMENT_SAMPLES).")
    ] = None,
    passes: Annotated[
        int | None,
        typer.Option(min=1, help="Of value optimisation, or over all facts; default: the most."),
    ] = None,
    probe: Annotated[int, typer.Option(min=0, help="Prompts of a probe before.")] = 0,
    flops: Annotated[
        float | None, typer.Option(help="Operations a second that are reached, such as 300e12.")
    ] = None,
    share: Annotated[
        float | None, typer.Option(help="Of a known GPU's dense peak; default: 0.3.")
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="The tables of docs/sizing.md.")] = False,
    models_dir: ModelsDir = None,
    as_json: AsJson = False,
) -> None:
    """Say what fits on a GPU, and how long edits take.

    Counted from the configuration alone: nothing is loaded.  docs/sizing.md has the assumptions.
    """
    from jeep_core.errors import JeepError
    from jeep_core.moments.source import tokens_per_dimension
    from jeep_core.sizing import report
    from jeep_core.sizing.devices import UnknownGpu

    if table:
        print("\n".join(report.table()))
        return
    settings = settings_or_exit()
    demand = _demand(editor, preset, hparams, {"low": low, "high": high})
    _check_speed(flops, share)
    try:
        found = _plan(
            settings, model or settings.model, gpu, dtype or settings.dtype,
            demand=demand,
            load={
                "facts": facts, "earlier": earlier, "clients": clients, "context": context,
                "samples": samples or settings.moment_samples or 0,
                "per_dimension": tokens_per_dimension(model or settings.model, settings.corpus),
            },
            more={"gpus": gpus, "passes": passes, "probe_prompts": probe},
            speed=(flops, share), models_dir=models_dir or settings.models,
        )  # fmt: skip
    except UnknownGpu as error:
        complain(f"jeep: {error}")
        raise typer.Exit(EXIT_USAGE) from None
    except (JeepError, OSError) as error:
        complain(f"jeep: {error}")
        raise typer.Exit(EXIT_FAILED) from None
    if as_json:
        print(json.dumps(found.record(), indent=2))
        return
    for line in report.lines(found):
        out.print(line, markup=False, soft_wrap=True)


def _plan(
    settings: Settings,
    model: str,
    gpu: str,
    dtype: str,
    *,
    demand: dict[str, Any],
    load: dict[str, Any],
    more: dict[str, Any],
    speed: tuple[float | None, float | None],
    models_dir: Any,
) -> Plan:
    """The plan that the flags ask for."""
    from jeep_core.models.library import Library
    from jeep_core.sizing.architecture import BYTES
    from jeep_core.sizing.choice import wanted
    from jeep_core.sizing.demand import Settings as Asked
    from jeep_core.sizing.demand import Workload, editing_of
    from jeep_core.sizing.devices import SHARE, given, gpu_of
    from jeep_core.sizing.plan import make
    from jeep_core.sizing.source import known_model

    device = gpu_of(gpu)
    known = known_model(model, Library(models_dir))
    arch = known.architecture
    if dtype == "auto":
        dtype = arch.dtype
        if dtype not in BYTES:
            err.print(f"weights of type {dtype} are loaded in float32", markup=False)
            dtype = "float32"
    demand |= {"facts": load["facts"], "presets": settings.presets}
    one = wanted(arch, model, **demand, earlier=load["earlier"])
    demand |= {"editor": one.editor, "preset": one.preset}
    editing = editing_of(arch, model, dtype=dtype, **demand)
    megabytes = settings.edit_memory_mb
    asked = Asked(
        dtype=dtype,
        versions=settings.versions_in_memory,
        factor_bytes=settings.factor_memory_mb * 2**20,
        edit_bytes=None if megabytes is None else megabytes * 2**20,
    )
    flops, share = speed
    rates = device.rates(dtype, share or SHARE) if flops is None else given(flops)
    found = make(known, device, editing, Workload(**load), asked, rates=rates, **more)
    return replace(found, reason=one.reason, warnings=one.warnings)


def _demand(
    editor: str, preset: str | None, hparams: str | None, regions: dict[str, str | None]
) -> dict[str, Any]:
    """Editor, preset and hyper-parameters as the flags give them.

    Layers are laid over automatic hyper-parameters, too: these are then asked for as the preset.
    """
    layers = {
        name: _layers(text, f"--{name}") for name, text in regions.items() if text is not None
    }
    if hparams == AUTO and layers and preset in (None, AUTO):
        preset, hparams = AUTO, None
    if hparams == AUTO:
        return {"editor": editor, "preset": preset, "changes": AUTO}
    changes: dict[str, Any] = {} if hparams is None else parse_object(hparams, "--hparams")
    for name, chosen in layers.items():
        changes[name] = {**changes.get(name, {}), "layers": chosen}
    return {"editor": editor, "preset": preset, "changes": changes}


def _layers(text: str, flag: str) -> list[int]:
    """``4-9`` or ``7``."""
    first, _, last = text.partition("-")
    try:
        found = list(range(int(first), int(last or first) + 1))
    except ValueError:
        found = []
    if not found:
        message = f"{text!r} is no range of layers: write the first and the last, as in 4-9"
        raise typer.BadParameter(message, param_hint=flag)
    return found


def _check_speed(flops: float | None, share: float | None) -> None:
    """Refuse rates that make no sense."""
    if flops is not None and not 0 < flops < float("inf"):
        raise typer.BadParameter("it must be a number above 0", param_hint="--flops")
    if share is not None and not 0 < share <= 1:
        raise typer.BadParameter("it must be above 0 and at most 1", param_hint="--share")
    if flops is not None and share is not None:
        message = "--flops is what is reached already: leave --share out"
        raise typer.BadParameter(message, param_hint="--share")
